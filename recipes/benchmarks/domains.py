"""The effect of unlabelled texts of the target domain on a model that is trained on another domain.

    python recipes/benchmarks/domains.py DATA_FOLDER [--pairs books:kitchen imdb:electronics ...] [--methods coral ...]
        [--seeds 3] [--epochs 3] [--length 256] [--words strategy.freeze_layers=3] [--results FILE]

DATA_FOLDER/reviews has one folder per domain with train, validation and test files. For each pair source:target MiniLM
is fine-tuned on the training rows of the source; its validation rows choose the weights and calibrate. Accuracy is
measured on the test rows of the target. Methods read the texts of the target's training rows, without labels, except
"source only". "self-training" learns from the predictions of the source-only model for these texts; "tapt" first
continues masked-language-model pretraining on the texts of both domains. No label of the target is used to choose
anything. "gain" is the difference to source only, with a 95 % interval by Student's t over pairs and seeds.

Two label-free figures of the predictions for the target's texts are measured: their mutual information
(`evaluation/information.py`) and their reverse accuracy (`evaluation/reverse_validation.py`). For each pair and seed
"most information" takes the method with the highest mutual information, and "reverse-validated" the one with the
highest mutual information among those whose reverse accuracy is at most .07 below that of source only, which is the
rule of a run.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import csv
import shutil
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
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import read_texts
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

FAR = ("books:kitchen", "imdb:electronics", "electronics:books", "kitchen:imdb")
NEAR = ("electronics:kitchen", "books:dvd")
SOURCE_ONLY, SELF_TRAINING = "source only", "self-training"
MOST_INFORMATION, REVERSE_VALIDATED = "most information", "reverse-validated"
TOLERANCE = 0.07  # of the reverse accuracy
METHODS: dict[str, list[str]] = {
    SOURCE_ONLY: [],
    **{name: [f"objective={name}"] for name in ("coral", "mmd", "dann", "cdan", "mcc")},
    "mcc, weight 1": ["objective=mcc", "objective.mcc.weight=1"],
    SELF_TRAINING: ["objective=distill"],
    "tapt": ["pretraining.epochs=3"],
}
SHARED_WORDS = ["data=files", "strategy=finetune", *MINIMAL_WORDS, "evaluation.source_only=false"]


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--pairs", nargs="+", default=[*FAR, *NEAR], help="source:target")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--length", type=int, default=256, help="maximum tokens of a text")
    parser.add_argument("--words", nargs="*", default=[], help="key=value settings of all runs")
    parser.add_argument("--results", type=Path, default=Path("domains.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    methods = list(dict.fromkeys([SOURCE_ONLY, *arguments.methods]))
    lines = []
    for seed in range(arguments.seeds):
        for pair in arguments.pairs:
            shared = {"pair": pair, "seed": seed, "epochs": arguments.epochs, "length": arguments.length}
            shared["words"] = arguments.words
            jobs = [shared | {"method": method} for method in methods]
            missing = results.missing(jobs)
            for line in measure(arguments.data / "reviews", missing) if missing else ():
                results.add(line)
            lines += results.select(jobs)
    show(arguments.pairs, methods, lines)


def measure(reviews: Path, jobs: list[Line]) -> Iterator[Line]:
    """Yield the measurement of each job; all jobs have the same pair, seed and limits."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    first = jobs[0]
    source, _, target = first["pair"].partition(":")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_splits(reviews / source, reviews / target, folder)
        texts = folder / "texts.csv"
        unlabelled = f"data.unlabelled={texts}"
        shared = [*SHARED_WORDS, f"data.path={folder / 'rows'}", f"output={folder / 'runs'}", f"seed={first['seed']}"]
        shared += [f"training.epochs={first['epochs']}", f"tokens.max_length={first['length']}", *first["words"]]

        def train(words: list[str]) -> Any:
            return adapt(compose(None, [*shared, *words]))

        features, sampled = domain_features(compose(None, [*shared, "objective=coral", unlabelled]))
        teacher = None
        for job in jobs:
            method, words = job["method"], list(METHODS[job["method"]])
            started = time.process_time()
            if method == SELF_TRAINING:
                teacher = teacher or train(METHODS[SOURCE_ONLY])
                words.append(f"objective.distill.teacher={teacher.folder}")
            run = train(words if method == SOURCE_ONLY else [*words, unlabelled])
            if method == SOURCE_ONLY:
                teacher = run
            seconds = round(time.process_time() - started, 1)
            figures = {"accuracy": run.metrics["accuracy"], **label_free_figures(run, texts, features, sampled)}
            yield job | {name: round(value, 4) for name, value in figures.items()} | {"seconds": seconds}


