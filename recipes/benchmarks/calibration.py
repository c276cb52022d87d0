"""What calibrating is worth: the test rows of runs with and without what was fitted on validation.

    python recipes/benchmarks/calibration.py DATA_FOLDER [--datasets trec sst2 ...] [--strategies probe finetune]
        [--seeds 0 1 2] [--rows 500]

DATA_FOLDER holds one folder a data set with train, validation and test files; training rows are drawn by the seed,
validation and test cut to 300 and 1,000 rows. A run is trained once: its outputs were divided by a temperature, and
where that pays shifted, so that undoing both gives the run without. Means over seeds; "better" counts runs. What shifts
are worth where training rows are no sample of what comes, scaling.py measures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import DATASETS, draw, settings_of
from recipes.benchmarks.timing import machine

SHORT = [name for name in DATASETS if name not in ("hyperpartisan", "sick")]  # not long ones, nor a regression
FIGURES = ("log_loss", "brier", "calibration error")


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=SHORT, choices=SHORT)
    parser.add_argument("--strategies", nargs="+", default=["probe", "finetune"], choices=["probe", "finetune", "lora"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    arguments = parser.parse_args(words)
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, seeds {arguments.seeds}; without → with calibration\n")
    print(f"| strategy | data set | temperature | {' | '.join(f'{name} | better' for name in FIGURES)} |")
    print("|---" * (3 + 2 * len(FIGURES)) + "|")
    for strategy in arguments.strategies:
        for dataset in arguments.datasets:
            found = [measure(dataset, strategy, seed, arguments) for seed in arguments.seeds]
            scales = ", ".join(f"{each['temperature']:.2f}" for each in found)
            cells: list[str] = []
            for name in FIGURES:
                before, after = (np.array([each[side][name] for each in found]) for side in ("without", "with"))
                cells += [f"{before.mean():.3f} → {after.mean():.3f}", f"{(after < before).sum()} of {len(found)}"]
            print(f"| {strategy} | {dataset} | {scales} | {' | '.join(cells)} |", flush=True)


def measure(dataset: str, strategy: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a run on its test rows, with and without its calibration."""
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.calibration import calibration_error
    from nlp_transfer.evaluation.metrics import compute
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        draw(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = settings_of(dataset, strategy, seed, Path(scratch))
        run = adapt(settings)
        test = load_corpus(settings.data, seed=seed).splits["test"]
        record, logits = run.predictor.record, run.predictor.logits(test.texts, test.pairs)
        answers = {"with": logits, "without": record.calibration.undo(logits)}
        return {"temperature": record.calibration.temperature} | {
            side: compute(record.task, each, test.targets, test.weights)
            | {"calibration error": calibration_error(record.task, each, test.targets, test.weights)}
            for side, each in answers.items()
        }


if __name__ == "__main__":
    main()
