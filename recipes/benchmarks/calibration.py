"""The effect of calibration: scores of runs on test rows with and without what was fitted on validation rows.

    python recipes/benchmarks/calibration.py DATA_FOLDER [--datasets trec sst2 ...] [--strategies probe finetune]
        [--seeds 0 1 2] [--rows 500]

DATA_FOLDER has one folder per data set with train, validation and test files; training rows are drawn by the seed,
validation and test rows are cut to 300 and 1,000. Each run is trained once. Its logits are divided by a temperature
and, where this improves the validation rows, shifted per class; the results without calibration are those of the same
run with both undone. The table has means over the seeds; "better" counts the runs in which calibration lowered the
figure.
scaling.py measures class shifts where the class frequencies of training rows differ from those of test rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import DATASETS, draw_splits, make_settings
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

SHORT = [name for name in DATASETS if name not in ("hyperpartisan", "sick")]  # no long texts, no regression
FIGURES = ("log_loss", "brier", "calibration error")


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=SHORT, choices=SHORT)
    parser.add_argument("--strategies", nargs="+", default=["probe", "finetune"], choices=["probe", "finetune", "lora"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    arguments = parser.parse_args(argv)
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, seeds {arguments.seeds}; without → with calibration\n")
    columns = [column for name in FIGURES for column in (name, "better")]
    print(markdown_header(["strategy", "data set", "temperature", *columns]))
    for strategy in arguments.strategies:
        for dataset in arguments.datasets:
            runs = [measure(dataset, strategy, seed, arguments) for seed in arguments.seeds]
            temperatures = ", ".join(f"{run['temperature']:.2f}" for run in runs)
            cells: list[str] = []
            for name in FIGURES:
                before, after = (np.array([run[side][name] for run in runs]) for side in ("without", "with"))
                cells += [f"{before.mean():.3f} → {after.mean():.3f}", f"{(after < before).sum()} of {len(runs)}"]
            print(markdown_row([strategy, dataset, temperatures, *cells]), flush=True)


def measure(dataset: str, strategy: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a run on its test rows, with and without its calibration."""
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.calibration import calibration_error
    from nlp_transfer.evaluation.metrics import compute
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        draw_splits(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = make_settings(dataset, strategy, seed, Path(scratch))
        run = adapt(settings)
        test = load_corpus(settings.data, seed=seed).splits["test"]
        record, logits = run.predictor.record, run.predictor.logits(test.texts, test.pairs)
        sides = {"with": logits, "without": record.calibration.undo(logits)}
        return {"temperature": record.calibration.temperature} | {
            side: compute(record.task, own, test.targets, test.weights)
            | {"calibration error": calibration_error(record.task, own, test.targets, test.weights)}
            for side, own in sides.items()
        }


if __name__ == "__main__":
    main()
