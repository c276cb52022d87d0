"""Checks of labels: unseen ones, identifiers, prior shift, labels named in their texts, small evaluation splits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from nlp_transfer.data.checks import called
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.near import bare_words
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import Task, label_probabilities, unseen
from nlp_transfer.inspection.texts import texts_of
from nlp_transfer.wording import counted

_MIN_RATIO = 3.0  # of shares that differ
_STANDARD_ERRORS = 5.0  # by which shares must differ, to allow for comparing many labels
_NAMED = 0.8  # mean share of a label's rows whose text names it
_LABELS_PER_ROW = 0.5  # above this, labels are not classes
_MIN_ROWS = 20
_WIDE = 0.03  # half width of an interval above which two models can hardly be told apart
_ACCURACY = 0.8  # for which that width is computed
_MOST_SHOWN = 3


def unseen_labels(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find rows outside train with a label that no training row has."""
    for split, rows in splits.items():
        if split == "train" or not task.labels:
            continue
        if foreign := unseen(rows.labels, task.labels):
            names = Counter(
                name for row in foreign for name, share in label_probabilities(rows.labels[row]).items() if share
            ) - Counter(dict.fromkeys(task.labels, len(rows) + 1))
            listed = ", ".join(f"{name!r} ({count:,})" for name, count in names.most_common(_MOST_SHOWN))
            yield Finding(
                "unseen_label",
                f"{len(foreign):,} of {len(rows):,} {called(split)} rows have a label that no training row has: "
                f"{listed}{' and more' * (len(names) > _MOST_SHOWN)}",
                tuple((split, row) for row in foreign),
            )


def identifiers(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find a label column that does not contain classes."""
    rows = len(splits["train"])
    if rows >= _MIN_ROWS and task.problem == "single_label" and len(task.labels) > _LABELS_PER_ROW * rows:
        yield Finding(
            "id_as_label",
            f"the {rows:,} training rows have {len(task.labels):,} different labels: the column looks like one of "
            "identifiers or free text",
        )


def prior_shift(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find labels that are much rarer or more frequent in a split than in the training split."""
    if not task.labels:
        return
    counts = {split: _counts(rows, task) for split, rows in splits.items()}
    sizes = {split: len(rows) for split, rows in splits.items()}
    for split in splits:
        if split == "train":
            continue
        ours, theirs = counts["train"] / sizes["train"], counts[split] / sizes[split]
        pooled = (counts["train"] + counts[split]) / (sizes["train"] + sizes[split])
        error = np.sqrt(pooled * (1 - pooled) * (1 / sizes["train"] + 1 / sizes[split]))
        ratio = np.maximum(ours, theirs) / np.maximum(np.minimum(ours, theirs), 1e-12)
        is_certain = np.abs(ours - theirs) > _STANDARD_ERRORS * error
        shifted = np.flatnonzero((ratio >= _MIN_RATIO) & is_certain & (theirs > 0))
        if len(shifted):
            worst = shifted[np.argsort(-np.abs(ours - theirs)[shifted])][:_MOST_SHOWN]
            listed = ", ".join(f"{task.labels[i]!r} {ours[i]:.1%} and {theirs[i]:.1%}" for i in worst)
            yield Finding(
                "prior_shift",
                f"{counted(len(shifted), 'label')} with another share of the training than of the "
                f"{called(split)} rows: {listed}",
            )


def giveaway(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find that texts contain the name of their label."""
    if task.problem != "single_label":
        return
    train = splits["train"]
    words = {name: re.compile(rf"\b{re.escape(bare_words(name))}\b") for name in task.labels if bare_words(name)}
    labels = [name for name in train.labels if isinstance(name, str)]
    if len(labels) < max(_MIN_ROWS, len(train)):
        return
    whole = (" ".join(texts_of(train, row)) for row in range(len(train)))
    is_named = [
        bool(name in words and words[name].search(bare_words(text))) for name, text in zip(labels, whole, strict=True)
    ]
    count, hits = Counter(labels), Counter(name for name, named in zip(labels, is_named, strict=True) if named)
    share = sum(hits[name] / count[name] for name in count) / len(count)  # by label, as one may be named like its topic
    if share >= _NAMED:
        first = is_named.index(True)
        yield Finding(
            "giveaway",
            f"{sum(is_named):,} of {len(is_named):,} training texts hold the name of their own label, for example "
            f"{train.where(first)}",
            tuple(("train", row) for row, named in enumerate(is_named) if named),
        )


def few_rows(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find splits that are too small to measure accuracy precisely."""
    if not task.labels:
        return
    for split, rows in splits.items():
        half = 1.96 * math.sqrt(_ACCURACY * (1 - _ACCURACY) / len(rows))
        if split != "train" and half > _WIDE:
            largest = _counts(rows, task).max() / len(rows)
            yield Finding(
                "few_rows",
                f"{len(rows):,} {called(split)} rows give an accuracy of {_ACCURACY:.2f} to ±{half:.2f} (95%); the "
                f"largest label alone has {largest:.2f}",
            )


def _counts(rows: Rows, task: Task) -> np.ndarray:
    """Return the number of rows with each label, float64 (labels,); soft labels count by their shares."""
    total: Counter[str] = Counter()
    for label in rows.labels:
        for name, share in label_probabilities(label).items():
            total[name] += share  # type: ignore[assignment]
    return np.array([float(total[name]) for name in task.labels])
