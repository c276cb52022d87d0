"""A comparison from settings to a verdict: trials, floors, figures, and the recipe of who wins."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer import choosing, config
from nlp_transfer.checks import check, check_comparison
from nlp_transfer.comparing.contest import Contest, Duel
from nlp_transfer.comparing.grid import Candidate, Draws, Trial, candidates_of, decision_of
from nlp_transfer.comparing.outcome import Cell, Outcome, Transfer
from nlp_transfer.comparing.page import document_of
from nlp_transfer.comparing.recipe import write_recipe
from nlp_transfer.comparing.schedule import Schedule, Tried
from nlp_transfer.comparing.slices import Slice, slices
from nlp_transfer.comparing.trial import Answers, answers_of, is_finished
from nlp_transfer.console import Screen
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import baselines
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.features import store_of
from nlp_transfer.reporting.files import write
from nlp_transfer.run_folder import PAGES

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.store import Store

_FLOORS = ("majority", "tfidf")


class Comparison:
    """A comparison that is going on.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words.
        screen: where progress is shown.
        data: rows from Python, see ``sources.read_source``.

    Raises:
        UserError: for anything in the words or the data that cannot be used.
    """

    def __init__(self, recipe: str | None, words: Sequence[str], screen: Screen, *, data: Any = None) -> None:
        self.settings, self.candidates = candidates_of(recipe, words)
        check_comparison(self.settings)
        for candidate in self.candidates:
            check(candidate.settings, data=data)
        self._screen = screen
        with screen.busy("reading data"):
            self._draws = Draws(self.settings, data=data)
        whole = self._draws.whole
        self.metric = selection_metric(whole.task, self.settings.evaluation.metric)
        self.split = "test" if "test" in whole.splits else "validation"
        self.folder = Path(self.settings.output) / f"{_name(self.settings)}-{self._digest()}"
        self.seeds = [self.settings.seed + place for place in range(self.settings.compare.seeds)]
        self._store: Store | None = store_of(self.settings.cache, screen.tell)
        self._answers: dict[Trial, Answers] = {}

    def run(self) -> Outcome:
        """Try everybody, measure, and write the winner's recipe and the figures into the folder."""
        sign = 1 if HIGHER_IS_BETTER[self.metric] else -1
        names = [candidate.name for candidate in self.candidates]
        by_name = dict(zip(names, self.candidates, strict=True))
        schedule = Schedule(
            candidates=[name for name in names if not by_name[name].is_floor],
            floors=[name for name in names if by_name[name].is_floor],
            rows={labels: self._draws.rows(labels) for labels in self._draws.labels},
            seeds=self.seeds,
            left=self._clock(),
            is_kept=lambda trial: is_finished(self._settings_of(by_name[trial.name], trial)),
        )
        with self._screen.bar("comparing") as bar:
            for done, trial in enumerate(self._cheap_ones()):
                self._answers |= self._floors(trial)
                bar.show(done, len(schedule.all), now=f"floors, {trial.labels} labels")
            for done, trial in enumerate(schedule):
                bar.show(done, len(schedule.all), now=f"{trial.name}, {trial.labels} labels, seed {trial.seed}")
                corpus = self._draws.corpus(trial.labels, trial.seed, pooled=self._store is not None)
                found = answers_of(
                    self._settings_of(by_name[trial.name], trial), corpus, Screen(speaks=False, says=self._screen.tell)
                )
                assert found.validation is not None
                self._answers[trial] = found
                schedule.done[trial] = Tried(sign * found.validation, found.seconds)
        for trial, why in schedule.left_out.items():
            self._screen.tell(f"not tried: {trial.name} with {trial.labels} labels, seed {trial.seed}: {why}")
        with self._screen.busy("measuring"):
            outcome = self._outcome(schedule)
        winner = by_name[outcome.winner]
        write_recipe(outcome, winner.settings)
        path = self.folder / "compare.json"
        making = path.with_name(f".making-{path.name}")
        making.write_text(json.dumps(outcome.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        making.rename(path)
        document = document_of(outcome)
        for name in PAGES:
            write(document, self.folder / name)
        return outcome

    def _outcome(self, schedule: Schedule) -> Outcome:
        contest = Contest(
            examples=self._draws.whole.splits[self.split],
            metric=self.metric,
            answers=self._answers,
            resamples=self.settings.evaluation.resamples,
            confidence=self.settings.evaluation.confidence,
            seed=self.settings.seed,
        )
        floors = [*schedule.floors, *_FLOORS]
        cells = [
            self._cell(contest, name, labels)
            for labels in self._draws.labels
            for name in (*schedule.candidates, *floors)
            if contest.seeds(name, labels=labels)
        ]
        transfers = [
            Transfer(labels, duel)
            for labels in self._draws.labels
            for duel in self._against_floors(contest, cells, floors, labels)
        ]
        if not transfers:
            raise UserError(
                f"compare.minutes={self.settings.compare.minutes:g} was over before anybody was tried; give more, or "
                "compare.scratch=false and fewer compare.labels"
            )
        most = transfers[-1]
        present = [cell.name for cell in cells if cell.labels == most.labels]
        pairs = [
            (one, other) for place, one in enumerate(present) if one not in floors for other in present[place + 1 :]
        ]
        floor = contest.value(most.duel.other, most.labels)
        reached = {
            cell.name: cell.labels
            for cell in reversed(cells)
            if cell.name in schedule.candidates and contest.sign * (cell.figure.value - floor) >= 0
        }
        return Outcome(
            folder=self.folder,
            data=self._draws.whole.source,
            metric=self.metric,
            higher_is_better=contest.sign > 0,
            split=self.split,
            rows=len(contest.examples),
            confidence=contest.confidence,
            seeds=self.seeds,
            floors=floors,
            cells=cells,
            transfers=transfers,
            duels=contest.duels(pairs, most.labels),
            slices=self._slices(contest, most),
            reached=reached,
            left_out=[f"{trial.name}, {trial.labels}, seed {trial.seed}" for trial in schedule.left_out],
            recipe=self.folder / "winner.yaml",
        )

    def _cell(self, contest: Contest, name: str, labels: str) -> Cell:
        of = [self._answers[Trial(name, labels, seed)] for seed in contest.seeds(name, labels=labels)]
        chosen = [each.validation for each in of if each.validation is not None]
        memory = [each.megabytes for each in of if each.megabytes is not None]
        return Cell(
            name=name,
            labels=labels,
            rows=self._draws.rows(labels),
            figure=contest.figure(name, labels),
            values=contest.values(name, labels),
            validation=statistics.fmean(chosen) if chosen else None,
            seconds=statistics.median(each.seconds for each in of),
            learning=of[0].learning,
            parameters=of[0].parameters,
            megabytes=max(memory) if memory else None,
        )

    def _against_floors(self, contest: Contest, cells: list[Cell], floors: list[str], labels: str) -> Iterator[Duel]:
        """Yield the duel of the candidate that validation chooses with the floor that is best on the rows measured."""
        here = [cell for cell in cells if cell.labels == labels]
        candidates = [cell for cell in here if cell.name not in floors]
        if not candidates:
            return
        winner = max(candidates, key=lambda cell: contest.sign * (cell.validation or 0.0))
        best = max(
            (cell for cell in here if cell.name in floors), key=lambda cell: contest.sign * contest.known(cell.figure)
        )
        yield from contest.duels([(winner.name, best.name)], labels)

    def _slices(self, contest: Contest, most: Transfer) -> list[Slice]:
        gains = contest.gains(most.duel.one, most.duel.other, most.labels)
        return slices(
            self._draws.whole.task,
            contest.examples,
            gains,
            resamples=contest.resamples,
            confidence=contest.confidence,
            seed=contest.seed,
        )

    def _cheap_ones(self) -> Iterator[Trial]:
        for labels in self._draws.labels:
            for seed in self.seeds:
                yield Trial("", labels, seed)

    def _floors(self, trial: Trial) -> dict[Trial, Answers]:
        """Return what majority and TF-IDF answer with so many labels."""
        corpus = self._draws.corpus(trial.labels, trial.seed, pooled=self._store is not None)
        found = {}
        started = time.monotonic()
        for floor in baselines.floors(
            corpus.task,
            corpus.splits["train"],
            corpus.splits[self.split],
            seed=trial.seed,
            metric=self.metric,
            free=self.settings.decision.threshold is None,
            store=self._store,
        ):
            task = corpus.task
            task = task if floor.threshold is None else dataclasses.replace(task, threshold=floor.threshold)
            seconds = time.monotonic() - started if floor.name == "tfidf" else 0.0
            found[trial._replace(name=floor.name)] = Answers(task, floor.logits, seconds=seconds)
        return found

    def _settings_of(self, candidate: Candidate, trial: Trial) -> Settings:
        """Return the settings of a trial: those of a run with its rows and seed."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", candidate.name)
        corpus = self._draws.corpus(trial.labels, trial.seed, pooled=self._store is not None)
        return dataclasses.replace(
            choosing.settled(candidate.settings, corpus, lambda _: None),
            name=f"{slug}-{trial.labels}-{trial.seed}",
            seed=trial.seed,
            output=str(self.folder / "trials"),
            data=self._draws.settings_of(trial.labels),
            decision=decision_of(candidate.settings),
        )

    def _clock(self) -> Any:
        minutes = self.settings.compare.minutes
        if minutes is None:
            return None
        ends = time.monotonic() + 60 * minutes
        return lambda: ends - time.monotonic()

    def _digest(self) -> str:
        """Return eight hex digits of all that is compared; a budget decides how much of it is done, not what it is."""
        own = self.settings.compare
        parts = [[config.run_id(each.settings) for each in self.candidates], own.labels, own.seeds, self.settings.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def _name(settings: Settings) -> str:
    """Return the name of the comparison; the default one of a run names its strategy, which is none of many."""
    strategy = str(config.to_plain(settings)["strategy"]["name"])
    return f"{(settings.name or 'data').removesuffix(f'-{strategy}')}-compare"
