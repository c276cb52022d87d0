"""Class shifts as calibration: one temperature, half a shift, a whole shift, and vector scaling.

    python recipes/benchmarks/scaling.py DATA_FOLDER [--datasets trec scicite ...] [--per-class 8 64 100000] [--seeds 2]
        [--few]

DATA_FOLDER has one folder per data set with train, validation and test files. Probes are trained on --per-class rows of
each class, or on all rows with their natural class frequencies, and calibrated on all validation rows, whose class
frequencies are those of the test rows (with --few, on as many as there are training rows). Compared are: a temperature
alone; the temperature with half and with all of the maximum-a-posteriori class shifts; "a run", which takes half a
shift where that improves the validation score ("taken" counts the seeds); and vector scaling (Guo et al. 2017, section
4.2), with a scale per class as well: shifts and log scales have normal priors of deviation 1, the latter around the
temperature.
Isotonic regression of every probability is not compared, because it cannot be folded into an output layer. The output
is one table of test figures, means over the seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.tables import markdown_header, markdown_row
from recipes.benchmarks.unknown import write_splits

DATASETS = ("trec", "tweet_emotion", "scicite", "sst5", "cr", "banking77")
FIGURES = ("accuracy", "macro_f1", "log_loss", "calibration error")
SHARED_WORDS = ["data=files", "strategy=probe"]


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--per-class", type=int, nargs="+", default=[8, 64, 100_000], help="training rows per label")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--few", action="store_true", help="no more validation rows than training rows")
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    print(markdown_header(["data set", "rows per class", "taken", "calibrated by", *FIGURES]))
    for name in arguments.datasets:
        for rows in arguments.per_class:
            show(name, rows, [measure(arguments, name, rows, seed) for seed in range(arguments.seeds)])


def show(name: str, rows: int, runs: list[dict[str, Any]]) -> None:
    """Print the table rows of a data set, one per calibration method."""
    taken = sum(run.pop("taken") for run in runs)
    first = [name, str(rows) if rows < 100_000 else "all", f"{taken} of {len(runs)}"]
    for method in runs[0]:
        means = np.mean([[run[method][figure] for figure in FIGURES] for run in runs], axis=0)
        print(markdown_row([*first, method, *(f"{value:.3f}" for value in means)]), flush=True)
        first = ["", "", ""]


def measure(arguments: argparse.Namespace, name: str, rows: int, seed: int) -> dict[str, Any]:
    """Return the test figures of a probe by calibration method, and whether the run took a shift."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.calibration import Calibration, calibrate, calibration_error, likeliest_shifts
    from nlp_transfer.evaluation.metrics import compute
    from nlp_transfer.running.head import solve_head
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        write_splits(arguments.data, name, 0, Path(scratch), hidden=0)
        words = [*SHARED_WORDS, f"data.path={scratch}", f"data.per_class={rows}", f"seed={seed}"]
        corpus = load_corpus(compose(None, words).data, seed=seed)
        if arguments.few:
            words.append(f"data.validation_limit={len(corpus.splits['train'])}")
        settings = compose(None, words)
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "run")
        solve_head(prepared)
        (validation, truth), (test, targets) = (
            (prepared.outputs(split).astype(np.float64), corpus.splits[split].targets)
            for split in ("validation", "test")
        )
    weights = np.ones(len(truth))
    chosen = calibrate(corpus.task, validation, truth, weights, metric="macro_f1")
    temperature = Calibration(chosen.temperature)
    shifts = likeliest_shifts(corpus.task, temperature.apply(validation), truth, weights)
    scales, vector_shifts = vector_scaling(validation, truth, 1 / chosen.temperature)
    methods = {
        "temperature": temperature.apply(test),
        "half a shift": Calibration(chosen.temperature, tuple(shifts / 2)).apply(test),
        "a shift": Calibration(chosen.temperature, tuple(shifts)).apply(test),
        "scale and shift": test * scales + vector_shifts,
        "a run": chosen.apply(test),
    }
    return {"taken": bool(chosen.shifts)} | {
        method: compute(corpus.task, logits, targets)
        | {"calibration error": calibration_error(corpus.task, logits, targets, np.ones(len(targets)))}
        for method, logits in methods.items()
    }


def vector_scaling(logits: np.ndarray, truth: np.ndarray, center: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the maximum-a-posteriori scale and shift of each class, (classes,) each.

    Args:
        logits: (rows, classes).
        truth: class index of each row, (rows,).
        center: the scale at which the prior is centred, 1 / temperature.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    rows, classes = np.arange(len(truth)), logits.shape[1]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scales, shifts = center * np.exp(flat[:classes]), flat[classes:]
        log_likelihoods = log_softmax(logits * scales + shifts, axis=1)
        residuals = np.exp(log_likelihoods)
        residuals[rows, truth] -= 1
        gradient = np.concatenate([(residuals * logits).sum(axis=0) * scales, residuals.sum(axis=0)])
        return float(flat @ flat / 2 - log_likelihoods[rows, truth].sum()), gradient + flat

    flat = minimize(cost, np.zeros(2 * classes), jac=True, method="L-BFGS-B").x
    return center * np.exp(flat[:classes]), flat[classes:]


if __name__ == "__main__":
    main()