def write_splits(source: Path, target: Path, folder: Path) -> None:
    """Write the source's training and validation rows, the target's test rows, and the texts of its training rows."""
    rows = folder / "rows"
    rows.mkdir()
    for split, domain in (("train", source), ("validation", source), ("test", target)):
        shutil.copyfile(domain / f"{split}.csv", rows / f"{split}.csv")
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([["text"], *([text] for text in read_texts(target / "train.csv"))])


def domain_features(settings: Any) -> tuple[Any, np.ndarray]:
    """Return features of both domains before any training, and which of the target's texts they belong to."""
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.domains.distance import measure_domain_gap
    from nlp_transfer.evaluation.reverse_validation import DomainFeatures
    from nlp_transfer.running.preparation import prepare
    from nlp_transfer.terminal.console import Screen

    corpus = load_corpus(settings.data, seed=settings.seed)
    with tempfile.TemporaryDirectory() as scratch:
        gap = measure_domain_gap(prepare(settings, corpus, Path(scratch)), Screen(quiet=True))
    assert gap is not None
    source, target = gap.features
    return DomainFeatures(source, corpus.splits["train"].targets[gap.rows], target), gap.texts


def label_free_figures(run: Any, texts: Path, features: Any, sampled: np.ndarray) -> dict[str, float]:
    """Return the mutual information of predictions for texts, and the reverse accuracy of those that were sampled."""
    from nlp_transfer.evaluation.information import mutual_information
    from nlp_transfer.evaluation.reverse_validation import reverse_accuracy

    task, logits = run.predictor.record.task, run.predictor.logits(read_texts(texts))
    reverse = reverse_accuracy(task, logits[sampled], features, seed=0).mean()
    return {"information": mutual_information(task, logits), "back": float(reverse)}


def show(pairs: list[str], methods: list[str], lines: list[dict[str, Any]]) -> None:
    """Print the mean accuracy of every pair and method, and the gain of each method and of each selection rule."""
    accuracies: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    runs: dict[tuple[str, int], list[Line]] = defaultdict(list)
    for line in lines:
        key = line["pair"], line["seed"]
        accuracies[line["method"]][key] = line["accuracy"]
        runs[key].append(line)
    for key, own in runs.items():
        ranked = sorted(own, key=lambda line: line["information"], reverse=True)
        accuracies[MOST_INFORMATION][key] = ranked[0]["accuracy"]
        with_reverse = [line for line in ranked if line.get("back") is not None]  # older results do not have it
        limit = next((line["back"] - TOLERANCE for line in with_reverse if line["method"] == SOURCE_ONLY), None)
        if limit is not None:
            chosen = next(line for line in with_reverse if line["back"] >= limit)
            accuracies[REVERSE_VALIDATED][key] = chosen["accuracy"]
    methods = [*methods, MOST_INFORMATION, REVERSE_VALIDATED]
    print(markdown_header(["source:target", *methods]))
    for pair in pairs:
        values = [[value for (name, _), value in accuracies[method].items() if name == pair] for method in methods]
        print(markdown_row([pair, *(f"{np.mean(own):.3f}" if own else "–" for own in values)]))
    for kind, members in (("far pairs", FAR), ("all", pairs)):
        cells = []
        for method in methods:
            keys = [key for key in accuracies[method] if key[0] in members]
            gains = np.array([accuracies[method][key] - accuracies[SOURCE_ONLY][key] for key in keys])
            cells.append("" if method == SOURCE_ONLY else paired_difference(gains) if len(gains) else "–")
        print(markdown_row([f"gain, {kind}", *cells]))


if __name__ == "__main__":
    main()
