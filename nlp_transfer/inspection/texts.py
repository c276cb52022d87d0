"""The texts themselves: what damaged them, where they were cut, how they are written, in which languages."""

from __future__ import annotations

import re
import unicodedata
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

_FEWEST = 100  # rows, of which a share means something
_SHORT = 50  # characters, at which nobody cuts a text
_SHIFT = 0.4  # difference of shares from which two splits are written differently
_LONGER = 2.0  # times as long on average
_SAMPLE = 1000  # rows of a split whose language is looked at
_LETTERS = 25  # of a text whose language can be told
_CERTAIN = 0.95
_FOREIGN = 0.05  # share of texts in another language from which it matters
_SHOWN = 4

_NO_WORD = re.compile(r"[\W_]+")
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
    """Find what ``damage`` knows, in either text of a pair."""
    found: defaultdict[str, list[Place]] = defaultdict(list)
    for split, rows in splits.items():
        for row in range(len(rows)):
            for kind in {kind for text in texts_of(rows, row) for kind in damage(text)}:
                found[kind].append((split, row))
    total = sum(map(len, splits.values()))
    for kind, what in _DAMAGES.items():
        if places := found[kind]:
            split, row = places[0]
            yield Finding(
                kind,
                f"{len(places):,} of {total:,} rows {what}, for example {splits[split].where(row)}",
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


def bare_words(text: str) -> str:
    """Return the words of a text, case folded, with single spaces between them and nothing else."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def texts_of(rows: Rows, row: int) -> list[str]:
    """Return the text of a row, or both texts of a pair."""
    return [rows.texts[row]] if rows.pairs is None else [rows.texts[row], rows.pairs[row]]


def clipped(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find splits in which many texts end at one length, and hardly any just before it."""
    for split, rows in splits.items():
        lengths = Counter(map(len, rows.texts))
        longest = max(lengths)
        at = sum(lengths[longest - back] for back in range(3))  # white space at the end may have gone since
        before = sum(lengths[longest - back] for back in range(3, 23)) * 3 / 20
        if (
            len(rows) >= _FEWEST
            and longest >= _SHORT
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
    """Find splits, or domains among the training rows, whose texts are written in another way than the others."""
    yield from _differing({f"{called(split)} rows": rows.texts for split, rows in splits.items()})
    train = splits["train"]
    if train.domains is not None:
        domains: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        for row, domain in enumerate(train.domains):
            domains[domain].append(row)
        yield from _differing({f"rows of the domain {name!r}": take(train.texts, own) for name, own in domains.items()})


def _differing(parts: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Compare the first part with each of the others, by what their rows are called."""
    large = {name: texts for name, texts in parts.items() if len(texts) >= _FEWEST}
    if len(large) < 2:
        return
    (first, (own, length)), *others = ((name, _written(texts)) for name, texts in large.items())
    for name, (shares, their) in others:
        for style, one, other in zip(_STYLES, own, shares, strict=True):
            if abs(one - other) >= _SHIFT:
                yield Finding("style_shift", f"{one:.0%} of the {first} {style}, {other:.0%} of the {name}")
        if max(length, their) > _LONGER * min(length, their):
            yield Finding(
                "style_shift",
                f"the {first} have {length:,.0f} characters on average, the {name} {their:,.0f}",
            )


def _written(texts: Sequence[str]) -> tuple[list[float], float]:
    """Return the share of texts in each style, and how many characters they have on average."""
    shares = [sum(map(bool, map(has, texts))) / len(texts) for has in _STYLES.values()]
    return shares, sum(map(len, texts)) / len(texts)


def languages(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find that texts are in several languages, by a sample of each split (py3langid)."""
    for split, rows in splits.items():
        step = max(1, len(rows) // _SAMPLE)
        texts = [text for text in rows.texts[::step] if sum(map(str.isalpha, text)) >= _LETTERS]
        known = Counter(name for name, likely in map(_identify, texts) if likely >= _CERTAIN)
        total = sum(known.values())
        shares = {name: count / total for name, count in known.most_common() if count / total >= _FOREIGN}
        if total >= _FEWEST and len(shares) > 1:
            found = listed([f"{name} {share:.0%}" for name, share in shares.items()], most=_SHOWN)
            yield Finding("languages", f"the {called(split)} texts are in several languages: {found}")


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
