"""Training rows made of what labels are called: "This sentence is joy." is a text of the label joy.

Where rows are few, the names of labels tell an encoder that has read much what they mean (Tunstall et al. 2022, arXiv
2209.11055; Schick and Schütze 2021, arXiv 2001.07676). Where names mean nothing they mislead it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from nlp_transfer.data.corpus import Corpus, Examples
from nlp_transfer.data.labels import NAME_HERE
from nlp_transfer.data.sequences import followed
from nlp_transfer.data.task import dense
from nlp_transfer.errors import UserError

_BETWEEN = re.compile(r"[\s_:/|-]+|(?<=[a-z])(?=[A-Z])")


def spoken(label: str) -> str:
    """Return the name of a label as one says it: ``very_positive`` and ``veryPositive`` are "very positive"."""
    return _BETWEEN.sub(" ", label).strip()


def names_of(labels: Sequence[str]) -> list[str]:
    """Return labels as one says them; as they are written, where nothing would be left to say, or the same twice."""
    names = [spoken(label) for label in labels]
    return names if all(names) and len(set(names)) == len(names) else list(labels)


def with_label_texts(corpus: Corpus, forms: Sequence[str]) -> Corpus:
    """Return the corpus with one more training row for each label and form, behind the others, of mean weight.

    The rows that are measured, and the fingerprint of the data, stay as they are, and so does a corpus with such rows.

    Args:
        corpus: of texts with one label each.
        forms: sentences in which {} stands for the name.

    Raises:
        UserError: for texts of another kind.
    """
    if corpus.own is not None:  # a run that pretrains its encoder is prepared twice
        return corpus
    task, train = corpus.task, corpus.splits["train"]
    if task.problem != "single_label" or task.pair:
        kind = "pairs of texts" if task.pair else f"problem type {task.problem}"
        raise UserError(f"data.label_texts makes texts of one label each, and the data has {kind}; set it to null")
    texts = [form.replace(NAME_HERE, name) for form in forms for name in names_of(task.labels)]
    targets = np.tile(np.arange(len(task.labels)), len(forms))
    if train.targets.ndim == 2:  # soft labels
        targets = dense(task, targets, train.targets.dtype)
    rows = Examples(
        texts=followed(train.texts, texts),
        pairs=None,
        targets=np.concatenate([train.targets, targets]),
        weights=np.concatenate([train.weights, np.full(len(texts), train.weights.mean(), np.float32)]),
        ids=followed(train.ids, [f"label-{number}" for number in range(len(texts))]),
        domains=None if train.domains is None else followed(train.domains, [""] * len(texts)),
    )
    note = f"train: {len(texts):,} texts made of the names of labels stand behind its rows (data.label_texts)"
    return dataclasses.replace(
        corpus, splits=corpus.splits | {"train": rows}, notes=[*corpus.notes, note], pool=None, own=train
    )
