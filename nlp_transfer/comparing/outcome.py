"""What a comparison came to, as values and in words: standings, duels, and whether transfer helped."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.comparing.slices import FEWEST
from nlp_transfer.evaluation.formatting import format_interval, format_p, title_of
from nlp_transfer.evaluation.names import sign_of
from nlp_transfer.evaluation.plain_values import without_nan
from nlp_transfer.wording import listed

if TYPE_CHECKING:
    from nlp_transfer.comparing.contest import Duel
    from nlp_transfer.comparing.slices import Slice
    from nlp_transfer.evaluation.intervals import Interval

_SAID = {"better": "POSITIVE transfer", "worse": "NEGATIVE transfer", "no evidence": "No evidence that transfer helps"}


@dataclass(frozen=True)
class GridCell:
    """One of them with so many labels.

    Attributes:
        name: who.
        labels: how many, a class or all.
        said: the same in words.
        rows: training rows that these are.
        figure: the metric, mean over the seeds, with its interval over other rows and other seeds.
        values: of each seed.
        validation: the metric on the validation rows, mean over the seeds; None for floors, nobody chooses by it.
        seconds: of loading, training and answering, median over the seeds; what an earlier trial has kept is not
            computed again.
        learning: parameters that learned.
        parameters: all of them.
        megabytes: the most memory that was taken; None where that is not known.
    """

    name: str
    labels: str
    said: str
    rows: int
    figure: Interval
    values: list[float]
    validation: float | None
    seconds: float
    learning: int
    parameters: int
    megabytes: float | None


@dataclass(frozen=True)
class Transfer:
    """With so many labels: the candidate that the validation rows choose, against the floor that is best.

    Attributes:
        said: how many, in words.
        labels: how many.
        duel: between the two.
        untried: floors that were asked for and that there was no time for.
    """

    said: str
    labels: str
    duel: Duel
    untried: list[str]

    @property
    def words(self) -> str:
        """One sentence with the interval, and with the floors that transfer was not held against."""
        duel, apart, unsure = self.duel, self.duel.difference, self.duel.outcome == "no evidence"
        alone = "; one training of each: another one may say otherwise" if duel.seeds == 1 else ""
        against = f"{duel.one} against {title_of(duel.other)}"
        # An interval is by itself, a verdict is one of several: where they part, the reader sees why.
        untried = f"; not tried: {listed(self.untried)}, which may be the better floor" if self.untried else ""
        parted = f", p {format_p(duel.adjusted)} after Holm's correction" if duel.is_apart and unsure else ""
        gained = format_interval(apart, signed=True)
        return f"{_SAID[duel.outcome]} {self.said}: {against}, difference {gained}{parted}{untried}{alone}"


@dataclass(frozen=True)
class Outcome:
    """A finished comparison.

    Attributes:
        folder: where it lies.
        data: what it was made on, for people.
        metric: that decides.
        rows: of the test split, on which everybody is measured.
        confidence: of all intervals.
        seeds: of the trials.
        candidates: names of those that were to be tried.
        floors: names of those that know nothing of language before.
        cells: everybody with every number of labels.
        transfers: from few labels to many.
        duels: every candidate against everybody with the most labels.
        slices: the winner against the best floor, with the most labels.
        reached: by candidate, from how many labels on its mean is that of the best floor with the most.
        left_out: trials that a budget left no time for, and why.
        recipe: of the winner.
        recipe_sha256: of that file as it was written.
        meant: by number of labels, what `auto` stands for, in words.
    """

    folder: Path
    data: str
    metric: str
    rows: int
    confidence: float
    seeds: list[int]
    candidates: list[str]
    floors: list[str]
    cells: list[GridCell]
    transfers: list[Transfer]
    duels: list[Duel]
    slices: list[Slice]
    reached: dict[str, str]
    left_out: list[str]
    recipe: Path
    recipe_sha256: str = ""
    meant: list[str] = field(default_factory=list)

    @property
    def most(self) -> Transfer:
        """The answer with the most labels."""
        return self.transfers[-1]

    @property
    def winner(self) -> str:
        """The candidate that the validation rows choose with the most labels."""
        return self.most.duel.one

    @property
    def verdict(self) -> list[str]:
        """Sentences: whether transfer helped, for how many labels, where it hurt, and what would do as well."""
        said = [f"{self.most.words}."]
        if others := [each.words for each in self.transfers[:-1] if each.duel.outcome != self.most.duel.outcome]:
            said += [f"{words}." for words in others]
        said += self._of_seeds()
        for kind in dict.fromkeys(each.kind for each in self.slices):
            said.append(self._of_slices(kind))
        as_good = [
            duel.other if duel.one == self.winner else duel.one
            for duel in self.duels
            if self.winner in (duel.one, duel.other)
            and duel.outcome == "no evidence"
            and duel.rows_adjusted >= 1 - self.confidence
            and not duel.is_apart
        ]
        if cheaper := [name for name in as_good if self._seconds(name) < self._seconds(self.winner)]:
            names = listed(cheaper, title_of)
            said.append(f"{names} cannot be told from {self.winner} by these rows and seeds, and took less time.")
        if absent := [name for name in self.candidates if self.cell(name, self.most.labels) is None]:
            said.append(f"Not tried {self.most.said}: {listed(absent)}.")
        for name, labels in self.reached.items():
            if labels != self.most.labels:
                best, few = title_of(self.most.duel.other), self.cell(name, labels)
                assert few is not None
                said.append(f"{name} {few.said} has on average what {best} has {self.most.said}.")
        return said + [f"{words[0].upper()}{words[1:]}." for words in self.meant]

    @property
    def at_odds(self) -> list[str]:
        """Sentences: of which pairs the metric says one thing and the count of rows another."""
        sign = sign_of(self.metric)
        odd = [duel for duel in self.duels if sign * duel.difference.value * (duel.wins - duel.losses) < 0]
        if not odd:
            return []
        pairs = listed([f"{title_of(duel.one)} and {title_of(duel.other)}" for duel in odd])
        why = "macro_f1 counts classes alike" if self.metric == "macro_f1" else f"{self.metric} is no count of rows"
        return [f"Who is better by {self.metric} loses more rows than it wins ({pairs}): {why}, McNemar's test rows."]

    def _of_seeds(self) -> list[str]:
        """Return where the rows say more than the seeds, and what that means."""
        unsure = [each for each in self.transfers if each.duel.outcome == "no evidence" and each.duel.seeds > 1]
        near = [each for each in unsure if each.duel.rows_adjusted < 1 - self.confidence and not each.duel.is_apart]
        if not near:
            return []
        pairs = listed([f"{each.duel.one} and {title_of(each.duel.other)} {each.said}" for each in near])
        return [
            f"These trainings do differ row by row ({pairs}), but from seed to seed too: whether others would, more "
            f"seeds may show (compare.seeds={2 * len(self.seeds)})."
        ]

    def cell(self, name: str, labels: str) -> GridCell | None:
        """Return one of the cells, or None where nobody was tried."""
        return next((each for each in self.cells if (each.name, each.labels) == (name, labels)), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined is None, and the verdict stands beside the figures."""
        plain = dataclasses.asdict(self) | {"folder": str(self.folder), "recipe": str(self.recipe)}
        return without_nan(plain) | {"winner": self.winner, "verdict": self.verdict}

    def _seconds(self, name: str) -> float:
        cell = self.cell(name, self.most.labels)
        return math.inf if cell is None else cell.seconds

    def _of_slices(self, kind: str) -> str:
        of = [each for each in self.slices if each.kind == kind]
        better, worse = ([each.name for each in of if each.outcome == said] for said in ("better", "worse"))
        where = f": NEGATIVE transfer on {listed(worse)}" if worse else ""
        said = f"Of {len(of):,} {kind}s with {FEWEST} rows or more, {self.winner} is better on {len(better):,}"
        return f"{said}, worse on {len(worse):,}{where}."
