"""Probe, fine-tune and LoRA beside what others do with the same encoder, the same rows and the same number of epochs.

    python recipes/benchmarks/strategies.py DATA_FOLDER [--datasets trec sst2 ...] [--seeds 0 1 2] [--rows 500]

DATA_FOLDER holds one folder a data set with train, validation and test files. Of each data set `--rows` training rows
are drawn by the seed; validation and test are cut to 300 and 1,000 rows, the same for every seed. All methods read the
same files. `probe_last` reads the last layer only; `native` is our fine-tuning under the architecture's own head, not a
pooled one. Peers:

- trainer: transformers' Trainer as in its run_classification example, at its best setting (dynamic padding, the same
  batch size, learning rate, warm-up, precision and epochs as our fine-tuning; the best checkpoint by validation kept);
- tfidf: word 1-2-grams and logistic regression, its C by cross-validation;
- embeddings: the encoder's sentence embeddings and scikit-learn's LogisticRegression, as SetFit's head has it.

Where a text may have several labels, each method gives them from a threshold on that suits micro-F1: ours as every run
chooses it, the floor by cross-validation, the peers the one that is best on the validation rows.

Every result is appended to a JSON-lines file at once and is not computed again, so that an interrupted benchmark goes
on.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.kept import Kept

# Long articles: eight times the tokens of the others, hence fewer of them; 512 tokens of each, in windows of 128.
LONG = {"tokens.long": "chunk", "tokens.max_length": 128, "tokens.overlap": 0.0, "tokens.max_windows": 4}
# name -> extra settings
DATASETS: dict[str, dict[str, Any]] = {
    "trec": {},
    "cr": {},
    "tweet_emotion": {},
    "sst2": {},
    "banking77": {},
    "mrpc": {},
    "goemotions": {},
    "sick": {"data.columns.label": "label"},
    "umsab": {},
    "hyperpartisan": LONG,
}
MOST_ROWS = {"hyperpartisan": 200}
HELD_OUT_ROWS = {"validation": 300, "test": 1000}
FIGURE = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "pearson", "ordinal": "accuracy"}
OURS = {
    "probe": {"strategy": "probe"},
    "probe_last": {"strategy": "probe", "encoder.layers": "last"},
    "finetune": {"strategy": "finetune"},
    "lora": {"strategy": "lora"},
    "native": {"strategy": "finetune", "encoder.head": "native"},
}
EPOCHS, BATCH = 3, 16


def draw(source: Path, target: Path, *, rows: int, seed: int) -> None:
    """Write the rows of one benchmark run: training rows by the seed, the others always the same."""
    import random

    for path in sorted(source.iterdir()):
        count = {"train": rows, **HELD_OUT_ROWS}.get(path.stem)
        if count is None or path.suffix not in (".csv", ".jsonl"):
            continue
        with path.open(encoding="utf-8", newline="") as lines:
            table = list(csv.reader(lines)) if path.suffix == ".csv" else [[line] for line in lines]
        header = [table.pop(0)] if path.suffix == ".csv" else []
        chosen = random.Random(seed if path.stem == "train" else 0).sample(range(len(table)), min(count, len(table)))
        kept = header + [table[row] for row in sorted(chosen)]
        with (target / path.name).open("w", encoding="utf-8", newline="") as out:
            if header:
                csv.writer(out, lineterminator="\n").writerows(kept)
            else:
                out.writelines(line for (line,) in kept)


def settings_of(dataset: str, method: str, seed: int, folder: Path, more: Mapping[str, Any] | None = None) -> Any:
    """Return the settings of one of our runs, with more values where they are given."""
    from nlp_transfer.composing.words import from_mapping
    from nlp_transfer.config import compose

    values = {
        "data": "files",
        "data.path": str(folder),
        "data.unseen": "ignore",
        "data.empty": "drop",
        "seed": seed,
        "training.epochs": EPOCHS,
        "training.batch_size": BATCH,
        "evaluation.floors": False,
        "evaluation.resamples": 2,
        "verify": False,
        "report.write": False,
        "output": str(folder / "runs"),
        **DATASETS[dataset],
        **OURS.get(method, OURS["finetune"]),
        **(more or {}),
    }
    return compose(None, from_mapping(values))


def ours(settings: Any, corpus: Any, figure: str) -> float:
    """Run one of our strategies."""
    from nlp_transfer.running.run import adapt

    return adapt(settings).metrics[figure]


def scored(corpus: Any, logits: dict[str, np.ndarray], figure: str) -> float:
    """Return a peer's figure on test; where labels may be several, from its best threshold on validation on."""
    from nlp_transfer.evaluation import metrics, thresholds

    task, test, held = corpus.task, corpus.splits["test"], corpus.splits["validation"]
    if task.problem == "multi_label":
        rule = thresholds.empirical(task, logits["validation"], held.targets, held.weights, metric=figure)
        task = dataclasses.replace(task, threshold=rule)
    return metrics.compute(task, logits["test"], test.targets, test.weights)[figure]


def tfidf(settings: Any, corpus: Any, figure: str) -> float:
    """Fit the floor of every report."""
    from nlp_transfer.evaluation import baselines, metrics

    train, test, held = (corpus.splits[split] for split in ("train", "test", "validation"))
    (floor,) = [
        floor
        for floor in baselines.floors(corpus.task, train, test, seed=settings.seed, validation=held)
        if floor.name == "tfidf"
    ]
    task = corpus.task if floor.threshold is None else dataclasses.replace(corpus.task, threshold=floor.threshold)
    return metrics.compute(task, floor.logits, test.targets, test.weights)[figure]


