"""What a saved model says of a text beside its label: whether it is unlike all it knows, and which labels it may have.

The statistics behind it are kept with the model (see `fitting`); which of them are applied, and at which level, says
the task. It knows arrays and records, neither models nor texts.
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
class Marks:
    """What is said of rows beside their labels; None is what the rules of the model do not say.

    Attributes:
        unknown: bool (rows,).
        sets: bool (rows, labels).
        bounds: float64 (rows, 2), of a number the least and the greatest.
    """

    unknown: np.ndarray | None = None
    sets: np.ndarray | None = None
    bounds: np.ndarray | None = None


def ruled(record: Record, settings: DecisionSettings) -> Record:
    """Return the record with the rules that the settings name instead of its own.

    Raises:
        UserError: for a rule that the task has no use for, or the model no statistics, or two that exclude each other.
    """
    check_one_rule(settings)
    task = with_rules(record.task, settings)
    if task.risk:
        if record.risk_curve is None:
            raise _unfit(f"decision.risk={task.risk:g}", "risk")
        check_rows("risk", task.risk, record.risk_curve.rows, saved=True)
        task = promising(task, record.risk_curve)
    if task.unknown:
        if record.novelty is None:
            raise _unfit(f"decision.unknown={task.unknown:g}", "unknown")
        check_rows("unknown", task.unknown, record.novelty.kept.rows, saved=True)
    if task.coverage:
        if record.nonconformity is None:
            raise _unfit(f"decision.coverage={task.coverage:g}", "coverage")
        check_rows("coverage", task.coverage, record.nonconformity.rows, saved=True)
    return dataclasses.replace(record, task=task)


def _unfit(said: str, key: str) -> UserError:
    return UserError(
        f"{said}: this model, or the export of it, holds no validation scores to set a limit by; adapt it with "
        f"decision.{key}"
    )


def check_rows(key: str, value: float, rows: int, *, saved: bool = False) -> None:
    """Refuse a rule that so few validation rows say nothing about.

    Args:
        key: of the group `decision`.
        value: of the rule.
        rows: there are.
        saved: whether these are the rows of an adaptation that is over, so that no setting gives more.

    Raises:
        UserError: naming the key, its value and how many there must be.
    """
    fewest = {
        "risk": selective.min_rows,
        "unknown": lambda share: calibration_scores.min_rows(1 - share),
        "coverage": calibration_scores.min_rows,
    }
    needed = fewest[key](value)
    if rows < needed:
        there = f"this model was adapted with {rows:,}" if saved else f"there are {rows:,}"
        more = "adapt again with more of them" if saved else "give more rows"
        if key == "risk" and (least := _rounded_up(selective.min_risk(rows))) < 1:
            there += f", which promise no less than {least:g} even if the model is always right"
        raise UserError(
            f"decision.{key}={value:g} needs at least {needed:,} validation rows, and {there}: "
            f"{'lower' if key == 'coverage' else 'raise'} it, or {more} (data.validation_share)"
        )


def promising(task: Task, curve: RiskCurve) -> Task:
    """Return the task with the probability below which its model abstains, so that its risk is kept."""
    return dataclasses.replace(task, abstain_below=curve.threshold(task.risk))


def unpromised(task: Task, curve: RiskCurve | None) -> str | None:
    """Return what to say of a risk that no probability keeps; None where there is nothing to say."""
    if not task.risk or task.abstain_below <= 1 or curve is None:
        return None
    lowest = _rounded_up(curve.min_risk())
    least = f"The lowest that they promise is decision.risk={lowest:g}" if lowest < 1 else "They promise none"
    return (
        f"the model abstains on every text: however sure it has to be, its {curve.rows:,} validation rows do not show "
        f"that at most {percentage(task.risk)} of its labels are wrong (decision.risk={task.risk:g}). {least}; with "
        "more validation rows (data.validation_share) it would be lower"
    )


def _rounded_up(risk: float) -> float:
    """Return a risk in three digits after the point that is no less, or 1."""
    return min(1.0, math.ceil(risk * 1000) / 1000)


def needs_features(record: Record) -> bool:
    """Return whether what enters the output layer is asked for, beside the logits."""
    return bool(record.task.unknown) and record.novelty is not None and record.novelty.reads_features


def marks(record: Record, detector: Detector | None, logits: np.ndarray, features: np.ndarray | None) -> Marks:
    """Return what the rules of a model say of rows.

    Args:
        record: of the model.
        detector: its score of the unknown, where that needs features.
        logits: (rows, outputs).
        features: (rows, width), or None where `needs_features` says so.
    """
    task = record.task
    return Marks(
        unknown=strangeness(record, detector, logits, features) > limit_of(record) if task.unknown else None,
        sets=label_sets(task, logits, _reach(record)) if task.coverage and task.problem != "regression" else None,
        bounds=number_bounds(task, logits, _reach(record)) if task.coverage and task.problem == "regression" else None,
    )


def strangeness(
    record: Record, detector: Detector | None, logits: np.ndarray, features: np.ndarray | None
) -> np.ndarray:
    """Return float64 (rows,), the model's score of the unknown; for the arguments see `marks`."""
    assert record.novelty is not None
    return (detector or DETECTORS[record.novelty.score].of({})).scores(logits, features)


def limit_of(record: Record) -> float:
    """Return the score beyond which a text is called unknown."""
    return math.inf if record.novelty is None else record.novelty.kept.limit(1 - record.task.unknown)


def _reach(record: Record) -> float:
    return math.inf if record.nonconformity is None else record.nonconformity.limit(record.task.coverage)


def names_of(task: Task, chosen: np.ndarray) -> list[str]:
    """Return the labels of a row that are chosen, bool (labels,)."""
    return [name for name, yes in zip(task.labels, chosen, strict=True) if yes]
