"""What was found of encoders, and their order: knows no encoder and no data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nlp_transfer.evaluation.intervals import Interval, draws, interval


@dataclass(frozen=True)
class Cost:
    """What an encoder costs.

    Attributes:
        parameters: all of them.
        embedding: of these, those of embeddings, which cost memory and hardly time.
        gigaflops: operations of the layers for a text of mean length, 10⁹.
        milliseconds: for a text here, all layers read, in batches.
        megabytes: of its weights in float32, 10⁶.
    """

    parameters: int
    embedding: int
    gigaflops: float
    milliseconds: float
    megabytes: float


@dataclass(frozen=True)
class Layer:
    """How much a hidden state tells.

    Attributes:
        number: 0 is the embeddings.
        explained: share of the loss of a constant answer that a linear probe saves on rows it did not learn from.
        accuracy: of that probe; None where a row has no one class.
        logme, h_score, neighbours: see ``evaluation.transferability``; None likewise, but for `logme`.
    """

    number: int
    explained: float
    accuracy: float | None
    logme: float
    h_score: float | None
    neighbours: float | None


@dataclass(frozen=True)
class Candidate:
    """An encoder.

    Attributes:
        name: as it was given.
        encoder: what it is, for people.
        sha256: of its weights.
        layers: what each tells.
        depth: how many layers it has; 0: that is not known, and the last one alone was read.
        logme: of the best layer, its interval over other rows, which might choose another layer.
        weights: float (rows,): what a row counts; their mean is 1.
        held_out: float (layers, rows): the loss of the probe on each row that it did not learn from.
        nothing: float (rows,): that of a constant.
        right: bool (layers, rows): whether it chose the right class; None where a row has no one class.
        cost: what it costs.
    """

    name: str
    encoder: str
    sha256: str
    layers: list[Layer]
    depth: int
    logme: Interval
    weights: np.ndarray
    held_out: np.ndarray
    nothing: np.ndarray
    right: np.ndarray | None
    cost: Cost

    @property
    def best(self) -> Layer:
        """The layer that tells most."""
        return max(self.layers, key=lambda layer: layer.explained)


@dataclass(frozen=True)
class Standing:
    """A candidate's place.

    Attributes:
        candidate: the encoder.
        explained: share that the best layer explains, chosen on other rows than it is measured on.
        accuracy: of the probe on that layer, likewise; None where a row has no one class.
        ranks: interval of its place, 1 is the best, over the same resampled rows for all.
        first: share of the resamples in which it is the best.
    """

    candidate: Candidate
    explained: Interval
    accuracy: Interval | None
    ranks: tuple[int, int]
    first: float

    def to_json(self) -> dict[str, Any]:
        """Return everything but the loss of every row."""
        of, best = self.candidate, self.candidate.best
        return {
            "name": of.name,
            "encoder": of.encoder,
            "sha256": of.sha256,
            **_with_bounds("explained", self.explained),
            **({} if self.accuracy is None else _with_bounds("accuracy", self.accuracy)),
            **_with_bounds("logme", of.logme),
            "rank_interval": list(self.ranks),
            "first": self.first,
            "best_layer": best.number,
            "layers": [asdict(layer) for layer in of.layers],
            "cost": asdict(of.cost),
        }


def stand(candidates: list[Candidate], *, resamples: int, confidence: float, seed: int) -> list[Standing]:
    """Order encoders by what their best layer tells; say how sure the order is.

    The rows are resampled with replacement (Efron and Tibshirani 1993), the same ones for every encoder. Each time its
    best layer is chosen on the rows that were not drawn and measured on those that were: an encoder of many layers has
    no better chance than one of few.

    Args:
        candidates: measured on the same rows in the same order.
        resamples: how often.
        confidence: of the intervals.
        seed: of the resampling.
    """
    blocks = [
        np.stack([_replicates(each, counts) for each in candidates])
        for counts in draws(len(candidates[0].weights), resamples=resamples, seed=seed)
    ]
    explained, accuracy = np.concatenate(blocks, axis=2).swapaxes(0, 1)  # (candidates, resamples) each
    places = 1 + (explained[None] > explained[:, None]).sum(1)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    standings = [
        Standing(
            candidate,
            explained=interval(float(explained[number].mean()), explained[number], confidence=confidence),
            accuracy=None
            if candidate.right is None
            else interval(float(accuracy[number].mean()), accuracy[number], confidence=confidence),
            ranks=_whole(np.quantile(places[number], ends, method="closest_observation")),
            first=float((places[number] == 1).mean()),
        )
        for number, candidate in enumerate(candidates)
    ]
    return sorted(standings, key=lambda each: -each.explained.value)


def _replicates(candidate: Candidate, counts: np.ndarray) -> np.ndarray:
    """Return in each resample what the layer explains that the other rows choose, and its accuracy: (2, resamples)."""
    w, resample = candidate.weights[:, None], np.arange(counts.shape[1])
    left, drawn = w * (counts == 0), w * counts
    chosen = (candidate.held_out @ left).argmin(0)
    lost = (candidate.held_out @ drawn)[chosen, resample]
    explained = 1 - lost / (candidate.nothing @ drawn)
    if candidate.right is None:
        return np.stack([explained, np.full_like(explained, np.nan)])
    return np.stack([explained, (candidate.right @ drawn)[chosen, resample] / drawn.sum(0)])


def _with_bounds(name: str, of: Interval) -> dict[str, Any]:
    return {name: of.value, f"{name}_interval": [of.low, of.high]}


def _whole(values: np.ndarray) -> tuple[int, int]:
    return int(values[0]), int(values[1])
