"""A part of a data set of the Hub: so many rows of each split, read from places all over it and kept, at one commit.

What is read is a function of the commit, the configuration and the number of rows alone. A split is read shard by shard
(groups of rows of Parquet files, other files whole), and what a shard's stream needs to go on is how many of its rows
were taken. So each file of rows that is kept says which shard it is from and where it begins there, and a reading that
was stopped, wherever it was, goes on behind the last of them and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data import hub, typed
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.table import Table
from nlp_transfer.disk import flush, reason
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from nlp_transfer.store import Store

PART_ROWS = 10_000  # of one file; they are in memory together
PLACES = 16  # of a split that rows come from, where it has as many: files are often sorted by label
_FORMAT = 1
_ABOUT = b"nlp_transfer"
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


def from_hub(settings: DataSettings, store: Store | None, *, split_of: Callable[[str], str | None]) -> Part:
    """Return `hub_rows` rows of each split of a data set, or all where it has fewer; the Hub gives them once.

    Args:
        settings: which, see ``typed.from_hub``; where `revision` is a commit whose rows are kept, nothing is asked.
        store: where they are kept.
        split_of: says which split an author's name means; None: none that is used.

    Raises:
        UserError: as ``typed.from_hub``; where nothing can be kept, or the Hub is lost while rows are read.
    """
    assert settings.hub is not None
    if store is None:
        raise UserError(
            f"data.hub_rows={settings.hub_rows} keeps the rows it reads in the cache, and there is none: leave "
            "cache.gib above 0, and name a folder with cache.folder=... where you have no home folder"
        )
    commit, folder = settings.revision, None
    if commit is not None and hub.is_commit(commit):
        folder = store.find_folder(_key(settings, commit))
    if folder is None:
        found = typed.find(settings.hub, settings.subset, settings.revision)
        if found is None:
            raise UserError(_unreachable(settings, store))
        commit = str(found.sha)
        folder = _kept(settings, found, store, split_of)
    assert commit is not None
    try:
        return _read(folder, settings.hub, commit, split_of)
    except OSError as error:  # another process needed the room already
        raise _not_kept(store.folder, error) from error


def check_labels(tables: Mapping[str, Table], named: str | None, cut: set[str]) -> list[str]:
    """Return a sentence for each split in which nearly all rows have one label, if it was cut: it may be sorted.

    Args:
        tables: by split.
        named: the label column that is set; None: it is found by its name.
        cut: the splits of which not all rows were read.

    Raises:
        UserError: if all rows of a split have one label.
    """
    notes = []
    for split, table in tables.items():
        column = find_column(table, "label", named) if split in cut else None
        labels = Counter(cell for cell in table.columns[column] if isinstance(cell, str | int)) if column else Counter()
        label, count = labels.most_common(1)[0] if labels else (None, 0)
        if 1 < len(table) == count:
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
    said = json.dumps([_FORMAT, "rows of the Hub", *_asked(settings), commit, PART_ROWS, PLACES])
    return hashlib.sha256(said.encode()).hexdigest()


def _about(settings: DataSettings, commit: str) -> dict[str, Any]:
    """Return what the cache says of the rows."""
    name, subset, rows = asked = _asked(settings)
    what = f"rows of {name}" + (f" ({subset})" if subset else "")
    return {"what": what, "encoder": "none", "rows": rows, "data": [*asked], "commit": commit}


def _unreachable(settings: DataSettings, store: Store) -> str:
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


def _kept(settings: DataSettings, found: Any, store: Store, split_of: Callable[[str], str | None]) -> Path:
    """Return the folder that holds the rows; read those from the Hub that are not kept yet."""
    name, subset, rows = _asked(settings)
    commit = str(found.sha)

    def grow(folder: Path) -> None:
        try:
            builder = typed.builder_of(name, subset, found)
            streams = builder.as_streaming_dataset()
            sizes = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
            told: dict[str, Any] = {"notes": typed.licence_of(found), "splits": {}}
            for split, stream in streams.items():
                used = split_of(split) is not None
                told["splits"][split] = _Reading(folder, split, stream, store).take(rows) if used else None
                if used:
                    told["splits"][split]["of"] = sizes.get(split)
            _write(folder / _TOLD, lambda path: path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8"))
        except UserError:
            raise
        except Exception as error:  # see `typed.from_hub`
            raise UserError(
                f"{typed.asked(name, subset, commit)} {typed.reason(error, found)} while "
                f"data.hub_rows={rows} rows are read; those that were are kept, and the next run goes on behind them"
            ) from error

    try:
        return store.grown(_key(settings, commit), _about(settings, commit), grow)
    except OSError as error:
        raise _not_kept(store.folder, error) from error


class _Reading:
    """One split that is being read.

    Args:
        folder: where its rows are written.
        split: its name.
        stream: its rows, a ``datasets.IterableDataset``.
        store: told of each file that was written.
    """

    def __init__(self, folder: Path, split: str, stream: Any, store: Store) -> None:
        self._folder, self._split, self._store = folder, split, store
        # Only Parquet files can be read from the middle, and each of them is opened to see where: few are.
        self._stream = stream.reshard() if stream.num_shards < PLACES else stream
        self._features = {} if stream.features is None else stream.features.to_dict()
        self._number = 0

    def take(self, rows: int) -> dict[str, Any]:
        """Write so many rows, from places that lie as far apart as there can be; return how many, and where from.

        Each of the places gives an equal share of the rows that are still wanted, and where shards end before, others
        give more.
        """
        shards = self._stream.num_shards
        taken = dict.fromkeys(_spread(shards), 0)  # of the shards that may have more
        left, places = rows, set()
        while left and taken:
            lap = list(taken)
            for place, shard in enumerate(lap):
                share = -(-left // max(1, min(len(lap), PLACES) - place))
                own = self._take_from(shard, taken[shard], share)
                left -= own
                places |= {shard} if own else set()
                taken[shard] += own
                if own < share:
                    del taken[shard]
                if not left:
                    break
        return {"rows": rows - left, "places": len(places), "shards": shards, "cut": not left}

    def _take_from(self, shard: int, first: int, rows: int) -> int:
        """Write so many rows of a shard from its row `first` on; return how many there were."""
        done = 0
        while done < rows and (own := self._written(shard, first + done)) is not None:
            wanted, done = min(rows - done, PART_ROWS), done + own
            self._number += 1
            if own < wanted:
                return done
        if done < rows:
            stream = self._stream.shard(self._stream.num_shards, shard).skip(first + done).take(rows - done)
            for part in stream.with_format("arrow").iter(PART_ROWS):
                self._write(part, shard, first + done)
                self._number += 1
                done += part.num_rows
        return done

    def _path(self) -> Path:
        return self._folder / f"{self._split}-{self._number:05d}.arrow"

    def _written(self, shard: int, first: int) -> int | None:
        """Return how many rows the file has that is to begin at a row of a shard; None: it has to be written."""
        try:
            rows = _mapped(self._path())
        except (OSError, ValueError):  # ValueError: Arrow's own
            return None
        about = _about_of(rows)
        return rows.num_rows if (about.get("shard"), about.get("first")) == (shard, first) else None

    def _write(self, rows: pa.Table, shard: int, first: int) -> None:
        import pyarrow.ipc

        about = {"shard": shard, "first": first, "features": self._features}
        rows = rows.combine_chunks().replace_schema_metadata({_ABOUT: json.dumps(about)})

        def write(path: Path) -> None:
            with pyarrow.ipc.new_file(str(path), rows.schema) as file:
                file.write_table(rows)

        try:
            _write(self._path(), write)
            self._store.has_grown(self._folder)
        except OSError as error:
            raise _not_kept(self._store.folder, error) from error


def _spread(shards: int) -> list[int]:
    """Return the numbers of shards in an order of which every beginning is spread over all: their bits reversed."""
    width = (shards - 1).bit_length()
    return sorted(range(shards), key=lambda shard: f"{shard:0{width}b}"[::-1])


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file that is whole or not there.

    Raises:
        OSError: if the disk does not take it.
    """
    making = path.with_suffix(".making")
    write(making)
    flush(making)
    making.replace(path)
    flush(path.parent)


