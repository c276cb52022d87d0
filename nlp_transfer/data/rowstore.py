"""What a place must be able to do in which rows of the Hub are kept; ``cache.store.Store`` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class KeptRows(Protocol):
    """What is known of some of the rows that are kept."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What was said of them when they were written."""


class RowStore(Protocol):
    """Folders of files by key."""

    @property
    def folder(self) -> Path:
        """Where they lie, for people."""

    def find_folder(self, key: str) -> Path | None:
        """Return where the files of a key lie, or None."""

    def grown(self, key: str, about: dict[str, Any], grow: Callable[[Path], None]) -> Path:
        """Return where the files of a key lie; those that are not there yet `grow` writes into the folder it gets.

        Raises:
            OSError: if they cannot be written.
        """

    def has_grown(self, growing: Path) -> None:
        """Hear of a file that `grow` has written.

        Raises:
            OSError: if there is no room for it.
        """

    def entries(self) -> Sequence[KeptRows]:
        """Return all that is there."""
