"""Choose validation, test and training rows by a hash of the text.

The choice depends on the texts, not on their order. Carving never separates rows with the same text.
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
from nlp_transfer.data.task import label_probabilities
from nlp_transfer.errors import UserError

_FEWEST = 20  # with at least so many rows, a different label for each row is no accident
_DECILES = np.arange(0.1, 0.95, 0.1)


def carve(rows: Rows, share: float, *, split: str, problem: str) -> tuple[Sequence[int], Sequence[int]]:
    """Choose training rows for a missing split.

    Rows are stratified, see `strata`. In each stratum, texts are moved in the order of SHA-256(split, text) until the
    share is reached; at least one text stays, so a class with one text stays in train.

    Args:
        rows: the training rows.
        share: of the rows, in (0, 1).
        split: name of the missing split; different splits choose independently.
        problem: the problem type.

    Returns:
        The rows that stay in train and the rows of the new split, both in reading order.

    Raises:
        UserError: where no row can be moved.
    """
    stratum_of = strata(rows.labels, problem)
    size = Counter(stratum_of)
    names = sorted(size, key=lambda name: (size[name], name))  # rarest first
    first = rows.keys.firsts()
    is_first = first == np.arange(len(rows))
    texts, text_of = np.flatnonzero(is_first), (np.cumsum(is_first, dtype=np.int32) - 1)[first]
    del first, is_first
    counts, rarest = np.bincount(text_of, minlength=len(texts)), np.full(len(texts), len(names), np.int32)
    np.minimum.at(rarest, text_of, _numbers(stratum_of, names))  # a text with several labels counts for the rarest
    movable = {names[number]: group for number, group in enumerate(_grouped(rarest, len(names))) if len(group) > 1}
    sizes = {name: int(counts[group].sum()) for name, group in movable.items()}
    quotas = apportion(sizes, max(1, round(share * sum(sizes.values()))) if sizes else 0)
    is_moved = np.zeros(len(texts), bool)
    for name, group in movable.items():
        salted = (hashlib.sha256(split.encode() + b"\0" + key).digest() for key in rows.keys.take(texts[group]))
        ordered = group[Keys.of(salted, len(group)).order()[0]]
        left = quotas[name]
        for text in ordered[:-1]:
            if counts[text] <= left:
                left -= int(counts[text])
                is_moved[text] = True
    if not is_moved.any() and len(names) == len(rows) >= _FEWEST:
        todo = "set data.problem=regression" if all(map(is_number, names)) else "write them with a decimal point"
        raise UserError(
            f"no {split} rows can be taken from the {len(rows):,} training rows, for each has a label of its own: name "
            f"another column with data.columns.label=…, or, if they are measurements, {todo}"
        )
    if not is_moved.any():
        raise UserError(
            f"no {split} rows can be taken from the {len(rows):,} training rows: no class has two texts to divide; "
            f"give data.{split}, or a split column"
        )
    return rows_where(~is_moved[text_of]), rows_where(is_moved[text_of])


def limit(
    rows: Rows, key: str = "train_limit", *, total: int | None, per_class: int | None, seed: int, problem: str
) -> Sequence[int]:
    """Choose a stratified subset of rows in the order of SHA-256(seed, text); return it in reading order.

    Args:
        rows: of the split.
        key: the setting that `total` comes from, for messages.
        total: rows in all, at least one of each class; or None.
        per_class: rows of each class, or all where it has fewer; or None.
        seed: decides which rows.
        problem: the problem type.

    Raises:
        UserError: for an invalid limit.
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
                f"data.per_class needs one class per row, but the problem type is {problem}; use data.train_limit"
            )
        quotas: Mapping[str, int] = {stratum: min(per_class, size) for stratum, size in sizes.items()}
    else:
        if wanted < len(sizes) and problem in ("single_label", "ordinal"):
            raise UserError(
                f"data.{key}={wanted} leaves some of the {len(sizes)} classes without a row; give {len(sizes)} or more"
            )
        quotas = apportion(sizes, min(wanted, len(rows)), least=1 if wanted >= len(sizes) else 0)
    return _draw(rows, stratum_of, quotas, seed)


