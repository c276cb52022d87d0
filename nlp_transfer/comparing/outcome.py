"""The outcome of a comparison, as values and in words: scores, paired tests, and whether transfer helped."""

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
    from nlp_transfer.comparing.scores import PairedTest
    from nlp_transfer.comparing.slices import Slice
    from nlp_transfer.evaluation.intervals import Interval

_SAID = {"better": "POSITIVE transfer", "worse": "NEGATIVE transfer", "no evidence": "No evidence that transfer helps"}


@dataclass(frozen=True)
class GridCell:
    """One candidate or baseline with one number of labels.

    Attributes:
        name: of the candidate or baseline.
        labels: the number of labels per class, or "all".
        said: the same in words.
        rows: the number of training rows.
        figure: mean of the metric over the seeds, with its interval over other rows and other seeds.
        values: the metric for each seed.
        validation: mean of the metric on the validation rows over the seeds; None for baselines that are not trained.
        seconds: of loading, training and predicting, median over the seeds; what an earlier trial or run has cached
            takes no time.
        learning: the number of trainable parameters.
        parameters: the number of all parameters.
        megabytes: peak memory; None if unknown.
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
    """For one number of labels, the best candidate on validation rows against the best baseline.

    Attributes:
        said: the number of labels in words.
        labels: the number of labels.
        duel: the paired test of the two.
        untried: requested baselines that there was no time for.
    """

    said: str
    labels: str
    duel: PairedTest
    untried: list[str]

    @property
    def words(self) -> str:
        """One sentence with the difference, its interval, and the baselines that were not tried."""
        test, is_unsure = self.duel, self.duel.outcome == "no evidence"
        one_seed = "; one training of each: another seed may give another result" if test.seeds == 1 else ""
        against = f"{test.one} against {title_of(test.other)}"
        untried = f"; not tried: {listed(self.untried)}, which may be the better baseline" if self.untried else ""
        # Explains why the verdict, corrected for multiple tests, disagrees with the interval.
        corrected = f", p {format_p(test.adjusted)} after Holm's correction" if test.is_apart and is_unsure else ""
        difference = format_interval(test.difference, signed=True)
        return f"{_SAID[test.outcome]} {self.said}: {against}, difference {difference}{corrected}{untried}{one_seed}"


@dataclass(frozen=True)
class ComparisonOutcome:
    """A finished comparison.

    Attributes:
        folder: of the comparison.
        data: a description of the data.
        metric: that decides.
        rows: the number of test rows.
        confidence: of all intervals.
        seeds: of the trials.
        candidates: names of all candidates, tried or not.
        floors: names of the baselines (a key of `compare.json`).
        cells: every candidate and baseline with every number of labels.
        transfers: for each number of labels, in ascending order.
        duels: paired tests of every candidate against all others, with the most labels.
        slices: the winner against the best baseline by groups of rows, with the most labels.
        reached: by candidate, the number of labels from which its mean is at least that of the best baseline with the
            most labels.
        left_out: trials that were not run, and why.
        recipe: the file with the winner's recipe.
        recipe_sha256: of that file as written.
        meant: sentences on what `auto` resolved to.
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
    duels: list[PairedTest]
    slices: list[Slice]
    reached: dict[str, str]
    left_out: list[str]
    recipe: Path
    recipe_sha256: str = ""
    meant: list[str] = field(default_factory=list)

    @property
    def most(self) -> Transfer:
        """The result with the most labels."""
        return self.transfers[-1]

    @property
    def winner(self) -> str:
        """The best candidate on validation rows with the most labels."""
        return self.most.duel.one

    @property
    def verdict(self) -> list[str]:
        """Sentences: whether transfer helped, with how many labels, where it hurt, and which candidates are as good."""
        sentences = [f"{self.most.words}."]
        if others := [each.words for each in self.transfers[:-1] if each.duel.outcome != self.most.duel.outcome]:
            sentences += [f"{words}." for words in others]
        sentences += self._seed_notes()
        for kind in dict.fromkeys(each.kind for each in self.slices):
            sentences.append(self._slice_note(kind))
        as_good = [
            test.other if test.one == self.winner else test.one
            for test in self.duels
            if self.winner in (test.one, test.other)
            and test.outcome == "no evidence"
            and test.rows_adjusted >= 1 - self.confidence
            and not test.is_apart
        ]
        if cheaper := [name for name in as_good if self._seconds(name) < self._seconds(self.winner)]:
            names = listed(cheaper, title_of)
            sentences.append(
                f"No evidence on these rows and seeds that {self.winner} is better than {names}, which took less time."
            )
        if absent := [name for name in self.candidates if self.cell(name, self.most.labels) is None]:
            sentences.append(f"Not tried {self.most.said}: {listed(absent)}.")
        for name, labels in self.reached.items():
            if labels != self.most.labels:
                best, few = title_of(self.most.duel.other), self.cell(name, labels)
                assert few is not None
                sentences.append(f"{name} {few.said} reaches on average what {best} reaches {self.most.said}.")
        return sentences + [f"{words[0].upper()}{words[1:]}." for words in self.meant]

    @property
    def at_odds(self) -> list[str]:
        """A sentence on pairs for which the metric and the count of rows disagree, if there are any."""
        sign = sign_of(self.metric)
        odd = [test for test in self.duels if sign * test.difference.value * (test.wins - test.losses) < 0]
        if not odd:
            return []
        pairs = listed([f"{title_of(test.one)} and {title_of(test.other)}" for test in odd])
        why = "macro_f1 weights classes equally" if self.metric == "macro_f1" else f"{self.metric} does not count rows"
        return [
            f"The better one by {self.metric} is right on fewer rows than the other ({pairs}): {why}, McNemar's test "
            "counts rows."
        ]

    def _seed_notes(self) -> list[str]:
        """Return a note on pairs that differ clearly row by row, but not beyond the variation between seeds."""
        unsure = [each for each in self.transfers if each.duel.outcome == "no evidence" and each.duel.seeds > 1]
        near = [each for each in unsure if each.duel.rows_adjusted < 1 - self.confidence and not each.duel.is_apart]
        if not near:
            return []
        pairs = listed([f"{each.duel.one} and {title_of(each.duel.other)} {each.said}" for each in near])
        return [
            f"These trainings differ row by row ({pairs}), but seeds differ as well; more seeds may show whether the "
            f"difference is larger than that (compare.seeds={2 * len(self.seeds)})."
        ]

    def cell(self, name: str, labels: str) -> GridCell | None:
        """Return a cell, or None if it was not tried."""
        return next((each for each in self.cells if (each.name, each.labels) == (name, labels)), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with None in place of nan, and the verdict."""
        plain = dataclasses.asdict(self) | {"folder": str(self.folder), "recipe": str(self.recipe)}
        return without_nan(plain) | {"winner": self.winner, "verdict": self.verdict}

    def _seconds(self, name: str) -> float:
        cell = self.cell(name, self.most.labels)
        return math.inf if cell is None else cell.seconds

    def _slice_note(self, kind: str) -> str:
        of_kind = [each for each in self.slices if each.kind == kind]
        better, worse = ([each.name for each in of_kind if each.outcome == outcome] for outcome in ("better", "worse"))
        where = f": NEGATIVE transfer on {listed(worse)}" if worse else ""
        note = f"Of {len(of_kind):,} {kind}s with {FEWEST} rows or more, {self.winner} is better on {len(better):,}"
        return f"{note}, worse on {len(worse):,}{where}."
