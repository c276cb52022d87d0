"""Whether the names of labels say something of the texts that have them: asked of the encoder as it comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.label_texts import spoken
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.settings import CacheSettings, PretrainingSettings, TrackingSettings
from nlp_transfer.strategies import Probe

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.settings import Settings

_CHANCE = 0.2  # names that say nothing pass as often


def names_tell(settings: Settings, corpus: Corpus, forms: Sequence[str]) -> bool:
    r"""Return whether training texts lie nearer to the name of their own label than chance would have it.

    With :math:`c_{ij}` the cosine between the features of text i and the mean of the sentences made of label j, a text
    is taken for the label with the largest :math:`c_{ij} - \frac1n \sum_i c_{ij}`: some names are near to all texts.
    How many are taken rightly is held against a binomial whose share is that of two independent draws.

    Args:
        settings: of a run, whose encoder is asked before anything is learned.
        corpus: its data, of texts with one label each.
        forms: see ``label_texts.with_label_texts``.
    """
    labels = corpus.task.labels
    if len({spoken(label) for label in labels}) < len(labels) or not all(map(_is_word, labels)):
        return False
    from scipy.stats import binom

    from nlp_transfer.preparation import prepare

    asked = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, label_texts=list(forms)),
        encoder=dataclasses.replace(settings.encoder, layers="last"),
        strategy=Probe(),
        objective={"classify": ClassifySettings()},
        pretraining=PretrainingSettings(),
        cache=CacheSettings(gib=0),  # so few rows are as soon computed
        tracking=TrackingSettings(),
    )
    features = prepare(asked, corpus, Path(settings.output)).features("train").astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    texts, names = np.split(features, [len(corpus.splits["train"])])
    names = names.reshape(len(forms), len(labels), -1).mean(axis=0)
    cosines = texts @ (names / np.linalg.norm(names, axis=1, keepdims=True).clip(min=1e-12)).T
    said = (cosines - cosines.mean(axis=0)).argmax(axis=1)
    targets = corpus.splits["train"].targets
    given = targets if targets.ndim == 1 else targets.argmax(axis=1)
    shares = [np.bincount(each, minlength=len(labels)) / len(texts) for each in (said, given)]
    return bool(binom.sf((said == given).sum() - 1, len(texts), shares[0] @ shares[1]) < _CHANCE)


def _is_word(label: str) -> bool:
    return sum(map(str.isalpha, label)) > 1
