"""Convert override words to an Optuna search space, and proposed values back to words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

_MAX_VALUES = 100_000  # of one key


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        words: the override of each key, in the order of the command line; None: the key is searched.
        distributions: of the searched keys.
    """

    words: Mapping[str, str | None]
    distributions: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, overrides: Iterable[Override]) -> Space:
        """Return the space that overrides of Hydra's grammar describe.

        Raises:
            UserError: for an empty range or interval, and if no key is searched.
        """
        words, distributions = dict[str, str | None](), dict[str, Any]()
        for override in overrides:
            key = override.get_key_element()
            if override.is_sweep_override():
                words[key], distributions[key] = None, _distribution(override)
            else:
                words[key] = str(override.input_line)
        if not distributions:
            raise UserError(
                "hydra/sweeper=optuna needs something to search for, such as "
                "'strategy.lr=tag(log,interval(1e-5,1e-3))' or strategy.rank=4,8,16"
            )
        return cls(words, distributions)

    def words_of(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the words of a run with these values of the searched keys."""
        return tuple(f"{key}={values[key]}" if word is None else word for key, word in self.words.items())

    def grid(self) -> dict[str, Sequence[Any]]:
        """Return all values of every key.

        Raises:
            UserError: for a key with an interval, which has infinitely many values.
        """
        grid: dict[str, Sequence[Any]] = {}
        for key, distribution in self.distributions.items():
            values = _values(distribution)
            if values is None:
                raise UserError(
                    f"hydra.sweeper.sampler=grid tries every value, and {key} has infinitely many: list some"
                )
            grid[key] = values
        return grid

    @property
    def size(self) -> float:
        """How many combinations there are."""
        return math.prod(
            math.inf if (values := _values(each)) is None else len(values) for each in self.distributions.values()
        )


def _values(distribution: BaseDistribution) -> Sequence[Any] | None:
    """Return all values of a distribution; None: infinitely many."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    each: Any = distribution
    if isinstance(each, CategoricalDistribution):
        return each.choices
    if isinstance(each, IntDistribution):
        return range(each.low, each.high + 1, each.step)
    if each.step is None:
        return None
    return [each.low + each.step * index for index in range(round((each.high - each.low) / each.step) + 1)]


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    line = override.input_line
    low: Any
    high: Any
    if override.is_choice_sweep():
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise UserError(f"{line} matches nothing")
        return CategoricalDistribution(choices)
    value: Any = override.value()
    log = "log" in value.tags
    if override.is_range_sweep():
        if log and abs(value.step) != 1:
            raise UserError(f"{line}: a range with a step has no logarithm; use interval, or name the values")
        values: list[Any] = [each for each, _ in zip(override.sweep_iterator(), range(_MAX_VALUES), strict=False)]
        if not values:
            raise UserError(f"{line} has no value in it")
        low, high, step = min(values), max(values), abs(value.step)
    else:
        low, high, step = value.start, value.end, None
    if low > high:
        raise UserError(f"{line} has no value in it")
    if log and low <= 0:
        raise UserError(f"{line}: the logarithm needs values above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=1 if log else step or 1)
    return FloatDistribution(float(low), float(high), log=log, step=None if log else step)
