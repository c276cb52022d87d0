"""What only an encoder and its tokenizer see: texts that mean the same, tokens that are cut, words that are unknown."""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np

from nlp_transfer.data.checks import called
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.preparation import Prepared

_PARAPHRASE = 0.95  # cosine
_COMPARED = 2000, 50_000  # rows whose neighbours are sought, and among how many
_CUT = 0.01  # share of texts that lose tokens
_UNKNOWN = 0.02  # share of texts in which the vocabulary lacks something
_LETTERS = 1.8  # a token, below which an alphabet is not known to the vocabulary
_ENOUGH = 10  # letters of a text that say so
_SPELLED = 0.02  # share of such texts
_UNSPACED = (
    ("\u0e00", "\u0fff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u3040", "\u9fff"),
    ("\uac00", "\ud7af"),
)
_BLOCK = 256  # rows compared at once


def paraphrases(prepared: Prepared, same: Container[Place]) -> Iterator[Finding]:
    """Find rows outside train that mean what a training row says, in other words.

    Args:
        prepared: the parts of the run.
        same: rows that are the same as others, or nearly; they are found already.
    """
    most_rows, most_neighbours = _COMPARED
    vectors, known = _directions(prepared, "train")
    known = [row for row in known if ("train", row) not in same]
    neighbours = vectors[known[:: 1 + len(known) // most_neighbours]]
    for split in prepared.corpus.splits:
        if split == "train" or not len(neighbours):
            continue
        vectors, rows = _directions(prepared, split)
        rows = [row for row in rows if (split, row) not in same]
        asked = rows[:: 1 + len(rows) // most_rows]
        close = [
            row
            for start in range(0, len(asked), _BLOCK)
            for row, best in zip(
                asked[start : start + _BLOCK],
                (vectors[asked[start : start + _BLOCK]] @ neighbours.T).max(1),
                strict=True,
            )
            if best >= _PARAPHRASE
        ]
        if close:
            yield Finding(
                "paraphrase",
                f"{len(close):,} of {len(asked):,} {called(split)} rows{' of a sample' * (len(asked) < len(rows))} "
                f"mean nearly what a training row says, in other words (cosine from {_PARAPHRASE})",
                tuple((split, row) for row in close),
            )


def _directions(prepared: Prepared, split: str) -> tuple[np.ndarray, list[int]]:
    """Return the sentence vectors of a split with length 1, of several layers the last; and the rows that have one."""
    layers = len(getattr(prepared.classifier.model.config, "layers", [0]))
    vectors = np.split(prepared.features(split), layers, axis=1)[-1]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12), np.flatnonzero(lengths[:, 0] > 0).tolist()


def tokens(prepared: Prepared) -> Iterator[Finding]:
    """Find what the tokenizer cuts off, and words that its vocabulary lacks or spells letter by letter."""
    unknown = prepared.classifier.tokenizer.unk_token_id
    for split, columns in prepared.columns.items():
        found, rows = columns.tokens, f"of {len(columns):,} {called(split)} texts"
        cut = np.flatnonzero(found.cut > 0)
        if len(cut) > _CUT * len(columns):
            yield Finding(
                "truncated",
                f"{len(cut):,} {rows} are longer than {prepared.spec.limit:,} tokens, and {_percent(found)} of all "
                "tokens are cut off",
                tuple((split, int(row)) for row in cut),
            )
        lacking = np.unique(_example_of(found)[found.ids == unknown])
        if len(lacking) > _UNKNOWN * len(columns):
            yield Finding(
                "unknown_words",
                f"{len(lacking):,} {rows} hold characters that the encoder does not know",
                tuple((split, int(row)) for row in lacking),
            )
        spelled = _spelled(prepared.corpus.splits[split], found)
        if len(spelled) > _SPELLED * len(columns):
            yield Finding(
                "unknown_words",
                f"{len(spelled):,} {rows} are spelled letter by letter: the encoder does not know their language",
                tuple((split, int(row)) for row in spelled),
            )


def _percent(found: Tokens) -> str:
    return f"{found.cut.sum() / found.full.sum():.1%}"


def _example_of(found: Tokens) -> np.ndarray:
    """Return whose each token is, int64 (tokens,)."""
    ends = found.offsets[found.first]
    return np.repeat(np.arange(len(found)), np.diff(ends))


def _spelled(examples: Examples, found: Tokens) -> np.ndarray:
    """Return the rows with hardly more letters than tokens; a script of which a letter may be a word tells nothing."""
    letters = np.array([_letters(text) for text in examples.texts])
    if examples.pairs is not None:
        letters += np.array([_letters(text) for text in examples.pairs])
    return np.flatnonzero((letters >= _ENOUGH) & (letters < _LETTERS * (found.full - 2)))


def _letters(text: str) -> int:
    """Return how many letters a text has, 0 where a letter may be a word."""
    if any(low <= character <= high for character in text for low, high in _UNSPACED):
        return 0
    return sum(map(str.isalpha, text))
