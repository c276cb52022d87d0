"""Several files that are one split; each row knows which of them it is from, and on which line."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

from nlp_transfer.data.files import read_rows
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.data.table import Table, joined
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings
from nlp_transfer.wording import listed, shortened

_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")  # as the Hub names parts of a split

_SHOWN = 10
_NAME = 40  # characters


def unnumbered(stem: str) -> str:
    """Return what a file is called without the number of a shard: train of train-00000-of-00002."""
    found = _NUMBERED.fullmatch(stem)
    return found["name"] if found else stem


def are_of_one(files: Sequence[Path]) -> bool:
    """Return whether these are numbered parts of one, no part given twice; one of them may be missing."""
    series = _series(files)
    return len(series) == 1 and sum(map(len, series.values())) == len(files)


def check_numbers(files: Sequence[Path], folder: Path) -> None:
    """Check that of everything that was divided into numbered parts all are there, once; other files are whole.

    Raises:
        UserError: naming the parts that are missing, or what is there as so many parts and again as so many.
    """
    counts: dict[str, str] = {}
    for (name, count), numbers in _series(files).items():
        if name in counts:
            raise UserError(
                f"{folder} has parts of {name} that are called -of-{counts[name]} and others that are called "
                f"-of-{count}, which are of one and the same; keep either"
            )
        counts[name] = count
        first = int(int(count) in numbers and 0 not in numbers)  # some count from 1
        wanted = range(first, first + int(count))
        if missing := [f"{name}-{number:05d}-of-{count}" for number in wanted if number not in numbers]:
            raise UserError(f"{folder} lacks a part of {name}: {listed(missing, most=_SHOWN)}; put it there")


def _series(files: Sequence[Path]) -> dict[tuple[str, str], set[int]]:
    """Return the numbers of parts, by the name of what they are parts of and by how many it has."""
    numbers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for file in files:
        if found := _NUMBERED.fullmatch(file.stem):
            numbers[found["name"], found["count"]].add(int(found["number"]))
    return dict(numbers)


def read_shards(files: Sequence[Path], origin: str, settings: DataSettings, notes: list[str]) -> Table:
    """Read files one behind the other.

    Args:
        files: which, at least one.
        origin: how messages call all of them.
        settings: the `data` group.
        notes: gets a sentence on what was read as one, where there are several.

    Raises:
        UserError: as `read_rows`, and where one has other columns than the first: its rows would lack a cell.
    """
    if len(files) == 1:
        return read_rows(files[0], settings)
    sizes: list[int] = []

    def tables() -> Iterator[Table]:
        columns: dict[str, None] | None = None
        for file in files:
            table = read_rows(file, settings)
            columns = dict.fromkeys(table.columns) if columns is None else columns
            if other := columns.keys() ^ table.columns.keys():
                names = listed(sorted(other), lambda name: repr(shortened(name, _NAME)), most=_SHOWN)
                header = "" if table.header is None else ", and a header to one whose first line is a row of data"
                raise UserError(
                    f"{file} has other columns than {files[0]}: only one of them has {names}; {origin} is read as one "
                    f"split, so give all of its files the same columns{header}"
                )
            sizes.append(len(table))
            yield table

    whole = joined(tables(), origin)
    names = listed(files, lambda file: file.name, most=_SHOWN)
    notes.append(f"{origin}: {len(files):,} files are read as one split, {names}")
    named = chain.from_iterable(map(repeat, map(str, files), sizes))
    places = (f"{file}:{line}" for file, line in zip(named, whole.lines, strict=True))
    return dataclasses.replace(whole, files=cells_of(places, len(whole)), header=None)
