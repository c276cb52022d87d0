"""What was gained, by hand."""

import json
import math

import numpy as np
import pytest

from nlp_transfer.data.streams import Stream
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.meta.episodes import Episodes
from nlp_transfer.meta.measuring import FewShotGain, MetaOutcome, mean_of, query_accuracy

TARGETS = np.repeat(np.arange(4), 6)


def episodes_of(ways: int = 3) -> Episodes:
    return Episodes(TARGETS, (0, 1, 2, 3), ways=ways, shots=2, queries=4, seed=0, stream=Stream.MEASURED_EPISODES)


def test_a_mean_has_the_interval_of_student():
    found = mean_of(np.array([0.0, 1.0, 2.0]), confidence=0.95)
    assert found.value == 1
    assert found.high - 1 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t with 2 degrees of freedom; s is 1
    assert found.low == pytest.approx(2 - found.high)
    alone = mean_of(np.array([0.5]), confidence=0.95)
    assert alone.value == 0.5
    assert math.isnan(alone.low)


def test_features_that_tell_classes_apart_are_always_right():
    features = np.eye(4, dtype=np.float32)[TARGETS] + 0.01
    for distance in ("cosine", "euclidean"):
        assert (query_accuracy(features, episodes_of(), count=20, distance=distance) == 1).all()


def test_a_class_that_looks_like_another_is_wrong_by_itself():
    features = np.eye(4, dtype=np.float32)[TARGETS]
    features[TARGETS == 3] = [[0, 0, 0, 1]] * 2 + [[1, 0, 0, 0]] * 4  # for the most part like those of class 0
    found = query_accuracy(features, episodes_of(4), count=200, distance="euclidean")
    by_class = np.zeros(4)
    for index, values in enumerate(found):
        by_class[episodes_of(4).draw(index).classes] += values
    assert by_class[1:3].tolist() == [200, 200]
    assert max(by_class[0], by_class[3]) < 180


def test_gains_have_intervals_over_episodes_and_classes():
    episodes = episodes_of()
    classes = np.stack([episodes.draw(index).classes for index in range(40)])
    before, gained = np.full((40, 3), 0.5), np.array([0.1, 0.2, 0.3, 0.4])
    gain = FewShotGain.of(episodes, before, before + gained[classes], confidence=0.95)
    assert gain.shots == 2
    assert gain.frozen == Interval(0.5, 0.5, 0.5)
    assert gain.learned.value == pytest.approx(0.5 + gain.paired.value)
    assert gain.over_classes.value == pytest.approx(0.25)  # each class counts once, however often it was drawn
    expected = mean_of(gained, confidence=0.95)
    assert gain.over_classes.low == pytest.approx(expected.low)
    assert gain.paired.low > gain.over_classes.low  # of few classes one knows less than of many episodes


def test_intervals_of_accuracies_stay_within_0_and_1():
    episodes, before = episodes_of(), np.array([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    gain = FewShotGain.of(episodes, before, 1 - before, confidence=0.95)
    assert gain.frozen.low == 0
    assert gain.learned.high == 1
    assert 0 < gain.learned.low < gain.learned.value < 1
    assert math.isnan(FewShotGain.of(episodes, before[:1], before[:1], confidence=0.95).frozen.low)


@pytest.mark.parametrize(
    ("low", "high", "kept", "verdict"),
    [
        (0.01, 0.03, 5, "1 shot: it helped"),
        (-0.01, 0.03, 5, "1 shot: no evidence that it helped"),
        (-0.03, -0.01, 5, "1 shot: it did harm; use the original encoder"),
        (0.0, 0.0, 0, "reptile did not help: no step was better on the validation classes, the encoder is unchanged"),
    ],
)
def test_the_verdict_is_of_other_classes(low: float, high: float, kept: int, verdict: str):
    over = Interval((low + high) / 2, low, high)
    gain = FewShotGain(1, Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6), Interval(0.1, 0.09, 0.11), over)
    outcome = MetaOutcome("reptile", 5, 600, {"test": ["a"]}, [], [gain], kept, 1.0)
    assert outcome.verdict == verdict
    assert MetaOutcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
