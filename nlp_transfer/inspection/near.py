"""Texts that are nearly the same: character n-grams by MinHash (Broder 1997), every pair then compared exactly.

It knows texts and groups of them, no corpus.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from math import ceil

from nlp_transfer.inspection.wording import said

_GRAM = 4  # characters
_SIMILAR = 0.8  # shared n-grams of all that two texts have, from which they are nearly the same
_SOUGHT = 0.65  # from which pairs are compared: MinHash estimates, and most pairs above 0.8 must be found
_PERMUTATIONS = 64
_COMPARED = 20  # texts that one is compared with at most
_KEPT = 4096  # texts whose n-grams are kept, for of many alike the same ones are asked for
_CHUNK = 1000


@dataclass(frozen=True)
class Pair:
    """Two texts.

    Attributes:
        first, second: their numbers; the first is lower.
        similarity: shared n-grams of all that either has.
    """

    first: int
    second: int
    similarity: float


def near_pairs(
    texts: Sequence[str], groups: Sequence[Hashable], *, show: Callable[[int, int], None] = lambda *_: None
) -> list[Pair]:
    """Return pairs of texts that share four fifths of their character 4-grams; letters and digits count alone.

    A text that is near to one of its own group stands for nothing further: of many alike in a group, each is paired
    with the first, and with the first of every other group. So time grows as the texts do.

    Args:
        texts: the texts.
        groups: of each text.
        show: told how many of how many texts are done.
    """
    from datasketch import MinHash, MinHashLSH

    known = MinHashLSH(threshold=_SOUGHT, num_perm=_PERMUTATIONS, weights=(0.3, 0.7))
    signatures: dict[int, MinHash] = {}
    kept = lru_cache(_KEPT)(_grams)
    pairs: list[Pair] = []
    for start in range(0, len(texts), _CHUNK):
        grams = [_grams(text) for text in texts[start : start + _CHUNK]]
        encoded = [[gram.encode() for gram in each] for each in grams]
        for row, (own, signature) in enumerate(
            zip(grams, MinHash.bulk(encoded, num_perm=_PERMUTATIONS, hashfunc=zlib.crc32), strict=True), start
        ):
            if not own:
                continue
            likely = [other for other in known.query(signature) if signatures[other].jaccard(signature) >= _SOUGHT]
            found = list(_alike(row, own, sorted(likely)[:_COMPARED], lambda other: kept(texts[other])))
            pairs += found
            if not any(groups[pair.first] == groups[row] for pair in found):
                known.insert(row, signature, check_duplication=False)
                signatures[row] = signature
        show(min(start + _CHUNK, len(texts)), len(texts))
    return pairs


def _alike(
    row: int, own: frozenset[str], candidates: Sequence[int], grams_of: Callable[[int], frozenset[str]]
) -> Iterator[Pair]:
    for other in candidates:
        theirs = grams_of(other)
        similarity = len(own & theirs) / len(own | theirs)
        if similarity >= _SIMILAR:
            yield Pair(other, row, similarity)


def near_some(known: Sequence[str], asked: Sequence[str]) -> list[bool]:
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
    words = said(text)
    return frozenset(words[start : start + _GRAM] for start in range(max(1, len(words) - _GRAM + 1))) - {""}
