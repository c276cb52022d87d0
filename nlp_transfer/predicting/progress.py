"""How far a file has been read, and how fast: what a bar shows that goes on with chunks of rows."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Bar


class RowProgress:
    """Rows that are done of a file that is read.

    How many there are a Parquet file says; of another one the share of its bytes that was read lets it be guessed.
    Of what has no length, such as standard input, nothing is known.

    Attributes:
        rows: that are done.
    """

    def __init__(self, file: BinaryIO, kind: str, bar: Bar) -> None:
        """Begin.

        Args:
            file: opened at its start.
            kind: its stream format.
            bar: shows it.
        """
        self.rows, self._file, self._bar, self._began = 0, file, bar, time.monotonic()
        self._total: int | None = None
        if kind == "parquet":
            from nlp_transfer.data.parquet import rows_of_parquet

            self._total = rows_of_parquet(file)
        self._bytes = None if self._total is not None else _size(file)

    def show(self, rows: int) -> None:
        """Show that so many more rows are done."""
        self.rows += rows
        total = self._total
        if self._bytes:
            total = max(self.rows, round(self.rows * self._bytes / max(1, self._file.tell())))
        self._bar.show(self.rows, total, speed=f"{self.rows / (time.monotonic() - self._began):,.0f} rows/s")


def _size(file: BinaryIO) -> int | None:
    """Return the bytes of a regular file, None of anything else."""
    try:
        found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
