"""Merging of the tasks' corpora: every text once, and the rows and outputs of each task."""

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
    """The merged tasks.

    Attributes:
        members: the tasks.
        corpus: every text of a split once. Its task has the outputs of all tasks, one slice for each; its targets show
            all labels of a text, and are not trained on.
        places: by task and split, the index of each row's text in the merged split, int64 (rows,).
    """

    members: list[Member]
    corpus: Corpus
    places: list[dict[str, np.ndarray]]

    @property
    def slices(self) -> list[slice]:
        """The slice of each task's outputs."""
        ends = np.cumsum([0, *(member.corpus.task.outputs for member in self.members)]).tolist()
        return [slice(*each) for each in itertools.pairwise(ends)]

    @property
    def rows(self) -> list[int]:
        """The number of training rows of each task."""
        return [len(places[TRAIN]) for places in self.places]

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the training rows of all tasks."""
        names = (f"{member.name}/{name}" for member in self.members for name in member.corpus.splits[TRAIN].ids)
        return cells_of(names, sum(self.rows))

    @property
    def task_of_rows(self) -> np.ndarray:
        """The index of each training row's task, int64 (rows,)."""
        return np.repeat(np.arange(len(self.members)), self.rows)


def union_of(members: Sequence[Member]) -> Union:
    """Merge the corpora of tasks."""
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
        for member, places_of, outputs in zip(members, places, union.slices, strict=True):
            if split in places_of and member.corpus.task.labels:
                targets = dense(member.corpus.task, member.corpus.splits[split].targets)
                examples.targets[places_of[split], outputs] = targets
    return union


def _merged(split: str, parts: Sequence[Examples | None], places: list[dict[str, np.ndarray]]) -> Examples:
    """Return every text of a split once, without targets, and add the index of each row's text to `places`."""
    present = {number: part for number, part in enumerate(parts) if part is not None}
    ends = np.cumsum([len(part) for part in present.values()])
    firsts = Keys.of(_hashes(present.values()), int(ends[-1])).firsts()
    is_first = firsts == np.arange(len(firsts))
    rows = (np.cumsum(is_first) - 1)[firsts]
    for number, part_rows in zip(present, np.split(rows, ends[:-1]), strict=True):
        places[number][split] = part_rows
    count = int(is_first.sum())

    def once(columns: Iterable[Iterable[str]]) -> Sequence[str]:
        return compact(cells_of(itertools.compress(itertools.chain.from_iterable(columns), is_first), count))

    seconds = [part.pairs for part in present.values() if part.pairs is not None]
    return Examples(
        texts=once(part.texts for part in present.values()),
        pairs=once(seconds) if seconds else None,
        targets=np.empty(0),
        weights=np.ones(count, np.float32),
        ids=numbered(f"{split}-", range(count)),
        domains=None,
    )


def _hashes(parts: Iterable[Examples]) -> Iterator[bytes]:
    """Yield a hash of the exact text or texts of every row."""
    for part in parts:
        for texts in zip(part.texts, itertools.repeat(None) if part.pairs is None else part.pairs, strict=False):
            yield hashlib.sha256(repr(texts).encode()).digest()


def _corpus(members: Sequence[Member], task: Task, splits: dict[str, Examples]) -> Corpus:
    fingerprints = [[member.name, member.corpus.fingerprint] for member in members]
    return Corpus(
        task=task,
        splits=splits,
        roles=members[0].corpus.roles,
        source=", ".join(member.name for member in members),
        notes=[*(f"{member.name}: {note}" for member in members for note in member.corpus.notes), *_leaks(members)],
        fingerprint=hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest(),
    )


def _leaks(members: Sequence[Member]) -> list[str]:
    """Return warnings of measured texts that other tasks train on, whose labels may give these away."""
    train = {member.name: member.corpus.splits[TRAIN].keys for member in members}
    warnings = []
    for member in members:
        split = member.corpus.reported_split
        keys = member.corpus.splits[split].keys
        others = [keys.among(known) for name, known in train.items() if name != member.name]
        if both := int(np.any(others, axis=0).sum()):
            warnings.append(
                f"warning: {member.name}: {both:,} of {counted(len(keys), f'{split} row')} have a text that trains "
                "another task; trained alone it would not have been seen"
            )
    return warnings
