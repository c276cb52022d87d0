"""What a run learns from beside its labelled rows: unlabelled texts, and a teacher's outputs (distillation)."""

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
class AuxiliaryData:
    """What a run learns from beside its labelled rows.

    Attributes:
        columns: the outputs of the teacher, see `teacher_columns`.
        sha256: a digest of the teacher and the unlabelled texts, see `auxiliary_digest`.
    """

    columns: dict[str, dict[str, Any]]
    sha256: str | None

    @classmethod
    def of(cls, settings: Settings, corpus: Corpus) -> AuxiliaryData:
        """Return the auxiliary data of a run; this runs the teacher, if there is one.

        Raises:
            UserError: see `teacher_columns` and `auxiliary_digest`.
        """
        return cls(teacher_columns(settings, corpus), auxiliary_digest(settings, corpus))


def auxiliary_digest(settings: Settings, corpus: Corpus) -> str | None:
    """Return the SHA-256 of the teacher's weights and the unlabelled texts; None if the run uses neither.

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
    """Return the folder of the teacher, or None if no loss term has one.

    If none is named, it is the model from which the run continues.
    """
    if not terms_that("taught", settings.objective):
        return None
    term = settings.objective["distill"]
    assert isinstance(term, DistillSettings)
    return term.teacher or settings.encoder.name


def teacher_columns(settings: Settings, corpus: Corpus) -> dict[str, dict[str, np.ndarray]]:
    """Return the teacher's outputs by split and name of the column; empty without a teacher.

    `teacher`: its logits, float32 (texts, outputs) in the order of the task's labels; `teacher_features`, if a loss
    term reads them: what enters its output layer, float32 (texts, width). The splits are train and, if there are
    unlabelled texts, `unlabelled`. Texts are tokenised by the teacher's settings, not by those of this run. If a run
    keeps the labels of the model it continues from, the teacher may know only the first of them.

    Raises:
        UserError: for a folder without a model, a teacher of another task, or one that cannot give needed features.
    """
    name = teacher_of(settings)
    if name is None:
        return {}
    # The decision settings do not matter, for only logits are read.
    teacher = load_predictor(expanded(name), dataclasses.replace(settings, decision=DecisionSettings()))
    task = corpus.task
    taught_task = teacher.record.task
    labels = task.labels[: len(taught_task.labels)] if settings.continual.keeps_labels else task.labels
    if (taught_task.problem, taught_task.pair, set(taught_task.labels)) != (task.problem, task.pair, set(labels)):
        unshared = sorted(set(taught_task.labels) ^ set(labels))
        why = f"; one of them alone knows the label {unshared[0]!r}" if unshared else ""
        raise UserError(
            f"objective.distill.teacher={name} was adapted to another task ({_words(taught_task)}) than this data "
            f"has ({_words(task)}){why}"
        )
    feature_terms = terms_that("reads_features", settings.objective)
    if feature_terms and not isinstance(teacher, Predictor):
        raise UserError(
            f"objective.{feature_terms[0]} reads features, which {name}, an exported model, does not give: name the "
            "run it was made of as objective.distill.teacher"
        )
    order = [taught_task.labels.index(label) for label in labels] or [0]
    texts_of: dict[str, Texts] = {"train": corpus.splits["train"]}
    if corpus.unlabelled:
        texts_of[NAME] = corpus.unlabelled
    columns: dict[str, dict[str, np.ndarray]] = {}
    for split, texts in texts_of.items():
        if feature_terms:
            logits, features = cast(Predictor, teacher).logits_and_features(texts.texts, texts.pairs)
            columns[split] = {"teacher": logits[:, order], "teacher_features": features}
        else:
            columns[split] = {"teacher": teacher.logits(texts.texts, texts.pairs)[:, order]}
    return columns


def _words(task: Task) -> str:
    labels = f", {counted(len(task.labels), 'label')}" if task.labels else ""
    return f"{task.problem}{labels}, {'pairs of texts' if task.pair else 'single texts'}"
