"""Application of a saved model's decision rules: novelty, label sets and intervals, guaranteed risk.

The statistics they need are saved with the model (see ``running.fitting``); the task says which rules apply, and at
which level. Works on arrays and records, not on models or texts.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.checks import check_one_rule
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import calibration_scores, selective
from nlp_transfer.evaluation.conformal import label_sets, number_bounds
from nlp_transfer.evaluation.decisions import with_rules
from nlp_transfer.evaluation.formatting import percentage
from nlp_transfer.evaluation.unknown import DETECTORS, Detector

if TYPE_CHECKING:
    from nlp_transfer.artefact.record import Record
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.selective import RiskCurve
    from nlp_transfer.settings import DecisionSettings


@dataclass(frozen=True)
class RuleResults:
    """The results of a model's rules beside the labels; None for rules that it does not have.

    Attributes:
        unknown: bool (rows,).
        sets: bool (rows, labels).
        bounds: float64 (rows, 2), the interval of a regression.
    """

    unknown: np.ndarray | None = None
    sets: np.ndarray | None = None
    bounds: np.ndarray | None = None


def record_with_rules(record: Record, settings: DecisionSettings) -> Record:
    """Return the record with the rules that the settings override.

    Raises:
        UserError: for a rule that does not apply to the task, that the model has no statistics for, or that excludes
            another one.
    """
    check_one_rule(settings)
    task = with_rules(record.task, settings)
    if task.risk:
        if record.risk_curve is None:
            raise _not_fitted(f"decision.risk={task.risk:g}", "risk")
        check_rows("risk", task.risk, record.risk_curve.rows, saved=True)
        task = with_risk_threshold(task, record.risk_curve)
    if task.unknown:
        if record.novelty is None:
            raise _not_fitted(f"decision.unknown={task.unknown:g}", "unknown")
        check_rows("unknown", task.unknown, record.novelty.kept.rows, saved=True)
    if task.coverage:
        if record.nonconformity is None:
            raise _not_fitted(f"decision.coverage={task.coverage:g}", "coverage")
        check_rows("coverage", task.coverage, record.nonconformity.rows, saved=True)
    return dataclasses.replace(record, task=task)


def _not_fitted(setting: str, key: str) -> UserError:
    return UserError(
        f"{setting}: this model, or its export, has no validation scores to set a limit; adapt it with decision.{key}"
    )


def check_rows(key: str, value: float, rows: int, *, saved: bool = False) -> None:
    """Refuse a rule that needs more validation rows.

    Args:
        key: the rule's key in the group `decision`.
        value: the rule's value.
        rows: the number of validation rows.
        saved: whether the model is already trained, so that no setting can give more rows.

    Raises:
        UserError: naming the key, its value and how many rows it needs.
    """
    min_rows = {
        "risk": selective.min_rows,
        "unknown": lambda share: calibration_scores.min_rows(1 - share),
        "coverage": calibration_scores.min_rows,
    }
    needed = min_rows[key](value)
    if rows < needed:
        available = f"this model was adapted with {rows:,}" if saved else f"there are {rows:,}"
        remedy = "adapt again with more of them" if saved else "give more rows"
        if key == "risk" and (least := _rounded_up(selective.min_risk(rows))) < 1:
            available += f", which guarantee no less than {least:g} even if the model is always right"
        raise UserError(
            f"decision.{key}={value:g} needs at least {needed:,} validation rows, and {available}: "
            f"{'lower' if key == 'coverage' else 'raise'} it, or {remedy} (data.validation_share)"
        )


def with_risk_threshold(task: Task, curve: RiskCurve) -> Task:
    """Return the task with the probability below which its model abstains, so that its risk is guaranteed."""
    return dataclasses.replace(task, abstain_below=curve.threshold(task.risk))


def unreachable_risk(task: Task, curve: RiskCurve | None) -> str | None:
    """Return a message if no probability threshold guarantees the task's risk, else None."""
    if not task.risk or task.abstain_below <= 1 or curve is None:
        return None
    lowest = _rounded_up(curve.min_risk())
    least = f"The lowest limit that they guarantee is decision.risk={lowest:g}" if lowest < 1 else "They guarantee none"
    return (
        f"the model abstains on every text: its {curve.rows:,} validation rows do not show for any threshold that at "
        f"most {percentage(task.risk)} of its labels are wrong (decision.risk={task.risk:g}). {least}; with more "
        "validation rows (data.validation_share) it would be lower"
    )


def _rounded_up(risk: float) -> float:
    """Round a risk up to three decimals, at most 1."""
    return min(1.0, math.ceil(risk * 1000) / 1000)


def needs_features(record: Record) -> bool:
    """Return whether the rules need the inputs of the output layer beside the logits."""
    return bool(record.task.unknown) and record.novelty is not None and record.novelty.reads_features


def apply_rules(
    record: Record, detector: Detector | None, logits: np.ndarray, features: np.ndarray | None
) -> RuleResults:
    """Apply the rules of a model to rows.

    Args:
        record: of the model.
        detector: its novelty detector; may be None if that needs no features.
        logits: (rows, outputs).
        features: (rows, width); may be None unless `needs_features`.
    """
    task = record.task
    unknown = sets = bounds = None
    if task.unknown:
        unknown = novelty_scores(record, detector, logits, features) > limit_of(record)
    if task.coverage:
        limit = math.inf if record.nonconformity is None else record.nonconformity.limit(task.coverage)
        if task.problem == "regression":
            bounds = number_bounds(task, logits, limit)
        else:
            sets = label_sets(task, logits, limit)
    return RuleResults(unknown, sets, bounds)


def novelty_scores(
    record: Record, detector: Detector | None, logits: np.ndarray, features: np.ndarray | None
) -> np.ndarray:
    """Return the novelty score of each row, float64 (rows,); for the arguments see `apply_rules`."""
    assert record.novelty is not None
    return (detector or DETECTORS[record.novelty.score].of({})).scores(logits, features)


def limit_of(record: Record) -> float:
    """Return the novelty score above which a text is called unknown."""
    return math.inf if record.novelty is None else record.novelty.kept.limit(1 - record.task.unknown)


def names_of(task: Task, chosen: np.ndarray) -> list[str]:
    """Return the names of the labels where `chosen`, bool (labels,), is true."""
    return [name for name, is_chosen in zip(task.labels, chosen, strict=True) if is_chosen]
