"""Carving validation and test rows out of the training rows, and taking fewer of them, by a hash of the text.

What is chosen depends on the texts, not on their order, and rows with the same text stay together. It knows no files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from nlp_transfer.data.keys import Keys, rows_where
from nlp_transfer.data.labels import Label, is_number
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import shares
from nlp_transfer.errors import UserError

_FEWEST = 20  # rows, from which a label of its own for each is no accident
_DECILES = np.arange(0.1, 0.95, 0.1)


def carve(rows: Rows, share: float, *, split: str, problem: str) -> tuple[Sequence[int], Sequence[int]]:
    """Choose rows for a split that is missing.

    Rows are stratified (see `strata`); of each stratum the first texts in the order of SHA-256(split, text) go, until
    the share is reached, and at least one text stays. So a class with one text stays in train.

    Args:
        rows: the training rows.
        share: of the rows, in (0, 1).
        split: what is carved; different splits choose independently.
        problem: the problem type.

    Returns:
        The rows that stay and the rows that go, both in reading order.

    Raises:
        UserError: where no row can go.
    """
    stratum_of = strata(rows.labels, problem)
    size = Counter(stratum_of)
    names = sorted(size, key=lambda name: (size[name], name))  # the rarest first
    first = rows.keys.firsts()
    is_first = first == np.arange(len(rows))
    texts, text_of = np.flatnonzero(is_first), (np.cumsum(is_first, dtype=np.int32) - 1)[first]
    del first, is_first
    counts, rarest = np.bincount(text_of, minlength=len(texts)), np.full(len(texts), len(names), np.int32)
    np.minimum.at(rarest, text_of, _numbers(stratum_of, names))  # one text with several labels counts for the rarest
    movable = {names[number]: own for number, own in enumerate(_grouped(rarest, len(names))) if len(own) > 1}
    sizes = {name: int(counts[own].sum()) for name, own in movable.items()}
    quotas = apportion(sizes, max(1, round(share * sum(sizes.values()))) if sizes else 0)
    gone = np.zeros(len(texts), bool)
    for name, own in movable.items():
        salted = (hashlib.sha256(split.encode() + b"\0" + key).digest() for key in rows.keys.take(texts[own]))
        ordered = own[Keys.of(salted, len(own)).order()[0]]
        left = quotas[name]
        for text in ordered[:-1]:
            if counts[text] <= left:
                left -= int(counts[text])
                gone[text] = True
    if not gone.any() and len(names) == len(rows) >= _FEWEST:
        todo = "set data.problem=regression" if all(map(is_number, names)) else "write them with a decimal point"
        raise UserError(
            f"no {split} rows can be taken from the {len(rows):,} training rows, for each has a label of its own: name "
            f"another column with data.columns.label=…, or, if they are measurements, {todo}"
        )
    if not gone.any():
        raise UserError(
            f"no {split} rows can be taken from the {len(rows):,} training rows: no class has two texts to divide; "
            f"give data.{split}, or a split column"
        )
    return rows_where(~gone[text_of]), rows_where(gone[text_of])


def limit(
    rows: Rows, key: str = "train_limit", *, total: int | None, per_class: int | None, seed: int, problem: str
) -> Sequence[int]:
    """Choose the rows of a split to use, stratified, in the order of SHA-256(seed, text); return them in reading order.

    Args:
        rows: of the split.
        key: the setting that names `total`, for messages.
        total: how many rows in all, at least one of each class; or None.
        per_class: how many rows of each class, all where it has fewer; or None.
        seed: which rows.
        problem: the problem type.

    Raises:
        UserError: for a limit that makes no sense here.
    """
    name, wanted = (key, total) if per_class is None else ("per_class", per_class)
    if wanted is None:
        return range(len(rows))
    if total is not None and per_class is not None:
        raise UserError("data.train_limit and data.per_class are both set; use one")
    if wanted < 1:
        raise UserError(f"data.{name}={wanted} must be at least 1")
    stratum_of = strata(rows.labels, problem)
    sizes = Counter(stratum_of)
    if per_class is not None:
        if problem in ("regression", "multi_label"):
            raise UserError(
                f"data.per_class needs one class a row, but the problem type is {problem}; use data.train_limit"
            )
        quotas: Mapping[str, int] = {stratum: min(per_class, size) for stratum, size in sizes.items()}
    else:
        if wanted < len(sizes) and problem in ("single_label", "ordinal"):
            raise UserError(
                f"data.{key}={wanted} leaves some of the {len(sizes)} classes without a row; give {len(sizes)} or more"
            )
        quotas = apportion(sizes, min(wanted, len(rows)), least=1 if wanted >= len(sizes) else 0)
    return _drawn(rows, stratum_of, quotas, seed)


def draw_evenly(rows: Rows, count: int, *, seed: int, problem: str) -> Sequence[int]:
    """Choose so many rows, or all, as many of each stratum as of the others as far as it has them.

    They come in the order of SHA-256(seed, text), as in `limit`, and are returned in reading order.
    """
    stratum_of = strata(rows.labels, problem)
    return _drawn(rows, stratum_of, evenly(Counter(stratum_of), count), seed)


def evenly(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` rows among strata alike: what a small one cannot give the others do, and the last get the rest."""
    quotas, left = {}, total
    for position, (size, name) in enumerate(sorted((size, name) for name, size in sizes.items())):
        quotas[name] = min(size, left // (len(sizes) - position))
        left -= quotas[name]
    return quotas


def _drawn(rows: Rows, stratum_of: Sequence[str], quotas: Mapping[str, int], seed: int) -> Sequence[int]:
    """Return so many rows of each stratum, the first in an order of chance, in reading order."""
    names = list(quotas)
    groups = _grouped(_numbers(stratum_of, names), len(names))
    first = [_first(rows, own, quotas[name], seed) for name, own in zip(names, groups, strict=True)]
    drawn = np.zeros(len(rows), bool)
    drawn[np.concatenate([np.empty(0, np.int64), *first])] = True
    return rows_where(drawn)


def _first(rows: Rows, chosen: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the first of some rows in an order of chance, the same for the same rows wherever they stand."""
    salt = f"{seed}|".encode()
    salted = (hashlib.sha256(salt + key).digest() for key in rows.keys.take(chosen))
    order, new = Keys.of(salted, len(chosen)).order()

    def place(at: int) -> tuple[str, str, str, float]:
        row = int(chosen[at])
        pair = "" if rows.pairs is None else rows.pairs[row]
        return rows.texts[row], pair, repr(rows.labels[row]), rows.weights[row]

    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(order))
    for begin, end in zip(*(each[(ends - begins > 1) & (begins < count)] for each in (begins, ends)), strict=True):
        order[begin:end] = sorted(order[begin:end], key=place)  # rows of one text
    return chosen[order[:count]]


def _numbers(stratum_of: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return for each row which stratum it is of, int32 (rows,)."""
    number = {name: place for place, name in enumerate(names)}
    return np.fromiter(map(number.__getitem__, stratum_of), np.int32, len(stratum_of))


def _grouped(numbers: np.ndarray, count: int) -> list[np.ndarray]:
    """Return for each of so many numbers, counted from 0, where it stands."""
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=count)))[:count]


