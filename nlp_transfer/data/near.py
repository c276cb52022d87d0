"""Near-duplicate texts: candidate pairs by MinHash (Broder 1997), confirmed by comparing all their n-grams."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from heapq import nsmallest
from math import ceil
from typing import NamedTuple

import numpy as np

from nlp_transfer.data.sequences import array_for

_NO_WORD = re.compile(r"[\W_]+")
_GRAM = 4  # characters
_SIMILAR = 0.8  # Jaccard similarity of n-grams from which texts are near duplicates
_SOUGHT = 0.65  # estimated similarity from which pairs are compared, low enough not to miss pairs above 0.8
_PERMUTATIONS = 64
_BANDS, _WIDTH = 11, 5  # of a signature: optimal for `_SOUGHT` if a missed pair is worse than a needless comparison
_COMPARED = 20  # most candidates that a text is compared with
_CACHED = 4096  # texts whose n-grams are cached, as similar texts share their candidates
_CHUNK = 1000


def bare_words(text: str) -> str:
    """Return the case-folded words of a text, separated by single spaces."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


class Pair(NamedTuple):
    """The indices of two texts; the first is smaller."""

    first: int
    second: int


def near_pairs(
    texts: Sequence[str], groups: Sequence[Hashable] | np.ndarray, *, show: Callable[[int, int], None] = lambda *_: None
) -> list[Pair]:
    """Return pairs of texts that share four fifths of their character 4-grams; only letters and digits count.

    A text is compared with the candidates that its signature suggests, which is an estimate, so that a few pairs are
    missed; with more than 20 candidates, only with those of the most similar signatures.

    A text with a near duplicate in its own group is not a candidate for later ones: of many similar texts in a group,
    each is paired with the first one, and with the first of every other group. So time grows linearly.

    Args:
        texts: the texts.
        groups: the group of each text.
        show: progress callback with the amounts of work done and in total.
    """
    signatures, has_words = _signatures(texts, show)
    index = _Index(signatures)
    grams_of = lru_cache(_CACHED)(lambda row: _grams(texts[row]))
    pairs: list[Pair] = []
    for row in np.flatnonzero(has_words).tolist():
        if row % _CHUNK == 0:
            show(len(texts) + row, 2 * len(texts))
        candidates = index.candidates(row)
        duplicates = list(_similar(row, candidates, grams_of)) if candidates else []
        pairs += duplicates
        if not any(groups[pair.first] == groups[row] for pair in duplicates):
            index.add(row)
    show(2 * len(texts), 2 * len(texts))
    return pairs


def _signatures(texts: Sequence[str], show: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Return MinHash signatures, uint32 (texts, permutations), and which texts contain any word, bool (texts,)."""
    from datasketch import MinHash

    signatures, has_words = array_for((len(texts), _PERMUTATIONS), np.uint32), np.zeros(len(texts), bool)
    for start in range(0, len(texts), _CHUNK):
        grams = [[gram.encode() for gram in _grams(text)] for text in texts[start : start + _CHUNK]]
        has_words[start : start + _CHUNK] = [bool(text_grams) for text_grams in grams]
        hashes = MinHash.bulk(grams, num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        signatures[start : start + _CHUNK] = [each.hashvalues for each in hashes]
        show(start, 2 * len(texts))
    return signatures, has_words


class _Index:
    """An index of texts by signature bands (locality-sensitive hashing).

    Args:
        signatures: of all texts that may be added or queried.
    """

    def __init__(self, signatures: np.ndarray) -> None:
        self._signatures, self._bands = signatures, np.arange(_BANDS)
        # In each band, texts that agree share a bucket, a slice of `_texts`: its start, and how much of it is filled.
        self._first, self._filled, self._texts = (array_for((len(signatures), _BANDS), np.int32) for _ in range(3))
        self._filled[:] = 0
        for band in range(_BANDS):
            bucket = _numbered(signatures[:, band * _WIDTH : (band + 1) * _WIDTH])
            sizes = np.bincount(bucket)
            self._first[:, band] = (np.cumsum(sizes) - sizes)[bucket]

    def candidates(self, row: int) -> list[int]:
        """Return the indexed texts whose estimated similarity to a text is high enough, in ascending order.

        Of many, only the most similar ones: if most texts follow one template, few others are as similar as copies.
        """
        first = self._first[row]
        ends = first + self._filled[first, self._bands]
        buckets = zip(first.tolist(), ends.tolist(), range(_BANDS), strict=True)
        members = [self._texts[begin:end, band] for begin, end, band in buckets if end > begin]
        if not members:
            return []
        likely = np.unique(np.concatenate(members))
        share = (self._signatures[likely] == self._signatures[row]).mean(axis=1)
        best = np.argsort(-share, kind="stable")[:_COMPARED] if len(likely) > _COMPARED else np.arange(len(likely))
        return np.sort(likely[best[share[best] >= _SOUGHT]]).tolist()

    def add(self, row: int) -> None:
        """Add a text to the index."""
        first = self._first[row]
        self._texts[first + self._filled[first, self._bands], self._bands] = row
        self._filled[first, self._bands] += 1


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Return int64 (rows,): a number for each row of uint32, which equal rows share."""
    numbers = np.zeros(len(rows), np.int64)
    for column in rows.T:
        numbers = np.unique(numbers << 32 | column, return_inverse=True)[1]
    return numbers


def _similar(row: int, others: Sequence[int], grams_of: Callable[[int], frozenset[str]]) -> Iterator[Pair]:
    grams = grams_of(row)
    for other in others:
        other_grams = grams_of(other)
        if len(grams & other_grams) / len(grams | other_grams) >= _SIMILAR:
            yield Pair(other, row)


def near_any(known: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """Return for each text whether any known text shares four fifths of its character 4-grams.

    No pair is missed: two such texts share one of the rarest n-grams of each (prefix filtering, Chaudhuri et al. 2006),
    and all pairs that do are compared. All n-grams are kept in memory, so this is for few texts.
    """
    numbers: dict[str, int] = {}
    grams = [{numbers.setdefault(gram, len(numbers)) for gram in _grams(text)} for text in (*known, *texts)]
    counts = Counter(gram for text_grams in grams for gram in text_grams)

    def rarest(text_grams: set[int]) -> list[int]:
        """Return as many of the rarest n-grams as it takes for two similar texts to share at least one."""
        count = len(text_grams) - ceil(_SIMILAR * len(text_grams)) + 1
        return nsmallest(count, text_grams, key=lambda gram: (counts[gram], gram))

    places_by_gram: defaultdict[int, list[int]] = defaultdict(list)
    for place, text_grams in enumerate(grams[: len(known)]):
        for gram in rarest(text_grams):
            places_by_gram[gram].append(place)

    sizes = [len(text_grams) for text_grams in grams]

    def has_near(text_grams: set[int]) -> bool:
        least, most = _SIMILAR * len(text_grams), len(text_grams) / _SIMILAR
        candidates = {place for gram in rarest(text_grams) for place in places_by_gram.get(gram, ())}
        for place in candidates:
            if not least <= sizes[place] <= most:
                continue
            shared = len(text_grams & grams[place])
            if shared >= _SIMILAR * (len(text_grams) + sizes[place] - shared):
                return True
        return False

    return [bool(text_grams) and has_near(text_grams) for text_grams in grams[len(known) :]]


def _grams(text: str) -> frozenset[str]:
    """Return the character n-grams of a text's words."""
    words = bare_words(text)
    return frozenset(words[start : start + _GRAM] for start in range(max(1, len(words) - _GRAM + 1))) - {""}
