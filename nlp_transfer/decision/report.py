"""What the rules of a model came to on rows whose labels are known, in sentences for the report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.task import likeliest
from nlp_transfer.decision.rules import limit_of, marks, strangeness, unpromised
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
_HARDLY = 0.7  # an AUROC; below it more than three of ten pairs of a strange and a known row are ordered wrongly
_FAILS = ": the rule hardly tells them from known rows"
Answers = tuple[np.ndarray, np.ndarray | None]  # logits, and features where a rule reads them


def said_of(
    record: Record,
    detector: Detector | None,
    examples: Examples,
    answers: Answers,
    foreign: Callable[[], Answers] | None,
    *,
    confidence: float,
    in_sample: bool,
) -> list[str]:
    """Return what calibration and rules came to.

    Args:
        record: of the model.
        detector: its score of the unknown.
        examples: the rows, all with labels that the model knows.
        answers: of the model to them.
        foreign: returns those to rows with other labels; None: there are no such rows.
        confidence: of the intervals.
        in_sample: whether the limits were set by these rows.
    """
    present = examples.weights > 0
    logits, features = (None if part is None else part[present] for part in answers)
    assert logits is not None
    targets, sentences = examples.targets[present], []
    if record.task.risk:
        sentences.append(_risk(record, logits, targets, confidence, in_sample=in_sample))
    if record.task.unknown:
        strangers = foreign and foreign()
        sentences.append(_unknown(record, detector, (logits, features), targets, strangers, confidence))
    if record.task.coverage:
        said = marks(record, detector, logits, features)
        if said.bounds is not None:
            low, high = said.bounds.T
            inside = (low <= targets) & (targets <= high)
            what = "intervals are to hold the true number"
            size = f"an interval is {number(float((high - low).mean()))} wide on average"
        else:
            assert said.sets is not None
            sizes, inside = said.sets.sum(axis=1), covered(said.sets, targets)
            what = "sets of labels are to hold the true one"
            one = (sizes == 1).mean()
            size = f"a set holds {sizes.mean():.2f} labels on average, a single one in {one:.1%} of the rows"
        assert record.nonconformity is not None
        rows = None if in_sample else record.nonconformity.rows
        sentences.append(_coverage(what, record.task.coverage, inside, size, confidence, rows))
    return sentences + _calibrated(record, examples, answers[0])


def _calibrated(record: Record, examples: Examples, logits: np.ndarray) -> list[str]:
    """Return what the calibration of a model came to: its figures, and those of its outputs as they were trained."""
    if record.task.problem == "regression":
        return []
    if record.calibration == Calibration():
        return ["Nothing was calibrated: the outputs are as they were trained."]
    before, after = (_honesty(record, examples, each) for each in (record.calibration.undo(logits), logits))
    trained, calibrated = (
        ", ".join(f"{name} {number(figures[name])}" for name in figures) for figures in (before, after)
    )
    said = f"As trained: {trained}; calibrated ({record.calibration.described}): {calibrated}."
    if after[_BRIER] > before[_BRIER] and number(after[_BRIER]) != number(before[_BRIER]):
        said += " By the Brier score it did not help on these rows."
    return [said]


def _honesty(record: Record, examples: Examples, logits: np.ndarray) -> dict[str, float]:
    targets, weights = examples.targets, examples.weights
    figures = compute(record.task, logits, targets, weights)
    shown = {"calibration error": calibration_error(record.task, logits, targets, weights)}
    shown[_BRIER] = figures["brier"]
    if record.calibration.shifts:  # decisions change by shifts alone
        shown |= {name: figures[name] for name in ("accuracy", DEFAULT_METRIC[record.task.problem])}
    return shown


def _unknown(
    record: Record,
    detector: Detector | None,
    answers: Answers,
    targets: np.ndarray,
    foreign: Answers | None,
    confidence: float,
) -> str:
    task, limit = record.task, limit_of(record)
    known = strangeness(record, detector, *answers)
    right = _right(task, answers[0], targets)
    taken = known <= limit
    score = "" if record.novelty is None else f", by the score {record.novelty.score!r}"
    words = (
        f"It calls {_share(~taken, confidence)} of the rows unknown ({task.unknown:.1%} were asked for{score}), "
        f"and takes {_share(right & taken, confidence)} of all rows for known and labels them right."
    )
    if foreign is None:
        rehearsed = record.novelty.rehearsed.get(record.novelty.score, 1.0) if record.novelty else 1.0
        if rehearsed < _HARDLY:
            words += (
                f" With classes hidden, validation rows of these were hardly told from the others (AUROC "
                f"{number(rehearsed)}; .500 is chance): do not rely on it for labels near the known ones."
            )
        return f"{words} All figures count its best guess on every row."
    strange = strangeness(record, detector, *foreign)
    called, area = strange > limit, auroc(known, strange)
    low, high = auroc_interval(area, len(known), len(strange), confidence=confidence)
    # Where a rule is worth something it finds more strange rows than known ones, whatever its limit is.
    failing = called.mean() <= 1 - taken.mean() or area < _HARDLY
    return (
        f"{words} Of {counted(len(strange), 'row')} with a label it does not know it calls "
        f"{_share(called, confidence)} unknown (AUROC {number(area)} [{number(low)}, {number(high)}]; .500 is chance)"
        f"{_FAILS if failing else ''}; no other figure counts these."
    )


def _risk(record: Record, logits: np.ndarray, targets: np.ndarray, confidence: float, *, in_sample: bool) -> str:
    """Say what came of the promise that at most a share of the labels given is wrong."""
    task = record.task
    if why := unpromised(task, record.risk_curve):
        return f"{why[0].upper()}{why[1:]}."
    assert record.risk_curve is not None
    given = ~abstains(task, logits)
    wrong = ~_right(task, logits, targets)[given]
    words = (
        f"Of the labels it gives at most {percentage(task.risk)} are to be wrong, by a probability that "
        f"{counted(record.risk_curve.rows, 'validation row')} set with {CONFIDENCE:.0%} confidence"
    )
    answered = f"it gives {_share(given, confidence)} of the rows a label"
    if in_sample:
        found = f"and {wrong.mean():.1%} of these are wrong" if len(wrong) else "so that none is wrong"
        return f"{words}: {answered}, {found}, but these rows set it themselves and cannot check it."
    if not len(wrong):
        return f"{words}: {answered}, so that they say nothing of it."
    words = f"{words}: {answered}, and {_share(wrong, confidence)} of these are wrong"
    low, high = _ends(wrong, confidence)
    if low > task.risk:
        return f"{words}, more than was promised: these rows are unlike those of validation, or it was bad luck."
    return f"{words}{'' if high <= task.risk else ', too few rows to confirm it' if wrong.mean() <= task.risk else ''}."


def _right(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return bool (rows,): whether the best guess is the true label; of a distribution the likeliest one."""
    return np.asarray(decide(task, logits) == likeliest(targets))


