"""The distance between the source and the target domain of a run, measured before training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.data.tokens import encode_whole
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.evaluation.divergence import DomainGap, a_distance, style_warnings
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading

_MOST_TEXTS = 2000  # sampled from each domain


@dataclass(frozen=True)
class DomainSample:
    """A sample of training rows and unlabelled target texts, with their features before training.

    Attributes:
        rows: int64 indices into the training split.
        texts: int64 indices into the unlabelled texts.
        features: inputs of the output layer for both, (rows, width) and (texts, width).
        gap: the distance between the two; None: there are too few texts to hold any out.
    """

    rows: np.ndarray
    texts: np.ndarray
    features: tuple[np.ndarray, np.ndarray]
    gap: DomainGap | None


def measure_domain_gap(prepared: Prepared, screen: Screen) -> DomainSample | None:
    """Measure the distance between the training rows and the target domain.

    Must be called on every rank, before training; does not use the global random state.

    Returns:
        The distance, and the texts it was measured on; None if no objective term aligns domains.
    """
    if not terms_that("aligns", prepared.settings.objective):
        return None
    with reading(screen, "telling the domains apart"):
        return _measure(prepared)


def _measure(prepared: Prepared) -> DomainSample:
    corpus, tokenizer, seed = prepared.corpus, prepared.classifier.tokenizer, prepared.settings.seed
    assert corpus.unlabelled is not None
    domains = {"train": corpus.own_train, NAME: corpus.unlabelled}

    def encode(batch: list[str]) -> np.ndarray:
        return encode_whole(tokenizer, batch, None).ids

    features, texts, rows = [], [], []
    for number, (split, domain) in enumerate(domains.items()):
        sampled = np.sort(generator(seed, number, Stream.DOMAINS).permutation(len(domain.texts))[:_MOST_TEXTS])
        rows.append(sampled)
        features.append(_features(prepared, split, sampled))
        texts.append([_joined(domain, row) for row in sampled.tolist()])
    distance = a_distance(features[0], features[1], seed=seed)
    source, target = texts
    gap = distance and DomainGap(*distance, len(source), len(target), style_warnings(source, target, encode))
    return DomainSample(rows[0], rows[1], (features[0], features[1]), gap)


def _features(prepared: Prepared, split: str, rows: np.ndarray) -> np.ndarray:
    """Return the inputs of the output layer for rows of a split."""
    columns = prepared.columns[split]
    tokens = columns.tokens.take(rows)
    return prepared.feature_cache.now(Columns(tokens, columns.targets[rows], columns.weights[rows]))


def _joined(texts: Texts, row: int) -> str:
    return texts.texts[row] if texts.pairs is None else f"{texts.texts[row]} {texts.pairs[row]}"
