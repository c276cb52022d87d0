"""Which tokens of texts are to be guessed, and what stands in their place: BERT's rule (Devlin et al. 2019).

Everything is drawn for all texts at once, as a function of (seed, epoch) and the place of a token among all of them;
how a step is cut into passes and ranks changes nothing. This file knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.streams import Stream, generator

_MASKED, _REPLACED = 0.8, 0.1  # of the tokens that are to be guessed; the others stay as they are


@dataclass(frozen=True)
class Words:
    """What a tokenizer knows.

    Attributes:
        mask: id of the token that masks another.
        special: int64, ids that are never to be guessed.
        ordinary: int64, all others, which may stand in another's place.
    """

    mask: int
    special: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any, *, rows: int) -> Words:
        """Return the words of a tokenizer for which an encoder has so many embeddings."""
        known = np.array(sorted(set(tokenizer.get_vocab().values())), np.int64)
        special = np.array(sorted(set(tokenizer.all_special_ids)), np.int64)
        return cls(int(tokenizer.mask_token_id), special, np.setdiff1d(known[known < rows], special))


class Masks:
    """What is to be guessed in texts, epoch by epoch.

    Args:
        tokens: the texts.
        words: of their tokenizer.
        share: of the tokens of a text, special ones not counted; at least one is guessed where there is any.
        seed: of the run.
    """

    def __init__(self, tokens: Tokens, words: Words, *, share: float, seed: int) -> None:
        self.tokens, self.words, self.seed = tokens, words, seed
        self.owner = np.repeat(np.arange(len(tokens)), tokens.sizes)
        self._places = np.flatnonzero(~np.isin(tokens.ids, words.special))
        usable = np.bincount(self.owner[self._places], minlength=len(tokens))
        # How many tokens of a text are guessed, int64 (texts,): the same in every epoch, by which a step is normalised.
        self.counts = np.where(usable > 0, np.maximum(1, np.rint(share * usable)), 0).astype(np.int64)
        self._epoch, self._drawn = -1, (np.empty(0, np.int32), np.empty(0, bool))

    def of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what stands for every token in an epoch, int32 (tokens,), and which are to be guessed, bool."""
        if epoch != self._epoch:
            self._epoch, self._drawn = epoch, self._draw(epoch)
        return self._drawn

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        random = generator(self.seed, epoch, Stream.MASKS)
        count = len(self.tokens.ids)
        lot, kind = random.random((2, count))
        other = random.integers(len(self.words.ordinary), size=count)
        owner = self.owner[self._places]
        order = np.lexsort((lot[self._places], owner))
        rank = np.arange(len(order)) - np.searchsorted(owner, owner)  # sorted by owner both before and after
        wanted = np.zeros(count, bool)
        wanted[self._places[order[rank < self.counts[owner]]]] = True
        given = self.tokens.ids.copy()
        given[wanted & (kind < _MASKED)] = self.words.mask
        replaced = wanted & (kind >= _MASKED) & (kind < _MASKED + _REPLACED)
        given[replaced] = self.words.ordinary[other[replaced]]
        return given, wanted
