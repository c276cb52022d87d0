"""Evaluate encoders on new classes: accuracy of prototypes over episodes, and the paired difference of two encoders."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.streams import Stream
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.plain_values import read
from nlp_transfer.meta.episodes import Episodes
from nlp_transfer.meta.prototypes import embedded, nearest, prototypes
from nlp_transfer.verb_settings import MetaSettings
from nlp_transfer.wording import counted


def query_accuracy(features: np.ndarray, episodes: Episodes, *, count: int, distance: str) -> np.ndarray:
    """Return the share of queries that are nearest to the prototype of their class, float64 (count, ways).

    Args:
        features: float32 (rows, width), of the rows from which episodes are drawn.
        episodes: the first `count` of which are used.
        count: number of episodes.
        distance: between vectors.
    """
    vectors = embedded(torch.tensor(features), distance)
    accuracies = np.empty((count, episodes.ways))
    for index in range(count):
        episode = episodes.draw(index)
        head = nearest(prototypes(vectors[episode.support.rows], episodes.ways), distance)
        predicted = head.logits(vectors[episode.queries.rows]).argmax(1).numpy()
        accuracies[index] = (predicted == episode.queries.answers).reshape(episodes.ways, -1).mean(1)
    return accuracies


def held_out_episodes(rows: Columns, classes: tuple[int, ...], settings: MetaSettings, *, seed: int) -> list[Episodes]:
    """Return the test episodes of held-out classes: with one shot, and with as many as in training.

    Args:
        rows: of these classes.
        classes: their indices.
        settings: the `meta` group.
        seed: of the run.
    """
    options = {"ways": settings.ways, "queries": settings.queries, "seed": seed, "stream": Stream.MEASURED_EPISODES}
    return [Episodes(rows.targets, classes, shots=shots, **options) for shots in sorted({1, settings.shots})]


def mean_of(values: np.ndarray, *, confidence: float) -> Interval:
    r"""Return a mean with its interval :math:`\bar x \pm t_{n - 1} s / \sqrt n`, nan for fewer than two values.

    Args:
        values: (n,).
        confidence: of the interval.
    """
    from scipy.stats import t

    value = float(values.mean())
    if len(values) < 2:
        return Interval(value, np.nan, np.nan)
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    margin = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(value, value - margin, value + margin)


@dataclass(frozen=True)
class FewShotGain:
    """The improvement at one number of shots, with intervals.

    Attributes:
        shots: support rows per class.
        frozen: accuracy of the original encoder; interval over episodes of the held-out classes.
        learned: accuracy of the meta-learned encoder on the same episodes.
        paired: the difference in each episode; interval over episodes.
        over_classes: the same difference, averaged by class; interval over classes. The number of episodes is
            arbitrary, that of classes is not: this interval shows the uncertainty for new classes.
    """

    shots: int
    frozen: Interval
    learned: Interval
    paired: Interval
    over_classes: Interval

    @classmethod
    def of(cls, episodes: Episodes, before: np.ndarray, after: np.ndarray, *, confidence: float) -> FewShotGain:
        """Return the gain from the `query_accuracy` of both encoders in the same episodes."""
        difference = after - before
        classes = np.stack([episodes.draw(index).classes for index in range(len(difference))])
        by_class = np.array([difference[classes == each].mean() for each in np.unique(classes)])
        frozen, learned, paired = (mean_of(each.mean(1), confidence=confidence) for each in (before, after, difference))
        over_classes = mean_of(by_class, confidence=confidence)
        return cls(episodes.shots, _clipped(frozen), _clipped(learned), paired, over_classes)

    @property
    def sentence(self) -> str:
        """Whether it helped, as a sentence."""
        interval, shots = self.over_classes, counted(self.shots, "shot")
        if interval.low > 0:
            return f"{shots}: it helped"
        if interval.high < 0:
            return f"{shots}: it did harm; use the original encoder"
        return f"{shots}: no evidence that it helped"


def _clipped(interval: Interval) -> Interval:
    """Return the interval of a share, clipped to [0, 1]."""
    low, high = np.clip((interval.low, interval.high), 0.0, 1.0).tolist()  # nan stays nan
    return Interval(interval.value, low, high)


@dataclass(frozen=True)
class MetaOutcome:
    """The result of a meta-learning.

    Attributes:
        method: of the meta-learning.
        ways: classes per episode.
        episodes: number of test episodes.
        classes: labels by part: `train`, `validation`, `test`.
        left_out: labels with too few rows.
        gains: by number of shots.
        kept_step: the step whose weights were kept; 0: those of the original encoder.
        seconds: duration of the training.
    """

    method: str
    ways: int
    episodes: int
    classes: dict[str, list[str]]
    left_out: list[str]
    gains: list[FewShotGain]
    kept_step: int
    seconds: float

    @property
    def verdict(self) -> str:
        """Whether it helped, in one sentence."""
        if not self.kept_step:
            return f"{self.method} did not help: no step was better on the validation classes, the encoder is unchanged"
        return "; ".join(gain.sentence for gain in self.gains)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain values, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> MetaOutcome:
        """Read plain values of `to_json` back.

        Raises:
            ValueError: naming what is missing or has another type.
        """
        outcome: MetaOutcome = read(cls, plain, "report")
        return outcome
