"""Fitting of the decision rules on the rows of a run; ``decision.rules`` applies them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.task import Task, likeliest
from nlp_transfer.decision.rules import check_rows, with_risk_threshold
from nlp_transfer.evaluation import hidden_classes
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.calibration_scores import CalibrationScores
from nlp_transfer.evaluation.conformal import nonconformity
from nlp_transfer.evaluation.decisions import decide, probabilities, with_rules
from nlp_transfer.evaluation.novelty import Novelty
from nlp_transfer.evaluation.selective import RiskCurve
from nlp_transfer.evaluation.unknown import Detector
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.settings import DecisionSettings

_MOST_TRAINING_ROWS = 50_000  # that the novelty detector is fitted to


@dataclass(frozen=True)
class FittedRules:
    """What the decision rules of a model need; None for rules that are not used.

    Attributes:
        task: with the thresholds that were fitted.
        calibration: of the outputs, already folded into the output layer.
        novelty: the record of the novelty detector, without the digest of its file, which is not written yet.
        detector: the novelty detector.
        nonconformity: calibration scores for label sets or intervals.
        risk_curve: for a guaranteed risk.
        held: validation metrics by name, from outputs before calibration; runs are compared by them.
    """

    task: Task
    calibration: Calibration = field(default_factory=Calibration)
    novelty: Novelty | None = None
    detector: Detector | None = None
    nonconformity: CalibrationScores | None = None
    risk_curve: RiskCurve | None = None
    held: dict[str, float] | None = None


def apply_decision_settings(corpus: Corpus, settings: DecisionSettings) -> Corpus:
    """Return the corpus with the run's decision rules in its task, checked before training.

    Raises:
        UserError: for a rule that does not apply to the task, or that needs more validation rows.
    """
    corpus = dataclasses.replace(corpus, task=with_rules(corpus.task, settings))
    validation = corpus.splits.get("validation")
    rows = 0 if validation is None else int(np.count_nonzero(validation.weights))
    for key in ("risk", "unknown", "coverage"):
        if value := getattr(corpus.task, key):
            check_rows(key, value, rows)
    return corpus


def fit_rules(prepared: Prepared, calibration: Calibration) -> FittedRules:
    """Fit the rules of the task to the trained model, whose outputs are already calibrated.

    Rows of weight 0 are left out and all others count once, since guarantees are about rows, not weights.
    """
    task, validation = prepared.corpus.task, prepared.corpus.splits["validation"]
    fitted = FittedRules(task, calibration)
    if not (task.risk or task.unknown or task.coverage):
        return fitted
    present = validation.weights > 0
    logits = prepared.outputs("validation")[present]
    if task.risk:
        wrong = decide(task, logits) != likeliest(validation.targets)[present]
        curve = RiskCurve.of(probabilities(task, logits).max(axis=1), wrong)
        fitted = dataclasses.replace(fitted, task=with_risk_threshold(task, curve), risk_curve=curve)
    if task.coverage:
        scores = CalibrationScores.of(nonconformity(task, logits, validation.targets[present]))
        fitted = dataclasses.replace(fitted, nonconformity=scores)
    if task.unknown:
        novelty, detector = _fit_novelty(prepared, logits, present)
        fitted = dataclasses.replace(fitted, novelty=novelty, detector=detector)
    return fitted


def _fit_novelty(prepared: Prepared, logits: np.ndarray, present: np.ndarray) -> tuple[Novelty, Detector]:
    """Choose and fit the novelty detector; `present` selects the validation rows, bool (rows,)."""
    train, validation = prepared.corpus.splits["train"], prepared.corpus.splits["validation"]
    task, seed = prepared.corpus.task, prepared.settings.seed
    rows = np.flatnonzero(train.weights > 0)
    rows = rows[hidden_classes.sample_rows(len(rows), _MOST_TRAINING_ROWS, seed=seed)]
    features, held = prepared.current_features("train")[rows], prepared.current_features("validation")[present]
    classes, truth = likeliest(train.targets)[rows], likeliest(validation.targets)[present]
    aurocs = hidden_classes.hidden_class_aurocs(features, classes, held, truth, labels=task.outputs, seed=seed)
    name = hidden_classes.choose_detector(aurocs, features.shape[1])
    detector = hidden_classes.fit_detector(name, features, classes, labels=task.outputs, seed=seed)
    means = {each: round(float(np.mean(values)), 4) for each, values in aurocs.items()}
    return Novelty(name, CalibrationScores.of(detector.scores(logits, held)), means), detector
