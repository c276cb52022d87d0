"""What only an encoder and its tokenizer see: texts that mean the same, tokens that are cut, words that are unknown."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

import numpy as np

from nlp_transfer.data.checks import LEAKS, called
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.running.preparation import Prepared

_PARAPHRASE = 0.95  # cosine
_COMPARED = 2000, 50_000  # rows whose neighbours are sought, and among how many
_CUT = 0.01  # share of texts that lose tokens
_UNKNOWN = 0.02  # share of texts in which the vocabulary lacks something
_LETTERS = 1.8  # a token, below which an alphabet is not known to the vocabulary
_ENOUGH = 10  # letters of a text that say so
_SPELLED = 0.02  # share of such texts
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7af]")
_BLOCK = 256  # rows compared at once


def paraphrases(prepared: Prepared, same: Container[Place]) -> Iterator[Finding]:
    """Find rows that mean what a row of an earlier split says, or an earlier one of their own, in other words.

    Of many rows a sample is asked about, and compared with a sample, so that the cost has an end.

    Args:
        prepared: the parts of the run.
        same: rows that are the same as others, or nearly; they are found already.
    """
    most_rows, most_neighbours = _COMPARED
    known = {split: _vectors(prepared, split) for split in prepared.corpus.splits}
    left = {split: [row for row in rows if (split, row) not in same] for split, (_, rows) in known.items()}
    for source, target in (*LEAKS, *((split, split) for split in known)):
        if source not in known or target not in known:
            continue
        neighbours, asked = _sample(left[source], most_neighbours), _sample(left[target], most_rows)
        within = source == target
        close = _closest(known[target][0], asked, known[source][0], neighbours, earlier=within)
        if close:
            yield Finding(
                "paraphrase",
                f"{len(close):,} of {len(asked):,} {called(target)} rows"
                f"{' of a sample' * (len(asked) < len(left[target]))} mean nearly what "
                f"{'an earlier one' if within else f'a {called(source)} row'} says, in other words "
                f"(cosine from {_PARAPHRASE})",
                tuple((target, row) for row in close),
                tuple((source, row) for row in close.values()),
            )


def _sample(rows: list[int], most: int) -> list[int]:
    return rows[:: max(1, -(-len(rows) // most))]


def _closest(
    vectors: np.ndarray, asked: list[int], others: np.ndarray, neighbours: list[int], *, earlier: bool
) -> dict[int, int]:
    """Return the rows that are paraphrases of a neighbour, and of which; where it must be earlier, by its number."""
    found: dict[int, int] = {}
    theirs, numbers = _directions(others[neighbours]), np.asarray(neighbours)
    for start in range(0, len(asked) if neighbours else 0, _BLOCK):
        rows = np.asarray(asked[start : start + _BLOCK])
        cosines = _directions(vectors[rows]) @ theirs.T
        if earlier:
            cosines[numbers >= rows[:, None]] = -1
        best = cosines.argmax(1)
        for row, cosine, other in zip(rows, cosines.max(1), numbers[best], strict=True):
            if cosine >= _PARAPHRASE:
                found[int(row)] = int(other)
    return found


def _vectors(prepared: Prepared, split: str) -> tuple[np.ndarray, list[int]]:
    """Return the sentence vectors of a split, of several layers the last; and the rows that have a direction."""
    layers = len(getattr(prepared.classifier.model.config, "layers", [0]))
    vectors = np.split(prepared.features(split), layers, axis=1)[-1]
    blocks = (vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK))
    return vectors, np.flatnonzero(np.concatenate([np.linalg.norm(block, axis=1) for block in blocks])).tolist()


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Return vectors with length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def tokens(prepared: Prepared) -> Iterator[Finding]:
    """Find what the tokenizer cuts off, and words that its vocabulary lacks or spells letter by letter."""
    unknown = prepared.classifier.tokenizer.unk_token_id
    for split, columns in prepared.columns.items():
        found, rows = columns.tokens, f"of {len(columns):,} {called(split)} texts"
        cut, most = np.flatnonzero(found.cut > 0), prepared.spec.max_length if split == "train" else prepared.spec.limit
        if len(cut) > _CUT * len(columns):
            yield Finding(
                "truncated",
                f"{len(cut):,} {rows} are longer than {most:,} tokens, and {_percent(found)} of all tokens are cut off",
                tuple((split, int(row)) for row in cut),
            )
        places = np.flatnonzero(found.ids == unknown)
        lacking = np.unique(np.searchsorted(found.ends, places, side="right") - 1)
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


def _spelled(examples: Examples, found: Tokens) -> np.ndarray:
    """Return the rows with hardly more letters than tokens; a script of which a letter may be a word tells nothing."""
    letters = np.fromiter(map(_letters, examples.texts), np.int64)
    if examples.pairs is not None:
        letters += np.fromiter(map(_letters, examples.pairs), np.int64)
    return np.flatnonzero((letters >= _ENOUGH) & (letters < _LETTERS * (found.full - 2)))


def _letters(text: str) -> int:
    """Return how many letters a text has, 0 where a letter may be a word."""
    return 0 if _UNSPACED.search(text) else sum(map(str.isalpha, text))
