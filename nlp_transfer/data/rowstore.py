"""The interface of a store for streamed rows of the Hub, which ``cache.store.Store`` implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class StoredRows(Protocol):
    """An entry of the store."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Its metadata."""


class RowStore(Protocol):
    """Folders of files by key."""

    @property
    def folder(self) -> Path:
        """The root of the store, for messages."""

    def find_folder(self, key: str) -> Path | None:
        """Return the folder of a key, or None."""

    def build_folder(self, key: str, about: dict[str, Any], build: Callable[[Path], None]) -> Path:
        """Return the folder of a key; if it is incomplete, `build` first writes the missing files into a given folder.

        Raises:
            OSError: if they cannot be written.
        """

    def enforce_budget(self, partial: Path) -> None:
        """Make room after `build` wrote a file into its folder.

        Raises:
            OSError: if there is no room for it.
        """

    def entries(self) -> Sequence[StoredRows]:
        """Return all entries."""
