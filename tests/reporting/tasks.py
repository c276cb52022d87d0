"""Measured models of every problem type, made of numbers: nothing is trained."""

from __future__ import annotations

import numpy as np

from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.baselines import Baseline
from nlp_transfer.evaluation.report import evaluate_predictions
from nlp_transfer.reporting.evidence import Evaluation, Evidence, evidence_of
from nlp_transfer.settings import EvaluationSettings, Settings

RESAMPLES = 30
HOSTILE = (
    "<script>alert(1)</script>",
    "שלום עולם",
    "👩‍👩‍👧 $x^2$ & \"quoted\" 'so'",
    "a|b`c`" + "very long name " * 12,
)


def evidence(
    problem: str = "single_label",
    *,
    rows: int = 120,
    names: tuple[str, ...] = ("card", "refund", "film"),
    soft: bool = False,
    weighted: bool = False,
    pair: bool = False,
    domains: bool = False,
    baselines: bool = True,
    train: bool = True,
    split: str = "test",
    text: str = "where is my parcel number {}",
    steps: int = 0,
    seed: int = 0,
    shuffled: bool = False,
) -> Evidence:
    """A model that is better than chance, and a baseline that is not."""
    rng = np.random.default_rng(seed)
    names = () if problem == "regression" else names
    task = Task(problem, names, pair=pair, threshold=0.4 if problem == "multi_label" else 0.5)
    if problem == "regression":
        targets = rng.normal(size=rows).astype(np.float32)
        logits = (targets + rng.normal(size=rows) / 2)[:, None]
    elif problem == "multi_label":
        targets = (rng.random((rows, len(names))) < 0.3).astype(np.float32)
        logits = 3 * targets - 1.5 + rng.normal(size=targets.shape)
    else:
        targets = rng.integers(max(1, len(names) - 1), size=rows)  # the last label has no row
        logits = rng.normal(size=(rows, len(names)))
        logits[np.arange(rows), targets] += 1.5
        if soft:
            targets = (0.75 * np.eye(len(names))[targets] + 0.25 / len(names)).astype(np.float32)
    weights = (rng.integers(0, 3, rows) / 2 if weighted else np.ones(rows)).astype(np.float32)
    texts = [text.format(row) for row in range(rows)]
    examples = Examples(
        texts,
        [f"is it late, {row}?" for row in range(rows)] if pair else None,
        targets,
        weights,
        [f"test-{row:04d}" for row in range(rows)],
        [("mail", "chat", HOSTILE[0])[row % 3] for row in range(rows)] if domains else None,
    )
    beside = [
        Baseline("majority", np.tile(logits[:1], (rows, 1))),
        Baseline("tfidf", logits + rng.normal(size=logits.shape)),
    ]
    if shuffled:
        order = rng.permutation(rows)
        logits = logits[order]
        beside = [Baseline(baseline.name, baseline.logits[order]) for baseline in beside]
        examples = examples.take(order.tolist())
    settings = Settings(seed=seed, evaluation=EvaluationSettings(resamples=RESAMPLES))
    beside = beside if baselines else []
    report = evaluate_predictions(
        task, examples, logits, baselines=beside, settings=settings.evaluation, seed=seed, split=split
    )
    log = [{"step": step, "loss": 1 / step} for step in range(1, steps + 1)]
    log += [{"split": "validation", "step": steps, report.metric: 0.5}] if steps else []
    learned = Examples(
        ["another text"] * 3, ["another"] * 3 if pair else None, targets[:3], weights[:3], list("abc"), None
    )
    return evidence_of(
        task,
        Evaluation(examples, logits, beside, report, learned if train else None),
        settings,
        title="intents-probe",
        facts=[("encoder", "tiny"), ("data", "tickets.csv")],
        costs=[("steps", f"{steps:,}")],
        steps=log,
    )
