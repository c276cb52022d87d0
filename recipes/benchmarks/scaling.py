"""What a shift for each class is worth beside one temperature, half of it or all, and whether a scale adds to it.

    python recipes/benchmarks/scaling.py DATA_FOLDER [--datasets trec scicite ...] [--per-class 8 64 100000] [--seeds 2]

DATA_FOLDER holds one folder a data set with train, validation and test files. Probes are taught by so many rows of each
class, or by all rows as they come, and calibrated on all validation rows, which come as test rows do, or on as many as
there are training rows (--few): with a temperature alone; with half of the likeliest shifts and with all of them; as a
run has it, which takes half where that pays ("taken" counts the seeds); and with vector scaling (Guo et al. 2017,
section 4.2), which has a scale for each class as well, with a normal prior of deviation 1 on its logarithm around the
temperature. Test figures, means over the seeds. Isotonic regression of every probability could not be folded into an
output layer, so that nobody's transformers would have it.
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
from recipes.benchmarks.unknown import divide

DATASETS = ("trec", "tweet_emotion", "scicite", "sst5", "cr", "banking77")
FIGURES = ("accuracy", "macro_f1", "log_loss", "calibration error")
WORDS = ["data=files", "strategy=probe"]


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--per-class", type=int, nargs="+", default=[8, 64, 100_000], help="training rows a label")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--few", action="store_true", help="no more validation rows than training rows")
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    print(f"| data set | rows a class | taken | calibrated by | {' | '.join(FIGURES)} |")
    print("|---" * (4 + len(FIGURES)) + "|")
    for name in arguments.datasets:
        for rows in arguments.per_class:
            show(name, rows, [measure(arguments, name, rows, seed) for seed in range(arguments.seeds)])


def show(name: str, rows: int, found: list[dict[str, Any]]) -> None:
    """Print the rows of a data set."""
    taken = sum(each.pop("taken") for each in found)
    first = f"| {name} | {rows if rows < 100_000 else 'all'} | {taken} of {len(found)}"
    for way in found[0]:
        means = np.mean([[each[way][figure] for figure in FIGURES] for each in found], axis=0)
        print(f"{first} | {way} | {' | '.join(f'{value:.3f}' for value in means)} |", flush=True)
        first = "| | | "


def measure(arguments: argparse.Namespace, name: str, rows: int, seed: int) -> dict[str, Any]:
    """Return the test figures of a probe by how it is calibrated."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.calibration import Calibration, calibrate, calibration_error, likeliest_shifts
    from nlp_transfer.evaluation.metrics import compute
    from nlp_transfer.running.head import solve_head
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        divide(arguments.data, name, 0, Path(scratch), hidden=0)
        words = [*WORDS, f"data.path={scratch}", f"data.per_class={rows}", f"seed={seed}"]
        corpus = load_corpus(compose(None, words).data, seed=seed)
        if arguments.few:
            words.append(f"data.validation_limit={len(corpus.splits['train'])}")
        settings = compose(None, words)
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "run")
        solve_head(prepared)
        (held, truth), (test, wanted) = (
            (prepared.outputs(split).astype(np.float64), corpus.splits[split].targets)
            for split in ("validation", "test")
        )
    known = corpus.task, held, truth, np.ones(len(truth))
    found = calibrate(*known, metric="macro_f1")
    plain = Calibration(found.temperature)
    shifts = likeliest_shifts(corpus.task, plain.apply(held), *known[2:])
    scales, others = vector(held, truth, 1 / found.temperature)
    ways = {
        "temperature": plain.apply(test),
        "half a shift": Calibration(found.temperature, tuple(shifts / 2)).apply(test),
        "a shift": Calibration(found.temperature, tuple(shifts)).apply(test),
        "scale and shift": test * scales + others,
        "a run": found.apply(test),
    }
    return {"taken": bool(found.shifts)} | {
        way: compute(corpus.task, logits, wanted)
        | {"calibration error": calibration_error(corpus.task, logits, wanted, np.ones(len(wanted)))}
        for way, logits in ways.items()
    }


def vector(logits: np.ndarray, truth: np.ndarray, one: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a scale and a shift for each class, (classes,) both, the likeliest ones under the prior.

    Args:
        logits: (rows, classes).
        truth: (rows,).
        one: the scale around which all are, one by the temperature.
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
        return float(flat @ flat / 2 - likely[rows, truth].sum()), slope + flat

    flat = minimize(cost, np.zeros(2 * classes), jac=True, method="L-BFGS-B").x
    return one * np.exp(flat[:classes]), flat[classes:]


if __name__ == "__main__":
    main()
