"""What a teacher, a model that was adapted before, answers to the texts that another one learns from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import DistillSettings
from nlp_transfer.predict import opened
from nlp_transfer.settings import DecisionSettings, Settings


def teacher_logits(settings: Settings, corpus: Corpus) -> dict[str, np.ndarray]:
    """Return by split the teacher's logits, float32 (texts, outputs), in the order of the task's labels.

    The splits are train and, where there are such texts, `unlabelled`; without a teacher nothing is returned. It reads
    the texts as it was adapted to, whatever this run's settings are.

    Raises:
        UserError: for a folder without a model, and a teacher of another task.
    """
    term = settings.objective.get("distill")
    if term is None or not term.weight:
        return {}
    assert isinstance(term, DistillSettings)
    # Which of its labels the teacher would choose by its own rules or this run's does not matter.
    teacher = opened(Path(str(term.teacher)), dataclasses.replace(settings, decision=DecisionSettings()))
    task = corpus.task
    theirs = teacher.record.task
    if (theirs.problem, theirs.pair, set(theirs.labels)) != (task.problem, task.pair, set(task.labels)):
        raise UserError(
            f"objective.distill.teacher={term.teacher} was adapted to another task ({theirs.problem}, "
            f"{len(theirs.labels)} labels), than this data is ({task.problem}, {len(task.labels)} labels)"
        )
    columns = [theirs.labels.index(label) for label in task.labels] or [0]
    train = corpus.splits["train"]
    asked = {"train": Texts(train.texts, train.pairs)} | ({NAME: corpus.unlabelled} if corpus.unlabelled else {})
    return {split: teacher.logits(texts.texts, texts.pairs)[:, columns] for split, texts in asked.items()}
