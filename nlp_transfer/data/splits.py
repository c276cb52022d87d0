"""Carving validation and test rows out of the training rows, and taking fewer of them, by a hash of the text.

What is chosen depends on the texts, not on their order, and rows with the same text stay together. It knows no files.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nlp_transfer.data.labels import Label
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import shares
from nlp_transfer.errors import UserError

_DECILES = np.arange(0.1, 0.95, 0.1)


def carve(rows: Rows, share: float, *, split: str, problem: str) -> tuple[list[int], list[int]]:
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
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(rows.keys):
        groups[key].append(row)
    stratum_of = strata(rows.labels, problem)
    size = Counter(stratum_of)
    by_stratum: defaultdict[str, list[bytes]] = defaultdict(list)
    for key, members in groups.items():  # one text with several labels counts for the rarest
        by_stratum[min((size[stratum_of[row]], stratum_of[row]) for row in members)[1]].append(key)
    movable = {name: keys for name, keys in by_stratum.items() if len(keys) > 1}
    sizes = {name: sum(len(groups[key]) for key in keys) for name, keys in movable.items()}
    quotas = apportion(sizes, max(1, round(share * sum(sizes.values()))) if sizes else 0)
    gone: set[int] = set()
    for name, keys in movable.items():
        ordered = sorted(keys, key=lambda key: hashlib.sha256(split.encode() + b"\0" + key).digest())
        left = quotas[name]
        for key in ordered[:-1]:
            if len(groups[key]) <= left:
                left -= len(groups[key])
                gone.update(groups[key])
    if not gone:
        raise UserError(
            f"no {split} rows can be taken from the {len(rows):,} training rows: no class has two texts to divide; "
            f"give data.{split}, or a split column"
        )
    return [row for row in range(len(rows)) if row not in gone], sorted(gone)


def limit(
    rows: Rows, key: str = "train_limit", *, total: int | None, per_class: int | None, seed: int, problem: str
) -> list[int]:
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
        return list(range(len(rows)))
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
    by_stratum: defaultdict[str, list[int]] = defaultdict(list)
    for row, stratum in enumerate(stratum_of):
        by_stratum[stratum].append(row)
    return sorted(
        row
        for stratum, members in by_stratum.items()
        for row in sorted(members, key=_place(rows, seed))[: quotas[stratum]]
    )


def draw_evenly(rows: Rows, count: int, *, seed: int, problem: str) -> list[int]:
    """Choose so many rows, or all, as many of each stratum as of the others as far as it has them.

    They come in the order of SHA-256(seed, text), as in `limit`, and are returned in reading order.
    """
    by_stratum: defaultdict[str, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata(rows.labels, problem)):
        by_stratum[stratum].append(row)
    quotas = evenly({name: len(members) for name, members in by_stratum.items()}, count)
    place = _place(rows, seed)
    return sorted(row for name, members in by_stratum.items() for row in sorted(members, key=place)[: quotas[name]])


def evenly(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` rows among strata alike: what a small one cannot give the others do, and the last get the rest."""
    quotas, left = {}, total
    for position, (size, name) in enumerate(sorted((size, name) for name, size in sizes.items())):
        quotas[name] = min(size, left // (len(sizes) - position))
        left -= quotas[name]
    return quotas


def _place(rows: Rows, seed: int) -> Callable[[int], tuple[bytes, str, str, str, float]]:
    """Return what sorts rows into an order of chance, the same for the same rows wherever they stand."""
    salt = f"{seed}|".encode()

    def place(row: int) -> tuple[bytes, str, str, str, float]:
        digest = hashlib.sha256(salt + rows.keys[row]).digest()
        pair = "" if rows.pairs is None else rows.pairs[row]
        return digest, rows.texts[row], pair, repr(rows.labels[row]), rows.weights[row]

    return place


def strata(labels: Sequence[Label], problem: str) -> list[str]:
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
