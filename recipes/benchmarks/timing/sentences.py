"""Peer: sentence-transformers, alone and under a logistic regression as SetFit's head is one."""

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


def _encoder(job: Job) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["encoder"], model_kwargs={"dtype": job["dtype"]})
    model.max_seq_length = MOST_TOKENS
    return lambda texts: model.encode(texts, batch_size=ENCODE_BATCH)
