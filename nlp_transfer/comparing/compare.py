"""Execution of a comparison: from its design through trials and baselines to the verdict and the winner's recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from nlp_transfer import config
from nlp_transfer.cache.store import store_of
from nlp_transfer.comparing.grid import Candidate, Trial, decision_of
from nlp_transfer.comparing.outcome import ComparisonOutcome, GridCell, Transfer
from nlp_transfer.comparing.schedule import Schedule, TrialResult
from nlp_transfer.comparing.scores import TrialScores
from nlp_transfer.comparing.slices import Slice, slices
from nlp_transfer.comparing.trial import TrialOutputs, is_finished, run_trial
from nlp_transfer.comparing.writing import write_outcome
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.baselines import fit_baselines
from nlp_transfer.evaluation.intervals import Bootstrap
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER, goodness
from nlp_transfer.running import choosing
from nlp_transfer.settings import TrackingSettings
from nlp_transfer.strategies import Auto
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.training.signals import Stopped, interrupted_by_signals

if TYPE_CHECKING:
    from nlp_transfer.comparing.design import Design
    from nlp_transfer.settings import Settings

_BASELINES = ("majority", "tfidf")
_TIE = 0.01  # for metrics of at most 1: validation rows cannot separate closer scores
_NAME_LENGTH = 60  # characters of a candidate's name in that of its folder


class Comparison:
    """A comparison in progress.

    Args:
        design: see `design.design_of`.
        screen: where progress is shown.
    """

    def __init__(self, design: Design, screen: Screen) -> None:
        self.settings, self._data, self.metric = design.settings, design.data, design.metric
        self._candidates = {candidate.name: candidate for candidate in design.candidates}
        self._screen = screen
        self.folder = expanded(self.settings.output) / f"{_name(self.settings)}-{self._digest(design.candidates)}"
        self.seeds = [self.settings.seed + place for place in range(self.settings.compare.seeds)]
        self._store = store_of(self.settings.cache, screen.tell)
        self._answers: dict[Trial, TrialOutputs] = {}
        self._resolved_notes: dict[str, None] = {}  # what `auto` resolves to, an ordered set
        self._printed: set[str] = set()

    def run(self) -> ComparisonOutcome:
        """Run all trials, measure them, and write the winner's recipe, the figures and the report into the folder."""
        names = self._candidates
        schedule = Schedule(
            candidates=[name for name in names if not names[name].is_baseline],
            baselines=[name for name in names if names[name].is_baseline],
            labels=self._data.labels,
            seeds=self.seeds,
            left=self._clock(),
            work=self._work,
            is_kept=lambda trial: is_finished(self._settings_of(trial)),
            tie=_TIE if HIGHER_IS_BETTER[self.metric] else 0.0,
        )
        with self._screen.bar("comparing") as bar, self._resumable():
            for done, trial in enumerate(schedule):
                bar.show(
                    done, len(schedule.all), now=f"{trial.name} {self._data.describe(trial.labels)}, seed {trial.seed}"
                )
                answers = self._run_trial(trial)
                schedule.done[trial] = TrialResult(goodness(answers.validation, self.metric), answers.seconds)
        left_out = [
            f"{trial.name} {self._data.describe(trial.labels)}, seed {trial.seed}: {why}"
            for trial, why in schedule.left_out.items()
        ]
        for sentence in left_out:
            self._screen.tell(f"not tried: {sentence}")
        with self._screen.busy("measuring"), self._resumable():
            outcome = self._outcome(schedule, left_out)
            return write_outcome(outcome, self._candidates[outcome.winner].settings, tell=self._screen.tell)

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        """Report on interruption that finished trials are kept; one during a training was reported by that already."""
        try:
            with interrupted_by_signals():
                yield
        except KeyboardInterrupt as stop:
            if not isinstance(stop, Stopped):
                self._screen.tell(
                    f"stopped; finished trials are in {self.folder}, the same command continues with them"
                )
            raise

    def _run_trial(self, trial: Trial) -> TrialOutputs:
        """Run a trial; before the first one with its labels and seed, compute the baselines."""
        corpus = self._corpus(trial)
        if trial._replace(name=_BASELINES[0]) not in self._answers:
            self._answers |= self._baselines(trial)
        quiet = Screen(quiet=True, on_message=self._tell_once)
        self._answers[trial] = run_trial(self._settings_of(trial), corpus, quiet)
        return self._answers[trial]

    def _tell_once(self, sentence: str) -> None:
        """Print a trial's message, unless another trial has printed the same."""
        if sentence not in self._printed:
            self._printed.add(sentence)
            self._screen.tell(sentence)

    def _outcome(self, schedule: Schedule, left_out: list[str]) -> ComparisonOutcome:
        scores = TrialScores(
            examples=self._data.whole.splits["test"],
            metric=self.metric,
            answers=self._answers,
            bootstrap=Bootstrap.of(self.settings.evaluation, seed=self.settings.seed),
        )
        baselines = [*schedule.baselines, *_BASELINES]
        cells = [
            self._cell(scores, name, labels)
            for labels in self._data.labels
            for name in (*schedule.candidates, *baselines)
            if scores.seeds(name, labels=labels)
        ]
        pairs = [pair for labels in self._data.labels for pair in self._against_baselines(cells, baselines, labels)]
        tried = {(cell.name, cell.labels) for cell in cells}
        transfers = [
            Transfer(
                self._data.describe(test.labels),
                test.labels,
                test,
                untried=[name for name in baselines if (name, test.labels) not in tried],
            )
            for test in scores.paired_tests(pairs)
        ]
        if not transfers:
            raise UserError(
                f"compare.minutes={self.settings.compare.minutes:g} ended before any candidate was measured; increase "
                "it, or set compare.scratch=false and fewer compare.labels"
            )
        most = transfers[-1]
        present = [cell.name for cell in cells if cell.labels == most.labels]
        pairs = [
            (one, two, most.labels)
            for place, one in enumerate(present)
            if one not in baselines
            for two in present[place + 1 :]
        ]
        return ComparisonOutcome(
            folder=self.folder,
            data=self._data.whole.source,
            metric=self.metric,
            rows=len(scores.examples),
            confidence=scores.bootstrap.confidence,
            seeds=self.seeds,
            candidates=list(schedule.candidates),
            floors=baselines,
            cells=cells,
            transfers=transfers,
            duels=scores.paired_tests(pairs),
            slices=self._slices(scores, most),
            reached=self._reached(cells, most),
            left_out=left_out,
            recipe=self.folder / "winner.yaml",
            meant=list(self._resolved_notes),
        )

    def _cell(self, scores: TrialScores, name: str, labels: str) -> GridCell:
        answers = [self._answers[Trial(name, labels, seed)] for seed in scores.seeds(name, labels=labels)]
        validation = [each.validation for each in answers if each.validation is not None]
        memory = [each.megabytes for each in answers if each.megabytes is not None]
        return GridCell(
            name=name,
            labels=labels,
            said=self._data.describe(labels),
            rows=self._data.rows(labels),
            figure=scores.figure(name, labels),
            values=scores.values(name, labels),
            validation=statistics.fmean(validation) if validation else None,
            seconds=statistics.median(each.seconds for each in answers),
            learning=answers[0].learning,
            parameters=answers[0].parameters,
            megabytes=max(memory) if memory else None,
        )

    def _against_baselines(
        self, cells: list[GridCell], baselines: list[str], labels: str
    ) -> Iterator[tuple[str, str, str]]:
        """Yield the best candidate on validation rows paired with the best baseline on test rows, if there is any."""
        with_labels = [cell for cell in cells if cell.labels == labels]
        candidates = [cell for cell in with_labels if cell.name not in baselines]
        if not candidates:
            return
        winner = max(candidates, key=lambda cell: goodness(cell.validation, self.metric))
        baseline_cells = [cell for cell in with_labels if cell.name in baselines]
        best = max(baseline_cells, key=lambda cell: goodness(cell.figure.value, self.metric))
        yield winner.name, best.name, labels

    def _reached(self, cells: list[GridCell], most: Transfer) -> dict[str, str]:
        """Return for each candidate from how many labels on its mean reaches the best baseline with the most labels."""
        (baseline,) = (cell for cell in cells if (cell.name, cell.labels) == (most.duel.other, most.labels))
        target, reached = goodness(baseline.figure.value, self.metric), dict[str, str]()
        for cell in cells:
            if cell.validation is None or self._candidates[cell.name].is_baseline:
                continue
            if goodness(cell.figure.value, self.metric) >= target:
                reached.setdefault(cell.name, cell.labels)
            else:
                reached.pop(cell.name, None)
        return reached

    def _slices(self, scores: TrialScores, most: Transfer) -> list[Slice]:
        gains = scores.gains(most.duel.one, most.duel.other, most.labels)
        return slices(self._data.whole.task, scores.examples, gains, scores.bootstrap)

    def _baselines(self, trial: Trial) -> dict[Trial, TrialOutputs]:
        """Return the answers of the majority and TF-IDF baselines with the trial's labels and seed."""
        corpus = self._corpus(trial)
        answers = {}
        for baseline in fit_baselines(
            corpus.task,
            corpus.splits["train"],
            corpus.splits["test"],
            seed=trial.seed,
            metric=self.metric,
            tune_thresholds=self.settings.decision.threshold is None,
            validation=corpus.splits["validation"] if self.settings.decision.calibrate else None,
            store=self._store,
        ):
            task = baseline.with_threshold(corpus.task)
            answers[trial._replace(name=baseline.name)] = TrialOutputs(task, baseline.logits, seconds=baseline.seconds)
        return answers

    def _settings_of(self, trial: Trial) -> Settings:
        """Return the settings of a trial's run, with its rows and seed."""
        candidate = self._candidates[trial.name]
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", candidate.name)[:_NAME_LENGTH]
        settings = self._resolved(trial.name, trial.labels)
        return dataclasses.replace(
            settings,
            name=f"{slug}-{trial.labels}-{trial.seed}",
            seed=trial.seed,
            output=str(self.folder / "trials"),
            data=dataclasses.replace(self._data.settings_of(trial.labels), label_texts=settings.data.label_texts),
            decision=decision_of(candidate.settings),
            tracking=TrackingSettings(),  # trials are not tracked
        )

    @cache  # noqa: B019  # as many as there are cells
    def _resolved(self, name: str, labels: str) -> Settings:
        """Return a candidate's settings, with `auto` resolved for this number of labels."""
        settings = self._candidates[name].settings
        if isinstance(settings.strategy, Auto):
            settings, why = choosing.resolve_auto(settings, self._corpus(Trial(name, labels, self.settings.seed)))
            words = f"{self._data.describe(labels)} {why}"
            self._screen.tell(words)
            self._resolved_notes[words] = None
        return settings

    def _corpus(self, trial: Trial) -> Any:
        return self._data.corpus(trial.labels, trial.seed, pooled=self._store is not None)

    def _work(self, trial: Trial) -> float:
        """Return the number of examples in all steps of a trial; 1 for probes, which hardly depend on the rows."""
        settings = self._resolved(trial.name, trial.labels)
        if not settings.strategy.trains:
            return 1.0
        rows = self._data.rows(trial.labels)
        if templates := settings.data.label_texts:
            rows += len(templates) * len(self._corpus(trial).task.labels)
        return float(batch_size(rows, settings.training) * planned_steps(rows, settings.training))

    def _clock(self) -> Callable[[], float] | None:
        minutes = self.settings.compare.minutes
        if minutes is None:
            return None
        ends = time.monotonic() + 60 * minutes
        return lambda: ends - time.monotonic()

    def _digest(self, candidates: Sequence[Candidate]) -> str:
        """Return eight hex digits that identify the comparison, whatever its time budget."""
        compare = self.settings.compare
        runs = [config.run_id(each.settings) for each in candidates]
        parts = [runs, compare.labels, compare.seeds, self.settings.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def _name(settings: Settings) -> str:
    """Return the name of the comparison: that of a run, without the strategy that a default name ends with."""
    name = settings.name or "data"
    if settings.name == config.default_name(settings):
        strategy = config.to_plain(settings)["strategy"]["name"]
        name = name.removesuffix(f"-{strategy}")
    return f"{name}-compare"
