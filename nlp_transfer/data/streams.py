"""Random numbers that are a function of (seed, number, stream) alone: who draws from which stream is written here."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Streams of a run, of which none has numbers of another.

    Runs of different kinds may share a stream: one of several tasks, or one in episodes, pretrains nothing.
    """

    ROWS = 0  # which rows meet at a step
    UNLABELLED = 1  # which texts without labels stand beside them
    HELD_OUT = 2  # which texts a pretraining does not read
    MASKS = 3  # which tokens it guesses
    TURNS = 3  # whose turn it is among several tasks
    TASK_ROWS = 4  # which rows of the first of them meet; of each other one the next number
    CLASSES = 4  # which classes are held out from episodes
    EPISODES = 5  # which rows meet in an episode
    CHOOSING_EPISODES = 6  # of those that weights are chosen by
    MEASURED_EPISODES = 7  # of those that are measured
    HELD_LABELS = 1 << 32  # labels drawn for the Fisher information; tasks are never so many
    DOMAINS = (1 << 32) + 1  # texts by which domains are told apart


def generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Return a generator that begins where that of no other seed, number or stream comes.

    Args:
        seed: of the run.
        number: of the epoch or whatever else is drawn anew, from 0.
        stream: one of `Stream`, or a number behind `Stream.TASK_ROWS`.
    """
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]))
