"""Full fine-tuning and its refinements: freezing, layer-wise rates, gradual unfreezing, fitting the head first."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nlp_transfer.encoder.random_init import reinitialise
from nlp_transfer.errors import UserError, at_least, below_one, did_you_mean
from nlp_transfer.strategies.base import Group, Strategy, check_rates, encoder_width, freeze, trainable

if TYPE_CHECKING:
    from nlp_transfer.encoder.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Finetune(Strategy):
    """All parameters are trained, unless frozen.

    Attributes:
        lr: peak learning rate of the encoder's top layer; None: 5e-5 · (768 / width)², which is 5e-5 for a base-sized
            encoder and 2e-4 for MiniLM: narrow encoders need larger steps.
        head_lr: peak learning rate of the head; None: `lr`.
        layer_decay: learning rate of each layer relative to that of the layer above it (Howard and Ruder 2018,
            arXiv 1801.06146; 0.9 in Zhang et al. 2021, arXiv 2006.05987).
        freeze_layers: freeze the embeddings and this many bottom layers.
        freeze: patterns (``*`` and ``?``) of the names of parameters to freeze.
        gradual: share of the run over which layers are unfrozen one by one from the top (Howard and Ruder 2018).
        reinit_layers: re-initialise this many top layers at random (Zhang et al. 2021).
        head_first: fit the output layer on frozen features, of a sample if there are many rows, before the first step:
            LP-FT (Kumar et al. 2022, arXiv 2202.10054).
        head_last: fit the output layer again, on the features of the trained encoder, after the last step.
    """

    lr: float | None = None
    head_lr: float | None = None
    layer_decay: float = 1.0
    freeze_layers: int = 0
    freeze: list[str] = field(default_factory=list)
    gradual: float = 0.0
    reinit_layers: int = 0
    head_first: bool = True
    head_last: bool = False

    @property
    def solves_head(self) -> bool:
        """Whether the output layer is fitted before the first step."""
        return self.head_first

    def check(self) -> None:
        """Refuse rates and shares outside their range."""
        check_rates(lr=self.lr, head_lr=self.head_lr)
        below_one(self, "strategy.", "gradual")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"strategy.layer_decay={self.layer_decay} must lie in (0, 1]")
        at_least(self, "strategy.", 0, "freeze_layers", "reinit_layers")

    def apply(self, classifier: Classifier) -> None:
        """Freeze and re-initialise.

        Raises:
            UserError: for more layers than the encoder has, or a pattern that matches nothing.
        """
        layers, depth = classifier.anatomy.layers, classifier.anatomy.depth
        for key, count in (("freeze_layers", self.freeze_layers), ("reinit_layers", self.reinit_layers)):
            if count > layers:
                raise UserError(f"strategy.{key}={count}: {classifier.source.name} has {layers} identifiable layers")
        if self.freeze_layers + self.reinit_layers > layers:
            raise UserError(
                "strategy.freeze_layers and strategy.reinit_layers overlap: frozen layers must be pretrained"
            )
        names = set(classifier.anatomy.unused)
        if self.freeze_layers:
            names |= {name for name, level in depth.items() if level <= self.freeze_layers}
        for pattern in self.freeze:
            matches = fnmatch.filter(depth, pattern)
            if not matches:
                raise UserError(
                    f"strategy.freeze: {pattern!r} matches no parameter{did_you_mean(pattern, depth)}; names "
                    f"look like {next(iter(depth))!r}"
                )
            names.update(matches)
        freeze(classifier, names)
        if self.reinit_layers:
            _reinitialise(classifier, above=layers - self.reinit_layers)
        if not trainable(classifier):
            raise UserError("strategy.freeze leaves nothing to train")

    def groups(self, classifier: Classifier) -> list[Group]:
        """Return one group per depth, from the head layer by layer down to the embeddings."""
        depth, layers = classifier.anatomy.depth, classifier.anatomy.layers
        peak = self.lr if self.lr is not None else usual_rate(encoder_width(classifier))
        by_depth: dict[int, dict] = {}
        for name, parameter in trainable(classifier).items():
            by_depth.setdefault(depth[name], {})[name] = parameter
        groups = []
        for position, level in enumerate(sorted(by_depth, reverse=True)):
            is_head = level == layers + 2
            below_top = max(0, layers - level)
            lr = (peak if self.head_lr is None else self.head_lr) if is_head else peak * self.layer_decay**below_top
            wake = self.gradual * position / max(1, len(by_depth) - 1)
            groups.append(Group(_level_name(level, layers), by_depth[level], lr, wake))
        return groups

    def frozen_depth(self, classifier: Classifier) -> int:
        """Return the number of frozen bottom layers."""
        return self.freeze_layers


def usual_rate(width: int) -> float:
    """Return the default peak learning rate for a hidden size, which counts as at least 256."""
    return 5e-5 * (768 / max(256, width)) ** 2


def _level_name(level: int, layers: int) -> str:
    return {0: "embeddings", layers + 1: "top of the encoder", layers + 2: "head"}.get(level, f"layer {level}")


def _reinitialise(classifier: Classifier, *, above: int) -> None:
    """Re-initialise the layers above a depth at random."""
    depth, layers = classifier.anatomy.depth, classifier.anatomy.layers
    reinitialise(classifier.model, classifier.anatomy.base, lambda name: above < depth[name] <= layers)
