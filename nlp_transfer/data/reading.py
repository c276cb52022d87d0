"""The rows of one split as they come from the Hub, written into files that say where each of them begins.

A split is read shard by shard (groups of rows of Parquet files, other files whole), and what a shard's stream needs to
go on is how many of its rows were taken. So each file says which shard it is from and where it begins there, and a
reading that was stopped, wherever it was, goes on behind the last of them and ends in the same bytes.
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

PART_ROWS = 10_000  # of one file; they are in memory together
PLACES = 16  # of a split that rows come from, where it has as many: files are often sorted by label
_ABOUT = b"nlp_transfer"
_TO_DO = {
    errno.ENOSYS: "read all of it with data.hub_rows=null",
    errno.EDQUOT: "raise cache.gib, or lower data.hub_rows",
    errno.ENOENT: "another process may have needed the room: raise cache.gib, and run it again",
}


class Reading:
    """One split that is being read.

    Args:
        folder: where its rows are written.
        split: its name.
        stream: its rows, a ``datasets.IterableDataset``.
        store: told of each file that was written.
    """

    def __init__(self, folder: Path, split: str, stream: Any, store: RowStore) -> None:
        self._folder, self._split, self._store = folder, split, store
        # Only Parquet files can be read from the middle (by `datasets` from 5.0 on: versions before give their files
        # whole, without a word), and each of them is opened to see where: few are.
        self._stream = stream.reshard() if stream.num_shards < PLACES else stream
        self._features = {} if stream.features is None else stream.features.to_dict()
        self._number = 0

    def take(self, rows: int) -> dict[str, Any]:
        """Write so many rows, from places that lie as far apart as there can be; return how many, and where from.

        Each of the places gives an equal share of the rows that are still wanted, and where shards end before, others
        give more.

        Raises:
            UserError: if they cannot be kept.
        """
        shards = self._stream.num_shards
        taken = dict.fromkeys(spread(shards), 0)  # of the shards that may have more
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
        with keeping(self._store):  # what an interrupted reading may have left that had its shards in another order
            for path in (*files_of(self._folder, self._split)[self._number :], *self._folder.glob(".making-*")):
                path.unlink()
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

        with keeping(self._store):
            write_whole(self._path(), write)
            self._store.has_grown(self._folder)


def spread(shards: int) -> list[int]:
    """Return the numbers of shards in an order of which every beginning is spread over all: their bits reversed."""
    width = (shards - 1).bit_length()
    return sorted(range(shards), key=lambda shard: f"{shard:0{width}b}"[::-1])


@contextmanager
def keeping(store: RowStore) -> Iterator[None]:
    """Say of what the block does with a store why it cannot be done, and what to do.

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
    """Return the files that hold rows of a split, in their order."""
    return sorted(folder.glob(f"{split}-*.arrow"))


def _mapped(path: Path) -> pa.Table:
    """Return the rows of a file, mapped from the disk."""
    import pyarrow as pa
    import pyarrow.ipc

    return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()


def _about_of(rows: pa.Table) -> dict[str, Any]:
    """Return what a file of rows says of itself."""
    return dict(json.loads((rows.schema.metadata or {}).get(_ABOUT, b"{}")))


def table_of(folder: Path, split: str, origin: str, *, rows: int) -> Table:
    """Read the rows of one split.

    Args:
        folder: where they were written.
        split: its name.
        origin: how messages call it.
        rows: how many they are.

    Raises:
        UserError: for a column that is of one type in a file and of another in the next.
        OSError: if these are not the rows that are there.
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

    def tables() -> Iterator[Table]:  # one by one: what is mapped of a file goes with it
        first = 1
        for path in paths:
            part = pa.concat_tables([types, _mapped(path)], promote_options="permissive")
            yield typed.from_arrow(part, _about_of(types)["features"], origin, first=first)
            first += part.num_rows

    return joined(tables(), origin)
