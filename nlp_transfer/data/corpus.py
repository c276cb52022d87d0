"""From settings to a checked, encoded corpus: the entry point of this package; tokenisation is in ``tokens``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlp_transfer.data import division
from nlp_transfer.data.checks import check, conflicts
from nlp_transfer.data.columns import find_roles
from nlp_transfer.data.compact import compact
from nlp_transfer.data.label_columns import check_label_columns, join_label_columns, settings_of_joined
from nlp_transfer.data.labels import check_problem, is_number, resolve_problem
from nlp_transfer.data.rows import Rows, Texts, rows_of
from nlp_transfer.data.rowstore import RowStore
from nlp_transfer.data.sequences import integers_of, json_of, take
from nlp_transfer.data.shares import check_shares
from nlp_transfer.data.sources import SPLIT_NAMES, read_source
from nlp_transfer.data.table import Table
from nlp_transfer.data.task import Task, class_weights, label_names, unseen, unseen_message
from nlp_transfer.data.unlabelled import measured_among, read_unlabelled
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import DataSettings


@dataclass
class Examples(Texts):
    """One split with encoded labels, ready for tokenisation.

    Attributes:
        targets: see ``Task.encode``.
        weights: float32 (n,). Training rows: the row's own weight times its class weight (soft labels: the expected
            one; multi_label: not multiplied in, see ``Task.class_weights``). Other splits: the row's own weight.
        ids: from the id column, or ``<split>-<row>`` of the table the row was read from.
        domains: from the domain column, or None.
    """

    targets: np.ndarray
    weights: np.ndarray
    ids: Sequence[str]
    domains: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Examples:
        """Return the rows at these indices, in the order given."""
        taken, domains = super().take(rows), None if self.domains is None else take(self.domains, rows)
        return Examples(taken.texts, taken.pairs, self.targets[rows], self.weights[rows], take(self.ids, rows), domains)


@dataclass(frozen=True)
class Pool:
    """A superset of the training rows, from which several training sets are drawn; they share its computations.

    Attributes:
        examples: the rows.
        chosen: int64 (training rows,), the index of each training row among them.
    """

    examples: Examples
    chosen: np.ndarray


@dataclass
class Corpus:
    """The training, validation and test data of a run.

    Attributes:
        task: problem type, labels, class weights.
        splits: train always, and validation, test or both.
        roles: role → column.
        source: display name of the source of the rows.
        notes: sentences for the plan: what was detected, carved, dropped or looks wrong, with counts.
        fingerprint: SHA-256 over the rows used (texts, pairs, labels, own weights, splits), independent of their files.
        pool: the rows that the training rows were drawn from, where several draws are compared, else None.
        foreign: by split, texts of the rows that were dropped for a label that training lacks.
        unlabelled: texts without labels for training, or None.
        replayed: how many of the training rows, the last ones, are replayed from the earlier model's training data.
        own: the training rows without those generated from label names, see ``label_texts``; None: none were.
    """

    task: Task
    splits: dict[str, Examples]
    roles: dict[str, str]
    source: str
    notes: list[str]
    fingerprint: str
    pool: Pool | None = None
    foreign: dict[str, Texts] = field(default_factory=dict)
    unlabelled: Texts | None = None
    replayed: int = 0
    own: Examples | None = None

    @property
    def reported_split(self) -> str:
        """The split whose figures are reported."""
        return "test" if "test" in self.splits else "validation"

    @property
    def own_train(self) -> Examples:
        """The training rows without generated ones; counts and baselines use these."""
        return self.splits["train"] if self.own is None else self.own

    @property
    def absent_labels(self) -> list[str]:
        """Labels without a training row of positive weight; only labels of an earlier model can be absent."""
        if not self.task.labels:
            return []
        train = self.splits["train"]
        present = train.targets[train.weights > 0]
        counts = present.sum(axis=0) if present.ndim == 2 else np.bincount(present, minlength=self.task.outputs)
        return [name for name, count in zip(self.task.labels, counts, strict=True) if not count]


def load_corpus(settings: DataSettings, *, seed: int = 0, data: Any = None, store: RowStore | None = None) -> Corpus:
    """Read, check, divide and encode a corpus.

    Args:
        settings: the `data` group.
        seed: decides which rows `train_limit`, `per_class` and `validation_limit` keep, and nothing else.
        data: rows from Python instead of a setting, see ``sources.read_source``.
        store: see ``sources.read_source``.

    Raises:
        UserError: for a setting that makes no sense here, and with file and line for rows that cannot be used.
    """
    return encode_corpus(divide_corpus(read_corpus(settings, data=data, store=store), settings, seed=seed), settings)


@dataclass
class ReadCorpus:
    """A corpus as rows, before encoding.

    Attributes:
        source: display name of the source of the rows.
        roles: role → column.
        task: problem type and labels.
        rows: by split.
        notes: sentences on what was detected, dropped or left unread.
        foreign, unlabelled, replayed: see `Corpus`.
    """

    source: str
    roles: dict[str, str]
    task: Task
    rows: dict[str, Rows]
    notes: list[str]
    foreign: dict[str, Texts] = field(default_factory=dict)
    unlabelled: Texts | None = None
    replayed: int = 0


def read_corpus(
    settings: DataSettings, *, data: Any = None, known: Sequence[str] = (), store: RowStore | None = None
) -> ReadCorpus:
    """Read a corpus and interpret its cells; nothing is carved, and only rows with empty texts are dropped.

    Arguments and errors are those of `load_corpus`; the label set always includes the labels in `known`.
    """
    _check(settings)
    source = read_source(settings, data=data, store=store)
    notes, splits = list(source.notes), source.splits
    if names := settings.label_columns:
        splits = {split: join_label_columns(table, names) for split, table in splits.items()}
        settings = settings_of_joined(settings)
    roles = find_roles(splits["train"], settings.columns)
    problem = _problem(splits["train"], roles["label"], settings, notes)
    rows = {
        split: rows_of(table, roles, settings, split=split, problem=problem, notes=notes)
        for split, table in splits.items()
    }
    labels = label_names(rows["train"].labels, problem=problem, order=settings.order, known=known)
    task = Task(problem=problem, labels=labels, pair="text_pair" in roles)
    unlabelled = read_unlabelled(settings, roles, notes)
    return ReadCorpus(source.name, roles, task, rows, notes, unlabelled=unlabelled)


def divide_corpus(read: ReadCorpus, settings: DataSettings, *, seed: int) -> ReadCorpus:
    """Return the rows that a run uses: unseen labels handled, missing splits carved, row limits applied."""
    rows, notes, problem = dict(read.rows), list(read.notes), read.task.problem
    read = dataclasses.replace(read, rows=rows)  # so that the undivided rows can be freed meanwhile
    is_guess = (settings.problem, problem) == ("auto", "single_label")
    foreign = _settle_unseen(rows, read.task.labels, settings, notes, is_guess=is_guess)
    division.divide(rows, problem, settings, notes)
    division.limit(rows, problem, settings, seed, notes)
    return dataclasses.replace(read, notes=notes, foreign=foreign)


def encode_corpus(read: ReadCorpus, settings: DataSettings) -> Corpus:
    """Check and encode the rows of `divide_corpus`."""
    task, examples = _encode_splits(read.rows, read.task, settings)
    notes = read.notes + [finding.message for finding in check(read.rows, task)]
    if read.unlabelled:
        measured = [rows.keys for split, rows in read.rows.items() if split != "train"]
        notes += filter(None, [measured_among(read.unlabelled, measured)])
    return Corpus(
        task=task,
        splits={split: examples[split] for split in SPLIT_NAMES if split in examples},
        roles=read.roles,
        source=read.source,
        notes=notes,
        fingerprint=_fingerprint(read.rows, examples, task),
        foreign=read.foreign,
        unlabelled=read.unlabelled,
        replayed=read.replayed,
    )


def read_examples(
    table: Table, task: Task, settings: DataSettings, *, split: str = "test"
) -> tuple[Examples, list[str], Texts | None]:
    """Turn labelled rows into examples of an existing task, to evaluate a saved model on other data.

    Args:
        table: the rows.
        task: the task of the model.
        settings: the `data` group: columns, empty texts, unseen labels, the separator of labels.
        split: for ids and messages.

    Returns:
        The examples with their rows' own weights, notes on what was dropped and on texts with contradictory labels, and
        the texts of the rows that were dropped for a label outside the task, or None.

    Raises:
        UserError: as `load_corpus`.
    """
    notes: list[str] = []
    if settings.label_columns:
        table, settings = join_label_columns(table, settings.label_columns), settings_of_joined(settings)
    roles = find_roles(table, settings.columns)
    if task.pair != ("text_pair" in roles):
        expected = (
            "two texts per row: set data.columns.text_pair" if task.pair else "one text: set data.columns.text_pair=''"
        )
        raise UserError(f"{table.origin}: the model takes {expected}")
    rows = {split: rows_of(table, roles, settings, split=split, problem=task.problem, notes=notes)}
    foreign = _settle_unseen(rows, task.labels, settings, notes)
    notes += [f"{finding.message}." for finding in conflicts(split, rows[split])]
    return examples_of(rows[split], task, split=split), notes, foreign.get(split)


def _check(settings: DataSettings) -> None:
    """Refuse settings that are invalid regardless of the rows."""
    check_problem(settings.problem, settings.label_separator)
    check_label_columns(settings)
    one_of(settings.unseen, ("error", "ignore"), "data.unseen")
    check_shares(settings)


def _problem(train: Table, column: str, settings: DataSettings, notes: list[str]) -> str:
    problem, note = resolve_problem(
        train.columns[column],
        problem=settings.problem,
        separator=settings.label_separator,
    )
    notes += [note] if note else []
    return problem


def _settle_unseen(
    rows: dict[str, Rows], labels: tuple[str, ...], settings: DataSettings, notes: list[str], *, is_guess: bool = False
) -> dict[str, Texts]:
    """Refuse or drop rows of other splits whose label train lacks; return the texts of dropped rows by split.

    `is_guess` says that the problem type was detected: numeric labels may be measurements, and the message says so.
    """
    dropped_texts: dict[str, Texts] = {}
    for split, part in rows.items() if labels else ():
        foreign = unseen(part.labels, labels)
        if not foreign:
            continue
        if settings.unseen == "error":
            hint = " (measurements: data.problem=regression)" * (is_guess and all(map(is_number, labels)))
            raise UserError(f"{split}: {unseen_message(part.labels, foreign, labels, part.where)}{hint}")
        if len(foreign) == len(part):
            raise UserError(f"{split}: no row has a label of the training rows")
        dropped = set(foreign)
        kept = (row for row in range(len(part)) if row not in dropped)
        rows[split] = part.take(integers_of(kept, len(part) - len(dropped)))
        dropped_texts[split] = Texts(part.texts, part.pairs).take(foreign)
        notes.append(f"{split}: {len(foreign):,} of {len(part):,} rows with a label that training lacks were dropped")
    return dropped_texts


def _encode_splits(rows: Mapping[str, Rows], task: Task, settings: DataSettings) -> tuple[Task, dict[str, Examples]]:
    """Encode all splits, with class weights from the training rows."""
    plain = {split: examples_of(part, task, split=split) for split, part in rows.items()}
    weights = class_weights(settings.class_weights, plain["train"].targets, task)
    if weights is None:
        return task, plain
    task = dataclasses.replace(task, class_weights=weights)
    return task, plain | {"train": _with_class_weights(plain["train"], task)}


def _with_class_weights(train: Examples, task: Task) -> Examples:
    """Return training rows with class weights multiplied into their weights, see `Examples`."""
    if task.problem == "multi_label":
        return train
    by_label, targets = np.asarray(task.class_weights, dtype=np.float32), train.targets
    with np.errstate(over="ignore"):
        weights = train.weights * (by_label[targets] if targets.ndim == 1 else targets @ by_label)
    _check_weights(weights, "train")
    return dataclasses.replace(train, weights=weights)


def examples_of(rows: Rows, task: Task, *, split: str) -> Examples:
    """Encode the rows of one split; their weights are the rows' own.

    Raises:
        UserError: for weights whose sum is zero or infinite, and with the place for a label that is not in the task.
    """
    targets = task.encode(rows.labels, rows.where)
    weights = np.fromiter(rows.weights, np.float32, len(rows))
    _check_weights(weights, split)
    pairs = None if rows.pairs is None else compact(rows.pairs)
    return Examples(compact(rows.texts), pairs, targets, weights, compact(rows.ids), rows.domains)


def _check_weights(weights: np.ndarray, split: str) -> None:
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < np.inf:
        raise UserError(
            f"{split}: the weights of its {len(weights):,} rows sum to {total:g}, so nothing can be averaged; correct "
            "the weight column, or set data.columns.weight=''"
        )


def _fingerprint(rows: Mapping[str, Rows], examples: Mapping[str, Examples], task: Task) -> str:
    """Hash the rows used; class weights are excluded, because they come from a setting."""
    digest = hashlib.sha256(json.dumps([task.problem, task.labels]).encode())
    for split in sorted(rows):
        part, targets = rows[split], examples[split].targets
        for piece in json_of([split, part.texts, part.pairs, part.weights, targets.dtype.str]):
            digest.update(piece.encode())
        digest.update(np.ascontiguousarray(targets).astype(targets.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
