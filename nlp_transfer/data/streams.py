"""Reproducible random numbers: a function of (seed, number, stream) alone. All streams are registered here."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The independent random streams of a run.

    Two purposes may share a stream if no run has both: multitask and episodic (meta-learning) runs pretrain nothing.
    """

    ROWS = 0  # order of the labelled rows
    UNLABELLED = 1  # order of the unlabelled texts
    HELD_OUT = 2  # texts held out from pretraining
    MASKS = 3  # tokens masked in pretraining
    TURNS = 3  # order of the tasks within an epoch of multitask training
    TASK_ROWS = 4  # order of the rows of task 0; task k uses TASK_ROWS + k
    CLASSES = 4  # classes held out from episodes
    EPISODES = 5  # rows of training episodes
    CHOOSING_EPISODES = 6  # rows of validation episodes
    MEASURED_EPISODES = 7  # rows of test episodes
    HELD_LABELS = 1 << 32  # labels sampled for the Fisher information; beyond any number of tasks
    DOMAINS = (1 << 32) + 1  # texts for the domain distance
    HEAD_ROWS = (1 << 32) + 2  # rows from which a head is fitted before the first step


def generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Return a generator that does not overlap with that of any other seed, number or stream.

    Args:
        seed: of the run.
        number: of the epoch, or of another repetition, from 0.
        stream: one of `Stream`, or ``Stream.TASK_ROWS`` plus the number of a task.
    """
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]))
