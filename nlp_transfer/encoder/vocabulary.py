"""Training the rows of the word embeddings that occur, and no others.

An optimizer that goes through the whole table spends its time on rows whose gradient is always zero: of 30,522 words a
data set may use 4,000, of 250,000 hardly more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import unwrapped, word_embeddings

_MOST_SHARE = 0.75  # of the table; where more occurs, there is little to save


@contextmanager
def occurring_words(model: Any, words: np.ndarray) -> Iterator[None]:
    """Keep only the word embeddings that occur while the block runs, and put them back among the others at its end.

    The others have no gradient and would only decay. How far is seen on one more row that holds ones: whatever is done
    to the table (decay, moving average, keeping the best) is done to it as well. The parameter stays the same object
    under the same name.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        words: all token ids that the model will be given in the block, each once, padding among them.
    """
    table = _table(unwrapped(model))
    words = words[words < table.num_embeddings] if table is not None else words  # a tokenizer may have more
    if table is None or len(words) > _MOST_SHARE * table.num_embeddings:
        yield
        return
    full = table.weight.data
    rows = torch.from_numpy(words.astype(np.int64)).to(full.device)
    places = torch.full((len(full),), -1, device=full.device).index_copy(0, rows, torch.arange(len(rows)).to(rows))
    padding = table.padding_idx
    table.weight.data = torch.cat([full[rows], full.new_ones(1, full.shape[1])])
    table.padding_idx = None if padding is None else int(places[padding])

    def look_up(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (places[args[0]], *args[1:])

    hook = table.register_forward_pre_hook(look_up)
    try:
        yield
    finally:
        hook.remove()
        trained, decay = table.weight.data[:-1], table.weight.data[-1, 0]
        table.weight.data = full.mul_(decay).index_copy_(0, rows, trained)
        table.padding_idx = padding


def _table(model: Any) -> nn.Embedding | None:
    """Return the word embeddings if they learn, and nothing but looking words up is done with them."""
    table = word_embeddings(model)
    if type(table) is not nn.Embedding or table.max_norm is not None or not table.weight.requires_grad:
        return None
    uses = sum(p is table.weight for _, p in model.named_parameters(remove_duplicate=False))
    return table if uses == 1 else None
