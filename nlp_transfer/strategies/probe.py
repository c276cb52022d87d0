"""A linear probe: a frozen encoder, and a head fitted on cached features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.strategies.base import ALL_FROZEN, Group, Strategy, check_rates, freeze, trainable

if TYPE_CHECKING:
    from nlp_transfer.encoder.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Probe(Strategy):
    """Only the output layer is trained.

    Attributes:
        solver: "exact": the convex problem is solved to its optimum, with an L2 penalty chosen by cross-validation;
            "prototypes": nearest class means, see ``prototypes.fit_prototypes``; "adamw": gradient steps on the cached
            features, for objectives that are not convex.
        lr: peak learning rate of the adamw solver.
    """

    solver: str = "exact"
    lr: float = 1e-2

    frozen = True

    @property
    def solves_head(self) -> bool:
        """Whether the head is fitted directly, without gradient steps."""
        return self.solver != "adamw"

    @property
    def trains(self) -> bool:
        """Whether gradient steps are taken."""
        return not self.solves_head

    def check(self) -> None:
        """Refuse an unknown solver or a negative learning rate."""
        one_of(self.solver, ("exact", "prototypes", "adamw"), "strategy.solver")
        check_rates(lr=self.lr)

    def apply(self, classifier: Classifier) -> None:
        """Freeze everything but the output layer.

        Raises:
            UserError: for a head with other new layers, which would stay random.
        """
        output = classifier.anatomy.output
        unused = set(classifier.anatomy.unused)
        # A learned mix of layers starts as their mean, which can stay frozen.
        trained_or_fixed = (f"{output}.", "mix.")
        random = [name for name in classifier.fresh if not name.startswith(trained_or_fixed) and name not in unused]
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
        """Return that everything but the output layer is frozen."""
        return ALL_FROZEN
