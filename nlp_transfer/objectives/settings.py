"""The knobs of every objective term, without torch: what the configuration is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nlp_transfer.errors import at_least, below_one, one_of, positive


class Term:
    """The knobs of a term, and what it needs of the rest of a run; most need nothing.

    Attributes:
        name: in the configuration.
        weight: in the sum of terms.
        positive: other knobs that are above 0.
        compares: whether the loss of an example hangs on the others of its pass.
        compares_labels: whether it hangs on which of them have the same label.
        reads_unlabelled: whether texts without labels teach anything.
        aligns: whether these are another domain, to which the encoder is moved; they must be there, then.
        moves: whether it means nothing where the encoder stays as it is.
        taught: whether a teacher answers the texts first.
        reads_features: whether its features are read too.
        holds: whether it keeps the model from moving, and teaches nothing.
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
        """Of its keys in the configuration."""
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
    """Texts of one label nearer to each other than to those of others."""

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
    """Answers like those of a teacher; None: of the model that is gone on from, where its labels are kept."""

    name = "distill"
    weight: float = 1.0
    teacher: str | None = None
    temperature: float = 2.0

    positive = ("temperature",)
    reads_unlabelled = True
    taught = True


@dataclass(frozen=True, kw_only=True)
class AnchorSettings(Term):
    """Weights near to those that the model started from."""

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
    """Features as alike among each other as a teacher's."""

    name = "relations"
    weight: float = 1.0

    compares = True
    reads_unlabelled = True
    moves = True
    taught = True
    reads_features = True


class _Aligning(Term):
    """A term that moves the encoder so that it sees the domain of the texts without labels as that of the rows."""

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
    """Features with the same distribution in both domains, as far as kernels tell."""

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
    """The same given what the model answers."""

    name = "cdan"


@dataclass(frozen=True, kw_only=True)
class MccSettings(_Aligning):
    """Answers to the texts without labels that do not waver between classes."""

    weight: float = 0.3
    temperature: float = 2.5

    positive = ("temperature",)
    compares = True
    name = "mcc"


# One row a term: its name in the configuration and what it may be given. `objective.py` has the modules.
TERM_SETTINGS: dict[str, type[Term]] = {
    kind.name: kind
    for kind in (
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
    """Return the names of the terms that count and need something of the rest of a run.

    Args:
        need: an attribute of `Term`.
        objective: the terms by name.
    """
    return [name for name, term in objective.items() if getattr(term, need) and term.weight]
