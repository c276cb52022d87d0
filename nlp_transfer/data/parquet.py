"""Read Parquet files, whole or in chunks of bounded memory; cells are converted to Python values by ``typed``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nlp_transfer.data.table import CHUNK_ROWS, Table, joined
from nlp_transfer.data.textfile import START, refuse_foreign
from nlp_transfer.data.typed import check_distinct, from_arrow
from nlp_transfer.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = b"PAR1"
_BUFFER = 1 << 20  # bytes of a column


@dataclass
class ArrowRows(Table):
    """Rows of a Parquet file, and their Arrow table, so that they can be written back with the same types."""

    arrow: pa.Table | None = None


def read_parquet(path: Path, origin: str) -> Table:
    """Read a Parquet file; the ClassLabel names that `datasets` writes into its schema are used.

    Raises:
        UserError: for a file that is not valid Parquet.
    """
    return joined(parquet_chunks(path, origin, CHUNK_ROWS), origin)


def parquet_chunks(file: Path | BinaryIO, origin: str, chunk_rows: int) -> Iterator[ArrowRows]:
    """Yield the rows of a Parquet file in tables of at most `chunk_rows` rows, at least one table.

    Raises:
        UserError: as `read_parquet`; rows before the malformed ones have been yielded.
    """
    import pyarrow as pa

    with _explained(origin):
        opened = _opened(file, origin)
        batches, empty = opened.iter_batches(chunk_rows), opened.schema_arrow.empty_table()
    first = 1
    while True:
        with _explained(origin):
            batch = next(batches, None)
            if batch is None and first > 1:
                return
            rows = empty if batch is None else pa.Table.from_batches([batch])
            rows.validate(full=True)  # otherwise invalid UTF-8 would surface later, or not at all
        table = from_arrow(rows, _features(rows.schema), origin, first=first)
        yield ArrowRows(table.columns, origin, table.lines, arrow=rows)
        if batch is None:
            return
        first += len(table)


def rows_of_parquet(file: BinaryIO) -> int | None:
    """Return the number of rows in a Parquet file's metadata; None if it is not a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return None
    finally:
        file.seek(0)


def _opened(file: Path | BinaryIO, origin: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # With pre_buffer a whole row group would be read before its first row is returned.
        parquet_file = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
    except pa.ArrowInvalid:
        start = _start(file)
        if not start.startswith(_MAGIC):
            refuse_foreign(start, origin)
        raise
    check_distinct(parquet_file.schema_arrow.names, origin)
    return parquet_file


def _start(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(START)
    file.seek(0)
    return file.read(START)


@contextmanager
def _explained(origin: str) -> Iterator[None]:
    """Turn the library's errors into a one-sentence UserError."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: column names with invalid UTF-8
        raise UserError(f"{origin} cannot be read as Parquet: {first_line(error)}") from error


def _features(schema: pa.Schema) -> Any:
    """Return the features that `datasets` writes into a schema; an empty dict where it did not."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
