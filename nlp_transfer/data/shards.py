"""Read several files as one split; each row keeps its file and line."""

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

_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")  # the Hub's names of shards

_SHOWN = 10
_NAME_LENGTH = 40


def unnumbered(stem: str) -> str:
    """Return a file's stem without the shard number: train for train-00000-of-00002."""
    match = _NUMBERED.fullmatch(stem)
    return match["name"] if match else stem


def are_one_series(files: Sequence[Path]) -> bool:
    """Return whether these are distinct numbered shards of one split; shards may be missing."""
    series = _series(files)
    return len(series) == 1 and sum(map(len, series.values())) == len(files)


def check_complete(files: Sequence[Path], folder: Path) -> None:
    """Check that every series of numbered shards among the files is complete and exists once.

    Raises:
        UserError: naming the missing shards, or a series that exists with two different counts.
    """
    counts: dict[str, str] = {}
    for (name, count), numbers in _series(files).items():
        if name in counts:
            raise UserError(
                f"{folder} has parts of {name} that are called -of-{counts[name]} and others that are called "
                f"-of-{count}, which are of one and the same; keep either"
            )
        counts[name] = count
        first = int(int(count) in numbers and 0 not in numbers)  # some authors count from 1
        expected = range(first, first + int(count))
        if missing := [f"{name}-{number:05d}-of-{count}" for number in expected if number not in numbers]:
            raise UserError(f"{folder} lacks a part of {name}: {listed(missing, most=_SHOWN)}; put it there")


def _series(files: Sequence[Path]) -> dict[tuple[str, str], set[int]]:
    """Return the shard numbers that exist, by (name, count) of their series."""
    numbers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for file in files:
        if match := _NUMBERED.fullmatch(file.stem):
            numbers[match["name"], match["count"]].add(int(match["number"]))
    return dict(numbers)


def read_shards(files: Sequence[Path], origin: str, settings: DataSettings, notes: list[str]) -> Table:
    """Read files in order as one table.

    Args:
        files: at least one.
        origin: name of the whole in messages.
        settings: the `data` group.
        notes: receives a sentence if several files were read.

    Raises:
        UserError: as `read_rows`, and for a file whose columns differ from those of the first.
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
                names = listed(sorted(other), lambda name: repr(shortened(name, _NAME_LENGTH)), most=_SHOWN)
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
    file_of_row = chain.from_iterable(map(repeat, map(str, files), sizes))
    places = (f"{file}:{line}" for file, line in zip(file_of_row, whole.lines, strict=True))
    return dataclasses.replace(whole, files=cells_of(places, len(whole)), header=None)
