"""Progress of reading a file in chunks of rows, and its speed."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Bar


class RowProgress:
    """Shows how many rows of a file are done.

    The total is known for Parquet, estimated from the bytes read for other files, and unknown for standard input.

    Attributes:
        rows: number of rows done.
    """

    def __init__(self, file: BinaryIO, kind: str, bar: Bar) -> None:
        """Start the clock.

        Args:
            file: opened at its start.
            kind: its stream format.
            bar: the progress bar to update.
        """
        self.rows, self._file, self._bar, self._start = 0, file, bar, time.monotonic()
        self._total: int | None = None
        if kind == "parquet":
            from nlp_transfer.data.parquet import rows_of_parquet

            self._total = rows_of_parquet(file)
        self._bytes = None if self._total is not None else _size(file)

    def show(self, rows: int) -> None:
        """Add finished rows and update the bar."""
        self.rows += rows
        total = self._total
        if self._bytes:
            total = max(self.rows, round(self.rows * self._bytes / max(1, self._file.tell())))
        self._bar.show(self.rows, total, speed=f"{self.rows / (time.monotonic() - self._start):,.0f} rows/s")


def _size(file: BinaryIO) -> int | None:
    """Return the size of a regular file in bytes, None for anything else."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
