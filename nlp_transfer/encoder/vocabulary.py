"""Train only the word embeddings of tokens that occur in the data.

An optimizer over the whole table spends its time on rows whose gradient is always zero: a data set may use 4,000 of
30,522 words, and hardly more of 250,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import unwrapped, word_embeddings

_MOST_SHARE = 0.75  # of the table; if more words occur, there is little to save


@contextmanager
def occurring_words(model: Any, words: np.ndarray) -> Iterator[None]:
    """Reduce the word embeddings to the words that occur, and restore the full table at the end of the block.

    Words that do not occur have no gradient and would only be subject to weight decay. An additional row of ones
    measures their decay: everything that happens to the table (decay, averaging, restoring the best weights) happens to
    this row, too. The parameter stays the same object with the same name.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        words: unique ids of all tokens that the model receives in the block, including padding.
    """
    table = _table(unwrapped(model))
    words = words[words < table.num_embeddings] if table is not None else words  # a tokenizer may have more ids
    if table is None or len(words) > _MOST_SHARE * table.num_embeddings:
        yield
        return
    full = table.weight.data
    rows = torch.from_numpy(words.astype(np.int64)).to(full.device)
    new_ids = torch.full((len(full),), -1, device=full.device).index_copy(0, rows, torch.arange(len(rows)).to(rows))
    padding = table.padding_idx
    table.weight.data = torch.cat([full[rows], full.new_ones(1, full.shape[1])])
    table.padding_idx = None if padding is None else int(new_ids[padding])

    def translate_ids(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (new_ids[args[0]], *args[1:])

    hook = table.register_forward_pre_hook(translate_ids)
    try:
        yield
    finally:
        hook.remove()
        trained, decay = table.weight.data[:-1], table.weight.data[-1, 0]
        table.weight.data = full.mul_(decay).index_copy_(0, rows, trained)
        table.padding_idx = padding


def _table(model: Any) -> nn.Embedding | None:
    """Return the word embeddings if they are trainable, untied and used for lookup only, else None."""
    table = word_embeddings(model)
    if type(table) is not nn.Embedding or table.max_norm is not None or not table.weight.requires_grad:
        return None
    uses = sum(p is table.weight for _, p in model.named_parameters(remove_duplicate=False))
    return table if uses == 1 else None
