"""Compare an exported model with the original: outputs, time and size, as values, JSON and a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.decisions import abstains, decide, probabilities
from nlp_transfer.evaluation.metrics import compute, selection_metric
from nlp_transfer.evaluation.names import METRICS
from nlp_transfer.evaluation.tables import print_table, simple_table
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.data.tokens import TokenSpec
    from nlp_transfer.predicting.exported import Exported
    from nlp_transfer.predicting.predict import Predictor

TOLERANCE, RELATIVE = 1e-3, 1e-5  # of a logit; the relative one matters for regressions with large values
_TIE = 1e-5  # logits closer than this are a tie, which rounding decides
_BATCHES = {1: 21, 32: 7}  # batch size → number of timed repetitions
_SECONDS = 5.0  # time limit for each batch size, after the first repetition
_MAX_PROBE = 512  # tokens of a probe text; more would need gigabytes for attention
_SENTENCES = (
    "a",
    "Where is my order? I have been waiting for two weeks.",
    "It was the best of times, it was the worst of times.",
    "Not bad at all :-)",
    "Größe, naïve, 12.5 % — 東京, Привет!",
    "The meeting has been moved to Tuesday, please tell everybody who was invited and cancel the room upstairs.",
)
_OTHERS = ("a", "no")  # second texts of pairs, short so that truncation leaves room for the first


@dataclass(frozen=True)
class Figure:
    """A number for the model, and the same for the export."""

    model: float
    export: float


@dataclass(frozen=True)
class Fidelity:
    """How an export differs from its model.

    Attributes:
        on: "validation", the rows of the run, or "sentences", a few fixed ones, if there are no rows.
        rows: how many of them were compared; the sentences are always compared as well.
        metrics: on the rows, by name; none on the sentences, which have no labels.
        equal_decisions: share of rows with equal decisions; regression: with values equal to a thousandth.
        changed_decisions: number of rows and sentences with another decision, without ties.
        largest_difference: of any logit.
        excess: the largest difference over what rounding explains; more than 1 is no rounding.
        shapes: (texts, tokens) of forward passes that were compared, some of them; the graph was traced at another.
        milliseconds: for a text, from the text to its logits, median; by texts at once.
        threads: that computed while it was timed.
        device: on which the model was timed; the export runs on the CPU.
        megabytes: of the weights.
    """

    on: str
    rows: int
    metrics: dict[str, Figure]
    equal_decisions: float
    changed_decisions: int
    largest_difference: float
    excess: float
    shapes: list[tuple[int, int]]
    milliseconds: dict[str, Figure]
    threads: int
    device: str
    megabytes: Figure

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values; an undefined metric (nan) becomes None."""
        metrics = {
            name: {side: None if np.isnan(value) else value for side, value in asdict(figure).items()}
            for name, figure in self.metrics.items()
        }
        return asdict(self) | {"metrics": metrics}

    @property
    def is_rounding(self) -> bool:
        """Whether the export differs from the model by rounding only."""
        return self.excess <= 1 and not self.changed_decisions


def measure(
    predictor: Predictor, exported: Exported, rows: Examples | None, *, metric: str, threads: int, megabytes: Figure
) -> Fidelity:
    """Compare an export with its model.

    Args:
        predictor: the model, in float32.
        exported: its export, with the same number of threads.
        rows: with labels, or None.
        metric: name of the main metric, or "auto".
        threads: number of CPU threads while both are timed.
        megabytes: size of both.

    Raises:
        UserError: if outputs of the export are not finite.
    """
    task = predictor.record.task
    texts, pairs = _probes(predictor.record.tokens, pair=task.pair)
    shapes: set[tuple[int, int]] = set()
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    # In batches of several sizes, because a graph may be wrong for shapes other than the traced one.
    for part in (slice(0, 1), slice(1, 4), slice(None)):
        some = texts[part], None if pairs is None else pairs[part]
        shapes |= {batch["input_ids"].shape for _, batch in exported.batches(*some)}
        answers.append(_both(predictor, exported, *some))
    metrics: dict[str, Figure] = {}
    if rows is not None:
        texts, pairs = list(rows.texts), None if rows.pairs is None else list(rows.pairs)
        expected, actual = _both(predictor, exported, texts, pairs)
        answers.append((expected, actual))
        metrics = _metrics(task, expected, actual, rows, metric)
    expected, actual = answers[-1]
    equal = _equal(task, expected, actual)
    all_expected, all_actual = (np.concatenate(side) for side in zip(*answers, strict=True))
    difference = np.abs(all_expected - all_actual)
    return Fidelity(
        on="sentences" if rows is None else "validation",
        rows=len(expected),
        metrics=metrics,
        equal_decisions=float(equal.mean()),
        changed_decisions=int((~_equal(task, all_expected, all_actual) & ~_tied(task, all_expected, all_actual)).sum()),
        largest_difference=float(difference.max()),
        excess=float((difference / (TOLERANCE + RELATIVE * np.abs(all_expected))).max()),
        shapes=sorted((int(count), int(width)) for count, width in shapes),
        milliseconds=_timed(predictor, exported, texts, pairs, threads),
        threads=threads,
        device=str(predictor.accelerator.device),
        megabytes=megabytes,
    )


