"""What is compared: candidates, numbers of labels and seeds, and the trials that they make; it trains nothing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nlp_transfer import config
from nlp_transfer.data.corpus import Corpus, Pool, ReadCorpus, divided, encoded, read_corpus
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.evaluation.decisions import settled
from nlp_transfer.shipped import shipped_names

if TYPE_CHECKING:
    from nlp_transfer.settings import DataSettings, DecisionSettings, Settings

ALL = "all"
SCRATCH = "scratch"
_SCRATCH = ("strategy=finetune", "strategy.head_first=false", "encoder.pretrained=false")
_SCRATCH_EPOCHS = 3  # times those of the others
_DECILES = 10  # of numbers stand for classes where rows are counted


class Trial(NamedTuple):
    """One training: a candidate's name, how many labels it has, and its seed."""

    name: str
    labels: str
    seed: int


@dataclass(frozen=True)
class Candidate:
    """Who may learn the task.

    Attributes:
        name: as it was given.
        settings: of its run on all rows.
        is_floor: whether it knows nothing of language before.
    """

    name: str
    settings: Settings
    is_floor: bool = False


def candidates_of(recipe: str | None, words: Sequence[str]) -> tuple[Settings, list[Candidate]]:
    """Return the settings of a comparison, and everybody in it who is trained.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words that all of them share.

    Raises:
        UserError: for a candidate that makes no configuration, and two of one name.
    """
    if own := [word for word in words if word.partition("=")[0] == "strategy" or word.startswith("strategy.")]:
        raise UserError(f"{own[0]}: compare takes strategies as compare.candidates=[probe,'lora strategy.rank=8']")
    settings = config.compose(recipe, words)
    names = settings.compare.candidates
    if not names:
        raise UserError("compare.candidates is empty; name strategies, such as [probe,finetune]")
    if twice := [name for name in names if names.count(name) > 1 or name == SCRATCH]:
        raise UserError(f"compare.candidates: {twice[0]!r} is there already; name every candidate once")
    candidates = [Candidate(name, config.compose(recipe, [*words, *_words(name)])) for name in names]
    if settings.compare.scratch:
        theirs = config.compose(recipe, [*words, *_SCRATCH])
        longer = dataclasses.replace(theirs.training, epochs=_SCRATCH_EPOCHS * theirs.training.epochs)
        candidates.append(Candidate(SCRATCH, dataclasses.replace(theirs, training=longer), is_floor=True))
    return settings, candidates


def _words(name: str) -> list[str]:
    """Return the key=value words that a candidate is short for."""
    try:
        words = shlex.split(name)
    except ValueError as error:
        raise UserError(f"compare.candidates: {name!r} cannot be read: {error}") from None
    known = shipped_names("strategy")
    first = [word for word in words[:1] if "=" not in word]
    for word in [*words[len(first) :], *first]:
        if "=" not in word and (word not in known or word not in first):
            raise UserError(
                f"compare.candidates: {word!r} in {name!r} is no strategy{did_you_mean(word, known)}; a candidate is "
                f"one of {', '.join(known)}, key=value words, or both"
            )
    return [f"strategy={word}" for word in first] + words[len(first) :]


def decision_of(settings: Settings) -> DecisionSettings:
    """Return how trials decide: without what changes no label and is asked of a saved model alone."""
    return dataclasses.replace(settings.decision, unknown=None, coverage=None)


class Draws:
    """The corpus as trials see it: the same test rows for all, as many rows to learn and to choose from as they have.

    Attributes:
        whole: with all rows.
        labels: numbers of labels, from few to many, as their names: training rows a class, or "all".
    """

    def __init__(self, settings: Settings, *, data: Any = None) -> None:
        self._data, self._decision = settings.data, decision_of(settings)
        self._read: ReadCorpus = read_corpus(settings.data, data=data)
        self.whole = self._loaded(settings.data, settings.seed)
        self._rows = {ALL: len(self.whole.splits["train"])}
        self._places = {name: row for row, name in enumerate(self.whole.splits["train"].ids)}
        counts = sorted({int(count) for count in settings.compare.labels if count != ALL})
        for count in map(str, counts):
            self._rows[count] = len(self._loaded(self.settings_of(count), settings.seed).splits["train"])
        wanted = [*map(str, counts), ALL] if ALL in settings.compare.labels else [*map(str, counts)]
        most = [self._rows[name] for name in wanted]
        # A number that no class has, and one that changes nothing, would be the next one over again.
        self.labels = [name for name, rows, more in zip(wanted, most, [*most[1:], 0], strict=True) if rows != more]

    def rows(self, labels: str) -> int:
        """Return how many training rows so many labels are; the seed does not change that."""
        return self._rows[labels]

    def settings_of(self, labels: str) -> DataSettings:
        """Return in the words of a run which rows so many labels are.

        Who has few labels has few to choose by: validation rows are limited to as many as there are to learn from.
        """
        if labels == ALL:
            return self._data
        task, count = self._read.task, int(labels)
        rows = count * (len(task.labels) or _DECILES)
        if task.problem in ("regression", "multi_label"):
            return dataclasses.replace(self._data, train_limit=rows, validation_limit=rows)
        return dataclasses.replace(self._data, per_class=count, validation_limit=rows)

    @lru_cache(maxsize=1)  # noqa: B019  # one candidate after the other asks for the same
    def corpus(self, labels: str, seed: int, *, pooled: bool) -> Corpus:
        """Return the corpus of a trial.

        Args:
            labels: how many it has.
            seed: which rows these are.
            pooled: whether what is computed of all training rows is kept and may serve it, where they are in the grid.
        """
        if labels == ALL:
            return self.whole
        found = self._loaded(self.settings_of(labels), seed)
        if pooled and ALL in self.labels:
            chosen = np.array([self._places[name] for name in found.splits["train"].ids])
            found.pool = Pool(self.whole.splits["train"], chosen)
        return found

    def _loaded(self, settings: DataSettings, seed: int) -> Corpus:
        found = encoded(divided(self._read, settings, seed=seed), settings)
        return dataclasses.replace(found, task=settled(found.task, self._decision))
