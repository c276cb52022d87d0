"""Labels beside their splits: which lack, whose shares differ, which are said by their texts, how few rows are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from nlp_transfer.data.checks import called
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import Task, label_probabilities, unseen
from nlp_transfer.inspection.texts import bare_words, texts_of
from nlp_transfer.wording import counted

_RATIO = 3.0  # times the share
_ERRORS = 5.0  # standard errors by which shares differ for certain, however many labels are compared
_SAYS = 0.8  # share of the rows of a label whose text says it, on average
_OWN = 0.5  # labels a row, from which labels are no classes
_FEWEST = 20
_WIDE = 0.03  # half the width of an interval from which two models can hardly be told apart
_LIKELY = 0.8  # accuracy for which that width is told
_SHOWN = 3


def unseen_labels(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find rows outside train that have a label which training rows lack."""
    for split, rows in splits.items():
        if split == "train" or not task.labels:
            continue
        if foreign := unseen(rows.labels, task.labels):
            names = Counter(
                name for row in foreign for name, share in label_probabilities(rows.labels[row]).items() if share
            ) - Counter(dict.fromkeys(task.labels, len(rows) + 1))
            listed = ", ".join(f"{name!r} ({count:,})" for name, count in names.most_common(_SHOWN))
            yield Finding(
                "unseen_label",
                f"{len(foreign):,} of {len(rows):,} {called(split)} rows have a label that no training row has: "
                f"{listed}{' and more' * (len(names) > _SHOWN)}",
                tuple((split, row) for row in foreign),
            )


def identifiers(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find that the label column is no column of classes."""
    rows = len(splits["train"])
    if rows >= _FEWEST and task.problem == "single_label" and len(task.labels) > _OWN * rows:
        yield Finding(
            "id_as_label",
            f"the {rows:,} training rows have {len(task.labels):,} different labels: the column looks like one of "
            "identifiers or free text",
        )


def prior_shift(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find labels that are much rarer or more frequent in a split than among the training rows."""
    if not task.labels:
        return
    counts = {split: _counts(rows, task) for split, rows in splits.items()}
    sizes = {split: len(rows) for split, rows in splits.items()}
    for split in splits:
        if split == "train":
            continue
        ours, theirs = counts["train"] / sizes["train"], counts[split] / sizes[split]
        both = (counts["train"] + counts[split]) / (sizes["train"] + sizes[split])
        error = np.sqrt(both * (1 - both) * (1 / sizes["train"] + 1 / sizes[split]))
        ratio = np.maximum(ours, theirs) / np.maximum(np.minimum(ours, theirs), 1e-12)
        odd = np.flatnonzero((ratio >= _RATIO) & (np.abs(ours - theirs) > _ERRORS * error) & (theirs > 0))
        if len(odd):
            worst = odd[np.argsort(-np.abs(ours - theirs)[odd])][:_SHOWN]
            listed = ", ".join(f"{task.labels[i]!r} {ours[i]:.1%} and {theirs[i]:.1%}" for i in worst)
            yield Finding(
                "prior_shift",
                f"{counted(len(odd), 'label')} with another share of the training than of the "
                f"{called(split)} rows: {listed}",
            )


def giveaway(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Find that texts say their label."""
    if task.problem != "single_label":
        return
    train = splits["train"]
    words = {name: re.compile(rf"\b{re.escape(bare_words(name))}\b") for name in task.labels if bare_words(name)}
    own = [name for name in train.labels if isinstance(name, str)]
    if len(own) < max(_FEWEST, len(train)):
        return
    whole = (" ".join(texts_of(train, row)) for row in range(len(train)))
    says = [bool(name in words and words[name].search(bare_words(text))) for name, text in zip(own, whole, strict=True)]
    count, hits = Counter(own), Counter(name for name, yes in zip(own, says, strict=True) if yes)
    share = sum(hits[name] / count[name] for name in count) / len(count)  # a large class may be called as its topic is
    if share >= _SAYS:
        first = says.index(True)
        yield Finding(
            "giveaway",
            f"{sum(says):,} of {len(says):,} training texts hold the name of their own label, for example "
            f"{train.where(first)}",
            tuple(("train", row) for row, yes in enumerate(says) if yes),
        )


def few_rows(splits: Mapping[str, Rows], task: Task) -> Iterator[Finding]:
    """Say how exactly a split can measure, where that is not exact."""
    if not task.labels:
        return
    for split, rows in splits.items():
        half = 1.96 * math.sqrt(_LIKELY * (1 - _LIKELY) / len(rows))
        if split != "train" and half > _WIDE:
            largest = _counts(rows, task).max() / len(rows)
            yield Finding(
                "few_rows",
                f"{len(rows):,} {called(split)} rows know an accuracy of {_LIKELY:.2f} to ±{half:.2f} (95 %); the "
                f"largest label alone has {largest:.2f}",
            )


def _counts(rows: Rows, task: Task) -> np.ndarray:
    """Return how many rows have each label, float64 (labels,); soft labels: their sums."""
    total: Counter[str] = Counter()
    for label in rows.labels:
        for name, share in label_probabilities(label).items():
            total[name] += share  # type: ignore[assignment]
    return np.array([float(total[name]) for name in task.labels])
