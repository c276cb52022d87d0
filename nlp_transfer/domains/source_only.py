"""The guard of domain adaptation: a comparison with the same run without the target domain's texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.task import Task
from nlp_transfer.domains.distance import DomainSample
from nlp_transfer.evaluation.baselines import Baseline
from nlp_transfer.evaluation.formatting import format_interval, number
from nlp_transfer.evaluation.information import gain, mutual_information
from nlp_transfer.evaluation.reverse_validation import DomainFeatures, difference, reverse_accuracy
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.predicting.predict import load_predictor
from nlp_transfer.settings import EvaluationSettings, Settings
from nlp_transfer.wording import counted

# Losses from which adaptation counts as harmful; smaller ones also occur where accuracy rises. Both were set on the few
# pairs of domains that `recipes/benchmarks/domains.py` measures.
_INFORMATION_LOSS = 0.1  # relative
_REVERSE_ACCURACY_LOSS = 0.07  # absolute
_VISIBLE_LOSS = 0.0005  # of information; a smaller loss would be written as .000


@dataclass(frozen=True)
class SourceOnly:
    """The results of the run without the target domain's texts.

    Attributes:
        folder: of that run.
        baseline: its predictions for the reported split.
        texts: a sample of target texts.
        logits: its outputs for these texts, float32 (texts, outputs).
        features: of these texts and of labelled training rows, before training.
    """

    folder: Path
    baseline: Baseline
    texts: Texts
    logits: np.ndarray
    features: DomainFeatures

    def sentences(self, task: Task, logits: np.ndarray, *, settings: EvaluationSettings, seed: int) -> list[str]:
        """Compare the adapted model's logits for `texts` with those without adaptation, and warn of harm."""
        if task.problem == "regression":
            return []
        comparisons = [
            self._compare_information(task, logits, settings, seed),
            self._compare_reverse_accuracy(task, logits, settings, seed),
        ]
        sentences = [sentence for sentence, _ in comparisons]
        if harms := [harm for _, harm in comparisons if harm]:
            sentences.append(
                f"The adaptation may have done harm: {' and '.join(harms)}; the model that read no text of the other "
                f"domain is in {self.folder}."
            )
        return sentences

    def _compare_information(
        self, task: Task, logits: np.ndarray, settings: EvaluationSettings, seed: int
    ) -> tuple[str, str]:
        """Return a sentence on the information of the predictions, and the harm if it clearly fell, else ""."""
        before, after = mutual_information(task, self.logits), mutual_information(task, logits)
        change = gain(task, logits, self.logits, confidence=settings.confidence, seed=seed)
        sentence = (
            f"On {counted(len(logits), 'text')} of the other domain, the predictions of a model that read none of them "
            f"have a mutual information of {number(before)}, those of this one {number(after)}, difference "
            f"{format_interval(change, signed=True)} (1: certain of each, all labels equally often)."
        )
        harm = "predictions for the other domain are less certain than without it, or leave out labels"
        return sentence, harm if change.high < -max(_INFORMATION_LOSS * before, _VISIBLE_LOSS) else ""

    def _compare_reverse_accuracy(
        self, task: Task, logits: np.ndarray, settings: EvaluationSettings, seed: int
    ) -> tuple[str, str]:
        """Return a sentence on the reverse accuracy, and the harm if it clearly fell, else ""."""
        before, after = (reverse_accuracy(task, each, self.features, seed=seed) for each in (self.logits, logits))
        change = difference(after, before, confidence=settings.confidence, seed=seed)
        sentence = (
            "A linear classifier trained on those predictions as if they were labels is right on "
            f"{number(before.mean())} of {counted(len(before), 'training text')} without the adaptation, on "
            f"{number(after.mean())} with it, difference {format_interval(change, signed=True)}."
        )
        harm = "predictions for the other domain no longer match the labels of the training domain"
        return sentence, harm if change.high < -_REVERSE_ACCURACY_LOSS else ""


def is_guarded(settings: Settings) -> bool:
    """Return whether a run is to be compared with one without the target domain's texts."""
    return settings.evaluation.source_only and bool(terms_that("aligns", settings.objective))


def without_texts(settings: Settings) -> Settings:
    """Return the settings of the source-only run: without the target texts and the terms that align domains."""
    aligning = set(terms_that("aligns", settings.objective))
    return dataclasses.replace(
        settings,
        name=f"{settings.name}-source-only",
        resume="never" if settings.resume == "never" else "auto",  # a named checkpoint belongs to the other run
        data=dataclasses.replace(settings.data, unlabelled=None),
        pretraining=dataclasses.replace(settings.pretraining, epochs=0.0),
        objective={name: term for name, term in settings.objective.items() if name not in aligning},
    )


def source_only_of(folder: Path, settings: Settings, corpus: Corpus, sample: DomainSample) -> SourceOnly:
    """Return the predictions of a finished source-only run for the reported split and the sampled target texts.

    Must be called on every rank, before the model of another run is built.
    """
    assert corpus.unlabelled is not None
    model, texts = load_predictor(folder, settings), corpus.unlabelled.take(sample.texts.tolist())
    reported = corpus.splits[corpus.reported_split]
    baseline = Baseline(
        "source only",
        model.logits(reported.texts, reported.pairs),
        "no text of the other domain",
        model.record.task.threshold,
    )
    source, target = sample.features
    features = DomainFeatures(source, corpus.splits["train"].targets[sample.rows], target)
    return SourceOnly(folder, baseline, texts, model.logits(texts.texts, texts.pairs), features)
