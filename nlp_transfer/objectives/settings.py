"""The settings of the objective terms, by which the configuration is checked; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nlp_transfer.errors import at_least, below_one, one_of, positive


class Term:
    """The settings of a term, and its needs; by default it has none.

    Attributes:
        name: in the configuration.
        weight: in the sum of terms.
        positive: other settings that must be above 0.
        compares: whether the loss of an example depends on the others of its pass.
        compares_labels: whether it depends on which of them have the same label.
        reads_unlabelled: whether unlabelled texts contribute to the loss.
        aligns: whether the unlabelled texts, which are required then, are a domain to adapt to.
        moves: whether it needs a trainable encoder.
        taught: whether it needs the outputs of a teacher.
        reads_features: whether it needs the teacher's features, too.
        holds: whether it only keeps the weights near their start.
    """

    name: ClassVar[str]
    weight: float

    positive: ClassVar[tuple[str, ...]] = ()
    compares = False
    compares_labels = False
    reads_unlabelled = False
    aligns = False
    moves = False
    taught = False
    reads_features = False
    holds = False

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: naming the key, its value and what it may be.
        """
        at_least(self, self.prefix, 0, "weight")
        positive(self, self.prefix, *self.positive)

    @property
    def prefix(self) -> str:
        """The prefix of its keys in the configuration."""
        return f"objective.{self.name}."


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(Term):
    """The supervised loss of the task; which one follows from the problem type."""

    name = "classify"
    weight: float = 1.0
    label_smoothing: float = 0.0
    ordinal_sharpness: float = 2.0

    positive = ("ordinal_sharpness",)

    def check(self) -> None:  # noqa: D102  # as it is for every term
        super().check()
        below_one(self, self.prefix, "label_smoothing")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Term):
    """A contrastive loss: features of the same label are drawn together, others apart."""

    name = "contrast"
    weight: float = 1.0
    kind: str = "pairs"
    temperature: float = 0.1

    positive = ("temperature",)
    compares = True
    compares_labels = True
    moves = True

    def check(self) -> None:  # noqa: D102  # as it is for every term
        super().check()
        one_of(self.kind, ("pairs", "supcon"), "objective.contrast.kind")


@dataclass(frozen=True, kw_only=True)
class DistillSettings(Term):
    """Logits like a teacher's; None: the model from which the run continues, if its labels are kept."""

    name = "distill"
    weight: float = 1.0
    teacher: str | None = None
    temperature: float = 2.0

    positive = ("temperature",)
    reads_unlabelled = True
    taught = True


@dataclass(frozen=True, kw_only=True)
class AnchorSettings(Term):
    """Weights near their initial values."""

    name = "anchor"
    weight: float = 0.1
    kind: str = "l2sp"

    holds = True

    def check(self) -> None:  # noqa: D102  # as it is for every term
        super().check()
        one_of(self.kind, ("l2sp", "ewc"), "objective.anchor.kind")


@dataclass(frozen=True, kw_only=True)
class HintSettings(Term):
    """Features in the direction of a teacher's."""

    name = "hint"
    weight: float = 1.0
    lr: float = 1e-3

    positive = ("lr",)
    reads_unlabelled = True
    moves = True
    taught = True
    reads_features = True


@dataclass(frozen=True, kw_only=True)
class RelationsSettings(Term):
    """Similarities between texts like a teacher's."""

    name = "relations"
    weight: float = 1.0

    compares = True
    reads_unlabelled = True
    moves = True
    taught = True
    reads_features = True


class _Aligning(Term):
    """A term that adapts the encoder to the domain of the unlabelled texts."""

    reads_unlabelled = True
    aligns = True
    moves = True


@dataclass(frozen=True, kw_only=True)
class CoralSettings(_Aligning):
    """Features with the same covariances in both domains."""

    weight: float = 1000.0

    compares = True
    name = "coral"


@dataclass(frozen=True, kw_only=True)
class MmdSettings(_Aligning):
    """Features with the same distribution in both domains, measured by kernels."""

    weight: float = 1.0

    compares = True
    name = "mmd"


@dataclass(frozen=True, kw_only=True)
class DannSettings(_Aligning):
    """Features by which a discriminator cannot tell the domains apart."""

    weight: float = 0.1
    hidden: int = 256
    lr: float = 1e-3

    positive = ("lr",)
    name = "dann"

    def check(self) -> None:  # noqa: D102  # as it is for every term
        super().check()
        at_least(self, self.prefix, 1, "hidden")


@dataclass(frozen=True, kw_only=True)
class CdanSettings(DannSettings):
    """The same, conditioned on the predicted classes."""

    name = "cdan"


@dataclass(frozen=True, kw_only=True)
class MccSettings(_Aligning):
    """Predictions for unlabelled texts that do not waver between classes."""

    weight: float = 0.3
    temperature: float = 2.5

    positive = ("temperature",)
    compares = True
    name = "mcc"


# The settings of each term by its name in the configuration; `objective.py` has the modules.
TERM_SETTINGS: dict[str, type[Term]] = {
    settings.name: settings
    for settings in (
        ClassifySettings,
        ContrastSettings,
        DistillSettings,
        AnchorSettings,
        HintSettings,
        RelationsSettings,
        CoralSettings,
        MmdSettings,
        DannSettings,
        CdanSettings,
        MccSettings,
    )
}


Need = Literal[
    "compares", "compares_labels", "reads_unlabelled", "aligns", "moves", "taught", "reads_features", "holds"
]


def terms_that(need: Need, objective: Mapping[str, Any]) -> list[str]:
    """Return the names of the terms with a weight above 0 and a need.

    Args:
        need: an attribute of `Term`.
        objective: the terms by name.
    """
    return [name for name, term in objective.items() if getattr(term, need) and term.weight]
