"""Our strategies and peers on the same encoder and rows, with the same number of epochs.

    python recipes/benchmarks/strategies.py DATA_FOLDER [--datasets trec sst2 ...] [--methods probe trainer ...]
        [--seeds 0 1 2] [--rows 500] [--results strategies.jsonl]

DATA_FOLDER has one folder per data set with train, validation and test files. `--rows` training rows of each data set
are drawn by the seed; validation and test rows are cut to 300 and 1,000, the same for every seed. All methods read the
same files. `probe_last` reads the last layer only; `native` is our fine-tuning with the architecture's own head instead
of a pooled one. Peers:

- trainer: transformers' Trainer as in its run_classification example, in its best setting (dynamic padding; the batch
  size, learning rate, warm-up, precision and epochs of our fine-tuning; the best checkpoint on validation rows);
- tfidf: the baseline of every report, logistic regression on word unigrams and bigrams, its C by cross-validation;
- embeddings: scikit-learn's LogisticRegression on the encoder's sentence embeddings, like SetFit's head.

For multi-label data each method predicts with a threshold that suits micro-F1: ours as every run chooses it, tfidf by
cross-validation, the other peers the best one on the validation rows.

The output is one Markdown table, mean ± standard deviation over the seeds. Each measurement is appended to --results at
once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.command import MINIMAL, data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

# Long articles have eight times the tokens of the others: 512 tokens are read of each, in windows of 128.
LONG = {"tokens.long": "chunk", "tokens.max_length": 128, "tokens.overlap": 0.0, "tokens.max_windows": 4}
# data set -> settings that differ from those of all data sets
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
MAXIMUM_ROWS = {"hyperpartisan": 200}
HELD_OUT_ROWS = {"validation": 300, "test": 1000}
METRICS = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "pearson", "ordinal": "accuracy"}
OURS = {
    "probe": {"strategy": "probe"},
    "probe_last": {"strategy": "probe", "encoder.layers": "last"},
    "finetune": {"strategy": "finetune"},
    "lora": {"strategy": "lora"},
    "native": {"strategy": "finetune", "encoder.head": "native"},
}
EPOCHS, BATCH = 3, 16


def draw_splits(source: Path, target: Path, *, rows: int, seed: int) -> None:
    """Write the rows of one run: training rows drawn by the seed, other splits the same for every seed."""
    for path in sorted(source.iterdir()):
        count = {"train": rows, **HELD_OUT_ROWS}.get(path.stem)
        if count is None or path.suffix not in (".csv", ".jsonl"):
            continue
        with path.open(encoding="utf-8", newline="") as lines:
            table = list(csv.reader(lines)) if path.suffix == ".csv" else [[line] for line in lines]
        header = [table.pop(0)] if path.suffix == ".csv" else []
        chosen = random.Random(seed if path.stem == "train" else 0).sample(range(len(table)), min(count, len(table)))
        drawn = header + [table[row] for row in sorted(chosen)]
        with (target / path.name).open("w", encoding="utf-8", newline="") as out:
            if header:
                csv.writer(out, lineterminator="\n").writerows(drawn)
            else:
                out.writelines(line for (line,) in drawn)


def make_settings(dataset: str, method: str, seed: int, folder: Path, more: Mapping[str, Any] | None = None) -> Any:
    """Return the settings of one of our runs; `more` has values that override the others."""
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
        "evaluation.resamples": 2,
        "output": str(folder / "runs"),
        **MINIMAL,
        **DATASETS[dataset],
        **OURS.get(method, OURS["finetune"]),
        **(more or {}),
    }
    return compose(None, from_mapping(values))


def ours(settings: Any, corpus: Any, metric: str) -> float:
    """Run one of our strategies; return its test score."""
    from nlp_transfer.running.run import adapt

    return adapt(settings).metrics[metric]


def test_score(corpus: Any, logits: dict[str, np.ndarray], metric: str) -> float:
    """Return a peer's test score; for multi-label data with the threshold that is best on the validation rows."""
    from nlp_transfer.evaluation import metrics, thresholds

    task, test, validation = corpus.task, corpus.splits["test"], corpus.splits["validation"]
    if task.problem == "multi_label":
        threshold = thresholds.empirical(
            task, logits["validation"], validation.targets, validation.weights, metric=metric
        )
        task = dataclasses.replace(task, threshold=threshold)
    return metrics.compute(task, logits["test"], test.targets, test.weights)[metric]


