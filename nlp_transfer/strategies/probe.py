"""A frozen encoder and a head fitted on features that are computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.strategies.base import ALL_FROZEN, Group, Strategy, check_rates, freeze, trainable

if TYPE_CHECKING:
    from nlp_transfer.encoder.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Probe(Strategy):
    """Only the output layer learns.

    Attributes:
        solver: "exact": the convex problem is solved to its optimum along a path of L2 penalties chosen by
            cross-validation; "prototypes": the label whose mean is nearest, see ``prototypes.fit_prototypes``;
            "adamw": gradient steps on the cached features, for objectives that are not convex.
        lr: peak learning rate of the adamw solver.
    """

    solver: str = "exact"
    lr: float = 1e-2

    frozen = True

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved and not stepped."""
        return self.solver != "adamw"

    @property
    def trains(self) -> bool:
        """Whether gradient steps follow."""
        return not self.solves_head

    def check(self) -> None:
        """Refuse an unknown solver, or a rate below zero."""
        one_of(self.solver, ("exact", "prototypes", "adamw"), "strategy.solver")
        check_rates(lr=self.lr)

    def apply(self, classifier: Classifier) -> None:
        """Freeze everything but the output layer.

        Raises:
            UserError: for a head that holds other new layers, which would stay random.
        """
        output = classifier.anatomy.output
        unused = set(classifier.anatomy.unused)
        # A mix of layers starts as their mean, which is no worse frozen.
        random = [n for n in classifier.fresh if not n.startswith((f"{output}.", "mix.")) and n not in unused]
        if random:
            raise UserError(
                f"strategy=probe would leave {random[0]!r} of the {classifier.head} head random; set "
                "encoder.head=pooled encoder.hidden=0, or choose another strategy"
            )
        freeze(classifier, {name for name in classifier.anatomy.depth if not name.startswith(f"{output}.")})

    def groups(self, classifier: Classifier) -> list[Group]:
        """Return the output layer."""
        return [Group("head", trainable(classifier), self.lr)]

    def frozen_depth(self, classifier: Classifier) -> int:
        """Return that all but the output layer is constant."""
        return ALL_FROZEN
