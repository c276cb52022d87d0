"""Export a bag-of-vectors model as a table of logits by token; the logits of a text are the mean over its tokens.

Without layers tokens do not interact, and pooling by mean and the output layer are linear: the logits of a text are the
mean of the logits of its tokens, each as a text of its own. They are computed once for the whole vocabulary. The idea
of a static encoder is that of model2vec (Tulkens and van Dongen 2024); here the table holds logits, not vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from torch import Tensor

from nlp_transfer.artefact.places import STATIC
from nlp_transfer.artefact.record import Record
from nlp_transfer.encoder.pooled_config import PooledConfig, encoder_config
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.exported import OUTPUT

_TOKENS_AT_ONCE = 4096
_TOLERANCE = 1e-4  # of a logit, for rounding in float32

_README = """A text classifier without layers: `{table}` holds the logits of every token, float32
({tokens:,}, {outputs}); the logits of a text are the mean over its tokens. It only needs
`pip install numpy safetensors tokenizers`:

```python
import json
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

table = load_file("{table}")["{output}"]
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation({limit}, direction="{side}")
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
{decision}
```

This truncates long texts; `nlp_transfer.load` reads them as in training, and applies every decision rule in
`nlp_transfer.json`. `export.json` contains the comparison with the original model.
"""
_LOGITS = 'logits = table[tokenizer.encode("a text").ids].mean(axis=0)'
_NAMES = 'names = list(json.load(open("config.json"))["id2label"].values())'
_DECISIONS = {
    "multi_label": "labels = [name for name, given in zip(names, 1 / (1 + np.exp(-logits)) >= {threshold}) if given]",
    "regression": "value = float(logits[0])",
}
_LIKELIEST = "label = names[int(np.argmax(logits))]"


def write_table(model: Any, tokenizer: Any, record: Record, folder: Path) -> None:
    """Write the table of a model, and a README.md that explains its use without this package.

    Raises:
        UserError: for a model that is not a bag of vectors, with the reason.
    """
    obstacle = _obstacle(model, tokenizer, record)
    if not obstacle:
        table = _table(model)
        obstacle = None if _is_bag(model, table) else "uses the positions of tokens"
    if obstacle:
        raise UserError(
            f"export.format=static is for a bag of vectors (encoder.depth=0), and this model {obstacle}: use "
            "export.format=onnx"
        )
    save_file({OUTPUT: table.numpy()}, folder / STATIC)
    (folder / "README.md").write_text(_readme(table, record), encoding="utf-8")


def _obstacle(model: Any, tokenizer: Any, record: Record) -> str | None:
    """Return why a model cannot be a table, judging by its configuration; None: it may be one."""
    config = model.config
    if getattr(encoder_config(config), "num_hidden_layers", None) != 0:
        return "has layers"
    if record.task.pair:
        return "reads pairs of texts"
    if not isinstance(config, PooledConfig) or config.pooling != "mean":
        return "does not take the mean of its tokens (encoder.pooling=mean)"
    if config.hidden:
        return f"has a hidden layer (encoder.hidden={config.hidden})"
    return None if tokenizer.is_fast else "has a tokenizer that is written in Python"


@torch.inference_mode()
def _table(model: Any) -> Tensor:
    """Return the logits of every token as a text of its own, float32 (vocabulary, outputs)."""
    tokens = torch.arange(model.get_input_embeddings().num_embeddings)
    return torch.cat([model(input_ids=part[:, None]).logits.float() for part in tokens.split(_TOKENS_AT_ONCE)])


@torch.inference_mode()
def _is_bag(model: Any, table: Tensor) -> bool:
    """Return whether the logits of texts with many tokens are the mean over the table."""
    tokens = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[: 8 * 16].reshape(-1, 16)
    logits = model(input_ids=tokens).logits
    return bool((table[tokens].mean(dim=1) - logits).abs().max() <= _TOLERANCE * logits.abs().max().clamp(min=1))


def _readme(table: Tensor, record: Record) -> str:
    task, spec = record.task, record.tokens
    threshold = list(task.threshold) if isinstance(task.threshold, tuple) else task.threshold
    decision = _DECISIONS.get(task.problem, _LIKELIEST).format(threshold=threshold)
    return _README.format(
        table=STATIC,
        output=OUTPUT,
        tokens=len(table),
        outputs=table.shape[1],
        limit=spec.limit,
        side=spec.truncation_side,
        decision="\n".join([_LOGITS, *([_NAMES] if task.labels else []), decision]),
    )
