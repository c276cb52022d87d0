"""Distillation into smaller encoders: accuracy with and without a teacher, and speed.

    python recipes/benchmarks/distilling.py DATA_FOLDER [--datasets trec ...] [--depths 3 1 0] [--per-class 16]
        [--terms distill hint relations] [--weights 1 10] [--epochs 6] [--steps 600] [--seeds 3] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files. The teacher, MiniLM with six layers, is
fine-tuned on all training rows. Students with `encoder.depth` layers train on the same rows: with the labels alone,
with the teacher's predictions as well ("taught"), or with its features too (terms `hint` and `relations`, weighted by
--weights). With --per-class, teacher and students have that many rows per class, and students with a teacher also read
the texts of all training rows without labels. All students take at least --steps steps. Accuracy is on all test rows;
milliseconds per text are those of predicting the test rows in one process on one thread, texts of similar length
together, the fastest of three; of students without layers also as a static table (`export.format=static`).

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import read_texts
from recipes.benchmarks.timing.tables import markdown_header

SHARED_WORDS = ["data=files", "strategy=finetune", *MINIMAL_WORDS]
TEACHER, ALONE = "teacher", "labels alone"  # names in the results file, like the values of TERMS
TERMS = {"distill": "taught", "hint": "taught, hint", "relations": "taught, relations"}


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=["trec", "cr"])
    parser.add_argument("--depths", nargs="+", type=int, default=[3, 1, 0])
    parser.add_argument("--per-class", type=int, default=None, help="training rows per label; default: all")
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS))
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0], help="of hint and relations")
    parser.add_argument("--epochs", type=float, default=6, help="of the students")
    parser.add_argument("--steps", type=int, default=600, help="minimum steps of the students")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("distilling.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    for dataset in arguments.datasets:
        for seed in range(arguments.seeds):
            shared = {"dataset": dataset, "per_class": arguments.per_class, "seed": seed}
            jobs = [shared | {"how": TEACHER, "depth": None, "weight": None}]
            for depth in arguments.depths:
                jobs.append(shared | {"how": ALONE, "depth": depth, "weight": None})
                for term in arguments.terms:
                    for weight in [None] if term == "distill" else arguments.weights:
                        jobs.append(shared | {"how": TERMS[term], "depth": depth, "weight": weight})
            missing = results.missing(jobs)
            for line in measure(arguments, dataset, seed, missing) if missing else ():
                results.add(line)
    show(arguments, results.lines)


def measure(arguments: argparse.Namespace, dataset: str, seed: int, jobs: list[Line]) -> Iterator[Line]:
    """Train the teacher, which is not kept between calls, and the students of the jobs; yield the measurements."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    source = arguments.data / dataset
    few = [] if arguments.per_class is None else [f"data.per_class={arguments.per_class}"]
    with tempfile.TemporaryDirectory() as scratch:
        shared = [*SHARED_WORDS, f"data.path={source}", f"seed={seed}", f"output={scratch}", *few]
        shared.append("evaluation.resamples=2")
        teacher = adapt(compose(None, shared))
        for job in jobs:
            run = teacher
            if job["how"] != TEACHER:
                own = [f"encoder.depth={job['depth']}", f"training.epochs={arguments.epochs}"]
                own.append(f"training.min_steps={arguments.steps}")
                if job["how"] != ALONE:
                    (term,) = [term for term, how in TERMS.items() if how == job["how"]]
                    own += [f"objective={term}", f"objective.distill.teacher={teacher.folder}"]
                    own += [f"objective.{term}.weight={job['weight']}"] if job["weight"] else []
                    own += [f"data.unlabelled={source / 'train.csv'}"] if few else []
                run = adapt(compose(None, [*shared, *own]))
            figures = run_figures(run, source / "test.csv")
            if job["depth"] == 0:
                figures["table_ms"] = static_milliseconds(run, source / "test.csv")
            yield job | figures


def run_figures(run: Any, tests: Path) -> dict[str, float]:
    """Return the accuracy, the weights in millions, and the milliseconds per text of a run."""
    weights = sum(parameter.numel() for parameter in run.predictor.model.parameters())
    return {
        "accuracy": round(run.metrics["accuracy"], 4),
        "weights": round(weights / 1e6, 2),
        "ms": milliseconds_per_text(run.predictor, tests),
    }


def static_milliseconds(run: Any, tests: Path) -> float:
    """Return the milliseconds per text of a student without layers that is exported as a static table."""
    from nlp_transfer.config import compose
    from nlp_transfer.exporting.export import export
    from nlp_transfer.predicting.predict import load_predictor

    exported = export(run.folder, compose(str(run.folder / "config.yaml"), ["export.format=static"]))
    return milliseconds_per_text(load_predictor(exported.folder), tests)


def milliseconds_per_text(model: Any, tests: Path) -> float:
    """Return the processor milliseconds per text, the fastest of three passes over a file."""
    texts = read_texts(tests)
    times = []
    for _ in range(3):
        started = time.process_time()
        model.logits(texts)
        times.append(time.process_time() - started)
    return round(1000 * min(times) / len(texts), 4)


def show(arguments: argparse.Namespace, lines: list[Line]) -> None:
    """Print the means over the seeds, and the accuracy of each seed."""
    groups = defaultdict(list)
    for line in lines:
        if line["per_class"] == arguments.per_class and line["seed"] < arguments.seeds:
            weight = f", weight {line['weight']:g}" if line["weight"] else ""
            groups[line["dataset"], line["depth"], f"{line['how']}{weight}"].append(line)
    rows = "all rows" if arguments.per_class is None else f"{arguments.per_class} labels per class"
    columns = ["data set", "layers", "trained with", "accuracy", "of each seed", "weights, millions", "ms per text"]
    print(f"{rows}\n\n{markdown_header(columns)}")
    for (dataset, depth, how), own in groups.items():
        if dataset in arguments.datasets:
            accuracy, weights, ms = (np.mean([line[name] for line in own]) for name in ("accuracy", "weights", "ms"))
            by_seed = ", ".join(f"{line['accuracy']:.3f}" for line in own)
            layers = "all" if depth is None else depth
            table = f"; as a table {np.mean([line['table_ms'] for line in own]):.3f}" if depth == 0 else ""
            print(f"| {dataset} | {layers} | {how} | {accuracy:.3f} | {by_seed} | {weights:.1f} | {ms:.3f}{table} |")


if __name__ == "__main__":
    main()
