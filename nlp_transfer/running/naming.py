"""Whether the names of labels say something of the texts that have them: asked of the encoder as it comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.label_texts import readable_name
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.task import likeliest
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.settings import CacheSettings, PretrainingSettings, TrackingSettings
from nlp_transfer.strategies import Probe

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus, Examples
    from nlp_transfer.settings import Settings

_CHANCE = 0.2  # names that say nothing pass about as often, or less


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
    if len(set(map(readable_name, labels))) < len(labels) or not all(map(_is_word, labels)):
        return False
    from accelerate.utils import broadcast_object_list

    from nlp_transfer.running.preparation import prepare
    from nlp_transfer.training.state import own_numbers

    encoder = dataclasses.replace(settings.encoder, head="pooled", layers="last", combine="concat", hidden=0)
    asked = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, label_texts=list(forms)),
        encoder=encoder,
        strategy=Probe(),
        objective={"classify": ClassifySettings()},
        pretraining=PretrainingSettings(),
        training=dataclasses.replace(settings.training, precision="fp32"),  # the answer is part of what a run is
        cache=CacheSettings(gib=0),  # so few rows are as soon computed
        tracking=TrackingSettings(),
    )
    train = dataclasses.replace(corpus, splits={"train": corpus.splits["train"]}, unlabelled=None)
    with own_numbers():
        features = prepare(asked, train, expanded(settings.output)).features("train")
    found = [_are_near(features, corpus.splits["train"], len(labels), len(forms))]
    broadcast_object_list(found)  # machines add up differently
    return found[0]


def _are_near(features: np.ndarray, train: Examples, labels: int, forms: int) -> bool:
    """Return the same of features of training rows, and behind them of one sentence a label for each form."""
    from scipy.stats import binom

    features = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    counts = train.weights > 0
    texts, names = features[: len(train)][counts], features[len(train) :].reshape(forms, labels, -1).mean(axis=0)
    cosines = texts @ (names / np.linalg.norm(names, axis=1, keepdims=True).clip(min=1e-12)).T
    said = (cosines - cosines.mean(axis=0)).argmax(axis=1)
    given = likeliest(train.targets)[counts]
    shares = [np.bincount(each, minlength=labels) / len(texts) for each in (said, given)]
    return bool(binom.sf((said == given).sum() - 1, len(texts), shares[0] @ shares[1]) < _CHANCE)


def _is_word(label: str) -> bool:
    return sum(map(str.isalpha, label)) > 1
