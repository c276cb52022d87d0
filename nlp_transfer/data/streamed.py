"""A part of a data set of the Hub: so many rows of each split, read from places all over it and kept, at one commit.

What is read is a function of the commit, the configuration and the number of rows alone; how one split is read is known
in ``reading``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_transfer.data import hub, reading, typed
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.rowstore import RowStore
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import write_json, write_whole
from nlp_transfer.settings import DataSettings

SplitsOf = Callable[[Iterable[str], str], dict[str, str]]
_FORMAT = 1
_TOLD = "data.json"
_NEARLY_ALL = 0.95


@dataclass
class Part:
    """A part of a data set.

    Attributes:
        tables: by the split names of its author; of a split that is not used no rows.
        commit: that it is from.
        notes: sentences: its licence, and which rows were read of how many.
        cut: the splits, by the names used here, of which there may be more rows.
    """

    tables: dict[str, Table]
    commit: str
    notes: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)


def from_hub(settings: DataSettings, store: RowStore | None, *, splits_of: SplitsOf) -> Part:
    """Return `hub_rows` rows of each split of a data set, or all where it has fewer; the Hub gives them once.

    Args:
        settings: which, see ``typed.from_hub``; where `revision` is a commit whose rows are kept, nothing is asked.
        store: where they are kept.
        splits_of: says which splits an author's names mean, those that are used, or refuses them; it is given the
            names, and how a message calls the data set.

    Raises:
        UserError: as ``typed.from_hub``; where nothing can be kept, or the Hub is lost while rows are read; what
            `splits_of` raises, before any row is read.
    """
    assert settings.hub is not None
    if store is None:
        raise UserError(
            f"data.hub_rows={settings.hub_rows} keeps the rows it reads in the cache, and there is none: leave "
            "cache.gib above 0, and name a folder with cache.folder=... where you have no home folder; in Python, give "
            "store=store_of_rows(settings.cache)"
        )
    commit, folder = settings.revision, None
    if commit is not None and hub.is_commit(commit):
        folder = store.find_folder(_key(settings, commit))
    if folder is None:
        found = typed.find(settings.hub, settings.subset, settings.revision)
        if found is None:
            raise UserError(_unreachable(settings, store))
        commit = str(found.sha)
        folder = _kept(settings, found, store, splits_of)
    assert commit is not None
    with reading.keeping(store):  # another process may have needed the room already
        return _read(folder, settings.hub, commit, splits_of)


def check_labels(tables: Mapping[str, Table], named: str | None, cut: set[str]) -> list[str]:
    """Return a sentence for each split in which nearly all rows have one label, if it was cut: it may be sorted.

    Rows that are measured may well have one alone, as where an author keeps their labels back; training rows may not.

    Args:
        tables: by split.
        named: the label column that is set; None: it is found by its name.
        cut: the splits of which not all rows were read.

    Raises:
        UserError: if all training rows have one label.
    """
    notes = []
    for split, table in tables.items():
        column = find_column(table, "label", named) if split in cut else None
        labels = Counter(cell for cell in table.columns[column] if isinstance(cell, str | int)) if column else Counter()
        label, count = labels.most_common(1)[0] if labels else (None, 0)
        if split == "train" and 1 < len(table) == count:
            raise UserError(
                f"{table.origin}: all {count:,} rows that were read have the label {label!r}: the data set is probably "
                "sorted by label. Raise data.hub_rows, read all of it with data.hub_rows=null, or try data.revision="
                "refs/convert/parquet, where the Hub has made one: of Parquet files rows are read in more places"
            )
        if len(table) > 1 and count >= _NEARLY_ALL * len(table):
            notes.append(
                f"{split}: {count:,} of the {len(table):,} rows that were read have the label {label!r}; the data set "
                "may be sorted by label, and a higher data.hub_rows tell more of it"
            )
    return notes


def _asked(settings: DataSettings) -> tuple[str, str | None, int]:
    """Return all that says which rows of a commit are read."""
    assert settings.hub is not None
    assert settings.hub_rows is not None
    return settings.hub, settings.subset, settings.hub_rows


def _key(settings: DataSettings, commit: str) -> str:
    said = json.dumps([_FORMAT, "rows of the Hub", *_asked(settings), commit, reading.PART_ROWS, reading.PLACES])
    return hashlib.sha256(said.encode()).hexdigest()


def _about(settings: DataSettings, commit: str) -> dict[str, Any]:
    """Return what the cache says of the rows."""
    name, subset, rows = asked = _asked(settings)
    what = f"rows of {name}" + (f" ({subset})" if subset else "")
    return {"what": what, "encoder": "none", "rows": rows, "data": [*asked], "commit": commit}


def _unreachable(settings: DataSettings, store: RowStore) -> str:
    """Say that the Hub cannot be reached, and of which commits rows are kept."""
    name, subset, rows = asked = _asked(settings)
    wanted = typed.asked(name, subset, settings.revision)
    kept = [entry for entry in store.entries() if entry.about.get("data") == [*asked] and "sha256" in entry.about]
    if kept and not hub.is_commit(settings.revision):
        return (
            f"{wanted}: the Hub cannot be reached to say which commit that is; data.hub_rows={rows} rows are kept here "
            f"of {kept[-1].about['commit']}: set data.revision to it if it is meant"
        )
    return f"{wanted} cannot be fetched from the Hub, nor are data.hub_rows={rows} rows of it kept here"


def _kept(settings: DataSettings, found: Any, store: RowStore, splits_of: SplitsOf) -> Path:
    """Return the folder that holds the rows; read those from the Hub that are not kept yet."""
    name, subset, rows = _asked(settings)
    commit = str(found.sha)

    def grow(folder: Path) -> None:
        try:
            builder = typed.builder_of(name, subset, found)
            streams = builder.as_streaming_dataset()
            used = splits_of(streams, f"{name} @ {commit}")
            sizes = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
            told: dict[str, Any] = {"notes": typed.licence_of(found), "splits": {}}
            for split, stream in streams.items():
                told["splits"][split] = None
                if split in used:
                    taken = reading.Reading(folder, split, stream, store).take(rows)
                    told["splits"][split] = taken | {"of": sizes.get(split)}
            with reading.keeping(store):
                write_whole(folder / _TOLD, lambda path: write_json(path, told))
        except UserError:
            raise
        except Exception as error:  # see `typed.from_hub`
            lost = f"{typed.asked(name, subset, commit)} {typed.reason(error, found)} while data.hub_rows={rows} rows"
            kept = "; those that were are kept, and the next run goes on behind them" * any(folder.glob("*.arrow"))
            raise UserError(f"{lost} are read{kept}") from error

    with reading.keeping(store):
        return store.grown(_key(settings, commit), _about(settings, commit), grow)


def _read(folder: Path, name: str, commit: str, splits_of: SplitsOf) -> Part:
    """Read what is kept."""
    told = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
    part = Part({}, commit, list(told["notes"]))
    used = splits_of(told["splits"], f"{name} @ {commit}")
    for split, about in told["splits"].items():
        origin = f"{name}[{split}]"
        if about is None:
            part.tables[split] = Table({}, origin, [])
            continue
        part.tables[split] = reading.table_of(folder, split, origin, rows=about["rows"])
        if not about["cut"] or about["rows"] == about["of"]:
            continue
        part.cut.add(used[split])
        first = "the first " if about["shards"] == 1 else ""
        of = f" of {about['of']:,}" if about["of"] else ""
        where = "" if first else f", from {about['places']:,} of its {about['shards']:,} files or groups of rows"
        part.notes.append(f"{split}: {first}{about['rows']:,} rows{of}{where}")
    return part
