"""What is suspicious in a corpus, counted and said, never mended: repeats, leaks, conflicts, imbalance, label twins."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from nlp_transfer.data.labels import Label
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import Task, shares

_SHOWN = 3
_IMBALANCE = 10  # times more rows in the largest class than in the smallest
_SEPARATORS = ",;|"


def check(splits: Mapping[str, Rows], task: Task) -> list[str]:
    """Return a sentence for everything found.

    Two texts are the same if ``rows.text_key`` is: case, white space and Unicode compatibility forms aside.
    """
    return [
        *_repeats(splits["train"]),
        *_conflicts(splits["train"]),
        *_leaks(splits),
        *(_label_set(splits, task) if task.labels else ()),
    ]


def _repeats(train: Rows) -> Iterator[str]:
    repeats = len(train) - len(set(train.keys))
    if repeats:
        yield f"{repeats:,} of {len(train):,} training rows repeat the text of another one"


def _conflicts(train: Rows) -> Iterator[str]:
    """Find texts that occur with different labels."""
    first: dict[bytes, int] = {}
    pairs: dict[bytes, tuple[int, int]] = {}
    for row, key in enumerate(train.keys):
        earlier = first.setdefault(key, row)
        if _comparable(train.labels[earlier]) != _comparable(train.labels[row]):
            pairs.setdefault(key, (earlier, row))
    if pairs:
        one, other = next(iter(pairs.values()))
        yield (
            f"{len(pairs):,} training text{'s' * (len(pairs) != 1)} with more than one label, for example "
            f"{train.where(one)} and {train.where(other)}"
        )


def _comparable(label: Label) -> object:
    return frozenset(label) if isinstance(label, tuple) else label


def _leaks(splits: Mapping[str, Rows]) -> Iterator[str]:
    """Count rows whose text an earlier split has too."""
    for source, target in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if source in splits and target in splits:
            known = set(splits[source].keys)
            leaked = sum(key in known for key in splits[target].keys)
            if leaked:
                yield (
                    f"{leaked:,} of {len(splits[target]):,} {target} rows have a text that is in {source} too: figures "
                    "on them flatter"
                )


def _label_set(splits: Mapping[str, Rows], task: Task) -> Iterator[str]:
    counts = {
        split: Counter(name for label in rows.labels for name, share in shares(label).items() if share)
        for split, rows in splits.items()
    }
    train = counts["train"]
    (largest, most), (smallest, fewest) = (
        pick(((name, train[name]) for name in task.labels), key=lambda item: item[1]) for pick in (max, min)
    )
    if most > _IMBALANCE * fewest:
        yield (
            f"imbalance: {largest!r} has {most:,} training rows, {smallest!r} {fewest:,}; macro-F1 shows what accuracy "
            "hides, data.class_weights=balanced weighs them alike"
        )
    single = [name for name in task.labels if train[name] == 1]
    if single:
        yield f"{_names(single)}: one training row only"
    for split in ("validation", "test"):
        absent = [name for name in task.labels if split in counts and not counts[split][name]]
        if absent:
            yield f"{_names(absent)}: no {split} row"
    yield from _twins(task, train)
    yield from _written_lists(task)


def _twins(task: Task, train: Counter[str]) -> Iterator[str]:
    """Find labels that differ in case or white space only."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in task.labels:
        alike["".join(name.casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} ({train[name]:,} rows)" for name in names)
            yield f"labels that differ in case or white space only are different classes here: {listed}"


def _written_lists(task: Task) -> Iterator[str]:
    """Find single labels that look like several written into one cell."""
    if task.problem != "single_label":
        return
    known = set(task.labels)
    for separator in _SEPARATORS:
        joined = [
            name
            for name in task.labels
            if separator in name and all(part.strip() in known for part in name.split(separator))
        ]
        if joined:
            yield (
                f"{_names(joined)}: made of other labels; if rows have several labels set "
                f"data.label_separator={separator!r}"
            )
    lists = [name for name in task.labels if name.startswith("[") and name.endswith("]")]
    if lists:
        yield f"{_names(lists)}: looks like a list written as text; JSONL and Parquet hold lists"


def _names(names: list[str]) -> str:
    """Name the first few labels and count the rest."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"label{'s' * (len(names) != 1)} {', '.join(map(repr, names[:_SHOWN]))}{more}"
