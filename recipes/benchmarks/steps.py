"""How many optimizer steps few rows need: two passes over them, or more.

    python recipes/benchmarks/steps.py DATA_FOLDER [--datasets trec ...] [--per-class 8] [--steps 0 50 150] [--seeds 3]

DATA_FOLDER holds one folder a data set with train, validation and test files. So many training rows of each class,
drawn by the seed, and as many validation rows in all to choose and calibrate by, are trained on in two passes, or in at
least so many steps of 16 rows; all test rows are measured. Means over the seeds, and the values of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine

WORDS = ["data=files", "training.epochs=2", "verify=false", "report.write=false", "evaluation.floors=false"]


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["trec", "tweet_emotion", "scicite"])
    parser.add_argument("--strategies", nargs="+", default=["finetune", "lora"])
    parser.add_argument("--per-class", type=int, default=8, help="training rows a label")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 150])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(words)
    print(machine.heading())
    print(f"{arguments.per_class} training rows a class\n")
    print("| data set | strategy | steps at least | accuracy | macro-F1 | accuracy of each seed |")
    print("|---|---|---|---|---|---|")
    for dataset in arguments.datasets:
        for steps in arguments.steps:
            for strategy in arguments.strategies:
                found = [measure(arguments, dataset, strategy, steps, seed) for seed in range(arguments.seeds)]
                means = " | ".join(f"{mean:.3f}" for mean in np.mean(found, axis=0))
                each = ", ".join(f"{accuracy:.3f}" for accuracy, _ in found)
                print(f"| {dataset} | {strategy} | {steps or '(two passes)'} | {means} | {each} |", flush=True)


def measure(arguments: argparse.Namespace, dataset: str, strategy: str, steps: int, seed: int) -> tuple[float, float]:
    """Return accuracy and macro-F1 of one run."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.run import adapt

    words = [f"data.path={arguments.data / dataset}", f"data.per_class={arguments.per_class}", f"seed={seed}"]
    words += [*WORDS, f"strategy={strategy}", f"training.min_steps={steps}", "evaluation.resamples=2"]
    rows = len(load_corpus(compose(None, words).data, seed=seed).splits["train"])
    with tempfile.TemporaryDirectory() as folder:
        found = adapt(compose(None, [*words, f"data.validation_limit={rows}", f"output={folder}"])).metrics
    return found["accuracy"], found["macro_f1"]


if __name__ == "__main__":
    main()