def draw_evenly(rows: Rows, count: int, *, seed: int, problem: str) -> Sequence[int]:
    """Choose `count` rows, or all, spread evenly over the strata; otherwise as `limit`."""
    stratum_of = strata(rows.labels, problem)
    return _draw(rows, stratum_of, evenly(Counter(stratum_of), count), seed)


def evenly(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` rows equally among strata; larger ones make up for small ones, and the largest take remainders."""
    quotas, left = {}, total
    for position, (size, name) in enumerate(sorted((size, name) for name, size in sizes.items())):
        quotas[name] = min(size, left // (len(sizes) - position))
        left -= quotas[name]
    return quotas


def _draw(rows: Rows, stratum_of: Sequence[str], quotas: Mapping[str, int], seed: int) -> Sequence[int]:
    """Return the first rows of each stratum in hash order, as many as its quota, sorted into reading order."""
    names = list(quotas)
    groups = _grouped(_numbers(stratum_of, names), len(names))
    first = [_first(rows, group, quotas[name], seed) for name, group in zip(names, groups, strict=True)]
    is_drawn = np.zeros(len(rows), bool)
    is_drawn[np.concatenate([np.empty(0, np.int64), *first])] = True
    return rows_where(is_drawn)


def _first(rows: Rows, candidates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the first `count` candidates in hash order; independent of the order of the rows."""
    salt = f"{seed}|".encode()
    salted = (hashlib.sha256(salt + key).digest() for key in rows.keys.take(candidates))
    order, is_new = Keys.of(salted, len(candidates)).order()

    def content(candidate: int) -> tuple[str, str, str, float]:
        row = int(candidates[candidate])
        pair = "" if rows.pairs is None else rows.pairs[row]
        return rows.texts[row], pair, repr(rows.labels[row]), rows.weights[row]

    begins = np.flatnonzero(is_new)
    ends = np.append(begins[1:], len(order))
    is_tie = (ends - begins > 1) & (begins < count)
    for begin, end in zip(begins[is_tie], ends[is_tie], strict=True):
        order[begin:end] = sorted(order[begin:end], key=content)  # rows with one hash: order them by content
    return candidates[order[:count]]


def _numbers(stratum_of: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return the index of each row's stratum in `names`, int32 (rows,)."""
    index = {name: position for position, name in enumerate(names)}
    return np.fromiter(map(index.__getitem__, stratum_of), np.int32, len(stratum_of))


def _grouped(numbers: np.ndarray, count: int) -> list[np.ndarray]:
    """Return for each number below `count` the positions where it occurs."""
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=count)))[:count]


def strata(labels: Sequence[Label], problem: str) -> Sequence[str]:
    """Return the stratum of each row.

    This is the label; for soft labels the likeliest; for several labels the rarest; for numbers the decile.
    """
    if problem == "regression":
        numbers = np.asarray(labels, dtype=np.float64)
        edges = np.quantile(numbers, _DECILES)
        return [str(decile) for decile in np.searchsorted(edges, numbers, side="right")]
    if problem == "multi_label":
        counts = Counter(name for label in labels for name in label_probabilities(label))
        candidates = ([(counts[name], name) for name in label_probabilities(label)] for label in labels)
        return [min(each, default=(0, ""))[1] for each in candidates]
    if all(isinstance(label, str) for label in labels):
        return cast(Sequence[str], labels)
    return [label if isinstance(label, str) else _likeliest(label_probabilities(label)) for label in labels]


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return min(probabilities, key=lambda name: (-probabilities[name], name))


def apportion(sizes: Mapping[str, int], total: int, *, least: int = 0) -> dict[str, int]:
    """Divide `total` rows among strata in proportion to their sizes (largest remainder method), at least `least` each.

    The parts sum to `total`, and none exceeds the size of its stratum.
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
