"""Streams of random numbers: each run's are apart, and the numbers are those that trainings have always had."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import nlp_transfer
from nlp_transfer.data.batches import Order
from nlp_transfer.data.streams import Stream, generator

ONE_TASK = (
    *(Stream.ROWS, Stream.UNLABELLED, Stream.HELD_OUT, Stream.MASKS, Stream.HELD_LABELS, Stream.DOMAINS),
    Stream.HEAD_ROWS,
)
SEVERAL = (
    *(Stream.ROWS, Stream.UNLABELLED, Stream.TURNS, Stream.TASK_ROWS, *(Stream.TASK_ROWS + n for n in range(1, 9))),
    Stream.HEAD_ROWS,
)
EPISODES = (Stream.CLASSES, Stream.EPISODES, Stream.CHOOSING_EPISODES, Stream.MEASURED_EPISODES)


@pytest.mark.parametrize("streams", [ONE_TASK, SEVERAL, EPISODES])
@pytest.mark.parametrize("seed", [0, 3])
def test_no_two_streams_of_a_run_share_numbers(streams: tuple[int, ...], seed: int):
    drawn = {(stream, number): generator(seed, number, stream).random(4) for stream in streams for number in range(4)}
    for one, other in combinations(drawn, 2):
        assert not (drawn[one] == drawn[other]).any(), (one, other)


def test_every_stream_is_of_some_run():
    assert {int(stream) for stream in Stream} <= {*ONE_TASK, *SEVERAL, *EPISODES}


def test_a_resumed_training_has_the_same_order():
    for name, value in {"ROWS": 0, "UNLABELLED": 1, "HELD_OUT": 2, "MASKS": 3, "TURNS": 3, "TASK_ROWS": 4}.items():
        assert Stream[name] == value
    for name, value in {"CLASSES": 4, "EPISODES": 5, "CHOOSING_EPISODES": 6, "MEASURED_EPISODES": 7}.items():
        assert Stream[name] == value
    assert Order(8, batch_size=8, seed=1).epoch(2).tolist() == [7, 0, 5, 4, 6, 2, 3, 1]
    other = np.random.Generator(np.random.Philox(key=[5, 6], counter=[0, 0, 0, 7]))
    assert (generator(5, 6, 7).random(9) == other.random(9)).all()


def test_random_generators_are_created_in_one_place():
    package = Path(nlp_transfer.__file__).parent
    others = {"streams.py", "convex.py"}  # the folds of a probe are older than the streams
    makers = {path.name for path in package.rglob("*.py") if "Philox" in path.read_text(encoding="utf-8")}
    assert makers <= others