def embeddings(settings: Any, corpus: Any, figure: str) -> float:
    """Fit scikit-learn's logistic regression on mean-pooled, normalised embeddings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    from nlp_transfer.running.preparation import prepare

    last = dataclasses.replace(settings.encoder, head="pooled", layers="last")
    prepared = prepare(dataclasses.replace(settings, encoder=last), corpus, Path("unused"))
    vectors = {split: prepared.features(split) for split in ("train", "validation", "test")}
    vectors = {split: v / np.linalg.norm(v, axis=1, keepdims=True) for split, v in vectors.items()}
    train = corpus.splits["train"]
    head = LogisticRegression(max_iter=1000)
    if corpus.task.problem == "multi_label":
        head = OneVsRestClassifier(head)
        head.fit(vectors["train"], train.targets >= 0.5)
    else:
        head.fit(vectors["train"], train.targets)

    def logits(split: str) -> np.ndarray:
        if corpus.task.problem == "multi_label":
            p = np.clip(head.predict_proba(vectors[split]), 1e-9, 1 - 1e-9)
            return np.log(p / (1 - p))
        found = np.full((len(vectors[split]), corpus.task.outputs), -1e9)
        found[:, head.classes_] = (
            head.decision_function(vectors[split]).reshape(len(found), -1)
            if len(head.classes_) > 2
            else (np.stack([np.zeros(len(found)), head.decision_function(vectors[split])], 1))
        )
        return found

    return scored(corpus, {split: logits(split) for split in ("validation", "test")}, figure)


def trainer(settings: Any, corpus: Any, figure: str) -> float:
    """Fine-tune with transformers' Trainer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from nlp_transfer.encoder.source import locate
    from nlp_transfer.evaluation import metrics, thresholds
    from nlp_transfer.training.device import multiplies_bf16_fast

    task = corpus.task
    folder = locate(settings.encoder).folder
    set_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = {"multi_label": "multi_label_classification", "regression": "regression"}.get(
        task.problem, "single_label_classification"
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=task.outputs, problem_type=kind, dtype="float32"
    )

    class Rows(torch.utils.data.Dataset):
        def __init__(self, split: str) -> None:
            self.examples = corpus.splits[split]
            pairs = self.examples.pairs
            most = 512 if settings.tokens.long == "chunk" else 256
            self.encoded = tokenizer(self.examples.texts, pairs, truncation=True, max_length=most)

        def __len__(self) -> int:
            return len(self.examples)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {name: values[index] for name, values in self.encoded.items()} | {
                "labels": self.examples.targets[index]
            }

    def measured(output: Any) -> dict[str, float]:
        rule = task.threshold
        if task.problem == "multi_label":
            ones = np.ones(len(output.label_ids))
            rule = thresholds.empirical(task, output.predictions, output.label_ids, ones, metric=figure)
        return metrics.compute(dataclasses.replace(task, threshold=rule), output.predictions, output.label_ids)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.training.epochs,
            per_device_train_batch_size=settings.training.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=2e-4,  # what our fine-tuning uses for this encoder's width
            weight_decay=settings.training.weight_decay,
            warmup_steps=settings.training.warmup,
            bf16=multiplies_bf16_fast(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=metrics.DEFAULT_METRIC[task.problem],
            seed=settings.seed,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        peer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Rows("train"),
            eval_dataset=Rows("validation"),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=measured,
        )
        peer.train()
        logits = {split: peer.predict(Rows(split)).predictions for split in ("validation", "test")}
    return scored(corpus, logits, figure)


METHODS: dict[str, Any] = {**dict.fromkeys(OURS, ours), "trainer": trainer, "tfidf": tfidf, "embeddings": embeddings}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("strategies.jsonl"))
    arguments = parser.parse_args()
    kept = Kept(arguments.results)
    wanted = [
        {"dataset": dataset, "method": method, "seed": seed, "rows": arguments.rows}
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for method in arguments.methods
    ]
    for asked in kept.missing(wanted):
        line = kept.add(asked | measure(arguments, asked["dataset"], asked["method"], asked["seed"]))
        print(json.dumps(line), flush=True)
    show(arguments, kept.of(wanted))


def measure(arguments: argparse.Namespace, dataset: str, method: str, seed: int) -> dict[str, Any]:
    """Return one row of results."""
    from nlp_transfer.data.corpus import load_corpus

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(
            arguments.data / dataset,
            folder,
            rows=min(arguments.rows, MOST_ROWS.get(dataset, arguments.rows)),
            seed=seed,
        )
        settings = settings_of(dataset, method, seed, folder)
        corpus = load_corpus(settings.data, seed=seed)
        figure = FIGURE[corpus.task.problem]
        started, cpu = time.monotonic(), time.process_time()
        value = METHODS[method](settings, corpus, figure)
    return {
        "figure": figure,
        "value": round(float(value), 4),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print mean ± standard deviation over the seeds, as a Markdown table."""
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    figures = {}
    for line in lines:
        table[line["dataset"]][line["method"]].append(line["value"])
        figures[line["dataset"]] = line["figure"]
    print(f"\n{arguments.rows} training rows, {EPOCHS} epochs, mean ± deviation of {len(arguments.seeds)} seeds\n")
    print("| data set | figure | " + " | ".join(arguments.methods) + " |")
    print("|---" * (len(arguments.methods) + 2) + "|")
    for dataset in arguments.datasets:
        cells = []
        for method in arguments.methods:
            values = table[dataset][method]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "–")
        print(f"| {dataset} | {figures.get(dataset, '')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