def tfidf(settings: Any, corpus: Any, metric: str) -> float:
    """Fit the TF-IDF baseline of every report; return its test score."""
    from nlp_transfer.evaluation import metrics
    from nlp_transfer.evaluation.baselines import fit_baselines

    train, test, validation = (corpus.splits[split] for split in ("train", "test", "validation"))
    (baseline,) = [
        baseline
        for baseline in fit_baselines(corpus.task, train, test, seed=settings.seed, validation=validation)
        if baseline.name == "tfidf"
    ]
    threshold = baseline.threshold
    task = corpus.task if threshold is None else dataclasses.replace(corpus.task, threshold=threshold)
    return metrics.compute(task, baseline.logits, test.targets, test.weights)[metric]


def embeddings(settings: Any, corpus: Any, metric: str) -> float:
    """Fit scikit-learn's logistic regression on mean-pooled, normalised embeddings; return its test score."""
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
        outputs = np.full((len(vectors[split]), corpus.task.outputs), -1e9)
        outputs[:, head.classes_] = (
            head.decision_function(vectors[split]).reshape(len(outputs), -1)
            if len(head.classes_) > 2
            else (np.stack([np.zeros(len(outputs)), head.decision_function(vectors[split])], 1))
        )
        return outputs

    return test_score(corpus, {split: logits(split) for split in ("validation", "test")}, metric)


def trainer(settings: Any, corpus: Any, metric: str) -> float:
    """Fine-tune with transformers' Trainer; return its test score."""
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
    problem = {"multi_label": "multi_label_classification", "regression": "regression"}.get(
        task.problem, "single_label_classification"
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=task.outputs, problem_type=problem, dtype="float32"
    )

    class Rows(torch.utils.data.Dataset):
        def __init__(self, split: str) -> None:
            self.examples = corpus.splits[split]
            pairs = self.examples.pairs
            max_length = 512 if settings.tokens.long == "chunk" else 256
            self.encoded = tokenizer(self.examples.texts, pairs, truncation=True, max_length=max_length)

        def __len__(self) -> int:
            return len(self.examples)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {name: values[index] for name, values in self.encoded.items()} | {
                "labels": self.examples.targets[index]
            }

    def compute_metrics(output: Any) -> dict[str, float]:
        threshold = task.threshold
        if task.problem == "multi_label":
            weights = np.ones(len(output.label_ids))
            threshold = thresholds.empirical(task, output.predictions, output.label_ids, weights, metric=metric)
        return metrics.compute(dataclasses.replace(task, threshold=threshold), output.predictions, output.label_ids)

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
            compute_metrics=compute_metrics,
        )
        peer.train()
        logits = {split: peer.predict(Rows(split)).predictions for split in ("validation", "test")}
    return test_score(corpus, logits, metric)


METHODS: dict[str, Any] = {**dict.fromkeys(OURS, ours), "trainer": trainer, "tfidf": tfidf, "embeddings": embeddings}


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("strategies.jsonl"))
    arguments = parser.parse_args(argv)
    results = ResultsFile(arguments.results)
    jobs = [
        {"dataset": dataset, "method": method, "seed": seed, "rows": arguments.rows}
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for method in arguments.methods
    ]
    for job in results.missing(jobs):
        line = results.add(job | measure(arguments, job["dataset"], job["method"], job["seed"]))
        print(json.dumps(line), flush=True)
    show(arguments, results.select(jobs))


def measure(arguments: argparse.Namespace, dataset: str, method: str, seed: int) -> dict[str, Any]:
    """Run one method; return its test score and seconds."""
    from nlp_transfer.data.corpus import load_corpus

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_splits(
            arguments.data / dataset,
            folder,
            rows=min(arguments.rows, MAXIMUM_ROWS.get(dataset, arguments.rows)),
            seed=seed,
        )
        settings = make_settings(dataset, method, seed, folder)
        corpus = load_corpus(settings.data, seed=seed)
        metric = METRICS[corpus.task.problem]
        started, cpu = time.monotonic(), time.process_time()
        value = METHODS[method](settings, corpus, metric)
    return {
        "figure": metric,
        "value": round(float(value), 4),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print mean ± standard deviation over the seeds, as a Markdown table."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    metrics = {}
    for line in lines:
        scores[line["dataset"]][line["method"]].append(line["value"])
        metrics[line["dataset"]] = line["figure"]
    print(f"\n{arguments.rows} training rows, {EPOCHS} epochs, mean ± deviation of {len(arguments.seeds)} seeds\n")
    print(markdown_header(["data set", "metric", *arguments.methods]))
    for dataset in arguments.datasets:
        cells = []
        for method in arguments.methods:
            values = scores[dataset][method]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "–")
        print(markdown_row([dataset, metrics.get(dataset, ""), *cells]))


if __name__ == "__main__":
    main()
