"""Several files that are one split; each row knows which of them it is from, and on which line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

from nlp_transfer.data.files import FORMATS, read_rows
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.data.table import Table, joined
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings
from nlp_transfer.wording import listed

_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")  # as the Hub names parts of a split

_SHOWN = 10


def shards_in(folder: Path) -> list[Path]:
    """Return the files of rows that lie in a folder, by name."""
    return sorted(
        item
        for item in folder.iterdir()
        if item.suffix.lower() in FORMATS and not item.name.startswith(".") and item.is_file()
    )


def unnumbered(stem: str) -> str:
    """Return what a file is called without the number of a shard: train of train-00000-of-00002."""
    found = _NUMBERED.fullmatch(stem)
    return found["name"] if found else stem


def missing_of(files: Sequence[Path]) -> list[str] | None:
    """Return what the shards are called that are missing beside others; None: these are not numbered parts of one."""
    found = [_NUMBERED.fullmatch(file.stem) for file in files]
    numbers = [int(each["number"]) for each in found if each]
    of = {(each["name"], each["count"]) for each in found if each}
    if len(of) != 1 or len({*numbers}) < len(files):
        return None
    name, count = of.pop()
    return [f"{name}-{number:05d}-of-{count}" for number in range(int(count)) if number not in numbers]


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
    sizes: list[int] = []

    def tables() -> Iterator[Table]:
        columns: dict[str, None] | None = None
        for file in files:
            table = read_rows(file, settings)
            columns = dict.fromkeys(table.columns) if columns is None else columns
            if other := columns.keys() ^ table.columns.keys():
                raise UserError(
                    f"{file} has other columns than {files[0]}: only one of them has {listed(sorted(other), repr)}; "
                    f"{origin} is read as one split, so give all of its files the same columns"
                )
            sizes.append(len(table))
            yield table

    whole = joined(tables(), origin)
    if len(files) > 1:
        names = listed(files, lambda file: file.name, most=_SHOWN)
        notes.append(f"{origin}: {len(files):,} files are read as one split, {names}")
    named = chain.from_iterable(map(repeat, map(str, files), sizes))
    places = (f"{file}:{line}" for file, line in zip(named, whole.lines, strict=True))
    return dataclasses.replace(whole, files=cells_of(places, len(whole)), header=None)
