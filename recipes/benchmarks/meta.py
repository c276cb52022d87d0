"""The effect of meta-learning on classes that are learned later, compared with the frozen encoder and fine-tuning.

    python recipes/benchmarks/meta.py DATA_FOLDER [--datasets banking77 clinc_oos] [--methods protonet fomaml ...]
        [--seeds 3] [--ways 5] [--episodes 400] [--rows 100] [--epochs 2] [--length 48] [--results FILE]

DATA_FOLDER has one folder per data set with train.csv; out-of-scope rows of clinc_oos are left out. For each seed 30 %
of the classes are held out and 15 % serve as validation classes. All methods are measured on the same 600 episodes of
the held-out classes, by class prototypes in the feature space of: MiniLM unchanged ("frozen"), MiniLM meta-learned on
the other classes, and MiniLM fine-tuned on their rows ("supervised"; it also trains on the validation classes). "gain"
is the difference to frozen, with a 95 % interval by Student's t over data sets and seeds. The output is one table of
accuracies by number of shots, with gains and processor seconds.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.rows import Row, read_rows, write_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

FROZEN, SUPERVISED = "frozen", "supervised"
METHODS = (FROZEN, SUPERVISED, "protonet", "fomaml", "reptile")
SHARED_WORDS = ["data=files"]
SUPERVISED_WORDS = ["strategy=finetune", *MINIMAL_WORDS, "data.test_share=0"]


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=["banking77", "clinc_oos"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100, help="maximum rows per class")
    parser.add_argument("--epochs", type=float, default=2, help="of supervised fine-tuning")
    parser.add_argument("--length", type=int, default=48, help="maximum tokens of a text")
    parser.add_argument("--results", type=Path, default=Path("meta.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    methods = [method for method in METHODS if method in {FROZEN, *arguments.methods}]
    jobs = [
        make_job(arguments, dataset, seed, method)
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for method in methods
    ]
    for job in results.missing(jobs):
        results.add(measure(arguments.data, job))
    show(methods, results.select(jobs))


def make_job(arguments: argparse.Namespace, dataset: str, seed: int, method: str) -> dict[str, Any]:
    """Return the settings that a method's figures depend on, as the job in the results file."""
    names = ["ways", "shots", "queries", "rows", "length"]
    names += {FROZEN: [], SUPERVISED: ["epochs"]}.get(method, ["episodes"])
    return {"dataset": dataset, "seed": seed, "method": method, **{name: getattr(arguments, name) for name in names}}


def measure(data: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job with its accuracy on the held-out classes by number of shots, and processor seconds."""
    from nlp_transfer.config import compose
    from nlp_transfer.meta.rows import rows_of
    from nlp_transfer.meta.run import meta_learn
    from nlp_transfer.terminal.console import Screen

    screen, method = Screen(quiet=True), job["method"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = write_sample(data / job["dataset"] / "train.csv", folder / "rows.csv", job)
        words = [*SHARED_WORDS, f"data.path={folder / 'rows.csv'}", "data.test_share=0.01", f"output={folder / 'runs'}"]
        words += [f"seed={job['seed']}", f"tokens.max_length={job['length']}"]
        words += [f"meta.{name}={job[name]}" for name in ("ways", "shots", "queries", "episodes") if name in job]
        is_meta = method not in (FROZEN, SUPERVISED)
        settings = compose(None, words + [f"meta.method={method}"] * is_meta)
        corpus, division = rows_of(settings, screen)
        started = time.process_time()
        if is_meta:
            gains = meta_learn(settings, corpus, division, screen).outcome.gains
            accuracy = {str(gain.shots): gain.learned.value for gain in gains}
        else:
            if method == SUPERVISED:
                labels = {corpus.task.labels[index] for index in (*division.train, *division.validation)}
                run = finetune([row for row in rows if row["label"] in labels], folder, job)
                encoder = dataclasses.replace(settings.encoder, name=str(run), package=None, sha256=None)
                settings = dataclasses.replace(settings, encoder=encoder)
            accuracy = prototype_accuracy(settings, corpus, division)
        seconds = round(time.process_time() - started, 1)
    return job | {"accuracy": {shots: round(value, 4) for shots, value in accuracy.items()}, "seconds": seconds}


def write_sample(source: Path, target: Path, job: dict[str, Any]) -> list[Row]:
    """Write at most the job's number of rows per class, drawn by its seed, and return them."""
    rows = [row for row in read_rows(source) if row["label"] != "oos"]
    chosen, counts = [], Counter[str]()
    for index in np.random.default_rng(job["seed"]).permutation(len(rows)).tolist():
        label = rows[index]["label"]
        if counts[label] < job["rows"]:
            counts[label] += 1
            chosen.append(rows[index])
    write_rows(target, chosen)
    return chosen


def finetune(rows: list[Row], folder: Path, job: dict[str, Any]) -> Path:
    """Fine-tune on rows; return the folder of the run."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    write_rows(folder / "base.csv", rows)
    words = [
        *SHARED_WORDS,
        *SUPERVISED_WORDS,
        f"data.path={folder / 'base.csv'}",
        f"output={folder / 'runs'}",
        f"seed={job['seed']}",
    ]
    limits = [f"training.epochs={job['epochs']}", f"tokens.max_length={job['length']}"]
    return adapt(compose(None, [*words, *limits])).folder


def prototype_accuracy(settings: Any, corpus: Any, division: Any) -> dict[str, float]:
    """Return the accuracy of class prototypes on the episodes of the held-out classes, by number of shots."""
    from nlp_transfer.meta.episodes import rows_of_classes
    from nlp_transfer.meta.measuring import held_out_episodes, query_accuracy
    from nlp_transfer.meta.run import learning
    from nlp_transfer.running.preparation import prepare

    meta = settings.meta
    prepared = prepare(learning(settings), corpus, Path(settings.output))
    rows = rows_of_classes(prepared.columns["train"], division.test)
    features = prepared.feature_cache.now(rows)
    return {
        str(episodes.shots): float(
            query_accuracy(features, episodes, count=meta.measured, distance=meta.distance).mean()
        )
        for episodes in held_out_episodes(rows, division.test, meta, seed=settings.seed)
    }


def show(methods: list[str], lines: list[dict[str, Any]]) -> None:
    """Print the mean accuracy of every data set and method, and the gain and the processor seconds of each method."""
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    seeds = sorted({line["seed"] for line in lines})
    shot_counts = sorted({shots for line in lines for shots in line["accuracy"]}, key=int)
    by_job = {(line["dataset"], line["seed"], line["method"]): line["accuracy"] for line in lines}

    def accuracies(dataset: str, method: str, shots: str) -> list[float]:
        return [by_job[dataset, seed, method][shots] for seed in seeds]

    print(markdown_header(["data set", "shots", *methods]))
    for dataset, shots in product(datasets, shot_counts):
        means = [np.mean(accuracies(dataset, method, shots)) for method in methods]
        print(markdown_row([dataset, shots, *(f"{mean:.3f}" for mean in means)]))
    for shots in shot_counts:
        by_method = {
            method: np.array([accuracies(dataset, method, shots) for dataset in datasets]) for method in methods
        }
        gains = {method: (own - by_method[FROZEN]).ravel() for method, own in by_method.items()}
        cells = ("" if method == FROZEN else paired_difference(gain) for method, gain in gains.items())
        print(markdown_row(["gain", shots, *cells]))
    seconds = [np.mean([line["seconds"] for line in lines if line["method"] == method]) for method in methods]
    print(markdown_row(["processor seconds", "", *(f"{mean:.0f}" for mean in seconds)]))


if __name__ == "__main__":
    main()
