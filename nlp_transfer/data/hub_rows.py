"""Stream `data.hub_rows` rows of each split of a Hub data set at one commit into the cache, see ``hub_split``.

The rows are a function of the commit, the configuration and the number of rows alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_transfer.data import hub, hub_split, typed
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.rowstore import RowStore
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import write_json, write_whole
from nlp_transfer.settings import DataSettings

SplitsOf = Callable[[Iterable[str], str], dict[str, str]]
_FORMAT = 1
_MANIFEST = "data.json"
_NEARLY_ALL = 0.95


@dataclass
class Part:
    """A part of a data set.

    Attributes:
        tables: by the author's split names; splits that are not used are empty.
        commit: of the data set.
        notes: sentences: its licence, and how many of its rows were read.
        cut: splits (train, validation, test) that may have more rows.
    """

    tables: dict[str, Table]
    commit: str
    notes: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)


def from_hub(settings: DataSettings, store: RowStore | None, *, splits_of: SplitsOf) -> Part:
    """Return `hub_rows` rows of each split of a data set, or all if there are fewer; stored rows are not fetched again.

    Args:
        settings: name the data set, see ``typed.from_hub``; if `revision` is a commit with stored rows, the Hub is not
            contacted.
        store: for the rows.
        splits_of: (author's split names, name of the data set for messages) → split by author's name, for those used.

    Raises:
        UserError: as ``typed.from_hub``; where rows cannot be stored, or the connection is lost; and whatever
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
        info = typed.find(settings.hub, settings.subset, settings.revision)
        if info is None:
            raise UserError(_unreachable(settings, store))
        commit = str(info.sha)
        folder = _stored(settings, info, store, splits_of)
    assert commit is not None
    with hub_split.explain_storage_errors(store):  # another process may have evicted the rows
        return _read(folder, settings.hub, commit, splits_of)


def check_labels(tables: Mapping[str, Table], named: str | None, cut: set[str]) -> list[str]:
    """Return a warning for each partly read split in which nearly all rows have one label: it may be sorted by label.

    Validation and test rows may legitimately have a single label, for example a placeholder for hidden labels.

    Args:
        tables: by split.
        named: the label column set by the user; None: it is found by its name.
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
                "may be sorted by label, and a higher data.hub_rows would show more of it"
            )
    return notes


def _selection(settings: DataSettings) -> tuple[str, str | None, int]:
    """Return the settings that determine which rows of a commit are read."""
    assert settings.hub is not None
    assert settings.hub_rows is not None
    return settings.hub, settings.subset, settings.hub_rows


def _key(settings: DataSettings, commit: str) -> str:
    parts = [_FORMAT, "rows of the Hub", *_selection(settings), commit, hub_split.PART_ROWS, hub_split.PLACES]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _about(settings: DataSettings, commit: str) -> dict[str, Any]:
    """Return the metadata of the cache entry."""
    name, subset, rows = selection = _selection(settings)
    what = f"rows of {name}" + (f" ({subset})" if subset else "")
    return {"what": what, "encoder": "none", "rows": rows, "data": [*selection], "commit": commit}


def _unreachable(settings: DataSettings, store: RowStore) -> str:
    """Explain that the Hub cannot be reached, and name the latest commit with stored rows."""
    name, subset, rows = selection = _selection(settings)
    wanted = typed.described(name, subset, settings.revision)
    kept = [entry for entry in store.entries() if entry.about.get("data") == [*selection] and "sha256" in entry.about]
    if kept and not hub.is_commit(settings.revision):
        return (
            f"{wanted}: the Hub cannot be reached to say which commit that is; data.hub_rows={rows} rows are kept here "
            f"of {kept[-1].about['commit']}: set data.revision to it if it is meant"
        )
    return f"{wanted} cannot be fetched from the Hub, nor are data.hub_rows={rows} rows of it kept here"


def _stored(settings: DataSettings, info: Any, store: RowStore, splits_of: SplitsOf) -> Path:
    """Return the folder with the rows; rows that are not stored yet are read from the Hub."""
    name, subset, rows = _selection(settings)
    commit = str(info.sha)

    def build(folder: Path) -> None:
        try:
            builder = typed.builder_of(name, subset, info)
            streams = builder.as_streaming_dataset()
            used = splits_of(streams, f"{name} @ {commit}")
            sizes = {split: part.num_examples for split, part in (builder.info.splits or {}).items()}
            manifest: dict[str, Any] = {"notes": typed.licence_of(info), "splits": {}}
            for split, stream in streams.items():
                manifest["splits"][split] = None
                if split in used:
                    taken = hub_split.SplitReader(folder, split, stream, store).take(rows)
                    manifest["splits"][split] = taken | {"of": sizes.get(split)}
            with hub_split.explain_storage_errors(store):
                write_whole(folder / _MANIFEST, lambda path: write_json(path, manifest))
        except UserError:
            raise
        except Exception as error:  # see `typed.from_hub`
            wanted = typed.described(name, subset, commit)
            kept = "; the rows read so far are kept, and the next run continues after them" * any(
                folder.glob("*.arrow")
            )
            raise UserError(
                f"{wanted} {typed.reason(error, info)} while data.hub_rows={rows} rows are read{kept}"
            ) from error

    with hub_split.explain_storage_errors(store):
        return store.build_folder(_key(settings, commit), _about(settings, commit), build)


def _read(folder: Path, name: str, commit: str, splits_of: SplitsOf) -> Part:
    """Read the stored rows."""
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    part = Part({}, commit, list(manifest["notes"]))
    used = splits_of(manifest["splits"], f"{name} @ {commit}")
    for split, about in manifest["splits"].items():
        origin = f"{name}[{split}]"
        if about is None:
            part.tables[split] = Table({}, origin, [])
            continue
        part.tables[split] = hub_split.table_of(folder, split, origin, rows=about["rows"])
        if not about["cut"] or about["rows"] == about["of"]:
            continue
        part.cut.add(used[split])
        first = "the first " if about["shards"] == 1 else ""
        of = f" of {about['of']:,}" if about["of"] else ""
        where = "" if first else f", from {about['places']:,} of its {about['shards']:,} files or groups of rows"
        part.notes.append(f"{split}: {first}{about['rows']:,} rows{of}{where}")
    return part
