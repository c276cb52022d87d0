"""Encoders with random weights, and the speed and accuracy of functions from texts to vectors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MAX_TOKENS,
    Job,
    Result,
    Stopwatch,
    read_split,
    text_costs,
)

COMPARED = 64  # texts whose vectors are compared with those of transformers


def make(job: Job) -> Result:
    """Write an encoder with random weights, of the architecture `kind` with the values of `config`, and a tokenizer."""
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
    """Return the encoder as a module from token ids and mask to the hidden states of the last layer."""
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
    """Return batches of token ids and masks in the order of the texts, padded to the longest text of each batch."""
    tokenizer = _tokenizer(job["encoder"])
    return [
        tokenizer(
            list(texts[at : at + ENCODE_BATCH]),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="np",
        )
        for at in range(0, len(texts), ENCODE_BATCH)
    ]


@cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def pooled(job: Job, states_of: Callable[[Any], np.ndarray]) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to mean-pooled vectors, which batches texts of similar length."""

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts], kind="stable")
        rows: list[np.ndarray] = []
        for batch in tokenized(job, [texts[index] for index in order]):
            mask = batch["attention_mask"][:, :, None]
            rows.extend((states_of(batch) * mask).sum(1) / mask.sum(1))
        vectors = np.empty((len(texts), len(rows[0])), np.float32)
        vectors[order] = rows
        return vectors

    return encode


def encoding(job: Job, encoder: Callable[[list[str]], np.ndarray]) -> Result:
    """Measure the time of a function from texts to vectors, and its lowest cosine with transformers in fp32."""
    texts = read_split(job["data"], "train")
    encoder(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        vectors = encoder(texts)
    result = watch.result(job, **text_costs(job))
    return result | {"cosine": cosine(job, vectors)}


def cosine(job: Job, vectors: np.ndarray) -> float:
    """Return the lowest cosine between the vectors of the first texts and those of transformers in fp32."""
    import torch

    model = plain_model(job)

    def states_of(rows: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(rows["input_ids"]), torch.from_numpy(rows["attention_mask"])).numpy()

    expected = pooled(job, states_of)(read_split(job["data"], "train")[:COMPARED])
    given = np.asarray(vectors[:COMPARED], np.float32)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(given, axis=1)
    return float(((expected * given).sum(1) / norms).min())
