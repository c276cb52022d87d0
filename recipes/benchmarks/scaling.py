"""Whether a scale and a shift for each class calibrate better than one temperature: both on the rows of real probes.

    python recipes/benchmarks/scaling.py DATA_FOLDER [--datasets trec tweet_emotion ...] [--per-class 40]

DATA_FOLDER holds one folder a data set with train, validation and test files. Vector scaling (Guo et al. 2017, section
4.2) is fitted on validation with a normal prior on the logarithm of each scale, around the temperature, and on each
shift; "weak" has a standard deviation of 1, "strong" one of 0.32. "taken" says whether its log-loss, cross-validated in
five folds of validation, is lower than that of the temperature by a standard error. Log-loss, Brier score and expected
calibration error are of test. Either could be folded into an output layer; isotonic regression of every probability
could not, so that nobody's transformers would have it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.unknown import divide

DATASETS = ("trec", "tweet_emotion", "banking77", "clinc_oos:oos")
PRIORS = {"weak": 1.0, "strong": 10.0}
FOLDS = 5


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help="or name:label, whose rows are left out")
    parser.add_argument("--per-class", type=int, default=40, help="training rows a label")
    arguments = parser.parse_args(words)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}; {versions}")
    print(f"{arguments.per_class:,} training rows a label\n")
    print(
        "| data set | prior | taken | held-out log-loss | log-loss | Brier | calibration error |\n" + "|---" * 7 + "|"
    )
    for name in arguments.datasets:
        measure(name, arguments)


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Print the rows of a data set."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.calibration import calibration_error, temperature
    from nlp_transfer.evaluation.metrics import compute
    from nlp_transfer.evaluation.sums import row_losses
    from nlp_transfer.head import solve_head
    from nlp_transfer.preparation import prepare
    from nlp_transfer.strategies.convex import is_lower

    with tempfile.TemporaryDirectory() as scratch:
        divide(arguments.data, name, 0, Path(scratch), hidden=0)
        words = ["data=files", f"data.path={scratch}", "data.unseen=ignore", "strategy=probe"]
        settings = compose(None, [*words, f"data.per_class={arguments.per_class}"])
        corpus = load_corpus(settings.data)
        prepared = prepare(settings, corpus, Path(scratch) / "run")
        solve_head(prepared)
        (held, truth), (test, wanted) = (
            (prepared.outputs(split).astype(np.float64), corpus.splits[split].targets)
            for split in ("validation", "test")
        )
    task, folds = corpus.task, np.random.default_rng(0).integers(FOLDS, size=len(truth))

    def scale(rows: np.ndarray) -> float:
        return 1 / temperature(task, held[rows], truth[rows], np.ones(len(rows)))

    def figures(logits: np.ndarray) -> list[float]:
        found = compute(task, logits, wanted)
        return [found["log_loss"], found["brier"], calibration_error(task, logits, wanted, np.ones(len(wanted)))]

    for prior, precision in PRIORS.items():
        losses = np.zeros((2, len(truth)))
        for fold in range(FOLDS):
            rest, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            one = scale(rest)
            scales, shifts = vector(held[rest], truth[rest], one, precision)
            losses[0, own] = row_losses(task, held[own] * one, truth[own])
            losses[1, own] = row_losses(task, held[own] * scales + shifts, truth[own])
        taken = is_lower(losses[1], losses[0], np.ones(len(truth)))
        one = scale(np.arange(len(truth)))
        scales, shifts = vector(held, truth, one, precision)
        pairs = zip(figures(test * one), figures(test * scales + shifts), strict=True)
        cells = " | ".join(f"{before:.3f} → {after:.3f}" for before, after in [losses.mean(axis=1), *pairs])
        print(f"| {name} | {prior} | {'yes' if taken else 'no'} | {cells} |", flush=True)


def vector(logits: np.ndarray, truth: np.ndarray, one: float, precision: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a scale and a shift for each class, (classes,) both, the likeliest ones under the prior.

    Args:
        logits: (rows, classes).
        truth: (rows,).
        one: the scale around which all are, one by the temperature.
        precision: of the prior.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    rows, classes = np.arange(len(truth)), logits.shape[1]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scales, shifts = one * np.exp(flat[:classes]), flat[classes:]
        likely = log_softmax(logits * scales + shifts, axis=1)
        surplus = np.exp(likely)
        surplus[rows, truth] -= 1
        slope = np.concatenate([(surplus * logits).sum(axis=0) * scales, surplus.sum(axis=0)])
        return float(precision / 2 * (flat @ flat) - likely[rows, truth].sum()), slope + precision * flat

    flat = minimize(cost, np.zeros(2 * classes), jac=True, method="L-BFGS-B").x
    return one * np.exp(flat[:classes]), flat[classes:]


if __name__ == "__main__":
    main()
