"""Notes for the report on how calibration and decision rules worked on labelled rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.task import likeliest
from nlp_transfer.decision.rules import apply_rules, limit_of, novelty_scores, unreachable_risk
from nlp_transfer.evaluation.calibration import Calibration, calibration_error
from nlp_transfer.evaluation.conformal import covered
from nlp_transfer.evaluation.decisions import abstains, decide
from nlp_transfer.evaluation.formatting import number, percentage
from nlp_transfer.evaluation.hidden_classes import auroc, auroc_interval
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import DEFAULT_METRIC
from nlp_transfer.evaluation.selective import CONFIDENCE
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.artefact.record import Record
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.unknown import Detector

_BRIER = "Brier score"
_POOR_AUROC = 0.7  # below it, more than three of ten pairs of an unknown and a known row are ordered wrongly
OutputsAndFeatures = tuple[np.ndarray, np.ndarray | None]  # logits, and features if a rule needs them


def decision_notes(
    record: Record,
    detector: Detector | None,
    examples: Examples,
    answers: OutputsAndFeatures,
    foreign: Callable[[], OutputsAndFeatures] | None,
    *,
    confidence: float,
    in_sample: bool,
) -> list[str]:
    """Return sentences on the effect of calibration and decision rules.

    Args:
        record: of the model.
        detector: its novelty detector.
        examples: the rows, all with labels that the model knows.
        answers: the model's outputs for them.
        foreign: returns the outputs for rows with other labels; None: there are no such rows.
        confidence: of the intervals.
        in_sample: whether the rules were fitted on these rows.
    """
    present = examples.weights > 0
    logits, features = (None if part is None else part[present] for part in answers)
    assert logits is not None
    targets, sentences = examples.targets[present], []
    if record.task.risk:
        sentences.append(_risk_note(record, logits, targets, confidence, in_sample=in_sample))
    if record.task.unknown:
        foreign_answers = foreign and foreign()
        sentences.append(_unknown_note(record, detector, (logits, features), targets, foreign_answers, confidence))
    if record.task.coverage:
        results = apply_rules(record, detector, logits, features)
        if results.bounds is not None:
            low, high = results.bounds.T
            inside = (low <= targets) & (targets <= high)
            subject = "intervals should contain the true number"
            size = f"an interval is {number(float((high - low).mean()))} wide on average"
        else:
            assert results.sets is not None
            sizes, inside = results.sets.sum(axis=1), covered(results.sets, targets)
            subject = "sets of labels should contain the true one"
            single = (sizes == 1).mean()
            size = f"a set has {sizes.mean():.2f} labels on average, a single one in {single:.1%} of the rows"
        assert record.nonconformity is not None
        rows = None if in_sample else record.nonconformity.rows
        sentences.append(_coverage_note(subject, record.task.coverage, inside, size, confidence, rows))
    return sentences + _calibration_notes(record, examples, answers[0])


def _calibration_notes(record: Record, examples: Examples, logits: np.ndarray) -> list[str]:
    """Compare the figures of the calibrated outputs with those of the outputs as they were trained."""
    if record.task.problem == "regression":
        return []
    if record.calibration == Calibration():
        return ["The outputs were not calibrated."]
    before, after = (_calibration_figures(record, examples, each) for each in (record.calibration.undo(logits), logits))
    trained, calibrated = (
        ", ".join(f"{name} {number(figures[name])}" for name in figures) for figures in (before, after)
    )
    note = f"Without calibration: {trained}; calibrated ({record.calibration.described}): {calibrated}."
    if after[_BRIER] > before[_BRIER] and number(after[_BRIER]) != number(before[_BRIER]):
        note += " By the Brier score, calibration did not help on these rows."
    return [note]


def _calibration_figures(record: Record, examples: Examples, logits: np.ndarray) -> dict[str, float]:
    targets, weights = examples.targets, examples.weights
    metrics = compute(record.task, logits, targets, weights)
    figures = {"calibration error": calibration_error(record.task, logits, targets, weights), _BRIER: metrics["brier"]}
    if record.calibration.shifts:  # only shifts change decisions
        figures |= {name: metrics[name] for name in ("accuracy", DEFAULT_METRIC[record.task.problem])}
    return figures


def _unknown_note(
    record: Record,
    detector: Detector | None,
    answers: OutputsAndFeatures,
    targets: np.ndarray,
    foreign: OutputsAndFeatures | None,
    confidence: float,
) -> str:
    task, limit = record.task, limit_of(record)
    scores = novelty_scores(record, detector, *answers)
    right = _is_right(task, answers[0], targets)
    accepted = scores <= limit
    detector_name = "" if record.novelty is None else f", by the score {record.novelty.score!r}"
    words = (
        f"It calls {_share(~accepted, confidence)} of the rows unknown (target {task.unknown:.1%}"
        f"{detector_name}), and accepts and labels correctly {_share(right & accepted, confidence)} of all rows."
    )
    if foreign is None:
        area = record.novelty.rehearsed.get(record.novelty.score, 1.0) if record.novelty else 1.0
        if area < _POOR_AUROC:
            words += (
                " When known classes were hidden, their validation rows were barely distinguished from the others "
                f"(AUROC {number(area)}; .500 is chance): do not rely on it for labels close to the known ones."
            )
        return f"{words} All other figures use its best guess on every row."
    foreign_scores = novelty_scores(record, detector, *foreign)
    detected, area = foreign_scores > limit, auroc(scores, foreign_scores)
    low, high = auroc_interval(area, len(scores), len(foreign_scores), confidence=confidence)
    # A useful rule calls unknown rows unknown more often than known rows, whatever its limit.
    fails = detected.mean() <= 1 - accepted.mean() or area < _POOR_AUROC
    return (
        f"{words} Of {counted(len(foreign_scores), 'row')} with a label it does not know it calls "
        f"{_share(detected, confidence)} unknown (AUROC {number(area)} [{number(low)}, {number(high)}]; .500 is chance)"
        f"{': the rule barely distinguishes them from known rows' if fails else ''}; no other figure includes these."
    )


def _risk_note(record: Record, logits: np.ndarray, targets: np.ndarray, confidence: float, *, in_sample: bool) -> str:
    """Say whether the guarantee holds that at most a share of the given labels is wrong."""
    task = record.task
    if why := unreachable_risk(task, record.risk_curve):
        return f"{why[0].upper()}{why[1:]}."
    assert record.risk_curve is not None
    given = ~abstains(task, logits)
    wrong = ~_is_right(task, logits, targets)[given]
    words = (
        f"At most {percentage(task.risk)} of the labels it gives should be wrong, by a threshold set on "
        f"{counted(record.risk_curve.rows, 'validation row')} with {CONFIDENCE:.0%} confidence"
    )
    answered = f"it gives {_share(given, confidence)} of the rows a label"
    if in_sample:
        errors = f"and {wrong.mean():.1%} of these are wrong" if len(wrong) else "so none is wrong"
        return f"{words}: {answered}, {errors}, but the threshold was set on these rows, so they cannot check it."
    if not len(wrong):
        return f"{words}: {answered}, so these rows cannot check it."
    words = f"{words}: {answered}, and {_share(wrong, confidence)} of these are wrong"
    low, high = _share_interval(wrong, confidence)
    if low > task.risk:
        return f"{words}, more than the limit: these rows differ from the validation rows, or this is chance."
    is_unconfirmed = wrong.mean() <= task.risk < high
    return f"{words}{', too few rows to confirm it' if is_unconfirmed else ''}."


def _is_right(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return bool (rows,): whether the best guess is the true label, for soft labels the likeliest one."""
    return np.asarray(decide(task, logits) == likeliest(targets))


