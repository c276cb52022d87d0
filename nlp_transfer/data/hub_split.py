"""Stream rows of one split from the Hub into Arrow files, resumably.

A split is read shard by shard (row groups of Parquet files; other files are one shard each). The position in a shard's
stream is the number of rows taken from it. Each Arrow file records its shard and the position of its first row, so an
interrupted reading resumes after the last complete file, and the result is the same to the byte.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data import typed
from nlp_transfer.data.rowstore import RowStore
from nlp_transfer.data.table import Table, joined
from nlp_transfer.errors import UserError, first_line
from nlp_transfer.machine.disk import reason, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 10_000  # of one Arrow file; held in memory together
PLACES = 16  # shards that rows are taken from, if there are as many: data sets are often sorted by label
_ABOUT = b"nlp_transfer"
_TO_DO = {
    errno.ENOSYS: "read all of it with data.hub_rows=null",
    errno.EDQUOT: "raise cache.gib, or lower data.hub_rows",
    errno.ENOENT: "another process may have needed the room: raise cache.gib, and run it again",
}


class SplitReader:
    """Writes rows of one split to Arrow files.

    Args:
        folder: for the Arrow files.
        split: its name.
        stream: its rows, a ``datasets.IterableDataset``.
        store: enforces its budget after each file.
    """

    def __init__(self, folder: Path, split: str, stream: Any, store: RowStore) -> None:
        self._folder, self._split, self._store = folder, split, store
        # reshard splits Parquet files into row groups (from `datasets` 5.0 on; earlier versions silently do not). It
        # opens every file, so it is used for few files only.
        self._stream = stream.reshard() if stream.num_shards < PLACES else stream
        self._features = {} if stream.features is None else stream.features.to_dict()
        self._number = 0  # of the next Arrow file

    def take(self, rows: int) -> dict[str, Any]:
        """Write `rows` rows, or all there are, from shards spread over the split; return how many and from where.

        The shards contribute equal shares; where one is exhausted, others contribute more.

        Raises:
            UserError: if the rows cannot be stored.
        """
        shards = self._stream.num_shards
        taken = dict.fromkeys(spread(shards), 0)  # rows by shard, of the shards that are not exhausted
        left, used = rows, set()
        while left and taken:
            candidates = list(taken)
            for position, shard in enumerate(candidates):
                share = -(-left // max(1, min(len(candidates), PLACES) - position))
                written = self._take_from(shard, taken[shard], share)
                left -= written
                used |= {shard} if written else set()
                taken[shard] += written
                if written < share:
                    del taken[shard]
                if not left:
                    break
        with explain_storage_errors(self._store):  # leftovers of an interrupted reading with another order of shards
            for path in (*files_of(self._folder, self._split)[self._number :], *self._folder.glob(".making-*")):
                path.unlink()
        return {"rows": rows - left, "places": len(used), "shards": shards, "cut": not left}

    def _take_from(self, shard: int, first: int, rows: int) -> int:
        """Write up to `rows` rows of a shard, beginning with its row `first`; return how many there were."""
        done = 0
        while done < rows and (stored := self._stored_rows(shard, first + done)) is not None:
            wanted, done = min(rows - done, PART_ROWS), done + stored
            self._number += 1
            if stored < wanted:
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

    def _stored_rows(self, shard: int, first: int) -> int | None:
        """Return the number of rows of the next file if it exists and begins at this row of the shard, else None."""
        try:
            rows = _mapped(self._path())
        except (OSError, ValueError):  # ArrowInvalid is a ValueError
            return None
        about = _metadata(rows)
        return rows.num_rows if (about.get("shard"), about.get("first")) == (shard, first) else None

    def _write(self, rows: pa.Table, shard: int, first: int) -> None:
        import pyarrow.ipc

        about = {"shard": shard, "first": first, "features": self._features}
        rows = rows.combine_chunks().replace_schema_metadata({_ABOUT: json.dumps(about)})

        def write(path: Path) -> None:
            with pyarrow.ipc.new_file(str(path), rows.schema) as file:
                file.write_table(rows)

        with explain_storage_errors(self._store):
            write_whole(self._path(), write)
            self._store.enforce_budget(self._folder)


def spread(shards: int) -> list[int]:
    """Return the shard numbers in bit-reversed order, of which every prefix is spread over all shards."""
    width = (shards - 1).bit_length()
    return sorted(range(shards), key=lambda shard: f"{shard:0{width}b}"[::-1])


@contextmanager
def explain_storage_errors(store: RowStore) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that says what to do.

    Raises:
        UserError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        todo = _TO_DO.get(error.errno or 0, "make room there, or name another folder with cache.folder=...")
        raise UserError(
            f"data.hub_rows keeps the rows it reads in {store.folder}, which fails: {reason(error)}; {todo}"
        ) from error


def files_of(folder: Path, split: str) -> list[Path]:
    """Return the Arrow files of a split, in order."""
    return sorted(folder.glob(f"{split}-*.arrow"))


def _mapped(path: Path) -> pa.Table:
    """Return the rows of a file, memory-mapped."""
    import pyarrow as pa
    import pyarrow.ipc

    return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()


def _metadata(rows: pa.Table) -> dict[str, Any]:
    """Return the metadata that `SplitReader` writes into an Arrow file."""
    return dict(json.loads((rows.schema.metadata or {}).get(_ABOUT, b"{}")))


def table_of(folder: Path, split: str, origin: str, *, rows: int) -> Table:
    """Read the stored rows of one split.

    Args:
        folder: of its Arrow files.
        split: its name.
        origin: its name in messages.
        rows: expected number of rows.

    Raises:
        UserError: for a column whose types in two files cannot be unified.
        OSError: if the number of rows is another one.
    """
    import pyarrow as pa

    paths = files_of(folder, split)
    if sum(_mapped(path).num_rows for path in paths) != rows:
        raise FileNotFoundError(errno.ENOENT, f"some of the {rows:,} rows of {split} are gone")
    if not paths:
        return Table({}, origin, [])
    try:  # a column may be empty in one file, and have no fractions in another
        types = pa.unify_schemas([_mapped(path).schema for path in paths], promote_options="permissive").empty_table()
    except pa.ArrowException as error:
        raise UserError(f"{origin}: its files have columns of other types: {first_line(error)}") from error

    def tables() -> Iterator[Table]:  # one by one, so that at most one file is mapped
        first = 1
        for path in paths:
            part = pa.concat_tables([types, _mapped(path)], promote_options="permissive")
            yield typed.from_arrow(part, _metadata(types)["features"], origin, first=first)
            first += part.num_rows

    return joined(tables(), origin)
