"""Data checks of every run: repeats, leaks, conflicts, imbalance, label twins; reported but never repaired."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.labels import Label
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import Task, label_probabilities
from nlp_transfer.wording import counted, listed

LEAKS = (("train", "validation"), ("train", "test"), ("validation", "test"))  # (source, target) splits
_SHOWN = 3
_IMBALANCE = 10  # times more rows in the largest class than in the smallest
_SEPARATORS = ",;|"
_LIST = "a list written as text; JSONL and Parquet hold lists"
_NOTHING = {"nan", "<na>", "nat", "null", "n/a", "#n/a"}  # not "none" and "na", which name classes too
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_JOINERS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_WHOLE = re.compile(r"\A([0-9]+)\.0+\Z")  # how pandas writes whole numbers in a column with missing cells


def check(splits: Mapping[str, Rows], task: Task) -> list[Finding]:
    """Return the findings that a run reports about its rows; takes one or two passes over them.

    Two texts are the same if their ``rows.text_key`` is: case, white space and Unicode compatibility forms are ignored.
    """
    return [
        *repeats("train", splits["train"]),
        *(finding for split, rows in splits.items() for finding in conflicts(split, rows)),
        *leaks(splits),
        *(label_findings(splits, task) if task.labels else ()),
    ]


def repeats(split: str, rows: Rows) -> Iterator[Finding]:
    """Find rows that repeat the text of an earlier row of their split."""
    first = rows.keys.firsts()
    again = np.flatnonzero(first != np.arange(len(rows))).tolist()
    if again:
        yield Finding(
            "repeat",
            f"{len(again):,} of {len(rows):,} {called(split)} rows repeat the text of another one, for example "
            f"{rows.where(int(first[again[0]]))} and {rows.where(again[0])}",
            tuple((split, row) for row in again),
        )


def conflicts(split: str, rows: Rows) -> Iterator[Finding]:
    """Find texts that occur with different labels; different numbers are no conflict."""
    groups = [group for group in same_texts(rows.keys) if len({comparable(rows.labels[row]) for row in group}) > 1]
    if groups:
        one = groups[0][0]
        other = next(row for row in groups[0] if comparable(rows.labels[row]) != comparable(rows.labels[one]))
        several = "set of labels" if isinstance(rows.labels[one], tuple) else "label"
        most = len(rows) - sum(_surely_wrong(rows, group) for group in groups)
        is_limited = split != "train" and most < len(rows)
        limit = f": no model can be right for more than {most:,} of the {len(rows):,} rows" if is_limited else ""
        yield Finding(
            "conflict",
            f"{counted(len(groups), f'{called(split)} text')} with more than one {several}, for example "
            f"{rows.where(one)} and {rows.where(other)}{limit}",
            tuple((split, row) for group in groups for row in group),
        )


def _surely_wrong(rows: Rows, group: Collection[int]) -> int:
    """Return how many of some rows at least get a wrong label: a model may tell texts of different case apart."""
    by_text: defaultdict[tuple[str, str], Counter[object]] = defaultdict(Counter)
    for row in group:
        text = rows.texts[row], "" if rows.pairs is None else rows.pairs[row]
        by_text[text][comparable(rows.labels[row])] += 1
    return sum(labels.total() - max(labels.values()) for labels in by_text.values())


def same_texts(keys: Keys) -> Iterator[list[int]]:
    """Yield the rows of every repeated text, in the order in which these texts first occur."""
    first = keys.firsts()
    rows = np.flatnonzero(np.bincount(first, minlength=len(keys))[first] > 1)
    rows = rows[np.argsort(first[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(first[rows], append=-1)) + 1
    for begin, end in itertools.pairwise([0, *ends.tolist()]):
        yield rows[begin:end].tolist()


def comparable(label: Label) -> object:
    """Return a key by which labels contradict each other: names in any order, the likeliest name, None for a number."""
    if isinstance(label, tuple):
        return frozenset(label)
    if isinstance(label, dict):
        return max(label, key=label.__getitem__, default=None)
    return None if isinstance(label, float) else label


def leaks(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find rows whose text also occurs in an earlier split."""
    for source, target in LEAKS:
        if source in splits and target in splits:
            ours, theirs = splits[source], splits[target]
            first = ours.keys.followed_by(theirs.keys).firsts()
            first_of_ours, origin = first[: len(ours)], first[len(ours) :]
            leaked = np.flatnonzero(origin < len(ours))
            if len(leaked):
                is_leaked = np.zeros(len(ours), bool)
                is_leaked[origin[leaked]] = True
                yield Finding(
                    "leak",
                    f"{len(leaked):,} of {len(theirs):,} {target} rows have a text that is in {source} too, for "
                    f"example {ours.where(int(origin[leaked[0]]))} and {theirs.where(int(leaked[0]))}: scores on them "
                    "are too high",
                    tuple((source, row) for row in np.flatnonzero(is_leaked[first_of_ours]).tolist()),
                )


def called(split: str) -> str:
    """Return the adjective for the rows of a split: training, validation or test."""
    return "training" if split == "train" else split