def render(fidelity: Fidelity, console: Console, *, title: str) -> None:
    """Print a table that compares the model with its export, in 80 columns."""
    what = f"{fidelity.rows:,} {'validation rows' if fidelity.on == 'validation' else 'fixed sentences'}"
    table = simple_table(f"{title}: {what}", gap=2)
    table.add_column("", no_wrap=True)
    for name in ("model", "export", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, figure in fidelity.metrics.items():
        table.add_row(name, f"{figure.model:.4f}", f"{figure.export:.4f}", f"{figure.export - figure.model:+.4f}")
    table.add_row("equal decisions", "", f"{fidelity.equal_decisions:.2%}", "")
    table.add_row("largest difference of a logit", "", "", f"{fidelity.largest_difference:.2g}")
    threads = counted(fidelity.threads, "thread")
    for texts, figure in fidelity.milliseconds.items():
        name = f"ms per text, {texts} at once, {threads}"
        table.add_row(name, f"{figure.model:.2f}", f"{figure.export:.2f}", f"× {figure.export / figure.model:.2f}")
    size = fidelity.megabytes
    table.add_row("MB", f"{size.model:.1f}", f"{size.export:.1f}", f"× {size.export / size.model:.2f}")
    print_table(table, console, gap=2)


def trace_texts(*, pair: bool) -> tuple[list[str], list[str] | None]:
    """Return two short texts of unequal length, to trace a graph with."""
    return list(_SENTENCES[2:4]), list(_OTHERS) if pair else None


def _probes(spec: TokenSpec, *, pair: bool) -> tuple[list[str], list[str] | None]:
    """Return texts from one word up to the maximum length of the model."""
    texts = [*_SENTENCES, " ".join(["word"] * min(spec.limit, _MAX_PROBE))]
    if not pair:
        return texts, None
    others = [_OTHERS[index % 2] for index in range(len(texts))]
    return (others, texts) if spec.pair_truncation == "only_second" else (texts, others)


def _both(
    predictor: Predictor, exported: Exported, texts: Sequence[str], pairs: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    expected, actual = predictor.logits(texts, pairs), exported.logits(texts, pairs)
    if not np.isfinite(actual).all():
        raise UserError("outputs of the exported model are infinite or not a number; nothing is written")
    return expected, actual


def _metrics(task: Task, expected: np.ndarray, actual: np.ndarray, rows: Examples, metric: str) -> dict[str, Figure]:
    """Return the accuracy, if the problem type has one, and the main metric."""
    names = [name for name in METRICS[task.problem] if name in ("accuracy", selection_metric(task, metric))]
    model, export = (compute(task, logits, rows.targets, rows.weights) for logits in (expected, actual))
    return {name: Figure(model[name], export[name]) for name in names}


def _equal(task: Task, expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return for each row whether both decide, and abstain, equally."""
    ours, theirs = decide(task, expected), decide(task, actual)
    if task.problem == "regression":
        return np.isclose(theirs, ours, rtol=RELATIVE, atol=TOLERANCE)
    same = ours == theirs if ours.ndim == 1 else (ours == theirs).all(axis=1)
    return same & (abstains(task, expected) == abstains(task, actual))


def _tied(task: Task, expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return for each row whether the model's own decision depends on rounding."""
    from scipy.special import logit

    if task.problem == "regression":
        return np.zeros(len(expected), bool)
    if task.problem == "multi_label":
        differ = decide(task, expected) != decide(task, actual)
        return (~differ | (np.abs(expected - logit(np.asarray(task.threshold))) <= _TIE)).all(axis=1)
    chosen = np.take_along_axis(expected, actual.argmax(axis=1)[:, None], axis=1)[:, 0]
    same_rule = abstains(task, expected) == abstains(task, actual)
    at_threshold = np.abs(probabilities(task, expected).max(axis=1) - task.abstain_below) <= _TIE
    return (expected.max(axis=1) - chosen <= _TIE) & (same_rule | at_threshold)


def _timed(
    predictor: Predictor, exported: Exported, texts: Sequence[str], pairs: Sequence[str] | None, threads: int
) -> dict[str, Figure]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {str(size): _median(predictor, exported, texts, pairs, size, times) for size, times in _BATCHES.items()}
    finally:
        torch.set_num_threads(before)


def _median(
    predictor: Predictor, exported: Exported, texts: Sequence[str], pairs: Sequence[str] | None, size: int, times: int
) -> Figure:
    """Return milliseconds per text; both are timed alternately, so that other processes slow both equally."""
    seconds: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    for repetition in range(times + 1):
        rows = [(repetition * size + index) % len(texts) for index in range(size)]
        batch = [texts[row] for row in rows], None if pairs is None else [pairs[row] for row in rows]
        for model, times_of_model in zip((predictor, exported), seconds, strict=True):
            start = time.perf_counter()
            model.logits(*batch)
            times_of_model.append(time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS and repetition:
            break
    # The first repetition is a warm-up, in which libraries choose their kernels.
    model_ms, export_ms = (1000 * statistics.median(each[1:]) / size for each in seconds)
    return Figure(round(model_ms, 4), round(export_ms, 4))
