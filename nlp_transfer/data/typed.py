"""Read sources with typed cells: Arrow, `datasets`, pandas, lists of dicts, the Hub; ClassLabel integers become names.

Each library is imported only where it is needed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.data import hub
from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.table import CHUNK_ROWS, Table, from_records, joined
from nlp_transfer.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow as pa


def from_hub(name: str, subset: str | None, revision: str | None) -> tuple[dict[str, Table], str, list[str]]:
    """Load a data set from the Hub at one commit, as tables by the author's split names.

    Text files on the Hub are read by `datasets`, which takes "NA" for missing (refused later with its row) and a column
    of 007 for whole numbers (refused as a text; as a label it is the class 7). ``data.path`` reads files strictly.

    Args:
        name: ``owner/name``.
        subset: its configuration; None: the only one.
        revision: commit, branch or tag; None: the default branch.

    Returns:
        The tables, their commit, and notes: the licence, or that the Hub could not be reached.

    Raises:
        UserError: in one sentence for anything that prevents loading, and for a data set with a loading script.
    """
    wanted, info = described(name, subset, revision), find(name, subset, revision)
    try:
        builder = _cached(name, subset, revision) if info is None else builder_of(name, subset, info)
        builder.download_and_prepare()
        tables = from_object(builder.as_dataset(), origin=name)
    except UserError:
        raise
    except Exception as error:  # the library and its dependencies raise many types
        raise UserError(f"{wanted} {reason(error, info)}") from error
    if info is None:
        notes = [f"the Hub cannot be reached; {name} is read from the cache of this machine, commit {builder.hash}"]
    else:
        notes = licence_of(info)
    return tables, str(builder.hash), notes


def described(name: str, subset: str | None, revision: str | None) -> str:
    """Return the settings that name a Hub data set, for the beginning of messages."""
    wanted = f"data.hub={name}" + (f" data.subset={subset}" if subset else "")
    return wanted + (f" at revision {revision!r}" if revision else "")


def find(name: str, subset: str | None, revision: str | None) -> Any | None:
    """Return the Hub's information on a data set, see `hub.find`; arguments and errors are those of `from_hub`."""
    if Path(name).is_dir():  # `datasets` would silently read the folder instead
        raise UserError(f"data.hub={name} is also a folder here: set data.path, or start from another folder")
    with hub.explain_errors(described(name, subset, revision)):
        return hub.find("dataset", name, revision)


def licence_of(info: Any) -> list[str]:
    """Return a note about the licence of a data set, if its card names one."""
    licence = info.card_data and info.card_data.get("license")
    return [f"licence of the data: {licence}"] if licence else []


def builder_of(name: str, subset: str | None, info: Any) -> Any:
    """Return the builder of a data set at the commit in `info`; files of other commits or sources are refused."""
    import datasets

    script = f"{name.rsplit('/', 1)[-1]}.py"
    if script in {file.rfilename for file in info.siblings}:
        raise UserError(
            f"data.hub={name} is a program ({script}), and code from a download is never run; data.revision="
            "refs/convert/parquet is its conversion to files, where the Hub has made one"
        )
    builder = datasets.load_dataset_builder(name, subset, revision=info.sha)
    if builder.hash != info.sha:  # on any failure `datasets` falls back to the latest commit in its cache
        raise UserError(f"data.hub={name}: the files of commit {info.sha} cannot be fetched from the Hub")
    pinned = f"hf://datasets/{name}@{info.sha}/"
    files = [file for files in (builder.config.data_files or {}).values() for file in files]
    if foreign := [file for file in files if not file.startswith(pinned)]:
        raise UserError(f"data.hub={name} takes rows from {foreign[0]}, which the commit does not pin; it is not read")
    return builder


def _cached(name: str, subset: str | None, revision: str | None) -> Any:
    """Return a builder over the cache of `datasets`: at the given commit, or the latest if no revision is given."""
    from datasets.packaged_modules.cache.cache import Cache

    repository = {"repo_id": name, "dataset_name": name.rsplit("/", 1)[-1]}
    latest = Cache(**repository, config_name=subset, version="auto", hash="auto")
    if revision in (None, "main"):
        return latest
    if not hub.is_commit(revision):
        raise UserError(
            f"data.revision={revision!r}: the Hub cannot be reached to say which commit that is; the latest one in the "
            f"cache of this machine is {latest.hash}: set data.revision to it if it is meant"
        )
    return Cache(**repository, config_name=latest.config.name, version=str(latest.config.version), hash=revision)


def reason(error: Exception, info: Any) -> str:
    """Explain in one sentence why a data set cannot be loaded; `info` is the result of `find`."""
    if info is None:
        return (
            f"cannot be fetched from the Hub, nor from the cache of this machine {hub.describe_error(error)}; without "
            "network, download its files and set data.path"
        )
    return hub.GATED if info.gated else f"cannot be loaded {hub.describe_error(error)}"


