"""The rows of one split as they come from the Hub, written into files that say where each of them begins.

A split is read shard by shard (groups of rows of Parquet files, other files whole), and what a shard's stream needs to
go on is how many of its rows were taken. So each file says which shard it is from and where it begins there, and a
reading that was stopped, wherever it was, goes on behind the last of them and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data import typed
from nlp_transfer.data.table import Table, joined
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import flush, reason

if TYPE_CHECKING:
    import pyarrow as pa

    from nlp_transfer.cache.store import Store

PART_ROWS = 10_000  # of one file; they are in memory together
PLACES = 16  # of a split that rows come from, where it has as many: files are often sorted by label
_ABOUT = b"nlp_transfer"


class Reading:
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
            write_whole(self._path(), write)
            self._store.has_grown(self._folder)
        except OSError as error:
            raise not_kept(self._store.folder, error) from error


def spread(shards: int) -> list[int]:
    """Return the numbers of shards in an order of which every beginning is spread over all: their bits reversed."""
    width = (shards - 1).bit_length()
    return sorted(range(shards), key=lambda shard: f"{shard:0{width}b}"[::-1])


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file that is whole or not there.

    Raises:
        OSError: if the disk does not take it.
    """
    making = path.with_suffix(".making")
    write(making)
    flush(making)
    making.replace(path)
    flush(path.parent)


def not_kept(folder: Path, error: OSError) -> UserError:
    """Say that rows cannot be kept in a folder, or are no longer there."""
    return UserError(f"data.hub_rows keeps the rows it reads in {folder}, which fails: {reason(error)}")


def _mapped(path: Path) -> pa.Table:
    """Return the rows of a file, mapped from the disk."""
    import pyarrow as pa
    import pyarrow.ipc

    return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()


def _about_of(rows: pa.Table) -> dict[str, Any]:
    """Return what a file of rows says of itself."""
    return dict(json.loads((rows.schema.metadata or {}).get(_ABOUT, b"{}")))


def table_of(folder: Path, split: str, origin: str) -> Table:
    """Read the rows of one split.

    Raises:
        UserError: for a column that is of one type in a file and of another in the next.
    """
    import pyarrow as pa

    paths = sorted(folder.glob(f"{split}-*.arrow"))
    if not paths:
        return Table({}, origin, [])
    try:  # a column may be empty in one file, and have no fractions in another
        types = pa.unify_schemas([_mapped(path).schema for path in paths], promote_options="permissive").empty_table()
    except pa.ArrowException as error:
        raise UserError(f"{origin}: its files have columns of other types: {typed.first_line(error)}") from error

    def tables() -> Iterator[Table]:  # one by one: what is mapped of a file goes with it
        first = 1
        for path in paths:
            rows = pa.concat_tables([types, _mapped(path)], promote_options="permissive")
            yield typed.from_arrow(rows, _about_of(types)["features"], origin, first=first)
            first += rows.num_rows

    return joined(tables(), origin)
