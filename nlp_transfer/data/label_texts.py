"""Training rows generated from label names: "This sentence is joy." is a text of the label joy.

With few rows, label names help a pretrained encoder, which knows their meaning (Tunstall et al. 2022, arXiv 2209.11055;
Schick and Schütze 2021, arXiv 2001.07676). Meaningless names mislead it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from nlp_transfer.data.corpus import Corpus, Examples
from nlp_transfer.data.labels import NAME_HERE
from nlp_transfer.data.sequences import concatenated
from nlp_transfer.data.task import dense
from nlp_transfer.errors import UserError

_WORD_BOUNDARY = re.compile(r"[\s_:/|-]+|(?<=[a-z])(?=[A-Z])")


def readable_name(label: str) -> str:
    """Return a label as separate words: ``very_positive`` and ``veryPositive`` become "very positive"."""
    return _WORD_BOUNDARY.sub(" ", label).strip()


def readable_names(labels: Sequence[str]) -> list[str]:
    """Return the labels as separate words; unchanged where one would become empty or equal to another."""
    names = [readable_name(label) for label in labels]
    return names if all(names) and len(set(names)) == len(names) else list(labels)


def with_label_texts(corpus: Corpus, templates: Sequence[str]) -> Corpus:
    """Return the corpus with a training row of mean weight appended for each label and template.

    Other splits and the fingerprint of the data do not change. A corpus that has such rows is returned unchanged.

    Args:
        corpus: of single texts with one label each.
        templates: sentences in which {} stands for the name.

    Raises:
        UserError: for pairs of texts or another problem type.
    """
    if corpus.own is not None:  # a run that pretrains its encoder is prepared twice
        return corpus
    task, train = corpus.task, corpus.splits["train"]
    if task.problem != "single_label" or task.pair:
        kind = "pairs of texts" if task.pair else f"problem type {task.problem}"
        raise UserError(f"data.label_texts makes texts of one label each, and the data has {kind}; set it to null")
    names = readable_names(task.labels)
    texts = [template.replace(NAME_HERE, name) for template in templates for name in names]
    targets = np.tile(np.arange(len(task.labels)), len(templates))
    if train.targets.ndim == 2:  # soft labels
        targets = dense(task, targets, train.targets.dtype)
    rows = Examples(
        texts=concatenated(train.texts, texts),
        pairs=None,
        targets=np.concatenate([train.targets, targets]),
        weights=np.concatenate([train.weights, np.full(len(texts), train.weights.mean(), np.float32)]),
        ids=concatenated(train.ids, [f"label-{number}" for number in range(len(texts))]),
        domains=None if train.domains is None else concatenated(train.domains, [""] * len(texts)),
    )
    note = f"train: {len(texts):,} texts made from the label names follow its rows (data.label_texts)"
    return dataclasses.replace(
        corpus, splits=corpus.splits | {"train": rows}, notes=[*corpus.notes, note], pool=None, own=train
    )
