"""What prototypes of an encoder's features are worth on new classes: accuracy over episodes, two encoders in pairs."""

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
    """Return which share of the queries is nearest to the prototype of its own class, float64 (count, ways).

    Args:
        features: float32 (rows, width), by the rows that episodes draw.
        episodes: of which the first ones are taken.
        count: how many.
        distance: by which vectors are compared.
    """
    vectors = embedded(torch.tensor(features), distance)
    found = np.empty((count, episodes.ways))
    for index in range(count):
        episode = episodes.draw(index)
        head = nearest(prototypes(vectors[episode.support.rows], episodes.ways), distance)
        chosen = head.logits(vectors[episode.queries.rows]).argmax(1).numpy()
        found[index] = (chosen == episode.queries.answers).reshape(episodes.ways, -1).mean(1)
    return found


def held_out_episodes(rows: Columns, classes: tuple[int, ...], settings: MetaSettings, *, seed: int) -> list[Episodes]:
    """Return the episodes of classes held out: of one shot, and of as many as were learned with.

    Args:
        rows: of these classes.
        classes: which they are.
        settings: the `meta` group.
        seed: of the run.
    """
    own = {"ways": settings.ways, "queries": settings.queries, "seed": seed, "stream": Stream.MEASURED_EPISODES}
    return [Episodes(rows.targets, classes, shots=shots, **own) for shots in sorted({1, settings.shots})]


def mean_of(values: np.ndarray, *, confidence: float) -> Interval:
    r"""Return a mean with :math:`\bar x \pm t_{n - 1} s / \sqrt n`; without bounds for fewer than two values.

    Args:
        values: (n,).
        confidence: of the interval.
    """
    from scipy.stats import t

    value = float(values.mean())
    if len(values) < 2:
        return Interval(value, np.nan, np.nan)
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    reach = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(value, value - reach, value + reach)


@dataclass(frozen=True)
class Gain:
    """What was gained at one number of shots, with intervals.

    Attributes:
        shots: rows of each class that prototypes were made of.
        frozen: accuracy of the encoder as it was, over other episodes of the classes held out.
        learned: of the encoder as it is, over the same.
        paired: the difference in each episode, over other episodes.
        over_classes: the same difference over other classes: of the means of each class held out. Episodes can be drawn
            as many as one likes, classes cannot: this is how sure one may be of classes that come tomorrow.
    """

    shots: int
    frozen: Interval
    learned: Interval
    paired: Interval
    over_classes: Interval

    @classmethod
    def of(cls, episodes: Episodes, before: np.ndarray, after: np.ndarray, *, confidence: float) -> Gain:
        """Return it from what `query_accuracy` says of both encoders in the same episodes."""
        difference = after - before
        asked = np.stack([episodes.draw(index).classes for index in range(len(difference))])
        by_class = np.array([difference[asked == each].mean() for each in np.unique(asked)])
        frozen, learned, paired = (mean_of(each.mean(1), confidence=confidence) for each in (before, after, difference))
        among = mean_of(by_class, confidence=confidence)
        return cls(episodes.shots, _share(frozen), _share(learned), paired, among)

    @property
    def sentence(self) -> str:
        """Whether it helped, in words."""
        among, of = self.over_classes, counted(self.shots, "shot")
        if among.low > 0:
            return f"{of}: it helped"
        if among.high < 0:
            return f"{of}: it did harm; take the encoder as it was"
        return f"{of}: no evidence that it helped"


def _share(found: Interval) -> Interval:
    """Return the interval of a share, which reaches no further than from 0 to 1."""
    low, high = np.clip((found.low, found.high), 0.0, 1.0).tolist()  # nan stays nan
    return Interval(found.value, low, high)


@dataclass(frozen=True)
class Outcome:
    """What a meta-learning came to.

    Attributes:
        method: by which it was.
        ways: classes of an episode.
        episodes: measured.
        classes: labels by part: `train`, `validation`, `test`.
        left_out: labels with too few rows.
        gains: by number of shots.
        kept_step: the step whose weights were kept; 0: the encoder is as it was.
        seconds: that the training took.
    """

    method: str
    ways: int
    episodes: int
    classes: dict[str, list[str]]
    left_out: list[str]
    gains: list[Gain]
    kept_step: int
    seconds: float

    @property
    def verdict(self) -> str:
        """Whether it helped, in a sentence."""
        if not self.kept_step:
            return f"{self.method} did not help: no step was better on the validation classes, the encoder is as it was"
        return "; ".join(gain.sentence for gain in self.gains)

    def to_json(self) -> dict[str, Any]:
        """Return all of it, and the verdict."""
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Outcome:
        """Return what `to_json` made.

        Raises:
            ValueError: naming what is missing or of another type.
        """
        found: Outcome = read(cls, plain, "report")
        return found
