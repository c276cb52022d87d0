"""Peers: sentence-transformers, alone and under a logistic regression as SetFit's head is one; SetFit itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.benchmarks.timing.encoders import encoding
from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MOST_TOKENS,
    Job,
    Result,
    Stopwatch,
    cost_of_texts,
    need,
)
from recipes.benchmarks.timing.texts import read


def encode(job: Job) -> Result:
    """Encode texts."""
    need("sentence_transformers", "transformers.models.bert.modeling_bert")
    return encoding(job, _encoder(job))


def probe(job: Job) -> Result:
    """Encode once, fit scikit-learn's logistic regression, and measure it on the test rows."""
    need("sentence_transformers", "transformers.models.bert.modeling_bert", "sklearn.linear_model")
    from sklearn.linear_model import LogisticRegression

    with Stopwatch() as watch:
        encoder = _encoder(job)
        rows = {split: read(Path(job["data"]) / f"{split}.csv") for split in ("train", "test")}
        vectors = {split: encoder([text for text, _ in rows[split]]) for split in rows}
        labels = {split: [label for _, label in rows[split]] for split in rows}
        head = LogisticRegression(max_iter=1000).fit(vectors["train"], labels["train"])
        accuracy = float(head.score(vectors["test"], labels["test"]))
    return watch.result(job, accuracy=accuracy, **cost_of_texts(job))


def contrast(job: Job) -> Result:
    """Train as SetFit does by default, on pairs and then a logistic regression, and measure it on the test rows."""
    need("setfit", "transformers.models.bert.modeling_bert", "sklearn.linear_model")
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    rows = {split: read(Path(job["data"]) / f"{split}.csv") for split in ("train", "test")}
    train = Dataset.from_dict(
        {name: list(column) for name, column in zip(("text", "label"), zip(*rows["train"], strict=True), strict=True)}
    )
    with Stopwatch() as watch:
        body = SentenceTransformer(job["encoder"])
        body.max_seq_length = MOST_TOKENS
        model = SetFitModel(model_body=body, model_head=LogisticRegression())
        settings = TrainingArguments(
            output_dir=job["scratch"], seed=job["seed"], report_to="none", save_strategy="no", show_progress_bar=False
        )
        Trainer(model=model, args=settings, train_dataset=train).train()
        answers = model.predict([text for text, _ in rows["test"]])
    right = [answer == label for answer, (_, label) in zip(answers, rows["test"], strict=True)]
    return watch.result(job, accuracy=sum(right) / len(right), **cost_of_texts(job))


def _encoder(job: Job) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["encoder"], model_kwargs={"dtype": job["dtype"]})
    model.max_seq_length = MOST_TOKENS
    return lambda texts: model.encode(texts, batch_size=ENCODE_BATCH)
