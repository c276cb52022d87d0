"""The two domains of a run that adapts from one to the other: how far they are apart before anything has learned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.data.tokens import encode_whole
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.evaluation.divergence import Gap, a_distance, written_apart
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading

_ASKED = 2000  # texts of a domain at most


@dataclass(frozen=True)
class Sides:
    """Some training rows and some texts of the other domain, as the encoder sees them before anything has learned.

    Attributes:
        rows: of the training split, int64.
        texts: of the unlabelled ones, int64.
        features: what enters the output layer for either, (rows, width) and (texts, width).
    """

    rows: np.ndarray
    texts: np.ndarray
    features: tuple[np.ndarray, np.ndarray]


def tell_domains_apart(prepared: Prepared, screen: Screen) -> Sides | None:
    """Where a term adapts to another domain, measure how far that is from the training rows, and put it into the plan.

    To be called on every rank, before anything learns. Nothing is drawn from the global random state; with too few
    texts to hold any out nothing is said.

    Returns:
        What was measured on; None where no term adapts.
    """
    if not terms_that("aligns", prepared.settings.objective):
        return None
    with reading(screen, "telling the domains apart"):
        return _tell_apart(prepared)


def _tell_apart(prepared: Prepared) -> Sides:
    corpus, tokenizer, seed = prepared.corpus, prepared.classifier.tokenizer, prepared.settings.seed
    assert corpus.unlabelled is not None
    sides = {"train": corpus.own_train, NAME: corpus.unlabelled}
    features, texts, rows = [], [], []
    for number, (split, side) in enumerate(sides.items()):
        chosen = np.sort(generator(seed, number, Stream.DOMAINS).permutation(len(side.texts))[:_ASKED])
        rows.append(chosen)
        features.append(_features(prepared, split, chosen))
        texts.append([_joined(side, row) for row in chosen.tolist()])
    seen = Sides(rows[0], rows[1], (features[0], features[1]))
    found = a_distance(*seen.features, seed=seed)
    if found is None:
        return seen

    def encode(some: list[str]) -> np.ndarray:
        return encode_whole(tokenizer, some, None).ids

    source, target = texts
    prepared.domains = gap = Gap(*found, len(source), len(target), written_apart(source, target, encode))
    prepared.plan = dataclasses.replace(prepared.plan, notes=[*prepared.plan.notes, *gap.sentences])
    return seen


def _features(prepared: Prepared, split: str, chosen: np.ndarray) -> np.ndarray:
    """Return what enters the output layer for some examples of a split."""
    columns = prepared.columns[split]
    tokens = columns.tokens.take(chosen)
    return prepared.feature_cache.now(Columns(tokens, columns.targets[chosen], columns.weights[chosen]))


def _joined(texts: Texts, row: int) -> str:
    return texts.texts[row] if texts.pairs is None else f"{texts.texts[row]} {texts.pairs[row]}"