def _not_kept(folder: Path, error: OSError) -> UserError:
    return UserError(f"data.hub_rows keeps the rows it reads in {folder}, which fails: {reason(error)}")


def _mapped(path: Path) -> pa.Table:
    """Return the rows of a file, mapped from the disk."""
    import pyarrow as pa
    import pyarrow.ipc

    return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()


def _about_of(rows: pa.Table) -> dict[str, Any]:
    """Return what a file of rows says of itself."""
    return dict(json.loads((rows.schema.metadata or {}).get(_ABOUT, b"{}")))


def _read(folder: Path, name: str, commit: str, split_of: Callable[[str], str | None]) -> Part:
    """Read what is kept."""
    told = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
    part = Part({}, commit, list(told["notes"]))
    for split, about in told["splits"].items():
        origin = f"{name}[{split}]"
        part.tables[split] = Table({}, origin, []) if about is None else _table(folder, split, origin)
        if about is None or not about["cut"] or about["rows"] == about["of"]:
            continue
        part.cut |= set(filter(None, [split_of(split)]))
        first = "the first " if about["shards"] == 1 else ""
        of = f" of {about['of']:,}" if about["of"] else ""
        where = "" if first else f", from {about['places']:,} of its {about['shards']:,} files or groups of rows"
        part.notes.append(f"{split}: {first}{about['rows']:,} rows{of}{where}")
    return part


def _table(folder: Path, split: str, origin: str) -> Table:
    """Read the rows of one split."""
    import pyarrow as pa

    parts = [_mapped(path) for path in sorted(folder.glob(f"{split}-*.arrow"))]
    if not parts:
        return Table({}, origin, [])
    try:
        rows = pa.concat_tables(parts, promote_options="permissive")  # a column is empty in a file, or has no fraction
    except pa.ArrowException as error:
        raise UserError(f"{origin}: its files have columns of other types: {typed.first_line(error)}") from error
    return typed.from_arrow(rows, _about_of(parts[0])["features"], origin)
