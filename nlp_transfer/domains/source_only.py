"""The guard of domain adaptation: what the same run comes to without the texts of the other domain, told beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.task import Task
from nlp_transfer.domains.distance import Sides
from nlp_transfer.evaluation.baselines import Floor
from nlp_transfer.evaluation.formatting import format_interval, number
from nlp_transfer.evaluation.information import gain, mutual_information
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.reverse_validation import DomainFeatures, difference, reverse_accuracy
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.predicting.predict import opened
from nlp_transfer.settings import EvaluationSettings, Settings
from nlp_transfer.wording import counted

# What must be lost to call it harm, for less is lost where accuracy rises, too: both were made from few pairs of
# domains, which `recipes/benchmarks/domains.py` measures.
_LOST = 0.1  # share of the information
_WORSE = 0.07  # share of the known labels that are found again
_SEEN = 0.0005  # information; a loss that is written as .000 is none, as of answers that told next to nothing before


@dataclass(frozen=True)
class SourceOnly:
    """The run without the texts of the other domain.

    Attributes:
        folder: of that run.
        floor: what it predicts for the reported split.
        asked: some texts of the other domain.
        logits: what it answers to these, float32 (texts, outputs).
        known: features of these texts and of training rows, with their labels, before anything had learned.
    """

    folder: Path
    floor: Floor
    asked: Texts
    logits: np.ndarray
    known: DomainFeatures

    def sentences(self, task: Task, logits: np.ndarray, *, settings: EvaluationSettings, seed: int) -> list[str]:
        """Say what the answers of the adapted model to `asked` are worth beside those without adaptation."""
        if task.problem == "regression":
            return []
        told, harms = zip(
            self._told(task, logits, settings, seed), self._led_back(task, logits, settings, seed), strict=True
        )
        warning = (
            f"The adaptation may have done harm: {' and '.join(filter(None, harms))}; {self.folder} holds the model "
            "that saw none of the other domain's texts."
        )
        return [*told, *([warning] if any(harms) else [])]

    def _told(self, task: Task, logits: np.ndarray, settings: EvaluationSettings, seed: int) -> tuple[str, str]:
        """Say how much answers tell, and what is wrong if they tell less than without adaptation."""
        before, after = mutual_information(task, self.logits), mutual_information(task, logits)
        more = gain(task, logits, self.logits, confidence=settings.confidence, seed=seed)
        told = (
            f"On {counted(len(logits), 'text')} of the other domain, a model that saw none of them gives answers with "
            f"an information of {number(before)}, this one with {number(after)}, {_written(more)} (1: sure of each, "
            "all labels as often)."
        )
        harm = "answers to the other domain waver more than without it, or leave out labels"
        return told, harm if more.high < -max(_LOST * before, _SEEN) else ""

    def _led_back(self, task: Task, logits: np.ndarray, settings: EvaluationSettings, seed: int) -> tuple[str, str]:
        """Say how well answers lead back to known labels, and what is wrong if they do worse than before."""
        before, after = (reverse_accuracy(task, each, self.known, seed=seed) for each in (self.logits, logits))
        more = difference(after, before, confidence=settings.confidence, seed=seed)
        told = (
            "A linear classifier that learns those answers as if they were labels is right on "
            f"{number(before.mean())} of {counted(len(before), 'training text')} without the adaptation, on "
            f"{number(after.mean())} with it, {_written(more)}."
        )
        harm = "answers to the other domain follow something else than the labels"
        return told, harm if more.high < -_WORSE else ""


def _written(found: Interval) -> str:
    return f"difference {format_interval(found, signed=True)}"


def is_guarded(settings: Settings) -> bool:
    """Return whether a run is to be held against one without the texts of the other domain."""
    return settings.evaluation.source_only and bool(terms_that("aligns", settings.objective))


def without_texts(settings: Settings) -> Settings:
    """Return the same run without the texts of the other domain, and without the terms that move towards them."""
    moved = set(terms_that("aligns", settings.objective))
    return dataclasses.replace(
        settings,
        name=f"{settings.name}-source-only",
        resume="never" if settings.resume == "never" else "auto",  # a checkpoint that is named is none of its own
        data=dataclasses.replace(settings.data, unlabelled=None),
        pretraining=dataclasses.replace(settings.pretraining, epochs=0.0),
        objective={name: term for name, term in settings.objective.items() if name not in moved},
    )


def asked_of(folder: Path, settings: Settings, corpus: Corpus, sides: Sides) -> SourceOnly:
    """Return what the finished run without these texts says of the reported split, and of some of the texts.

    To be called on every rank, before the parts of another run are put together.
    """
    assert corpus.unlabelled is not None
    model, asked = opened(folder, settings), corpus.unlabelled.take(sides.texts.tolist())
    measured = corpus.splits[corpus.reported_split]
    floor = Floor(
        "source only",
        model.logits(measured.texts, measured.pairs),
        "no text of the other domain",
        model.record.task.threshold,
    )
    known = DomainFeatures(sides.features[0], corpus.splits["train"].targets[sides.rows], sides.features[1])
    return SourceOnly(folder, floor, asked, model.logits(asked.texts, asked.pairs), known)
