"""How long a training is to be: passes over the rows, and optimizer steps that there are at least.

    python recipes/benchmarks/steps.py DATA_FOLDER [--datasets trec ...] [--per-class 8 | --rows 1000] [--passes 2 4]
        [--steps 0] [--strategies finetune] [--seeds 2] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. So many training rows, of each class or
in all, drawn by the seed, and as many validation rows in all to choose and calibrate by, are trained on in so many
passes, or in at least so many steps of 16 rows; all test rows are measured. Means over the seeds, and the accuracy of
each; "gain" is the difference in accuracy to the first row of its data sets and strategy, with a 95 % interval by
Student's t over data sets and seeds.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept

WORDS = ["data=files", "verify=false", "report.write=false", "evaluation.floors=false", "evaluation.resamples=2"]
DATASETS = ["trec", "cr", "tweet_emotion", "sst5", "scicite", "banking77"]
FIGURES = ("accuracy", "macro_f1", "log_loss")


def main(words: list[str] | None = None) -> None:
    """Run what is missing, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--strategies", nargs="+", default=["finetune"])
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument("--per-class", type=int, help="training rows a label (8)")
    drawn.add_argument("--rows", type=int, help="training rows in all")
    parser.add_argument("--passes", type=float, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, nargs="+", default=[0], help="at least")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args(words)
    limit = {"train_limit": arguments.rows} if arguments.rows else {"per_class": arguments.per_class or 8}
    ways = list(product(arguments.strategies, arguments.passes, arguments.steps))
    wanted = [
        {"dataset": dataset, **limit, "strategy": strategy, "passes": passes, "steps": steps, "seed": seed}
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for strategy, passes, steps in ways
    ]
    kept = Kept(arguments.results)
    for asked in kept.missing(wanted):
        kept.add(asked | measure(arguments.data / asked["dataset"], limit, asked))
    print(machine.heading() + "\n")
    show(kept.of(wanted))


def measure(source: Path, limit: dict[str, int], asked: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one run, and its processor seconds."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.run import adapt

    words = [f"data.path={source}", *(f"data.{key}={value}" for key, value in limit.items()), f"seed={asked['seed']}"]
    words += [*WORDS, f"strategy={asked['strategy']}"]
    words += [f"training.epochs={asked['passes']}", f"training.min_steps={asked['steps']}"]
    rows = len(load_corpus(compose(None, words).data, seed=asked["seed"]).splits["train"])
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = adapt(compose(None, [*words, f"data.validation_limit={rows}", f"output={folder}"])).metrics
    return {name: round(found[name], 4) for name in FIGURES} | {"seconds": round(time.process_time() - began, 1)}


def show(lines: list[dict[str, Any]]) -> None:
    """Print a row a data set and way, and what each way gains over the first one of its strategy."""
    print("| data set | strategy | passes | steps at least | accuracy | macro-F1 | log-loss | accuracy of each seed |")
    print("|---|---|---|---|---|---|---|---|")
    ways = list(dict.fromkeys(map(_way, lines)))
    for dataset, way in product(dict.fromkeys(line["dataset"] for line in lines), ways):
        found = [line for line in lines if line["dataset"] == dataset and _way(line) == way]
        means = " | ".join(f"{np.mean([line[name] for line in found]):.3f}" for name in FIGURES)
        each = ", ".join(f"{line['accuracy']:.3f}" for line in found)
        print(f"| {dataset} | {_named(way)} | {means} | {each} |")
    print("\n| strategy | passes | steps at least | gain | log-loss | times |\n|---|---|---|---|---|---|")
    for way in ways:
        first = next(other for other in ways if other[0] == way[0])
        ours, theirs = ([line for line in lines if _way(line) == each] for each in (way, first))
        gains, losses = (
            np.array([own[name] - other[name] for own, other in zip(ours, theirs, strict=True)])
            for name in ("accuracy", "log_loss")
        )
        times = np.median([own["seconds"] / other["seconds"] for own, other in zip(ours, theirs, strict=True)])
        told = " | | 1" if way == first else f"{paired(gains)} | {paired(losses, 2)} | {times:.1f}"
        print(f"| {_named(way)} | {told} |")


def _way(line: dict[str, Any]) -> tuple[str, float, int]:
    return line["strategy"], line["passes"], line["steps"]


def _named(way: tuple[str, float, int]) -> str:
    strategy, passes, steps = way
    return f"{strategy} | {passes:g} | {steps or '–'}"


if __name__ == "__main__":
    main()
