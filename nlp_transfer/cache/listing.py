"""The verb `cache`: list and remove entries of the store."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from nlp_transfer.cache.store import Entry, Store, folder_of
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.machine.disk import reason
from nlp_transfer.settings import CacheSettings

_SHOWN = 12  # digits of a key
_ABOUT = ("what", "encoder", "rows", "dtype", "shape", "seconds", "created")


def show(words: Sequence[str], settings: CacheSettings, *, everything: bool) -> int:
    """List or remove entries.

    Args:
        words: ``ls``, or ``rm`` and the entries to remove, each by its key or its first digits.
        settings: the `cache` group.
        everything: remove all entries.

    Raises:
        UserError: for other words, an unknown entry, or a folder that cannot be used.
    """
    verb, *names = words or [""]
    if verb not in ("ls", "rm") or (verb == "ls" and (names or everything)) or (verb == "rm" and names and everything):
        raise UserError(
            "cache takes `ls`, `rm ENTRY ...` or `rm --all`" + (did_you_mean(verb, ("ls", "rm")) if words else "")
        )
    folder = folder_of(settings.folder)
    if folder is None:
        raise UserError("there is no home folder, so there is no cache; name a folder with cache.folder=...")
    store = Store(folder, settings.gib * 2**30)
    try:
        entries = store.entries()
        if verb == "rm":
            if not names and not everything:
                raise UserError("cache rm needs an ENTRY of `nlp-transfer cache ls`, or --all")
            keys = {_matching(name, entries).key for name in names}
            return _remove(store, [entry for entry in entries if everything or entry.key in keys])
    except OSError as error:
        raise UserError(f"cache.folder={folder} cannot be used: {reason(error)}") from error
    return _list(store, entries)


def _list(store: Store, entries: list[Entry]) -> int:
    """Print the entries, last used first; one JSON object per line when piped."""
    entries = entries[::-1]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        for entry in entries:
            about = {name: entry.about.get(name) for name in _ABOUT}
            line = {"entry": entry.key, **about, "bytes": entry.bytes, "used": round(entry.used, 3)}
            print(json.dumps(line, ensure_ascii=False))  # noqa: T201
        return 0
    table = Table(box=None)
    for column in ("entry", "what", "encoder", "rows", "size", "last used"):
        table.add_column(column, justify="right" if column in ("rows", "size", "last used") else "left")
    for entry in entries:
        what, encoder = (str(entry.about.get(name, "damaged")) for name in ("what", "encoder"))
        rows = f"{entry.about.get('rows', '')}"
        table.add_row(entry.key[:_SHOWN], what, encoder, rows, _size(entry.bytes), _ago(time.time() - entry.used))
    if entries:
        console.print(table)
    console.print(f"{len(entries)} entries, {_size(sum(e.bytes for e in entries))}, in {store.folder}", style="dim")
    return 0


def _remove(store: Store, entries: list[Entry]) -> int:
    removed = list[Entry]()
    for entry in entries:
        with suppress(FileNotFoundError):  # another process was faster
            store.remove(entry.key)
            removed.append(entry)
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(f"{len(removed)} entries removed, {_size(sum(entry.bytes for entry in removed))}", soft_wrap=True)
    return 0


def _matching(name: str, entries: list[Entry]) -> Entry:
    """Return the only entry whose key begins with `name`."""
    matches = [entry for entry in entries if name and entry.key.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name!r} begins {len(matches)} entries of `nlp-transfer cache ls`; give more digits")
    near = did_you_mean(name, [entry.key[: max(_SHOWN, len(name))] for entry in entries])
    raise UserError(f"there is no entry {name!r}{near}; `nlp-transfer cache ls` lists all")


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "now"