def from_object(data: Any, *, origin: str | None = None) -> dict[str, Table]:
    """Turn Python data into tables by split name; a single table is called train.

    Args:
        data: a pandas DataFrame, a Dataset or DatasetDict, a list of mappings, or a mapping of split to one of these.
        origin: its name in messages; None: that of its type.

    Raises:
        UserError: for any other type.
    """
    if isinstance(data, Mapping):
        return {str(name): _table(part, f"{origin or type(part).__name__}[{name}]") for name, part in data.items()}
    return {"train": _table(data, origin or type(data).__name__)}


def _table(data: Any, origin: str) -> Table:
    """Turn one object into a table."""
    # A DataFrame or Dataset implies that its library is imported already.
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return _from_frame(data, pandas, origin)
    if datasets is not None and isinstance(data, datasets.Dataset):
        if data.format["type"] == "custom":
            raise UserError(f"{origin} has a transform, which would be ignored; apply it with its method `map` first")
        rows, features = data.with_format("arrow"), data.features.to_dict()
        starts = range(0, max(1, len(rows)), CHUNK_ROWS)
        parts = (from_arrow(rows[at : at + CHUNK_ROWS], features, origin, first=at + 1) for at in starts)
        return joined(parts, origin)
    if isinstance(data, Sequence) and not isinstance(data, str) and all(isinstance(row, Mapping) for row in data):
        records = [{name: _present(value) for name, value in row.items()} for row in data]
        return from_records(records, range(1, len(data) + 1), origin)
    file = ""
    if isinstance(data, str | Path):
        file = f"; a file is named in overrides: data=files {shell_word('data.path', str(data))}"
    raise UserError(
        f"{origin}: rows of type {type(data).__name__} are not read; give a pandas DataFrame, a datasets.Dataset or "
        f"DatasetDict (not streaming), a list of dicts, or a dict of split name to one of these{file}"
    )


def _from_frame(frame: Any, pandas: Any, origin: str) -> Table:
    """Read a DataFrame; pandas' missing values become None."""
    names = check_distinct([str(name) for name in frame.columns], origin)
    columns = {}
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        columns[name] = [
            None if is_missing else _plain(value)
            for value, is_missing in zip(series.tolist(), pandas.isna(series), strict=True)
        ]
    return Table(columns, origin, list(range(1, len(frame) + 1)))


def _present(value: Any) -> Any:
    """Return a value of a mapping as plain Python types; NaN, pandas' missing value, becomes None."""
    plain = _plain(value)
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays into Python values, also inside lists and mappings."""
    if isinstance(value, str | np.datetime64 | np.timedelta64):  # tolist would turn nanosecond times into integers
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def from_arrow(rows: pa.Table, features: Any, origin: str, *, first: int = 1) -> Table:
    """Read an Arrow table.

    Args:
        rows: the table.
        features: of `datasets`, as a JSON object.
        origin: its name in messages.
        first: the number of its first row.

    Raises:
        UserError: for repeated column names, and for a cell without a Python value or outside its classes.
    """
    names = check_distinct(rows.column_names, origin)
    columns = {name: _cells(rows.column(position), f"{origin}, column {name!r}") for position, name in enumerate(names)}
    for name, feature in features.items() if isinstance(features, Mapping) else ():
        classes = _class_names(feature)
        if classes is not None and name in columns:
            columns[name] = [
                _named(value, classes, f"{origin}:{row}, column {name!r}")
                for row, value in enumerate(columns[name], first)
            ]
    return Table(columns, origin, list(range(first, first + rows.num_rows)))


def _cells(column: pa.ChunkedArray, where: str) -> list[Any]:
    """Return the Python values of a column."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:  # for example a date outside Python's range
        raise UserError(f"{where} of type {column.type} cannot be read: {first_line(error)}") from error


def _class_names(feature: Any) -> list[str] | None:
    """Return the class names of a ClassLabel feature or of a list of them, else None."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel" and feature.get("names"):
        return list(feature["names"])
    return _class_names(feature.get("feature"))


def _named(value: Any, classes: list[str], where: str) -> Any:
    """Replace ClassLabel integers by their names; `datasets` writes a missing label as -1."""
    if isinstance(value, list):
        return [_named(item, classes, where) for item in value]
    if value is None or value == -1:
        return None
    if not 0 <= value < len(classes):
        raise UserError(f"{where}: {value} is not one of the {len(classes)} classes its feature names")
    return classes[value]


def check_distinct(names: list[str], origin: str) -> list[str]:
    """Return the column names; refuse repeated ones."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{origin} has more than one column named {repeated[0]!r}; rename one")
    return names
