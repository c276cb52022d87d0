"""What the rules of a model need beside it, taken from the rows of a run: training rows teach, validation rows rate.

Applying the rules is the business of `rules`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.task import likeliest
from nlp_transfer.decision.rules import check_rows
from nlp_transfer.evaluation import hiding
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.conformal import nonconformity
from nlp_transfer.evaluation.decisions import decide, probabilities, with_rules
from nlp_transfer.evaluation.kept import KeptScores
from nlp_transfer.evaluation.novelty import Novelty
from nlp_transfer.evaluation.selective import RiskCurve
from nlp_transfer.evaluation.unknown import Detector
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.settings import DecisionSettings

_MOST_TAUGHT = 50_000  # training rows that classes are described by


@dataclass(frozen=True)
class Fitted:
    """How outputs become what is said of a text.

    Attributes:
        calibration: of the outputs, which have it by now.
        novelty: None where nothing is to be called unknown; without the digest of a file that is not written yet.
        detector: the score of that.
        nonconformity: None where no sets are wanted.
        risk_curve: None where no risk is to be kept.
        held: figures of the validation rows by name, from outputs before calibration; by them runs are chosen among.
    """

    calibration: Calibration
    novelty: Novelty | None = None
    detector: Detector | None = None
    nonconformity: KeptScores | None = None
    risk_curve: RiskCurve | None = None
    held: dict[str, float] | None = None


def deciding(corpus: Corpus, settings: DecisionSettings) -> Corpus:
    """Return the corpus, its task with the rules that a run asks for, before anything is trained.

    Raises:
        UserError: for a rule that the task has no use for, or that there are too few validation rows for.
    """
    corpus = dataclasses.replace(corpus, task=with_rules(corpus.task, settings))
    validation = corpus.splits.get("validation")
    rows = 0 if validation is None else int(np.count_nonzero(validation.weights))
    for key in ("risk", "unknown", "coverage"):
        if value := getattr(corpus.task, key):
            check_rows(key, value, rows)
    return corpus


def fit_rules(prepared: Prepared, calibration: Calibration) -> Fitted:
    """Return what the rules of the task need of the model as it is now, its outputs calibrated.

    Rows of weight 0 count as absent, all others once: what is promised is about rows as they come.
    """
    task, validation = prepared.corpus.task, prepared.corpus.splits["validation"]
    found = Fitted(calibration)
    if not (task.risk or task.unknown or task.coverage):
        return found
    present = validation.weights > 0
    logits = prepared.outputs("validation")[present]
    if task.risk:
        wrong = decide(task, logits) != likeliest(validation.targets)[present]
        curve = RiskCurve.of(probabilities(task, logits).max(axis=1), wrong)
        found = dataclasses.replace(found, risk_curve=curve)
    if task.coverage:
        kept = KeptScores.of(nonconformity(task, logits, validation.targets[present]))
        found = dataclasses.replace(found, nonconformity=kept)
    if task.unknown:
        novelty, detector = _novelty(prepared, logits, present)
        found = dataclasses.replace(found, novelty=novelty, detector=detector)
    return found


def _novelty(prepared: Prepared, logits: np.ndarray, present: np.ndarray) -> tuple[Novelty, Detector]:
    train, validation = prepared.corpus.splits["train"], prepared.corpus.splits["validation"]
    task, seed = prepared.corpus.task, prepared.settings.seed
    taught = np.flatnonzero(train.weights > 0)
    taught = taught[hiding.some_rows(len(taught), _MOST_TAUGHT, seed=seed)]
    features, held = prepared.current_features("train")[taught], prepared.current_features("validation")[present]
    classes, truth = likeliest(train.targets)[taught], likeliest(validation.targets)[present]
    figures = hiding.rehearsed(features, classes, held, truth, labels=task.outputs, seed=seed)
    score = hiding.chosen_score(figures, features.shape[1])
    detector = hiding.fitted(score, features, classes, labels=task.outputs, seed=seed)
    means = {name: round(float(np.mean(values)), 4) for name, values in figures.items()}
    return Novelty(score, KeptScores.of(detector.scores(logits, held)), means), detector
