"""The grid of a comparison: candidates, numbers of labels and seeds, and the data of each trial."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nlp_transfer import config
from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.composing.shipped import shipped_names
from nlp_transfer.data.corpus import Corpus, Pool, ReadCorpus, divide_corpus, encode_corpus, read_corpus
from nlp_transfer.data.needs import with_validation
from nlp_transfer.errors import UserError, about, did_you_mean
from nlp_transfer.evaluation.decisions import with_rules
from nlp_transfer.running.choosing import classes_of
from nlp_transfer.settings import PretrainingSettings
from nlp_transfer.training.length import epochs_of, least_steps
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.settings import DataSettings, DecisionSettings, Settings

ALL = "all"
SCRATCH = "scratch"
_SCRATCH = ("strategy=finetune", "strategy.head_first=false", "encoder.pretrained=false")
_SCRATCH_STEPS = 3  # times the steps of the other candidates
_SHARED = ("seed", "name", "output", "overwrite", "data", "evaluation", "decision", "compare", "cache", "hub", "report")


class Trial(NamedTuple):
    """One training: the candidate's name, the number of labels, and the seed."""

    name: str
    labels: str
    seed: int


@dataclass(frozen=True)
class Candidate:
    """A configuration that is compared.

    Attributes:
        name: as given by the user.
        settings: of its run on all rows; trials use the rows of `TrialData` instead.
        is_baseline: whether it starts without pretraining.
    """

    name: str
    settings: Settings
    is_baseline: bool = False


def candidates_of(recipe: str | None, words: Sequence[str]) -> tuple[Settings, list[Candidate]]:
    """Return the settings of a comparison, and all candidates that are trained.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words that all candidates share.

    Raises:
        UserError: for an invalid candidate, and for two with the same name.
    """
    if own := [word for word in words if word.partition("=")[0] == "strategy" or word.startswith("strategy.")]:
        raise UserError(f"{own[0]}: compare takes strategies as compare.candidates=[probe,'lora strategy.rank=8']")
    settings = with_validation(config.compose(recipe, words))
    names = settings.compare.candidates
    if not names:
        raise UserError("compare.candidates is empty; name strategies, such as [probe,finetune]")
    if twice := [name for name in names if names.count(name) > 1 or name == SCRATCH]:
        raise UserError(f"compare.candidates: {twice[0]!r} is given twice; name each candidate once")
    candidates = [Candidate(name, _composed(recipe, words, _words(name), name)) for name in names]
    if settings.compare.scratch:
        scratch = _composed(recipe, words, [*_SCRATCH], SCRATCH)
        # A teacher or unlabelled texts would give it the knowledge that it must lack.
        terms = {name: term for name, term in scratch.objective.items() if not term.reads_unlabelled}
        scratch = dataclasses.replace(scratch, objective=terms, pretraining=PretrainingSettings())
        training = scratch.training
        longer = dataclasses.replace(
            training,
            epochs=_SCRATCH_STEPS * epochs_of(training),
            min_steps=_SCRATCH_STEPS * least_steps(training),
            max_steps=None if training.max_steps is None else _SCRATCH_STEPS * training.max_steps,
        )
        candidates.append(Candidate(SCRATCH, dataclasses.replace(scratch, training=longer), is_baseline=True))
    if any(each.settings.reads_unlabelled for each in candidates):
        candidates = [dataclasses.replace(each, settings=_without_unread(each.settings)) for each in candidates]
    return settings, candidates


def _without_unread(settings: Settings) -> Settings:
    """Return a candidate's settings without unlabelled texts, unless its objective uses them."""
    if settings.reads_unlabelled:
        return settings
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, unlabelled=None))


def _composed(recipe: str | None, words: Sequence[str], own: Sequence[str], name: str) -> Settings:
    with about(f"the candidate {name!r}"):
        return config.compose(recipe, [*words, *own])


def _words(name: str) -> list[str]:
    """Expand a candidate's name to key=value words."""
    try:
        words = shlex.split(name)
    except ValueError as error:
        raise UserError(f"compare.candidates: {name!r} cannot be read: {error}") from None
    strategies = shipped_names("strategy")
    strategy, rest = words[:1], words[1:]
    if strategy and "=" in strategy[0]:
        strategy, rest = [], words
    for word in [word for word in strategy if word not in strategies] + [word for word in rest if "=" not in word]:
        raise UserError(
            f"compare.candidates: {word!r} in {name!r} is not a strategy{did_you_mean(word, strategies)}; a candidate "
            f"is one of {', '.join(strategies)}, key=value words, or both"
        )
    if shared := [word for word in rest if word.lstrip("+~").partition("=")[0].partition(".")[0] in _SHARED]:
        raise UserError(
            f"compare.candidates: {shared[0]!r} in {name!r} applies to all candidates: write it outside the list"
        )
    return [f"strategy={word}" for word in strategy] + rest


