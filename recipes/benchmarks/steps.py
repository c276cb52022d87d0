"""How long a training is to be, in passes over the rows and in steps at least, and whether its head is fitted again.

    python recipes/benchmarks/steps.py DATA_FOLDER [--datasets trec ...] [--per-class 8 | --rows 1000] [--passes 2 4]
        [--steps 0] [--strategies finetune "finetune strategy.head_last=true"] [--seeds 2] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. So many training rows, of each class or
in all, drawn by the seed, and as many validation rows in all to choose and calibrate by, are trained on in so many
passes, or in at least so many steps of 16 rows; without --passes as a run does that is told nothing. All test rows are
measured. Score: the metric by which a run chooses. Means over the seeds, and the score of each; the second table has
what each further way has more than the first one, in score, accuracy and log-loss, with a 95 % interval by Student's t
over data sets and seeds, and its processor time as a multiple of the first one's.

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
# What the columns of a data set do not say.
SHAPES = {"sick": ["data.columns.label=score", "data.problem=regression"]}
FIGURES = ("score", "accuracy", "log_loss")


def main(words: list[str] | None = None) -> None:
    """Run what is missing, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--strategies", nargs="+", default=["finetune"])
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument("--per-class", type=int, help="training rows a label (8)")
    drawn.add_argument("--rows", type=int, help="training rows in all")
    parser.add_argument("--passes", type=float, nargs="+", default=[None])
    parser.add_argument("--steps", type=int, nargs="+", default=[0], help="at least")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("steps.jsonl"))
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
    from nlp_transfer.running.run import adapt

    words = [f"data.path={source}", *(f"data.{key}={value}" for key, value in limit.items()), f"seed={asked['seed']}"]
    words += [*WORDS, *(f"strategy={asked['strategy']}").split(), f"training.min_steps={asked['steps']}"]
    words += [] if asked["passes"] is None else [f"training.epochs={asked['passes']}"]
    words += SHAPES.get(source.name, [])
    rows = len(load_corpus(compose(None, words).data, seed=asked["seed"]).splits["train"])
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = adapt(compose(None, [*words, f"data.validation_limit={rows}", f"output={folder}"]))
    found = run.metrics | {"score": run.metrics[run.report.metric]}
    seconds = round(time.process_time() - began, 1)
    return {name: round(found[name], 4) for name in FIGURES if name in found} | {"seconds": seconds}


def show(lines: list[dict[str, Any]]) -> None:
    """Print a row a data set and way, and what each way gains over the first."""
    print("| data set | strategy | passes | steps at least | score | accuracy | log-loss | score of each seed |")
    print("|---|---|---|---|---|---|---|---|")
    ways = list(dict.fromkeys(map(_way, lines)))
    for dataset, way in product(dict.fromkeys(line["dataset"] for line in lines), ways):
        found = [line for line in lines if line["dataset"] == dataset and _way(line) == way]
        means = " | ".join(f"{np.mean([line.get(name, np.nan) for line in found]):.3f}" for name in FIGURES)
        each = ", ".join(f"{line['score']:.3f}" for line in found)
        print(f"| {dataset} | {_named(way)} | {means} | {each} |")
    if not ways[1:]:
        return
    print(
        "\n| strategy | passes | steps at least | score | accuracy | log-loss | times |\n|---|---|---|---|---|---|---|"
    )
    first = [line for line in lines if _way(line) == ways[0]]
    for way in ways[1:]:
        pairs = list(zip([line for line in lines if _way(line) == way], first, strict=True))
        gains = [[own[name] - other[name] for own, other in pairs if name in own] for name in FIGURES]
        told = " | ".join(paired(np.array(gain)) if gain else "" for gain in gains)
        print(
            f"| {_named(way)} | {told} | {np.median([own['seconds'] / other['seconds'] for own, other in pairs]):.2f} |"
        )


def _way(line: dict[str, Any]) -> tuple[str, float | None, int]:
    return line["strategy"], line["passes"], line["steps"]


def _named(way: tuple[str, float | None, int]) -> str:
    strategy, passes, steps = way
    return f"{strategy} | {'–' if passes is None else f'{passes:g}'} | {steps or '–'}"


if __name__ == "__main__":
    main()
