"""Masking for masked-language modelling: which tokens to predict and what replaces them (BERT; Devlin et al. 2019).

Masks are drawn for all texts at once, as a function of (seed, epoch) and the position of a token among all tokens, so
that they do not depend on micro-batches or ranks. Independent of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.streams import Stream, generator

_MASKED, _REPLACED = 0.8, 0.1  # shares of the tokens to predict; the others are not changed


@dataclass(frozen=True)
class Vocabulary:
    """The token ids of a tokenizer, for masking.

    Attributes:
        mask: id of the mask token.
        special: int64, ids of special tokens, which are never predicted.
        ordinary: int64, all other ids, which may replace a token.
    """

    mask: int
    special: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any, *, rows: int) -> Vocabulary:
        """Return the vocabulary of a tokenizer, limited to the `rows` embeddings of an encoder."""
        known = np.array(sorted(set(tokenizer.get_vocab().values())), np.int64)
        special = np.array(sorted(set(tokenizer.all_special_ids)), np.int64)
        return cls(int(tokenizer.mask_token_id), special, np.setdiff1d(known[known < rows], special))


class Masks:
    """The masks of texts in every epoch.

    Args:
        tokens: of the texts.
        vocabulary: of their tokenizer.
        share: share of the tokens of a text to predict, special ones not counted; at least one if there is any.
        seed: of the run.
    """

    def __init__(self, tokens: Tokens, vocabulary: Vocabulary, *, share: float, seed: int) -> None:
        self.tokens, self.vocabulary, self.seed = tokens, vocabulary, seed
        self.owner = np.repeat(np.arange(len(tokens)), tokens.sizes)
        self._candidates = np.flatnonzero(~np.isin(tokens.ids, vocabulary.special))
        usable = np.bincount(self.owner[self._candidates], minlength=len(tokens))
        # The number of tokens to predict in each text, int64 (texts,), equal in all epochs; it normalises the loss.
        self.counts = np.where(usable > 0, np.maximum(1, np.rint(share * usable)), 0).astype(np.int64)
        self._epoch, self._drawn = -1, (np.empty(0, np.int32), np.empty(0, bool))

    def of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the masked input ids of an epoch, int32 (tokens,), and which tokens to predict, bool (tokens,)."""
        if epoch != self._epoch:
            self._epoch, self._drawn = epoch, self._draw(epoch)
        return self._drawn

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        random = generator(self.seed, epoch, Stream.MASKS)
        count = len(self.tokens.ids)
        priority, action = random.random((2, count))
        replacement = random.integers(len(self.vocabulary.ordinary), size=count)
        owner = self.owner[self._candidates]
        order = np.lexsort((priority[self._candidates], owner))
        rank = np.arange(len(order)) - np.searchsorted(owner, owner)  # within a text: `owner` is sorted already
        predicted = np.zeros(count, bool)
        predicted[self._candidates[order[rank < self.counts[owner]]]] = True
        ids = self.tokens.ids.copy()
        ids[predicted & (action < _MASKED)] = self.vocabulary.mask
        replaced = predicted & (action >= _MASKED) & (action < _MASKED + _REPLACED)
        ids[replaced] = self.vocabulary.ordinary[replacement[replaced]]
        return ids, predicted
