"""Checks of the texts themselves: damage, clipping, differences of style, languages."""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from nlp_transfer.data.checks import called
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.sequences import take
from nlp_transfer.inspection.damage import damage
from nlp_transfer.wording import listed

_MIN_ROWS = 100  # for a share to mean something
_MIN_CLIP_LENGTH = 50  # characters: nobody clips texts shorter than that
_STYLE_GAP = 0.4  # difference of shares from which two splits are written differently
_LENGTH_RATIO = 2.0  # of mean lengths, likewise
_LANGUAGE_SAMPLE = 1000  # rows of a split
_MIN_LETTERS = 25  # of a text whose language can be identified
_CERTAIN = 0.95
_MIN_LANGUAGE_SHARE = 0.05
_MOST_SHOWN = 4

_TOKENISED = re.compile(r"\s(?:n't|'s|'re|'ve|[.,!?;])(?=\s|$)|``|\s''")
_STYLES: Mapping[str, Callable[[str], object]] = {
    "are in lower case throughout": lambda text: text == text.lower() and text.upper() != text,
    "are in capitals throughout": lambda text: text == text.upper() and text.lower() != text,
    "stand with spaces before punctuation, as tokenizers leave them": _TOKENISED.search,
    "end with a full stop or another mark": lambda text: text.rstrip()[-1:] in ".!?…。！？",
    "hold markup": re.compile(r"<[a-zA-Z/][^<>]*>").search,
    "hold addresses of the web": re.compile(r"https?://|www\.").search,
}


def damaged(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find damaged texts, see ``damage``; in pairs, either text counts."""
    places_by_kind: defaultdict[str, list[Place]] = defaultdict(list)
    for split, rows in splits.items():
        for row in range(len(rows)):
            for kind in {kind for text in texts_of(rows, row) for kind in damage(text)}:
                places_by_kind[kind].append((split, row))
    total = sum(map(len, splits.values()))
    for kind, description in _DAMAGES.items():
        if places := places_by_kind[kind]:
            split, row = places[0]
            yield Finding(
                kind,
                f"{len(places):,} of {total:,} rows {description}, for example {splits[split].where(row)}",
                tuple(places),
            )


_DAMAGES = {
    "mojibake": "were decoded as another encoding than they were written in (mojibake)",
    "quoting": "still have the quotes of CSV around and within them",
    "entity": "hold escapes of HTML such as &amp;",
    "control": "hold control or invisible characters",
    "escape": 'hold escapes such as \\n or \\" as characters',
    "lost_character": "hold the sign for a character that could not be decoded (U+FFFD)",
    "markup": "hold HTML markup",
}


def texts_of(rows: Rows, row: int) -> list[str]:
    """Return the text of a row, or both texts of a pair."""
    return [rows.texts[row]] if rows.pairs is None else [rows.texts[row], rows.pairs[row]]


def clipped(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find splits in which many texts end at the same length, and hardly any just before it."""
    for split, rows in splits.items():
        lengths = Counter(map(len, rows.texts))
        longest = max(lengths)
        at = sum(lengths[longest - back] for back in range(3))  # white space at the end may have gone since
        before = sum(lengths[longest - back] for back in range(3, 23)) * 3 / 20
        if (
            len(rows) >= _MIN_ROWS
            and longest >= _MIN_CLIP_LENGTH
            and at >= max(5, 0.005 * len(rows))
            and 2 * at < len(rows)
            and at > 5 * before
        ):
            yield Finding(
                "clipped",
                f"{at:,} of {len(rows):,} {called(split)} texts end at {longest:,} characters, and hardly one just "
                "before: they were cut there",
                tuple((split, row) for row, text in enumerate(rows.texts) if len(text) > longest - 3),
            )


def styles(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find splits, or domains of the training split, whose texts are written differently."""
    yield from _differing({f"{called(split)} rows": rows.texts for split, rows in splits.items()})
    train = splits["train"]
    if train.domains is not None:
        domains: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        for row, domain in enumerate(train.domains):
            domains[domain].append(row)
        yield from _differing({f"rows of the domain {name!r}": take(train.texts, own) for name, own in domains.items()})


def _differing(parts: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Compare the first part with each of the others; `parts` maps descriptions to texts."""
    large = {name: texts for name, texts in parts.items() if len(texts) >= _MIN_ROWS}
    if len(large) < 2:
        return
    (first, (first_shares, first_length)), *others = ((name, _style_of(texts)) for name, texts in large.items())
    for name, (shares, length) in others:
        for style, first_share, share in zip(_STYLES, first_shares, shares, strict=True):
            if abs(first_share - share) >= _STYLE_GAP:
                yield Finding("style_shift", f"{first_share:.0%} of the {first} {style}, {share:.0%} of the {name}")
        if max(first_length, length) > _LENGTH_RATIO * min(first_length, length):
            yield Finding(
                "style_shift",
                f"the {first} have {first_length:,.0f} characters on average, the {name} {length:,.0f}",
            )


def _style_of(texts: Sequence[str]) -> tuple[list[float], float]:
    """Return the share of texts in each style, and their mean length in characters."""
    shares = [sum(map(bool, map(has, texts))) / len(texts) for has in _STYLES.values()]
    return shares, sum(map(len, texts)) / len(texts)


def languages(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find splits with texts in several languages, by a sample of each (py3langid)."""
    for split, rows in splits.items():
        step = max(1, len(rows) // _LANGUAGE_SAMPLE)
        texts = [text for text in rows.texts[::step] if sum(map(str.isalpha, text)) >= _MIN_LETTERS]
        counts = Counter(name for name, likely in map(_identify, texts) if likely >= _CERTAIN)
        total = sum(counts.values())
        shares = {name: count / total for name, count in counts.most_common() if count / total >= _MIN_LANGUAGE_SHARE}
        if total >= _MIN_ROWS and len(shares) > 1:
            names = listed([f"{name} {share:.0%}" for name, share in shares.items()], most=_MOST_SHOWN)
            yield Finding("languages", f"the {called(split)} texts are in several languages: {names}")


def _identify(text: str) -> tuple[str, float]:
    name, likely = _identifier()(text)
    return str(name), float(likely)


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return identify
