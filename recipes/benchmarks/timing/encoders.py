"""Encoders of random weights; functions from texts to vectors: their time, and how far they are from fp32's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MOST_TOKENS,
    Job,
    Result,
    Stopwatch,
    cost_of_texts,
    texts_of,
)

COMPARED = 64  # texts


def make(job: Job) -> Result:
    """Write a model of random weights, `config` beside what its `kind` has (BERT: base), with another's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    folder = Path(job["folder"])
    AutoModel.from_config(AutoConfig.for_model(job.get("kind", "bert"), **job["config"])).save_pretrained(folder)
    for path in Path(job["tokenizer"]).iterdir():
        if path.is_file() and path.name.startswith(("token", "special_tokens", "vocab")):
            shutil.copy(path, folder)
    return {}


def plain_model(job: Job) -> Any:
    """Return the encoder as a function of ids and mask to its last states."""
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(job["encoder"], dtype="float32", attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    return States().eval()


def tokenized(job: Job, texts: Sequence[str]) -> list[Any]:
    """Return batches of ids and masks in the order given, padded to their longest."""
    tokenizer = _tokenizer(job["encoder"])
    return [
        tokenizer(
            list(texts[at : at + ENCODE_BATCH]),
            padding=True,
            truncation=True,
            max_length=MOST_TOKENS,
            return_tensors="np",
        )
        for at in range(0, len(texts), ENCODE_BATCH)
    ]


@cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def pooled(job: Job, states_of: Callable[[Any], np.ndarray]) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to mean-pooled vectors, which reads texts of like length together."""

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts], kind="stable")
        rows: list[np.ndarray] = []
        for batch in tokenized(job, [texts[place] for place in order]):
            mask = batch["attention_mask"][:, :, None]
            rows.extend((states_of(batch) * mask).sum(1) / mask.sum(1))
        vectors = np.empty((len(texts), len(rows[0])), np.float32)
        vectors[order] = rows
        return vectors

    return encode


def encoding(job: Job, encoder: Callable[[list[str]], np.ndarray]) -> Result:
    """Measure a function from texts to vectors."""
    texts = texts_of(job["data"], "train")
    encoder(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        vectors = encoder(texts)
    result = watch.result(job, **cost_of_texts(job))
    return result | {"cosine": cosine(job, vectors)}


def cosine(job: Job, vectors: np.ndarray) -> float:
    """Return the cosine of the first texts' vectors and those of transformers in fp32, the least of them."""
    import torch

    model = plain_model(job)

    def states_of(rows: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(rows["input_ids"]), torch.from_numpy(rows["attention_mask"])).numpy()

    right = pooled(job, states_of)(texts_of(job["data"], "train")[:COMPARED])
    given = np.asarray(vectors[:COMPARED], np.float32)
    norms = np.linalg.norm(right, axis=1) * np.linalg.norm(given, axis=1)
    return float(((right * given).sum(1) / norms).min())
