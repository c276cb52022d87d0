"""Read any data source (files, folders, the Hub, embedded sets, Python objects) into one table per split.

This module assigns rows to splits; single files are read by ``files``, Python objects and the Hub by ``typed``.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

from nlp_transfer.data.class_folders import is_text, read_class_folders, within_folders
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.files import ONE_FILE, existing, existing_file, is_of_rows, read_rows, visible
from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.labels import is_missing
from nlp_transfer.data.rowstore import RowStore
from nlp_transfer.data.sequences import integers_of
from nlp_transfer.data.shards import are_one_series, check_complete, read_shards, unnumbered
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError, about, did_you_mean, one_of
from nlp_transfer.settings import DATA_FILES, DataSettings
from nlp_transfer.wording import listed

_EMBEDDED = "nlp_transfer.data.embedded"
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_SHOWN = 10
_ONE_SPLIT = (
    "several files are one split where they lie in a folder called train/, validation/ or test/ and data.path names "
    "the folder around it"
)


@dataclass
class Source:
    """The tables of a source, by split.

    Attributes:
        name: display name, for example ``customer_intents (embedded)``.
        splits: tables by split: train, validation, test; a single table is train.
        notes: sentences for the plan, for example about files that were not read.
    """

    name: str
    splits: dict[str, Table]
    notes: list[str] = field(default_factory=list)


def read_source(settings: DataSettings, *, data: Any = None, store: RowStore | None = None) -> Source:
    """Read the one source the settings name.

    Args:
        settings: the `data` group.
        data: from Python instead of a setting: a pandas DataFrame, a Dataset or DatasetDict, a list of dicts, or a
            dict of split name to one of these.
        store: for the rows that `hub_rows` streams; not needed otherwise.

    Raises:
        UserError: for none or several sources, and for anything that cannot be read exactly.
    """
    check_source(settings, data=data)
    source = _read(settings, data, store)
    if list(source.splits) == ["train"]:
        source.splits = _by_column(source.splits["train"], settings)
    elif settings.columns.split:
        raise UserError(f"data.columns.split={settings.columns.split!r}: {source.name} is divided into splits already")
    source.splits = {split: source.splits[split] for split in SPLIT_NAMES if split in source.splits}
    return source


def source_of(settings: DataSettings) -> tuple[str | int | None, ...]:
    """Return the settings that identify a source; if they are equal, the same rows are read."""
    files = settings.path, settings.train, settings.validation, settings.test
    return settings.embedded, *files, settings.hub, settings.subset, settings.revision, settings.hub_rows


def check_source(settings: DataSettings, *, data: Any = None) -> None:
    """Check that the settings name exactly one source and that its files exist; nothing is read.

    Args:
        settings: the `data` group.
        data: rows from Python, see `read_source`.

    Raises:
        UserError: for none or several sources, keys of another source, and files that do not exist.
    """
    keys = [key for key in ("embedded", "path", "train", "hub") if getattr(settings, key) is not None]
    given = [f"data.{key}" for key in keys] + ["data"] * (data is not None)
    if len(given) != 1:
        raise UserError(_not_one(given, settings))
    for key in ("validation", "test"):
        if getattr(settings, key) is not None and settings.train is None:
            raise UserError(f"data.{key} goes with data.train; with {given[0]} the splits come from the source itself")
    for key in ("subset", "revision", "hub_rows"):
        if getattr(settings, key) is not None and settings.hub is None:
            raise UserError(f"data.{key} goes with data.hub only")
    if settings.hub_rows is not None and settings.hub_rows < 1:
        raise UserError(f"data.hub_rows={settings.hub_rows} must be at least 1; null reads the whole data set")
    if settings.embedded is not None:
        folder = resources.files(_EMBEDDED)
        known = sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".csv"))
        one_of(settings.embedded, known, "data.embedded")
    for key in DATA_FILES:
        if (name := getattr(settings, key)) is not None:
            with about(f"data.{key}"):
                todo = ONE_FILE if key == "unlabelled" else _ONE_SPLIT
                (existing if key == "path" else existing_file)(name, pattern=todo)


def _not_one(given: list[str], settings: DataSettings) -> str:
    """Explain that none or several sources are set, and how to choose the one that was probably meant."""
    if len(given) == 2 and given[0] == "data.embedded":
        key = given[1].removeprefix("data.")
        group = {"data": "object", "hub": "hub"}.get(key, "files")
        words = f"data={group}" if key == "data" else f"data={group} {shell_word(given[1], getattr(settings, key))}"
        return (
            f"data.embedded and {given[1]} are set together: the embedded set is read until another kind of source is "
            f"chosen; add data={group} before {given[1]}: {words}"
        )
    return (
        f"{' and '.join(given) + ' are set together' if given else 'no data is named'}; give exactly one source: "
        "data=files data.path=…, data=files data.train=…, data=hub data.hub=…, or data.embedded=…"
    )


def split_of(name: str) -> str | None:
    """Return the split that a common name stands for: train, validation, test, or None."""
    folded = name.strip().casefold()
    return next((split for split, names in SPLIT_NAMES.items() if folded in names), None)


def _read(settings: DataSettings, data: Any, store: RowStore | None) -> Source:
    """Read the source that the settings name."""
    from nlp_transfer.data import hub_rows, typed  # need numpy; settings are checked without

    if data is not None:
        tables = typed.from_object(data)
        return _renamed(tables, type(data).__name__)
    if settings.embedded is not None:
        with resources.as_file(resources.files(_EMBEDDED) / f"{settings.embedded}.csv") as path:
            # Default encoding and delimiter: the settings apply to the user's files only.
            notes = ["licence of the data: apache-2.0, like the package"]
            return Source(f"{settings.embedded} (embedded)", {"train": read_rows(path, DataSettings())}, notes)
    if settings.hub is not None:
        if settings.hub_rows is None:
            tables, commit, notes = typed.from_hub(settings.hub, settings.subset, settings.revision)
        else:
            part = hub_rows.from_hub(settings, store, splits_of=_splits_of)
            tables, commit, notes = part.tables, part.commit, part.notes
        source = _without_unlabelled_test(_renamed(tables, f"{settings.hub} @ {commit}"), settings)
        source.notes += notes
        if settings.hub_rows is not None:
            source.notes += hub_rows.check_labels(source.splits, settings.columns.label, part.cut)
        return source
    if settings.train is not None:
        paths = {name: getattr(settings, name) for name in SPLIT_NAMES}
        tables = {name: read_rows(path, settings) for name, path in paths.items() if path is not None}
        return Source(", ".join(str(path) for path in paths.values() if path is not None), tables)
    assert settings.path is not None  # one of the sources is set
    path = existing(settings.path)
    return _folder(path, settings) if path.is_dir() else Source(str(path), {"train": read_rows(path, settings)})


def _splits_of(names: Iterable[str], origin: str) -> dict[str, str]:
    """Return the author's name → train, validation or test for the splits that are used.

    Raises:
        UserError: where two names mean the same split, or none means train.
    """
    splits: dict[str, str] = {}
    for name in (names := list(names)):
        split = split_of(name)
        if split is not None and split in splits.values():
            raise UserError(f"{origin} has two {split} splits, one of them called {name!r}; keep one")
        if split is not None:
            splits[name] = split
    if "train" not in splits.values():
        raise UserError(_no_train(origin, names))
    return splits


def _renamed(tables: Mapping[str, Table], name: str) -> Source:
    """Return the source with its splits renamed to train, validation and test; others are left out."""
    split_names = _splits_of(tables, name)
    unused = [given for given in tables if given not in split_names]
    splits = {split: tables[given] for given, split in split_names.items()}
    return Source(name, splits, [f"splits not used: {listed(unused, most=_SHOWN)}"] if unused else [])


def _without_unlabelled_test(source: Source, settings: DataSettings) -> Source:
    """Drop a test split of the Hub without labels, as benchmarks with hidden labels have."""
    test = source.splits.get("test")
    column = None if test is None else find_column(test, "label", settings.columns.label)
    if test is not None and column is not None and len(test) and all(map(is_missing, test.columns[column])):
        del source.splits["test"]
        source.notes.append(f"test: its {len(test):,} rows have no labels, so it is not used")
    return source


def _by_column(table: Table, settings: DataSettings) -> dict[str, Table]:
    """Split a table by its split column, if it has one."""
    column = find_column(table, "split", settings.columns.split)
    if column is None:
        return {"train": table}
    rows: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
    for row, cell in enumerate(table.columns[column]):
        split = split_of(cell) if isinstance(cell, str) else None
        if split is None:
            raise UserError(
                f"{table.where(row, column)}: {cell!r} is not a split{did_you_mean(str(cell), SPLIT_NAMES)}; a row is "
                "train, validation or test (if the column means something else, set data.columns.split='')"
            )
        rows[split].append(row)
    if "train" not in rows:
        raise UserError(f"{table.origin}, column {column!r}: no row is train; found {', '.join(rows) or 'no rows'}")
    return {split: table.take(integers_of(rows[split], len(rows[split]))) for split in SPLIT_NAMES if split in rows}


def _folder(folder: Path, settings: DataSettings) -> Source:
    """Read a folder: either one folder per class, or for each split a file, shards, or a folder of any of these."""
    items = visible(folder)
    folders = [item for item in items if item.is_dir()]
    split_files = _by_split((item, unnumbered(item.stem)) for item in items if is_of_rows(item))
    split_folders = _by_split((item, item.name) for item in folders)
    for split in split_folders.keys() & split_files.keys():
        if inside := next(filter(_holds_rows, split_folders[split]), None):
            raise UserError(
                f"{folder} has a file {split_files[split][0].name} and a folder {inside.name}/, which both are its "
                f"{split} split; keep one, or name the files with data.train=…, data.validation=… and data.test=…"
            )
    parts = split_folders | split_files
    notes: list[str] = []
    unread: list[str] = []
    if "train" in parts:
        splits = {split: _read_split(split, paths, folder, settings, unread, notes) for split, paths in parts.items()}
        read = {*chain.from_iterable(parts.values())}
        unread = [item.name for item in items if item not in read] + unread
    elif split_files or not folders:
        raise UserError(_no_train(str(folder), [item.name for item in items]))
    else:
        unread = [item.name for item in items if item not in folders]
        splits = {"train": read_class_folders(folder, folder, settings, unread)}
    notes += [f"not read in {folder}: {listed(unread, most=_SHOWN)}"] if unread else []
    return Source(str(folder), splits, notes)


def _by_split(named: Iterable[tuple[Path, str]]) -> dict[str, list[Path]]:
    """Group (path, name) pairs by the split that the name stands for; other names are left out."""
    parts: defaultdict[str, list[Path]] = defaultdict(list)
    for path, name in named:
        if (split := split_of(name)) is not None:
            parts[split].append(path)
    return dict(parts)


def _read_split(
    split: str, parts: list[Path], root: Path, settings: DataSettings, unread: list[str], notes: list[str]
) -> Table:
    """Read the file of a split, its numbered shards, or its folder; names of other items are added to `unread`."""
    if len(parts) > 1 and not are_one_series(parts):
        what = "folders" if parts[0].is_dir() else "files"
        raise UserError(
            f"{root} has several {split} {what} ({listed(parts, lambda part: part.name, most=_SHOWN)}); keep one, name "
            f"the files with data.train=…, or, if they are parts of one split, put them into a folder {split}/"
        )
    if parts[0].is_dir():
        return _split_folder(split, parts[0], root, settings, unread, notes)
    check_complete(parts, root)
    return read_shards(parts, f"{root}/{split}-*", settings, notes)


def _split_folder(
    split: str, folder: Path, root: Path, settings: DataSettings, unread: list[str], notes: list[str]
) -> Table:
    """Read the folder of one split: files of rows, or one folder of texts per class; see `_read_split`."""
    items = visible(folder)
    files = [item for item in items if is_of_rows(item)]
    if not files:
        unread += [str(item.relative_to(root)) for item in items if not item.is_dir()]
        return read_class_folders(folder, root, settings, unread)
    if text := next(filter(is_text, within_folders(folder)), None):
        raise UserError(
            f"{folder} holds files of rows ({files[0].name}) and folders of texts ({text.relative_to(folder)}); the "
            f"{split} split is one or the other, so move the other one elsewhere"
        )
    if named := next((file for file in files if split_of(unnumbered(file.stem)) not in (None, split)), None):
        raise UserError(
            f"{named} is called as the {split_of(unnumbered(named.stem))} split is, and all files in {folder} are read "
            f"as {split}: move it out of there, or give it another name"
        )
    check_complete(files, folder)
    unread += [f"{item.relative_to(root)}{'/' * item.is_dir()}" for item in items if item not in files]
    return read_shards(files, str(folder), settings, notes)


def _holds_rows(folder: Path) -> bool:
    """Return whether a folder has what may be a split: files of rows, or texts in folders; not images, for example."""
    return any(map(is_of_rows, visible(folder))) or any(map(is_text, within_folders(folder)))


def _no_train(name: str, found: list[str]) -> str:
    """Explain that there is no training split, and which name may have been meant for it."""
    close = next((hint for item in found if (hint := did_you_mean(Path(item).stem, ("train", "training")))), "")
    return f"{name} has no train split{close}; it has: {listed(found, most=_SHOWN) or 'nothing'}"
