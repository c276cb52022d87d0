"""The guard of domain adaptation: what the same run comes to without the texts of the other domain, told beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.baselines import Floor
from nlp_transfer.evaluation.formatting import counted, number
from nlp_transfer.evaluation.information import gain, information
from nlp_transfer.objectives.settings import aligning
from nlp_transfer.predicting.predict import opened
from nlp_transfer.settings import EvaluationSettings, Settings

_ASKED = 2000  # texts of the other domain at most
_HARM = 0.1  # share of the information that must be lost to call it harm: less is lost where accuracy rises, too


@dataclass(frozen=True)
class SourceOnly:
    """The run without the texts of the other domain.

    Attributes:
        folder: of that run.
        floor: what it predicts for the reported split.
        asked: some texts of the other domain.
        logits: what it answers to these, float32 (texts, outputs).
    """

    folder: Path
    floor: Floor
    asked: Texts
    logits: np.ndarray

    def sentences(self, task: Task, logits: np.ndarray, *, settings: EvaluationSettings, seed: int) -> list[str]:
        """Say what the answers of the adapted model to `asked` tell beside those without adaptation."""
        if task.problem == "regression":
            return []
        before, after = information(task, self.logits), information(task, logits)
        difference = gain(task, logits, self.logits, confidence=settings.confidence, seed=seed)
        low, high = (number(bound, signed=True) for bound in (difference.low, difference.high))
        told = (
            f"On {counted(len(logits), 'text')} of the other domain, a model that saw none of them gives answers with "
            f"an information of {number(before)}, this one with {number(after)}, difference "
            f"{number(difference.value, signed=True)} [{low}, {high}] (1: sure of each, all labels as often)."
        )
        warning = (
            "The adaptation may have done harm: answers to the other domain waver more than without it, or leave out "
            f"labels; {self.folder} holds the model that saw none of its texts."
        )
        harmed = difference.high < -_HARM * before
        return [told, *([warning] if harmed else [])]


def is_guarded(settings: Settings) -> bool:
    """Return whether a run is to be held against one without the texts of the other domain."""
    return settings.evaluation.source_only and bool(aligning(settings.objective))


def without_texts(settings: Settings) -> Settings:
    """Return the same run without the texts of the other domain, and without the terms that move towards them."""
    moved = set(aligning(settings.objective))
    return dataclasses.replace(
        settings,
        name=f"{settings.name}-source-only",
        resume="never" if settings.resume == "never" else "auto",  # a checkpoint that is named is none of its own
        data=dataclasses.replace(settings.data, unlabelled=None),
        pretraining=dataclasses.replace(settings.pretraining, epochs=0.0),
        objective={name: term for name, term in settings.objective.items() if name not in moved},
    )


def asked_of(folder: Path, settings: Settings, corpus: Corpus) -> SourceOnly:
    """Return what the finished run without these texts says of the reported split, and of some of the texts.

    To be called on every rank, before the parts of another run are put together.
    """
    assert corpus.unlabelled is not None
    model, texts, pairs = opened(folder, settings), corpus.unlabelled.texts, corpus.unlabelled.pairs
    chosen = np.random.Generator(np.random.Philox(settings.seed)).permutation(len(texts))[:_ASKED].tolist()
    asked = Texts([texts[row] for row in chosen], pairs and [pairs[row] for row in chosen])
    measured = corpus.splits["test" if "test" in corpus.splits else "validation"]
    floor = Floor(
        "source only",
        model.logits(measured.texts, measured.pairs),
        "no text of the other domain",
        model.record.task.threshold,
    )
    return SourceOnly(folder, floor, asked, model.logits(asked.texts, asked.pairs))
