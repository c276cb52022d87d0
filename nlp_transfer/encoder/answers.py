"""Logits of a model for a few fixed sentences: recorded when it is saved, recomputed with plain transformers and PEFT.

`verification` runs this file as a script in a separate process without this package, so it may import only torch,
transformers and peft.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ANSWERS = "answers.json"
_SENTENCES = (
    "The parcel came a day late, but whoever answered the phone was kind.",
    "¿Dónde está mi pedido n.º 4711?! 包裹还没有到 🙂",
)
_SECOND_SENTENCES = ("Delivery was slow; support was friendly.", "My order has arrived.")
_LONG = "where is my order number 12 and why does it take so long "  # 13 tokens or so


def answers_of(
    model: Any, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, *, truncation: str | bool
) -> list[list[float]]:
    """Return the logits of a model in evaluation mode, (texts, outputs).

    The last text, which may be long, is a batch of its own, so that the others are not padded to its length.

    Args:
        model: of transformers or PEFT.
        tokenizer: truncates at its ``model_max_length``.
        texts: at least two.
        pairs: the second texts, or None.
        truncation: the tokenizer's argument: True, ``longest_first``, ``only_first`` or ``only_second``.
    """
    import torch

    logits: list[list[float]] = []
    for part in (slice(0, -1), slice(-1, None)):
        second = None if pairs is None else list(pairs[part])
        rows = tokenizer(list(texts[part]), second, padding=True, truncation=truncation, return_tensors="pt")
        with torch.inference_mode():
            logits += model(**rows.to(model.device)).logits.float().tolist()
    return logits


def write_answers(folder: Path, model: Any, tokenizer: Any, *, limit: int, pair: bool, truncation: str) -> None:
    """Write the logits of a model, in evaluation mode, for a few fixed sentences into its folder.

    Args:
        folder: of the artefact.
        model: the trained model.
        tokenizer: truncates at its ``model_max_length``.
        limit: maximum tokens of a text.
        pair: whether the model reads text pairs.
        truncation: which text of a pair is truncated.
    """
    long = _LONG * (min(limit, 600) // 10 + 1)  # long enough to be truncated if the limit is at most 600 tokens
    texts = [*_SENTENCES, long]
    pairs = [*_SECOND_SENTENCES, long] if pair else None
    cut: str | bool = truncation if pair else True
    logits = answers_of(model.eval(), tokenizer, texts, pairs, truncation=cut)
    rounded = [[float(f"{value:.7g}") for value in row] for row in logits]
    content = {"texts": texts, "pairs": pairs, "truncation": cut, "logits": rounded}
    (folder / ANSWERS).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Read a job from standard input and write the results as the last line of standard output, both as JSON.

    The job has a ``folder`` with its tokenizer, ``texts``, ``pairs``, ``truncation``, and the models to run: ``whole``,
    the model in the folder (``own_head``: with its head's remote code), and an ``adapter`` folder for the model in
    ``base``, with the number of ``outputs`` and other configuration ``entries``.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    job = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(job["folder"], trust_remote_code=job["own_head"])
    results: dict[str, Any] = {}

    def answers(model: Any) -> list[list[float]]:
        return answers_of(model.eval(), tokenizer, job["texts"], job["pairs"], truncation=job["truncation"])

    load = AutoModelForSequenceClassification.from_pretrained
    if job["whole"]:
        model = load(job["folder"], dtype="float32", use_safetensors=True, trust_remote_code=job["own_head"])
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        results |= {"model": answers(model), "labels": names}
    if job["adapter"]:
        from peft import PeftModel

        options = {"num_labels": job["outputs"], **job["entries"]}
        base = load(job["base"], dtype="float32", use_safetensors=True, **options)
        for config in (base.config, base.config.get_text_config()):
            config.pad_token_id = tokenizer.pad_token_id  # many decoders have none
        results["adapter"] = answers(PeftModel.from_pretrained(base, job["adapter"]))
    print(json.dumps(results))  # noqa: T201


if __name__ == "__main__":
    main()