def decision_of(settings: Settings) -> DecisionSettings:
    """Return the decision settings of trials, without rules that change no label and are for saved models only."""
    return dataclasses.replace(settings.decision, risk=None, unknown=None, coverage=None)


class TrialData:
    """The data of the trials: the same test rows for all, and training and validation rows by the number of labels.

    Attributes:
        whole: the corpus with all rows.
        labels: the numbers of labels in ascending order, as strings: training rows per class, or "all".

    Raises:
        UserError: if there are no test rows, or no validation rows.
    """

    def __init__(self, settings: Settings, *, data: Any = None, tell: Callable[[str], None] = lambda _: None) -> None:
        self._data, self._decision, self._seed = settings.data, decision_of(settings), settings.seed
        self._read: ReadCorpus = read_corpus(settings.data, data=data, store=store_of_rows(settings.cache, tell))
        rows = self._divided(ALL, settings.seed)
        self.whole, self._numbers = self._encoded(rows), np.asarray(rows.rows["train"].numbers)
        if "test" not in self.whole.splits:
            raise UserError(
                "a comparison needs test rows that are not used for selection: give data.test, or leave validation "
                "out and data.test_share above 0, so that both are split off the training rows"
            )
        if "validation" not in self.whole.splits:
            raise UserError(
                f"data.validation_share={self._data.validation_share:g} leaves a comparison no validation rows: give "
                "data.validation, or a share above 0"
            )
        self._rows = {ALL: len(self._numbers)}
        counts = [str(count) for count in sorted({int(each) for each in settings.compare.labels if each != ALL})]
        for count in counts:
            self._rows[count] = len(self._divided(count, settings.seed).rows["train"])
        # A number that includes all rows becomes "all", and numbers that give the same rows are merged.
        names = [count if self._rows[count] < self._rows[ALL] else ALL for count in counts]
        names += [ALL] if ALL in settings.compare.labels else []
        self.labels = list({self._rows[each]: each for each in names}.values())

    @property
    def by_class(self) -> bool:
        """Whether numbers of labels count rows per class; otherwise they are multiplied by `classes_of` the task."""
        return self._read.task.problem in ("single_label", "ordinal")

    def describe(self, labels: str) -> str:
        """Describe a number of labels in words."""
        if labels == ALL:
            return "with all labels"
        if not self.by_class:
            return f"with {self.rows(labels):,} rows"
        most = "" if self.rows(labels) == int(labels) * classes_of(self._read.task) else "up to "
        return f"with {most}{counted(int(labels), 'label')} per class"

    def rows(self, labels: str) -> int:
        """Return the number of training rows for a number of labels, the same for every seed."""
        return self._rows[labels]

    def settings_of(self, labels: str) -> DataSettings:
        """Return the `data` settings that select the rows for a number of labels.

        Validation rows are limited to the number of training rows, as they would be with few labels.
        """
        if labels == ALL:
            return self._data
        rows = int(labels) * classes_of(self._read.task)
        if self.by_class:
            return dataclasses.replace(self._data, per_class=int(labels), validation_limit=rows)
        return dataclasses.replace(self._data, train_limit=rows, validation_limit=rows)

    @lru_cache(maxsize=1)  # noqa: B019  # candidates use the same one after another
    def corpus(self, labels: str, seed: int, *, pooled: bool) -> Corpus:
        """Return the corpus of a trial.

        Args:
            labels: the number of labels.
            seed: of the sample.
            pooled: whether cached features of all training rows may be reused, if these are part of the grid.
        """
        if labels == ALL:
            return self.whole
        rows = self._divided(labels, seed)
        corpus = self._encoded(rows, self.settings_of(labels))
        if pooled and ALL in self.labels:
            chosen = np.searchsorted(self._numbers, rows.rows["train"].numbers)  # both in the order of the file
            corpus.pool = Pool(self.whole.splits["train"], chosen)
        return corpus

    def _divided(self, labels: str, seed: int) -> ReadCorpus:
        return divide_corpus(self._read, self.settings_of(labels), seed=seed)

    def _encoded(self, rows: ReadCorpus, settings: DataSettings | None = None) -> Corpus:
        corpus = encode_corpus(rows, settings or self._data)
        return dataclasses.replace(corpus, task=with_rules(corpus.task, self._decision))
