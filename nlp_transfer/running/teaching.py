"""What a teacher, a model that was adapted before, answers to the texts that another one learns from."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from nlp_transfer.artefact.places import model_folder
from nlp_transfer.artefact.record import read_record
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.sequences import json_of
from nlp_transfer.data.task import Task
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import DistillSettings, terms_that
from nlp_transfer.predicting.predict import Predictor, load_predictor
from nlp_transfer.settings import DecisionSettings, Settings
from nlp_transfer.wording import counted


@dataclass(frozen=True)
class Taught:
    """What a run learns from beside its rows.

    Attributes:
        columns: what a teacher said, see `taught_columns`.
        sha256: which teacher and which other texts, see `lessons`.
    """

    columns: dict[str, dict[str, Any]]
    sha256: str | None


def lessons(settings: Settings, corpus: Corpus) -> str | None:
    """Return which teacher and which other texts a run learns from beside its rows, as 64 hex digits; None: nothing.

    Raises:
        UserError: for a folder without a model.
    """
    if not settings.reads_unlabelled:
        return None
    teacher = teacher_of(settings)
    weights = read_record(model_folder(expanded(teacher))).sha256 if teacher else None
    others = [] if corpus.unlabelled is None else [corpus.unlabelled.texts, corpus.unlabelled.pairs]
    digest = hashlib.sha256()
    for piece in json_of([weights, *others]):
        digest.update(piece.encode())
    return digest.hexdigest()


def teacher_of(settings: Settings) -> str | None:
    """Return the folder of the model that a term learns from; None: where none does.

    Where nobody else is named, and its labels are kept, that is the model that the run goes on from.
    """
    if not terms_that("taught", settings.objective):
        return None
    term = settings.objective["distill"]
    assert isinstance(term, DistillSettings)
    return term.teacher or settings.encoder.name


def taught_columns(settings: Settings, corpus: Corpus) -> dict[str, dict[str, np.ndarray]]:
    """Return by split, and by the name of a column, what a teacher answers to its texts.

    That is `teacher`, its logits, float32 (texts, outputs) in the order of the task's labels, and where a term reads
    them `teacher_features`, what enters its output layer, float32 (texts, width). The splits are train and, where there
    are such texts, `unlabelled`; without a teacher there are none. It reads the texts as it was adapted to, whatever
    this run's settings are. Where a run keeps the labels of a model, a teacher may know the first of them alone.

    Raises:
        UserError: for a folder without a model, a teacher of another task, and one without features where these count.
    """
    name = teacher_of(settings)
    if name is None:
        return {}
    # Which of its labels the teacher would choose by its own rules or this run's does not matter.
    teacher = load_predictor(expanded(name), dataclasses.replace(settings, decision=DecisionSettings()))
    task = corpus.task
    theirs = teacher.record.task
    labels = task.labels[: len(theirs.labels)] if settings.continual.keeps_labels else task.labels
    if (theirs.problem, theirs.pair, set(theirs.labels)) != (task.problem, task.pair, set(labels)):
        other = sorted(set(theirs.labels) ^ set(labels))
        why = f"; one of them alone knows the label {other[0]!r}" if other else ""
        raise UserError(
            f"objective.distill.teacher={name} was adapted to another task ({_words(theirs)}) than this data "
            f"has ({_words(task)}){why}"
        )
    reading = terms_that("reads_features", settings.objective)
    if reading and not isinstance(teacher, Predictor):
        raise UserError(
            f"objective.{reading[0]} reads features, which {name}, an exported model, does not give: name the run it "
            "was made of as objective.distill.teacher"
        )
    columns = [theirs.labels.index(label) for label in labels] or [0]
    asked: dict[str, Texts] = {"train": corpus.splits["train"]}
    if corpus.unlabelled:
        asked[NAME] = corpus.unlabelled
    told: dict[str, dict[str, np.ndarray]] = {}
    for split, texts in asked.items():
        if reading:
            logits, features = cast(Predictor, teacher).logits_and_features(texts.texts, texts.pairs)
            told[split] = {"teacher": logits[:, columns], "teacher_features": features}
        else:
            told[split] = {"teacher": teacher.logits(texts.texts, texts.pairs)[:, columns]}
    return told


def _words(task: Task) -> str:
    labels = f", {counted(len(task.labels), 'label')}" if task.labels else ""
    return f"{task.problem}{labels}, {'pairs of texts' if task.pair else 'single texts'}"
