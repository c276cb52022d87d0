"""Texts that are nearly the same: pairs that MinHash holds for likely (Broder 1997), compared by all their n-grams.

It knows texts and groups of them, no corpus.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from heapq import nsmallest
from math import ceil
from typing import NamedTuple

import numpy as np

from nlp_transfer.data.sequences import array_for
from nlp_transfer.inspection.texts import bare_words

_GRAM = 4  # characters
_SIMILAR = 0.8  # shared n-grams of all that two texts have, from which they are nearly the same
_SOUGHT = 0.65  # from which pairs are compared: MinHash estimates, and most pairs above 0.8 must be found
_PERMUTATIONS = 64
_BANDS, _WIDTH = 11, 5  # of a signature: the best for what is sought, where missing a pair is worse than comparing one
_COMPARED = 20  # texts that one is compared with at most
_KEPT = 4096  # texts whose n-grams are kept, for of many alike the same ones are asked for
_CHUNK = 1000


class Pair(NamedTuple):
    """The numbers of two texts; the first is lower."""

    first: int
    second: int


def near_pairs(
    texts: Sequence[str], groups: Sequence[Hashable] | np.ndarray, *, show: Callable[[int, int], None] = lambda *_: None
) -> list[Pair]:
    """Return pairs of texts that share four fifths of their character 4-grams; letters and digits count alone.

    A text is compared with those that it may be near to by its signature, which is an estimate: a few pairs are missed.
    Of more than 20 such texts it is compared with those whose signatures are most like its own.

    A text that is near to one of its own group stands for nothing further: of many alike in a group, each is paired
    with the first, and with the first of every other group. So time grows as the texts do.

    Args:
        texts: the texts.
        groups: of each text.
        show: told how much of how much is done.
    """
    signatures, says = _signatures(texts, show)
    known = _Known(signatures)
    grams_of = lru_cache(_KEPT)(lambda row: _grams(texts[row]))
    pairs: list[Pair] = []
    for row in np.flatnonzero(says).tolist():
        if row % _CHUNK == 0:
            show(len(texts) + row, 2 * len(texts))
        likely = known.like(row)
        found = list(_alike(row, likely, grams_of)) if likely else []
        pairs += found
        if not any(groups[pair.first] == groups[row] for pair in found):
            known.add(row)
    show(2 * len(texts), 2 * len(texts))
    return pairs


def _signatures(texts: Sequence[str], show: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Return MinHash signatures, uint32 (texts, permutations), and which texts say anything, bool (texts,)."""
    from datasketch import MinHash

    made, says = array_for((len(texts), _PERMUTATIONS), np.uint32), np.zeros(len(texts), bool)
    for start in range(0, len(texts), _CHUNK):
        grams = [[gram.encode() for gram in _grams(text)] for text in texts[start : start + _CHUNK]]
        says[start : start + _CHUNK] = [bool(own) for own in grams]
        found = MinHash.bulk(grams, num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        made[start : start + _CHUNK] = [signature.hashvalues for signature in found]
        show(start, 2 * len(texts))
    return made, says


class _Known:
    """Texts that another may be near to: those whose signatures agree in a band (locality-sensitive hashing).

    Args:
        signatures: of all texts that may be asked about or added.
    """

    def __init__(self, signatures: np.ndarray) -> None:
        self._signatures, self._bands = signatures, np.arange(_BANDS)
        # In each band texts that agree share a bucket: the places from the first one of it on, so many of them filled.
        self._first, self._filled, self._texts = (array_for((len(signatures), _BANDS), np.int32) for _ in range(3))
        self._filled[:] = 0
        for band in range(_BANDS):
            bucket = _numbered(signatures[:, band * _WIDTH : (band + 1) * _WIDTH])
            sizes = np.bincount(bucket)
            self._first[:, band] = (np.cumsum(sizes) - sizes)[bucket]

    def like(self, row: int) -> list[int]:
        """Return the texts there that share as much with one as is sought, as far as signatures tell, by number.

        Of many those that share most: where most texts are of one template, others as near as its copy are hardly any.
        """
        first = self._first[row]
        ends = first + self._filled[first, self._bands]
        agreeing = zip(first.tolist(), ends.tolist(), range(_BANDS), strict=True)
        found = [self._texts[begin:end, band] for begin, end, band in agreeing if end > begin]
        if not found:
            return []
        likely = np.unique(np.concatenate(found))
        share = (self._signatures[likely] == self._signatures[row]).mean(axis=1)
        best = np.argsort(-share, kind="stable")[:_COMPARED] if len(likely) > _COMPARED else np.arange(len(likely))
        return np.sort(likely[best[share[best] >= _SOUGHT]]).tolist()

    def add(self, row: int) -> None:
        """Let a text be found."""
        first = self._first[row]
        self._texts[first + self._filled[first, self._bands], self._bands] = row
        self._filled[first, self._bands] += 1


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Return a number for each row of uint32, the same for equal rows, int64 (rows,)."""
    numbers = np.zeros(len(rows), np.int64)
    for column in rows.T:
        numbers = np.unique(numbers << 32 | column, return_inverse=True)[1]
    return numbers


def _alike(row: int, others: Sequence[int], grams_of: Callable[[int], frozenset[str]]) -> Iterator[Pair]:
    own = grams_of(row)
    for other in others:
        theirs = grams_of(other)
        if len(own & theirs) / len(own | theirs) >= _SIMILAR:
            yield Pair(other, row)


def near_any(known: Sequence[str], asked: Sequence[str]) -> list[bool]:
    """Return for each text that is asked about whether a known one shares four fifths of the character 4-grams with it.

    No pair is missed: two such texts have one of the rarest n-grams of each in common (prefix filtering, Chaudhuri et
    al. 2006), and those that do are compared. All n-grams are held in memory, so this is for texts that are not many.
    """
    numbers: dict[str, int] = {}
    grams = [{numbers.setdefault(gram, len(numbers)) for gram in _grams(text)} for text in (*known, *asked)]
    counts = Counter(gram for own in grams for gram in own)

    def rarest(own: set[int]) -> list[int]:
        """Return so many that of two similar texts at least one is shared."""
        return nsmallest(len(own) - ceil(_SIMILAR * len(own)) + 1, own, key=lambda gram: (counts[gram], gram))

    having: defaultdict[int, list[int]] = defaultdict(list)
    for place, own in enumerate(grams[: len(known)]):
        for gram in rarest(own):
            having[gram].append(place)

    sizes = [len(own) for own in grams]

    def near(own: set[int]) -> bool:
        least, most = _SIMILAR * len(own), len(own) / _SIMILAR
        likely = {place for gram in rarest(own) for place in having.get(gram, ()) if least <= sizes[place] <= most}
        for place in likely:
            shared = len(own & grams[place])
            if shared >= _SIMILAR * (len(own) + sizes[place] - shared):
                return True
        return False

    return [bool(own) and near(own) for own in grams[len(known) :]]


def _grams(text: str) -> frozenset[str]:
    """Return the n-grams of what a text says."""
    words = bare_words(text)
    return frozenset(words[start : start + _GRAM] for start in range(max(1, len(words) - _GRAM + 1))) - {""}
