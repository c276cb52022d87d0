"""What of a model nothing learns in: its modules, and the first layer above that, where a training may enter it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from torch import nn

from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.encoder.anatomy import Anatomy, unwrapped
from nlp_transfer.encoder.boundary import can_skip_layers
from nlp_transfer.encoder.packed import unequal_rows
from nlp_transfer.strategies.base import encoder_width, trainable
from nlp_transfer.training.length import batch_size, planned_steps

if TYPE_CHECKING:
    from nlp_transfer.cache.features import Features
    from nlp_transfer.data.batches import Columns
    from nlp_transfer.encoder.classifier import Classifier
    from nlp_transfer.settings import Settings
    from nlp_transfer.strategies import Strategy


def frozen_modules(classifier: Classifier, frozen: int) -> list[nn.Module]:
    """Return the modules below a depth at which anything learns; `frozen` is the last one at which nothing does."""
    if not frozen:
        return []
    anatomy = classifier.anatomy
    constant = {name for name, p in classifier.model.named_parameters() if not p.requires_grad}
    deep = {name for name in constant if _depth_of(name, anatomy) <= frozen}
    return _bare_before_layers(classifier) + [
        module
        for prefix, module in classifier.model.named_modules()
        if (own := [f"{prefix}.{name}" for name, _ in module.named_parameters()]) and deep.issuperset(own)
    ]


def boundary_of(
    settings: Settings, classifier: Classifier, columns: dict[str, Columns], below_output: Features
) -> tuple[int, str] | None:
    """Return how many bottom layers are frozen, and the name of the next, where their states are worth keeping.

    Worth it where every row is read at least once; in one process, which then need not share what it computed.
    """
    strategy: Strategy = settings.strategy
    depth, anatomy, config = strategy.frozen_depth(classifier), classifier.anatomy, classifier.model.config
    steps = planned_steps(len(columns["train"]), settings.training) if strategy.trains else 0
    tokens = sum(len(columns[split].tokens.ids) for split in read_while_learning(columns))
    if (
        not 0 < depth < anatomy.layers
        or any(_depth_of(name, anatomy) <= depth for name in trainable(classifier))
        or below_output.accelerator.num_processes > 1
        or getattr(config, "siamese", None)  # its encoder reads other rows than the columns hold
        or steps * batch_size(len(columns["train"]), settings.training) < len(columns["train"])
        or not below_output.holds(tokens * encoder_width(classifier))
    ):
        return None
    usable = can_skip_layers(classifier.model, anatomy, depth, unequal_rows(classifier.model, classifier.tokenizer))
    return (depth, anatomy.blocks[depth][0]) if usable else None


def read_while_learning(columns: dict[str, Columns]) -> list[str]:
    """Return the splits that a training reads."""
    return [split for split in ("train", NAME, "validation") if split in columns]


def _depth_of(name: str, anatomy: Anatomy) -> int:
    """Return the depth of a parameter, maybe of an adapter, by the module it lies in."""
    inner = name.removeprefix("base_model.model.")
    for depth, block in enumerate(anatomy.blocks[: anatomy.layers], start=1):
        if inner.startswith(tuple(f"{member}." for member in block)):
            return depth
    return anatomy.depth.get(inner, anatomy.layers + 2)


def _bare_before_layers(classifier: Classifier) -> list[nn.Module]:
    """Return the modules without parameters that stand before the layers, such as GPT-2's dropout."""
    anatomy = classifier.anatomy
    children = list(unwrapped(classifier.model).get_submodule(anatomy.base).named_children())
    if not anatomy.blocks:
        return []
    first = anatomy.blocks[0][0].removeprefix(f"{anatomy.base}.").split(".")[0]
    before = itertools.takewhile(lambda child: child[0] != first, children)
    return [module for _, module in before if not any(True for _ in module.parameters())]
