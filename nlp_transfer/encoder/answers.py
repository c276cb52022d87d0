"""What a model answers to a few fixed sentences: when it is saved, and as plain transformers and PEFT load it.

`verification` runs this file as a script in a process of its own, in which this package is not imported: the file may
import torch, transformers and peft alone.
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

    The last text goes alone and the others together, padded: a long one would make all of them long.

    Args:
        model: of transformers or PEFT.
        tokenizer: its ``model_max_length`` is where texts are cut.
        texts: two at least.
        pairs: the second texts, or None.
        truncation: as the tokenizer takes it: True, ``longest_first``, ``only_first`` or ``only_second``.
    """
    import torch

    found: list[list[float]] = []
    for part in (slice(0, -1), slice(-1, None)):
        second = None if pairs is None else list(pairs[part])
        rows = tokenizer(list(texts[part]), second, padding=True, truncation=truncation, return_tensors="pt")
        with torch.inference_mode():
            found += model(**rows.to(model.device)).logits.float().tolist()
    return found


def write_answers(folder: Path, model: Any, tokenizer: Any, *, limit: int, pair: bool, truncation: str) -> None:
    """Keep in a saved folder what a model answers now, in evaluation mode, to a few fixed sentences.

    Args:
        folder: of the artefact.
        model: that was trained.
        tokenizer: its ``model_max_length`` is where texts are cut.
        limit: tokens of the longest text.
        pair: whether it reads two texts.
        truncation: which of two is cut.
    """
    long = _LONG * (min(limit, 600) // 10 + 1)  # cut where the encoder takes up to 600 tokens
    texts = [*_SENTENCES, long]
    pairs = [*_SECOND_SENTENCES, long] if pair else None
    cut: str | bool = truncation if pair else True
    logits = answers_of(model.eval(), tokenizer, texts, pairs, truncation=cut)
    rounded = [[float(f"{value:.7g}") for value in row] for row in logits]
    content = {"texts": texts, "pairs": pairs, "truncation": cut, "logits": rounded}
    (folder / ANSWERS).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Read a job from standard input; write what came out as the last line of standard output, both as JSON.

    The job names a ``folder`` with its tokenizer, the ``texts``, ``pairs`` and ``truncation``, and what to ask:
    ``whole``, the model in the folder (``own_head``: its head's code lies there too); an ``adapter`` folder on the
    model in ``base``, with so many ``outputs`` and other ``entries`` of its configuration.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    job = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(job["folder"], trust_remote_code=job["own_head"])
    found: dict[str, Any] = {}

    def ask(model: Any) -> list[list[float]]:
        return answers_of(model.eval(), tokenizer, job["texts"], job["pairs"], truncation=job["truncation"])

    load = AutoModelForSequenceClassification.from_pretrained
    if job["whole"]:
        model = load(job["folder"], dtype="float32", use_safetensors=True, trust_remote_code=job["own_head"])
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        found |= {"model": ask(model), "labels": names}
    if job["adapter"]:
        from peft import PeftModel

        options = {"num_labels": job["outputs"], **job["entries"]}
        base = load(job["base"], dtype="float32", use_safetensors=True, **options)
        for config in (base.config, base.config.get_text_config()):
            config.pad_token_id = tokenizer.pad_token_id  # which many a decoder lacks
        found["adapter"] = ask(PeftModel.from_pretrained(base, job["adapter"]))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