def _share(true: np.ndarray, confidence: float) -> str:
    """Return the share of true values with its Clopper-Pearson interval."""
    low, high = _share_interval(true, confidence)
    return f"{true.mean():.1%} [{low:.1%}, {high:.1%}]"


def _share_interval(true: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    bounds = binomtest(int(true.sum()), len(true)).proportion_ci(confidence)
    return float(bounds.low), float(bounds.high)


def _coverage_note(
    subject: str, wanted: float, inside: np.ndarray, size: str, confidence: float, rows: int | None
) -> str:
    """Say how often sets or intervals contain the truth; `rows` set their limit, None if the measured ones did."""
    from scipy.stats import beta

    words = f"Its {subject} in {wanted:.1%} of the rows and do in"
    if rows is None:
        return f"{words} {inside.mean():.1%}, but the limit was set on these rows; {size}."
    # Over random calibration sets of this size, coverage has a beta distribution (Vovk 2012).
    rank = math.ceil((rows + 1) * wanted - 1e-9)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    least, most = beta.ppf(tails, rank, rows + 1 - rank) if rank <= rows else (0.0, 1.0)
    return (
        f"{words} {_share(inside, confidence)}; with a limit set on {rows:,} validation rows, {least:.1%} to "
        f"{most:.1%} can be due to chance; {size}."
    )
