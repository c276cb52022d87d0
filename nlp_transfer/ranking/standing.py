"""The results of probing encoders, and their order with its uncertainty; works on arrays only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nlp_transfer.evaluation.intervals import Bootstrap, Interval


@dataclass(frozen=True)
class Cost:
    """The cost of an encoder.

    Attributes:
        parameters: the number of all parameters.
        embedding: the number of embedding parameters among them, which cost memory but hardly any time.
        gigaflops: 10⁹ operations of the layers per text of mean length.
        milliseconds: per text on this machine, in batches, with all layers.
        megabytes: 10⁶ bytes of its weights in float32.
    """

    parameters: int
    embedding: int
    gigaflops: float
    milliseconds: float
    megabytes: float


@dataclass(frozen=True)
class Layer:
    """The scores of one layer's hidden states.

    Attributes:
        number: of the layer; 0 is the embeddings.
        explained: 1 minus the held-out loss of a linear probe over that of a constant prediction.
        accuracy: held-out accuracy of the probe; None for multi_label and regression.
        logme, h_score, neighbours: see ``evaluation.transferability``; the last two None likewise.
    """

    number: int
    explained: float
    accuracy: float | None
    logme: float
    h_score: float | None
    neighbours: float | None


@dataclass(frozen=True)
class ProbedEncoder:
    """A probed encoder.

    Attributes:
        name: as given by the user.
        encoder: a description for display.
        sha256: of its weights.
        layers: the scores of each layer.
        depth: the number of layers; 0 if unknown, when only the last one was probed.
        logme: of the best layer, with an interval over other rows that ignores the choice of the layer.
        weights: float (rows,): example weights, with mean 1.
        held_out: float (layers, rows): cross-validated losses of the probes.
        nothing: float (rows,): cross-validated losses of a constant prediction.
        right: bool (layers, rows): whether the probe predicted the right class; None for multi_label and regression.
        cost: of the encoder.
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
        """The layer that explains most."""
        return max(self.layers, key=lambda layer: layer.explained)


@dataclass(frozen=True)
class Standing:
    """A candidate's place in the ranking.

    Attributes:
        candidate: the encoder.
        explained: of its best layer, which is chosen on other rows than it is measured on.
        accuracy: of the probe on that layer, likewise; None for multi_label and regression.
        ranks: the interval of its rank (1 is best), over resamples shared by all candidates.
        first: the share of resamples in which it is the best.
    """

    candidate: ProbedEncoder
    explained: Interval
    accuracy: Interval | None
    ranks: tuple[int, int]
    first: float

    def to_json(self) -> dict[str, Any]:
        """Return everything but the per-row losses."""
        candidate = self.candidate
        return {
            "name": candidate.name,
            "encoder": candidate.encoder,
            "sha256": candidate.sha256,
            **_with_bounds("explained", self.explained),
            **({} if self.accuracy is None else _with_bounds("accuracy", self.accuracy)),
            **_with_bounds("logme", candidate.logme),
            "rank_interval": list(self.ranks),
            "first": self.first,
            "best_layer": candidate.best.number,
            "layers": [asdict(layer) for layer in candidate.layers],
            "cost": asdict(candidate.cost),
        }


def order_candidates(candidates: list[ProbedEncoder], bootstrap: Bootstrap) -> list[Standing]:
    """Order encoders by what their best layer explains, with the uncertainty of the order.

    Rows are resampled with replacement (Efron and Tibshirani 1993), identically for every encoder. In each resample the
    best layer is chosen on the rows that were not drawn and measured on those that were, so that encoders with many
    layers have no advantage.

    Args:
        candidates: measured on the same rows in the same order.
        bootstrap: for the intervals.
    """
    blocks = [
        np.stack([_replicates(each, counts) for each in candidates])
        for counts in bootstrap.draws(len(candidates[0].weights))
    ]
    explained, accuracy = np.concatenate(blocks, axis=2).swapaxes(0, 1)  # (candidates, resamples) each
    places = 1 + (explained[None] > explained[:, None]).sum(1)
    tails = [(1 - bootstrap.confidence) / 2, (1 + bootstrap.confidence) / 2]
    standings = [
        Standing(
            candidate,
            explained=bootstrap.interval(float(explained[number].mean()), explained[number]),
            accuracy=None
            if candidate.right is None
            else bootstrap.interval(float(accuracy[number].mean()), accuracy[number]),
            ranks=_whole(np.quantile(places[number], tails, method="closest_observation")),
            first=float((places[number] == 1).mean()),
        )
        for number, candidate in enumerate(candidates)
    ]
    return sorted(standings, key=lambda each: -each.explained.value)


def _replicates(candidate: ProbedEncoder, counts: np.ndarray) -> np.ndarray:
    """Return for each resample what its best layer explains, and that layer's accuracy, (2, resamples).

    The best layer is chosen on the rows that the resample leaves out.
    """
    weights, resample = candidate.weights[:, None], np.arange(counts.shape[1])
    left_out, drawn = weights * (counts == 0), weights * counts
    layer = (candidate.held_out @ left_out).argmin(0)
    losses = (candidate.held_out @ drawn)[layer, resample]
    explained = 1 - losses / (candidate.nothing @ drawn)
    if candidate.right is None:
        return np.stack([explained, np.full_like(explained, np.nan)])
    return np.stack([explained, (candidate.right @ drawn)[layer, resample] / drawn.sum(0)])


def _with_bounds(name: str, score: Interval) -> dict[str, Any]:
    return {name: score.value, f"{name}_interval": [score.low, score.high]}


def _whole(values: np.ndarray) -> tuple[int, int]:
    return int(values[0]), int(values[1])
