"""Whether label names are informative: zero-shot classification with the encoder before any training."""

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

_P_VALUE = 0.2  # uninformative names pass about as often, or less


def names_are_informative(settings: Settings, corpus: Corpus, forms: Sequence[str]) -> bool:
    r"""Return whether training texts are nearer to the name of their own label than by chance.

    With :math:`c_{ij}` the cosine between the features of text i and the mean of the sentences made of label j, the
    prediction is the label with the largest :math:`c_{ij} - \frac1n \sum_i c_{ij}`, for some names are near all texts.
    The number of correct predictions is tested against a binomial with the share expected of independent predictions.

    Args:
        settings: of a run, whose encoder is used as it is before training.
        corpus: its data, of texts with one label each.
        forms: sentences with a place for the name, see ``label_texts.with_label_texts``.
    """
    labels = corpus.task.labels
    if len(set(map(readable_name, labels))) < len(labels) or not all(map(_is_word, labels)):
        return False
    from accelerate.utils import broadcast_object_list

    from nlp_transfer.running.preparation import prepare
    from nlp_transfer.training.state import preserved_random_state

    encoder = dataclasses.replace(settings.encoder, head="pooled", layers="last", combine="concat", hidden=0)
    probe = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, label_texts=list(forms)),
        encoder=encoder,
        strategy=Probe(),
        objective={"classify": ClassifySettings()},
        pretraining=PretrainingSettings(),
        # The answer is part of the configuration of a run, so it must be the same on any machine.
        training=dataclasses.replace(settings.training, precision="fp32"),
        cache=CacheSettings(gib=0),  # so few rows are quickly computed
        tracking=TrackingSettings(),
    )
    train = dataclasses.replace(corpus, splits={"train": corpus.splits["train"]}, unlabelled=None)
    with preserved_random_state():
        features = prepare(probe, train, expanded(settings.output)).features("train")
    answer = [_are_near(features, corpus.splits["train"], len(labels), len(forms))]
    broadcast_object_list(answer)  # ranks may differ in the last bits
    return answer[0]


def _are_near(features: np.ndarray, train: Examples, labels: int, forms: int) -> bool:
    """Return the same, from the features of training rows followed by those of a sentence per form and label."""
    from scipy.stats import binom

    features = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    has_weight = train.weights > 0
    texts, names = features[: len(train)][has_weight], features[len(train) :].reshape(forms, labels, -1).mean(axis=0)
    cosines = texts @ (names / np.linalg.norm(names, axis=1, keepdims=True).clip(min=1e-12)).T
    predicted = (cosines - cosines.mean(axis=0)).argmax(axis=1)
    actual = likeliest(train.targets)[has_weight]
    shares = [np.bincount(classes, minlength=labels) / len(texts) for classes in (predicted, actual)]
    correct = (predicted == actual).sum()
    return bool(binom.sf(correct - 1, len(texts), shares[0] @ shares[1]) < _P_VALUE)


def _is_word(label: str) -> bool:
    return sum(map(str.isalpha, label)) > 1