def _share(true: np.ndarray, confidence: float) -> str:
    """Return how many of the rows it is true of, with the interval of Clopper and Pearson."""
    low, high = _ends(true, confidence)
    return f"{true.mean():.1%} [{low:.1%}, {high:.1%}]"


def _ends(true: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    ends = binomtest(int(true.sum()), len(true)).proportion_ci(confidence)
    return float(ends.low), float(ends.high)


def _coverage(what: str, wanted: float, inside: np.ndarray, size: str, confidence: float, rows: int | None) -> str:
    """Say what came of the promise; `rows`: by which the limit was set, None where that is these rows themselves."""
    from scipy.stats import beta

    words = f"Its {what} in {wanted:.1%} of the rows and do in"
    if rows is None:
        return f"{words} {inside.mean():.1%}, but these rows set the limit themselves; {size}."
    # Over limits that so many rows may set, coverage has a beta distribution (Vovk 2012).
    rank = math.ceil((rows + 1) * wanted - 1e-9)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    least, most = beta.ppf(tails, rank, rows + 1 - rank) if rank <= rows else (0.0, 1.0)
    return (
        f"{words} {_share(inside, confidence)}; with a limit that {rows:,} validation rows set, chance alone may "
        f"make it {least:.1%} to {most:.1%}; {size}."
    )
