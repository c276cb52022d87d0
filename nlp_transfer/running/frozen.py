"""The frozen bottom of a model: its modules, and the layer above, where training can start from cached states."""

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

TRAINING_SPLITS = ("train", NAME, "validation")  # what is read during training


def frozen_modules(classifier: Classifier, frozen: int) -> list[nn.Module]:
    """Return the modules without trainable parameters up to the depth `frozen`, below which nothing is trained."""
    if not frozen:
        return []
    anatomy = classifier.anatomy
    frozen_names = {name for name, p in classifier.model.named_parameters() if not p.requires_grad}
    deep = {name for name in frozen_names if _depth_of(name, anatomy) <= frozen}
    return _bare_before_layers(classifier) + [
        module
        for prefix, module in classifier.model.named_modules()
        if (names := [f"{prefix}.{name}" for name, _ in module.named_parameters()]) and deep.issuperset(names)
    ]


def boundary_of(
    settings: Settings, classifier: Classifier, columns: dict[str, Columns], feature_cache: Features
) -> tuple[int, str] | None:
    """Return the number of frozen bottom layers and the name of the next one, if caching their output is worthwhile.

    It is if every row is used at least once, in a single process, so that the states need not be shared.
    """
    strategy: Strategy = settings.strategy
    depth, anatomy, config = strategy.frozen_depth(classifier), classifier.anatomy, classifier.model.config
    steps = planned_steps(len(columns["train"]), settings.training) if strategy.trains else 0
    tokens = sum(len(part.tokens.ids) for split, part in columns.items() if split in TRAINING_SPLITS)
    if (
        not 0 < depth < anatomy.layers
        or any(_depth_of(name, anatomy) <= depth for name in trainable(classifier))
        or feature_cache.accelerator.num_processes > 1
        or getattr(config, "siamese", None)  # its encoder reads the texts of a pair as rows of their own
        or steps * batch_size(len(columns["train"]), settings.training) < len(columns["train"])
        or not feature_cache.holds(tokens * encoder_width(classifier))
    ):
        return None
    usable = can_skip_layers(classifier.model, anatomy, depth, unequal_rows(classifier.model, classifier.tokenizer))
    return (depth, anatomy.blocks[depth][0]) if usable else None


def _depth_of(name: str, anatomy: Anatomy) -> int:
    """Return the depth of a parameter, also of an adapter's, by the layer it is in."""
    inner = name.removeprefix("base_model.model.")
    for depth, block in enumerate(anatomy.blocks[: anatomy.layers], start=1):
        if inner.startswith(tuple(f"{member}." for member in block)):
            return depth
    return anatomy.depth.get(inner, anatomy.layers + 2)


def _bare_before_layers(classifier: Classifier) -> list[nn.Module]:
    """Return the parameterless modules before the layers, such as GPT-2's dropout."""
    anatomy = classifier.anatomy
    children = list(unwrapped(classifier.model).get_submodule(anatomy.base).named_children())
    if not anatomy.blocks:
        return []
    first = anatomy.blocks[0][0].removeprefix(f"{anatomy.base}.").split(".")[0]
    before = itertools.takewhile(lambda child: child[0] != first, children)
    return [module for _, module in before if not any(True for _ in module.parameters())]