def label_findings(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find defects of the label set: absent, rare and imbalanced labels, and names that may mean the same."""
    counts = {split: label_counts(rows) for split, rows in splits.items()}
    train = counts["train"]
    if unused := [name for name in task.labels if not train[name]]:
        yield Finding("absent_label", f"{_names(unused)}: no training row with a text that is not empty")
    seen = [name for name in task.labels if train[name]]  # empty where a row limit leaves no labels
    largest, smallest = (pick(seen, key=train.__getitem__, default="") for pick in (max, min))
    if train[largest] > _IMBALANCE * train[smallest]:
        yield Finding(
            "imbalance",
            f"imbalance: {largest!r} has {train[largest]:,} training rows, {smallest!r} {train[smallest]:,}; macro-F1 "
            "shows what accuracy hides, data.class_weights=balanced weights them equally",
        )
    nothing = [name for name in task.labels if name.strip().casefold() in _NOTHING]
    if nothing:
        yield Finding(
            "missing_label",
            f"{_names(nothing)}: programs write this for a missing label, but here it is a class",
            _having("train", splits, nothing),
        )
    single = [name for name in task.labels if train[name] == 1]
    if single:
        yield Finding("rare_label", f"{_names(single)}: one training row only", _having("train", splits, single))
    for split in ("validation", "test"):
        absent = [name for name in task.labels if split in counts and not counts[split][name]]
        if absent:
            yield Finding("absent_label", f"{_names(absent)}: no {split} row")
    yield from _twins(splits, task, train)
    yield from _written_lists(task)


def label_counts(rows: Rows) -> Counter[str]:
    """Return how many rows have each label; rows with several or soft labels count for each, numbers for none."""
    named = (label for label in rows.labels if not isinstance(label, float))
    return Counter(name for label in named for name, share in label_probabilities(label).items() if share)


def twins(task: Task, train: Counter[str]) -> dict[str, str]:
    """Return label → the most frequent of the labels that differ from it in spelling only, see `_normalised`."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for name in task.labels:
        by_key[_normalised(name)].append(name)
    best = {key: max(names, key=lambda name: train[name]) for key, names in by_key.items()}
    return {name: best[key] for key, names in by_key.items() for name in names if name != best[key]}


def _normalised(name: str) -> str:
    """Return a label without case, invisible characters, separators between words, and the zeros of 1.0.

    A sign before or behind a word is kept, because it tells labels apart, as in B and B-.
    """
    words = unicodedata.normalize("NFC", name).strip().strip(_INVISIBLE).strip().casefold()
    return _WHOLE.sub(r"\1", _JOINERS.sub("", words))


def _twins(splits: Mapping[str, Rows], task: Task, train: Counter[str]) -> Iterator[Finding]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, best in twins(task, train).items():
        groups[best].append(name)
    for best, names in groups.items():
        shown = {name: repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name) for name in (best, *names)}
        counts = ", ".join(f"{shown[name]} ({counted(train[name], 'row')})" for name in task.labels if name in shown)
        yield Finding(
            "twin",
            "labels that differ only in spelling (case, white space, hyphens, zeros after a decimal point, invisible "
            f"characters) are different classes here: {counts}",
            tuple(place for split in splits for place in _having(split, splits, names)),
        )


def _having(split: str, splits: Mapping[str, Rows], names: Collection[str]) -> tuple[Place, ...]:
    """Return the rows of a split that have one of these labels."""
    return tuple(
        (split, row)
        for row, label in enumerate(splits[split].labels)
        if any(share and name in names for name, share in label_probabilities(label).items())
    )


def _written_lists(task: Task) -> Iterator[Finding]:
    """Find labels that look like several labels in one cell, or like pieces of a list that was split."""
    if task.problem == "multi_label":
        cut = [name for name in task.labels if name.startswith("[") != name.endswith("]")]
        if any(name.startswith("[") for name in cut) and any(name.endswith("]") for name in cut):
            yield Finding("joined_label", f"{_names(cut)}: parts of {_LIST}")
    if task.problem != "single_label":
        return
    for separator in _SEPARATORS:
        parts = {name: {part.strip() for part in name.split(separator)} for name in task.labels}
        uses = Counter(itertools.chain.from_iterable(parts.values()))
        joined = [
            name
            for name in task.labels
            if separator in name and all(part and uses[part] > 1 for part in parts[name])  # other labels have them too
        ]
        if joined:
            yield Finding(
                "joined_label",
                f"{_names(joined)}: made of other labels, or of their parts; if rows have several labels set "
                f"data.label_separator={separator!r}",
            )
    lists = [name for name in task.labels if (name[:1], name[-1:]) in (("[", "]"), ("{", "}"))]
    if lists:
        yield Finding("joined_label", f"{_names(lists)}: looks like {_LIST}")


def _names(names: list[str]) -> str:
    """Name the first few labels and count the rest."""
    return f"label{'s' * (len(names) != 1)} {listed(names, repr, most=_SHOWN)}"
