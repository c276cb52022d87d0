"""What a smaller encoder keeps of a larger one's accuracy, with and without its answers, and how fast it is.

    python recipes/benchmarks/distilling.py DATA_FOLDER [--datasets trec ...] [--depths 3 1 0] [--per-class 16]
        [--terms distill hint relations] [--weights 1 10] [--epochs 6] [--steps 600] [--seeds 3] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. The teacher, MiniLM with its six layers,
is fine-tuned on all training rows; students of `encoder.depth` layers learn from all of them too, with their labels
alone, the teacher's answers as well, or its features besides, by the terms `hint` and `relations` of --weights. With
--per-class both have so many rows of each class, and the students that learn from the teacher read the texts of all
others besides, without labels, in at least --steps steps; so have those that do not. Accuracy is of all test rows; the
milliseconds a text are of labelling these by one process on one thread, texts of like length together, the fastest of
three; of a student without layers also as a table (`export.format=static`).

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.kept import Kept

WORDS = ["data=files", "strategy=finetune", "verify=false", "report.write=false", "evaluation.floors=false"]
TEACHER, ALONE = "teacher", "labels alone"
TERMS = {"distill": "taught", "hint": "taught, hint", "relations": "taught, relations"}


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["trec", "cr"])
    parser.add_argument("--depths", nargs="+", type=int, default=[3, 1, 0])
    parser.add_argument("--per-class", type=int, default=None, help="training rows a label; default: all")
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS))
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0], help="of hint and relations")
    parser.add_argument("--epochs", type=float, default=6, help="of the students")
    parser.add_argument("--steps", type=int, default=600, help="of the students at least")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("distilling.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    for dataset in arguments.datasets:
        for seed in range(arguments.seeds):
            common = {"dataset": dataset, "per_class": arguments.per_class, "seed": seed}
            wanted = [common | {"how": TEACHER, "depth": None, "weight": None}]
            for depth in arguments.depths:
                wanted.append(common | {"how": ALONE, "depth": depth, "weight": None})
                for term in arguments.terms:
                    for weight in [None] if term == "distill" else arguments.weights:
                        wanted.append(common | {"how": TERMS[term], "depth": depth, "weight": weight})
            missing = kept.missing(wanted)
            for line in measured(arguments, dataset, seed, missing) if missing else ():
                kept.add(line)
    show(arguments, kept.lines)


def measured(arguments: argparse.Namespace, dataset: str, seed: int, wanted: list[dict[str, Any]]) -> Any:
    """Train the teacher, for nothing else keeps it, and the students that are wanted; yield what each came to."""
    source = arguments.data / dataset
    few = [] if arguments.per_class is None else [f"data.per_class={arguments.per_class}"]
    with tempfile.TemporaryDirectory() as scratch:
        common = [*WORDS, f"data.path={source}", f"seed={seed}", f"output={scratch}", "evaluation.resamples=2", *few]
        teacher = trained(common)
        for each in wanted:
            run = teacher
            if each["how"] != TEACHER:
                own = [f"encoder.depth={each['depth']}", f"training.epochs={arguments.epochs}"]
                own.append(f"training.min_steps={arguments.steps}")
                if each["how"] != ALONE:
                    (term,) = [term for term, how in TERMS.items() if how == each["how"]]
                    own += [f"objective={term}", f"objective.distill.teacher={teacher.folder}"]
                    own += [f"objective.{term}.weight={each['weight']}"] if each["weight"] else []
                    own += [f"data.unlabelled={source / 'train.csv'}"] if few else []
                run = trained([*common, *own])
            found = figures(run, source / "test.csv")
            yield each | found | ({"table_ms": table_time(run, source / "test.csv")} if each["depth"] == 0 else {})


def trained(words: list[str]) -> Any:
    """Return a run."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    return adapt(compose(None, words))


def figures(run: Any, tests: Path) -> dict[str, float]:
    """Return accuracy, millions of weights, and milliseconds a text."""
    weights = sum(parameter.numel() for parameter in run.predictor.model.parameters())
    return {
        "accuracy": round(run.metrics["accuracy"], 4),
        "weights": round(weights / 1e6, 2),
        "ms": time_of(run.predictor, tests),
    }


def table_time(run: Any, tests: Path) -> float:
    """Return milliseconds a text of a student without layers that was exported as a table."""
    from nlp_transfer.config import compose
    from nlp_transfer.exporting.export import export
    from nlp_transfer.predicting.predict import load_predictor

    made = export(run.folder, compose(str(run.folder / "config.yaml"), ["export.format=static"]))
    return time_of(load_predictor(made.folder), tests)


def time_of(model: Any, tests: Path) -> float:
    """Return milliseconds a text, the fastest of three."""
    from nlp_transfer.data.files import read_rows
    from nlp_transfer.settings import DataSettings

    texts = read_rows(tests, DataSettings()).columns["text"]
    times = []
    for _ in range(3):
        began = time.process_time()
        model.logits(texts)
        times.append(time.process_time() - began)
    return round(1000 * min(times) / len(texts), 4)


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print means over the seeds, and the accuracy of each."""
    found = defaultdict(list)
    for line in lines:
        if line["per_class"] == arguments.per_class and line["seed"] < arguments.seeds:
            weight = f", weight {line['weight']:g}" if line["weight"] else ""
            found[line["dataset"], line["depth"], f"{line['how']}{weight}"].append(line)
    rows = "all rows" if arguments.per_class is None else f"{arguments.per_class} labels a class"
    print(f"{rows}\n\n| data set | layers | learned from | accuracy | of each seed | weights, millions | ms a text |")
    print("|---" * 7 + "|")
    for (dataset, depth, how), own in found.items():
        if dataset in arguments.datasets:
            accuracy, weights, ms = (np.mean([line[name] for line in own]) for name in ("accuracy", "weights", "ms"))
            each = ", ".join(f"{line['accuracy']:.3f}" for line in own)
            layers = "all" if depth is None else depth
            table = f"; as a table {np.mean([line['table_ms'] for line in own]):.3f}" if depth == 0 else ""
            print(f"| {dataset} | {layers} | {how} | {accuracy:.3f} | {each} | {weights:.1f} | {ms:.3f}{table} |")


if __name__ == "__main__":
    main()
