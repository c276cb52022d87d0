"""Peers: sentence-transformers, alone and with logistic regression as in SetFit's head, and SetFit itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.benchmarks.timing.encoders import encoding
from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MAX_TOKENS,
    Job,
    Result,
    Stopwatch,
    need,
    text_costs,
)
from recipes.benchmarks.timing.texts import read_pairs


def encode(job: Job) -> Result:
    """Measure encoding texts."""
    need("sentence_transformers", "transformers.models.bert.modeling_bert")
    return encoding(job, _encoder(job))


def probe(job: Job) -> Result:
    """Measure encoding once, fitting scikit-learn's logistic regression, and its accuracy on the test rows."""
    need("sentence_transformers", "transformers.models.bert.modeling_bert", "sklearn.linear_model")
    from sklearn.linear_model import LogisticRegression

    with Stopwatch() as watch:
        encoder = _encoder(job)
        rows = {split: read_pairs(Path(job["data"]) / f"{split}.csv") for split in ("train", "test")}
        vectors = {split: encoder([text for text, _ in rows[split]]) for split in rows}
        labels = {split: [label for _, label in rows[split]] for split in rows}
        head = LogisticRegression(max_iter=1000).fit(vectors["train"], labels["train"])
        accuracy = float(head.score(vectors["test"], labels["test"]))
    return watch.result(job, accuracy=accuracy, **text_costs(job))


def contrast(job: Job) -> Result:
    """Measure SetFit's default training, on pairs and then a logistic regression, and its accuracy on the test rows."""
    need("setfit", "transformers.models.bert.modeling_bert", "sklearn.linear_model")
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    rows = {split: read_pairs(Path(job["data"]) / f"{split}.csv") for split in ("train", "test")}
    train = Dataset.from_dict(
        {name: list(column) for name, column in zip(("text", "label"), zip(*rows["train"], strict=True), strict=True)}
    )
    with Stopwatch() as watch:
        body = SentenceTransformer(job["encoder"])
        body.max_seq_length = MAX_TOKENS
        model = SetFitModel(model_body=body, model_head=LogisticRegression())
        settings = TrainingArguments(
            output_dir=job["scratch"], seed=job["seed"], report_to="none", save_strategy="no", show_progress_bar=False
        )
        Trainer(model=model, args=settings, train_dataset=train).train()
        predictions = model.predict([text for text, _ in rows["test"]])
    correct = [prediction == label for prediction, (_, label) in zip(predictions, rows["test"], strict=True)]
    return watch.result(job, accuracy=sum(correct) / len(correct), **text_costs(job))


def _encoder(job: Job) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["encoder"], model_kwargs={"dtype": job["dtype"]})
    model.max_seq_length = MAX_TOKENS
    return lambda texts: model.encode(texts, batch_size=ENCODE_BATCH)