def strata(labels: Sequence[Label], problem: str) -> Sequence[str]:
    """Return for each row what it is stratified by.

    Its label; of soft labels the likeliest; of several labels the one with the fewest rows; of numbers the decile.
    """
    if problem == "regression":
        numbers = np.asarray(labels, dtype=np.float64)
        edges = np.quantile(numbers, _DECILES)
        return [str(decile) for decile in np.searchsorted(edges, numbers, side="right")]
    if problem == "multi_label":
        counts = Counter(name for label in labels for name in shares(label))
        return [min(((counts[name], name) for name in shares(label)), default=(0, ""))[1] for label in labels]
    if all(isinstance(label, str) for label in labels):
        return cast(Sequence[str], labels)
    return [label if isinstance(label, str) else _likeliest(shares(label)) for label in labels]


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return min(probabilities, key=lambda name: (-probabilities[name], name))


def apportion(sizes: Mapping[str, int], total: int, *, least: int = 0) -> dict[str, int]:
    """Divide `total` rows among strata in proportion to their sizes, by largest remainder, at least `least` each.

    The parts sum to `total` exactly and none exceeds its stratum.
    """
    total -= least * len(sizes)
    whole = sum(sizes.values()) - least * len(sizes)
    if whole <= 0:
        return dict.fromkeys(sizes, least)
    parts, remainders = {}, {}
    for name, size in sizes.items():
        parts[name], remainders[name] = divmod(total * (size - least), whole)
    for name in sorted(sizes, key=lambda name: (-remainders[name], name))[: total - sum(parts.values())]:
        parts[name] += 1
    return {name: part + least for name, part in parts.items()}
