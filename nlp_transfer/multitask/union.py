"""Several corpora as one: every text once, the rows of all tasks one behind the other, and whose outputs are whose."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.compact import compact
from nlp_transfer.data.corpus import Corpus, Examples
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.sequences import cells_of, numbered
from nlp_transfer.data.sources import SPLIT_NAMES
from nlp_transfer.data.task import Task, dense
from nlp_transfer.multitask.task_set import Member
from nlp_transfer.wording import counted

TRAIN = "train"


@dataclass(frozen=True)
class Union:
    """The tasks as one.

    Attributes:
        members: the tasks.
        corpus: every text of a split once; its task has the outputs of all, one slice a task, and its targets say for
            people which labels a text has.
        places: by task and split: which of these texts each row has, int64 (rows,).
    """

    members: list[Member]
    corpus: Corpus
    places: list[dict[str, np.ndarray]]

    @property
    def slices(self) -> list[slice]:
        """The outputs of each task among those of all."""
        ends = np.cumsum([0, *(member.corpus.task.outputs for member in self.members)]).tolist()
        return [slice(*each) for each in itertools.pairwise(ends)]

    @property
    def rows(self) -> list[int]:
        """How many training rows each task has."""
        return [len(places[TRAIN]) for places in self.places]

    @property
    def ids(self) -> Sequence[str]:
        """What the training rows are called."""
        names = (f"{member.name}/{name}" for member in self.members for name in member.corpus.splits[TRAIN].ids)
        return cells_of(names, sum(self.rows))

    @property
    def task_of_rows(self) -> np.ndarray:
        """The number of the task that each training row is of, int64 (rows,)."""
        return np.repeat(np.arange(len(self.members)), self.rows)


def union_of(members: Sequence[Member]) -> Union:
    """Put the corpora of tasks together."""
    first = members[0].corpus
    labels = [f"{member.name}: {label}" for member in members for label in member.corpus.task.labels or ("score",)]
    task = Task("multi_label", tuple(labels), first.task.pair)
    places: list[dict[str, np.ndarray]] = [{} for _ in members]
    splits = {}
    for split in SPLIT_NAMES:
        parts = [member.corpus.splits.get(split) for member in members]
        if any(part is not None for part in parts):
            splits[split] = _merged(split, parts, places)
    union = Union(list(members), _corpus(members, task, splits), places)
    for split, examples in splits.items():
        examples.targets = np.zeros((len(examples), task.outputs), np.float32)
        for member, own, outputs in zip(members, places, union.slices, strict=True):
            if split in own and member.corpus.task.labels:
                examples.targets[own[split], outputs] = dense(member.corpus.task, member.corpus.splits[split].targets)
    return union


def _merged(split: str, parts: Sequence[Examples | None], places: list[dict[str, np.ndarray]]) -> Examples:
    """Return every text of a split once, without targets, and note where each row's is."""
    there = {number: part for number, part in enumerate(parts) if part is not None}
    ends = np.cumsum([len(part) for part in there.values()])
    firsts = Keys.of(_hashes(there.values()), int(ends[-1])).firsts()
    new = firsts == np.arange(len(firsts))
    rows = (np.cumsum(new) - 1)[firsts]
    for number, own in zip(there, np.split(rows, ends[:-1]), strict=True):
        places[number][split] = own
    count = int(new.sum())

    def once(columns: Iterable[Iterable[str]]) -> Sequence[str]:
        return compact(cells_of(itertools.compress(itertools.chain.from_iterable(columns), new), count))

    seconds = [part.pairs for part in there.values() if part.pairs is not None]
    return Examples(
        texts=once(part.texts for part in there.values()),
        pairs=once(seconds) if seconds else None,
        targets=np.empty(0),
        weights=np.ones(count, np.float32),
        ids=numbered(f"{split}-", range(count)),
        domains=None,
    )


def _hashes(parts: Iterable[Examples]) -> Iterator[bytes]:
    """Yield a hash of the texts of every row as they are written."""
    for part in parts:
        for both in zip(part.texts, itertools.repeat(None) if part.pairs is None else part.pairs, strict=False):
            yield hashlib.sha256(repr(both).encode()).digest()


def _corpus(members: Sequence[Member], task: Task, splits: dict[str, Examples]) -> Corpus:
    known = [[member.name, member.corpus.fingerprint] for member in members]
    return Corpus(
        task=task,
        splits=splits,
        roles=members[0].corpus.roles,
        source=", ".join(member.name for member in members),
        notes=[*(f"{member.name}: {note}" for member in members for note in member.corpus.notes), *_taught(members)],
        fingerprint=hashlib.sha256(json.dumps(known).encode()).hexdigest(),
    )


def _taught(members: Sequence[Member]) -> list[str]:
    """Say which measured texts stand in the training rows of other tasks: their labels may tell of these."""
    train = {member.name: member.corpus.splits[TRAIN].keys for member in members}
    said = []
    for member in members:
        split = member.corpus.reported_split
        keys = member.corpus.splits[split].keys
        others = [keys.among(known) for name, known in train.items() if name != member.name]
        if both := int(np.any(others, axis=0).sum()):
            said.append(
                f"warning: {member.name}: {both:,} of {counted(len(keys), f'{split} row')} have a text that trains "
                "another task; trained alone it would not have been seen"
            )
    return said
