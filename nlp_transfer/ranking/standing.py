"""What was found of encoders, and their order: knows no encoder and no data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_BLOCK = 2_000_000  # drawn rows held at a time: 16 MB


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
        held_out: float (layers, rows): the loss of the probe on each row that it did not learn from.
        nothing: float (rows,): that of a constant.
        cost: what it costs.
    """

    name: str
    encoder: str
    sha256: str
    layers: list[Layer]
    depth: int
    held_out: np.ndarray
    nothing: np.ndarray
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
        told: share that the best layer explains, chosen on other rows than it is measured on.
        explained: its interval.
        ranks: interval of its place, 1 is the best, over the same resampled rows for all.
        first: share of the resamples in which it is the best.
    """

    candidate: Candidate
    told: float
    explained: tuple[float, float]
    ranks: tuple[int, int]
    first: float

    def to_json(self) -> dict[str, Any]:
        """Return everything but the loss of every row."""
        of, best = self.candidate, self.candidate.best
        return {
            "name": of.name,
            "encoder": of.encoder,
            "sha256": of.sha256,
            "explained": self.told,
            "explained_interval": list(self.explained),
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
    rows = candidates[0].held_out.shape[1]
    draws = np.random.Generator(np.random.Philox(key=[seed, 0]))
    blocks = []
    for start in range(0, resamples, block := max(1, _BLOCK // rows)):
        size = min(block, resamples - start)
        counts = draws.multinomial(rows, np.full(rows, 1 / rows), size=size).T.astype(np.float64)
        blocks.append(np.stack([_told(each, counts) for each in candidates]))
    told = np.concatenate(blocks, axis=1)  # (candidates, resamples)
    places = 1 + (told[None] > told[:, None]).sum(1)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    standings = [
        Standing(
            candidate,
            told=float(told[number].mean()),
            explained=_pair(np.quantile(told[number], ends)),
            ranks=_whole(np.quantile(places[number], ends, method="closest_observation")),
            first=float((places[number] == 1).mean()),
        )
        for number, candidate in enumerate(candidates)
    ]
    return sorted(standings, key=lambda each: -each.told)


def _told(candidate: Candidate, counts: np.ndarray) -> np.ndarray:
    """Return what is explained in each resample: (resamples,)."""
    left = (counts == 0).astype(np.float64)
    chosen = (candidate.held_out @ left).argmin(0)
    lost = (candidate.held_out @ counts)[chosen, np.arange(counts.shape[1])]
    return 1 - lost / (candidate.nothing @ counts)


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _whole(values: np.ndarray) -> tuple[int, int]:
    return int(values[0]), int(values[1])
