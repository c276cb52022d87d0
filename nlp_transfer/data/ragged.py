"""A ragged array of token ids for many texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nlp_transfer.machine.disk import scratch

_MANY = 1 << 24  # values, from which an array is backed by a file


@dataclass(frozen=True)
class Tokens:
    """Token ids of a list of examples as a ragged array.

    Sequence s is ``ids[offsets[s]:offsets[s + 1]]``; example e has the sequences ``first[e]:first[e + 1]``: one, or
    more where a long text was split into windows.

    Attributes:
        ids: int32, (tokens,).
        types: int8 token type ids, (tokens,), or None where the encoder takes none.
        offsets: int64, (sequences + 1,).
        first: int64, (examples + 1,).
        full: int64, (examples,), tokens of the example before truncation.
        cut: int64, (examples,), tokens that were truncated.
    """

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    first: np.ndarray
    full: np.ndarray
    cut: np.ndarray

    @classmethod
    def whole(cls, ids: np.ndarray, types: np.ndarray | None, full: np.ndarray) -> Tokens:
        """Return untruncated examples of one sequence each, from their lengths `full`."""
        cut = np.zeros(len(full), np.int64)  # zero pages take no memory until they are written to
        return cls(ids, types, starts(full), np.arange(len(full) + 1, dtype=np.int64), full, cut)

    def to_array(self) -> np.ndarray:
        """Return untruncated examples as one int32 array, from which `from_array` restores them."""
        assert len(self.offsets) == len(self.full) + 1, "windows are cut"
        has_types = self.types is not None and bool(self.types.any())  # single texts have zeros only: not stored
        kind = 0 if self.types is None else 1 + has_types
        parts: list[Any] = [np.array([len(self), kind]), self.full, self.ids, *([self.types] if has_types else [])]
        size = sum(map(len, parts))
        out = np.empty(size, np.int32) if size < _MANY else scratch((size,), np.dtype(np.int32))
        return np.concatenate(parts, out=out, casting="same_kind")

    @classmethod
    def from_array(cls, values: np.ndarray) -> Tokens:
        """Return the examples that `to_array` stored."""
        rows, kind = values[:2].tolist()
        full, ids = values[2 : rows + 2].astype(np.int64), values[rows + 2 :]
        tokens = int(full.sum())
        types = None
        if kind:
            types = ids[tokens:].astype(np.int8) if kind == 2 else np.zeros(tokens, np.int8)
        return cls.whole(ids[:tokens], types, full)

    def __len__(self) -> int:
        return len(self.first) - 1

    def take(self, examples: Sequence[int] | np.ndarray) -> Tokens:
        """Return the examples at these indices, in the order given."""
        examples = np.asarray(examples, np.int64)
        sequences = ranges(self.first, examples)
        places = ranges(self.offsets, sequences)
        return Tokens(
            self.ids[places],
            None if self.types is None else self.types[places],
            starts(self.sequence_lengths[sequences]),
            starts(self.windows[examples]),
            self.full[examples],
            self.cut[examples],
        )

    def followed_by(self, others: Tokens) -> Tokens:
        """Return these examples followed by others."""
        assert (self.types is None) == (others.types is None)
        return Tokens(
            np.concatenate([self.ids, others.ids]),
            None if self.types is None or others.types is None else np.concatenate([self.types, others.types]),
            np.concatenate([self.offsets, self.offsets[-1] + others.offsets[1:]]),
            np.concatenate([self.first, self.first[-1] + others.first[1:]]),
            np.concatenate([self.full, others.full]),
            np.concatenate([self.cut, others.cut]),
        )

    @cached_property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of every sequence, int64 (sequences,)."""
        return np.diff(self.offsets)

    @cached_property
    def windows(self) -> np.ndarray:
        """Sequences of every example, int64 (examples,)."""
        return np.diff(self.first)

    @cached_property
    def ends(self) -> np.ndarray:
        """Offset of the first token of every example, and the end of the last one, int64 (examples + 1,)."""
        return self.offsets if self._one_each else self.offsets[self.first]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens of every example, int64 (examples,)."""
        return self.sequence_lengths if self._one_each else np.diff(self.ends)

    @cached_property
    def longest(self) -> np.ndarray:
        """Tokens of every example's longest sequence, int64 (examples,): the least width of its padded rows."""
        return self.sequence_lengths if self._one_each else np.maximum.reduceat(self.sequence_lengths, self.first[:-1])

    @property
    def _one_each(self) -> bool:
        """Whether every example has exactly one sequence."""
        return len(self.offsets) == len(self.first)


def ranges(offsets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the concatenated indices of the segments ``offsets[c]:offsets[c + 1]`` for every c in `chosen`, int64."""
    begins = offsets[chosen]
    lengths = offsets[chosen + 1] - begins
    return np.repeat(begins - starts(lengths)[:-1], lengths) + np.arange(int(lengths.sum()))


def starts(lengths: np.ndarray) -> np.ndarray:
    """Return the offsets of consecutive segments of these lengths, with the end of the last one, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
