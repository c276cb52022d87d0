"""A copy of a corpus in which is mended what nobody has to decide.

The original is never touched. First texts and labels are written as they were meant, then rows go that are superfluous
now. No row of a test split goes but those with nothing to read: figures stay comparable.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.data.checks import LEAKS, called, comparable, label_counts, same_texts, twins
from nlp_transfer.data.delimited import cell_writer
from nlp_transfer.data.finding import Place
from nlp_transfer.data.jsonl import json_line
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.rows import Rows, blank_rows, rows_of
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.data.table import Table
from nlp_transfer.data.textfile import SURROGATE
from nlp_transfer.errors import UserError
from nlp_transfer.inspection.damage import UNDO
from nlp_transfer.inspection.examine import Examination
from nlp_transfer.machine.disk import atomic_folder, check_free, sha256_of, write_json
from nlp_transfer.settings import DataSettings
from nlp_transfer.wording import counted

MENDED = "mended.json"
_COPY = "mended corpus"


@dataclass(frozen=True)
class Mending:
    """What a mended copy holds.

    Attributes:
        tables: by split, with what was changed, all rows.
        gone: rows that are left out, and why.
        changed: rows that stay and are written otherwise, and why.
        lost: labels that no training row has any more.
    """

    tables: dict[str, Table]
    gone: dict[Place, str]
    changed: dict[Place, list[str]]
    lost: list[str]

    def __bool__(self) -> bool:
        """Whether the copy would be another corpus."""
        return bool(self.gone or self.changed)

    def summary(self) -> str:
        """Return how many rows were dropped and how many changed, by kind."""
        dropped, changed = Counter(self.gone.values()), Counter(kind for why in self.changed.values() for kind in why)
        parts = (self.gone, "dropped", dropped), (self.changed, "changed", changed)
        return ", ".join(f"{counted(len(rows), 'row')} {what}{_listed(by)}" for rows, what, by in parts)


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{kind} {count:,}' for kind, count in sorted(counts.items()))})" if counts else ""


def plan(examination: Examination) -> Mending:
    """Return what would be mended of what was found; all else is for somebody to decide who knows the data.

    That is damage that can be undone (see ``damage.UNDO``), labels that are spelled in two ways, rows with nothing to
    read, rows that leak, of which those of the earlier split go, and training rows that repeat others.

    Raises:
        UserError: if a split would have no row any more.
    """
    kinds = {found.kind for found in examination.findings}
    corpus, settings = examination.corpus, examination.settings
    spelled = twins(corpus.task, label_counts(corpus.rows["train"])) if "twin" in kinds else {}
    undone = [kind for kind in UNDO if kind in kinds]
    tables: dict[str, Table] = {}
    changed: dict[Place, list[str]] = {}
    rows: dict[str, Rows] = {}
    for split, read in corpus.rows.items():
        table, count = read.table, len(read.table)
        columns, done = dict(table.columns), defaultdict[int, set[str]](set)
        for name in (corpus.roles[role] for role in ("text", "text_pair") if role in corpus.roles):
            columns[name] = cells_of(_undone(columns[name], undone, done), count)
        name = corpus.roles["label"]
        columns[name] = cells_of(_respelled(columns[name], spelled, settings.label_separator, done), count)
        changed |= {(split, row): sorted(done[row]) for row in sorted(done)}
        tables[split] = Table(columns, table.origin, table.lines, table.files)
        rows[split] = rows_of(tables[split], corpus.roles, settings, split=split, problem=corpus.task.problem, notes=[])
    # What is spelled or decoded otherwise now may be the same as another row.
    also = {"leak", "repeat"} if kinds & {*UNDO, "twin"} else set()
    gone = _gone(rows, (kinds | also) - examination.skipped)
    for split, part in rows.items():
        if all((split, row) in gone for row in range(len(part))):
            raise UserError(f"a mended copy would have no {called(split)} row: all of them are repeated, or empty")
    kept = rows["train"].take([row for row in range(len(rows["train"])) if ("train", row) not in gone])
    before, after = label_counts(rows["train"]), label_counts(kept)
    lost = [name for name in corpus.task.labels if before[name] and not after[name]]
    return Mending(tables, gone, {place: done for place, done in changed.items() if place not in gone}, lost)


def write(planned: Mending, examination: Examination, folder: Path) -> None:
    """Write the copy, one file a split, and ``mended.json``, which tells of every row.

    Where every cell is text, the files are CSV in UTF-8, else JSON lines.

    Raises:
        UserError: if the folder cannot be written, holds something else or a copy that was changed since, or has to do
            with the original; and for a cell that no JSON can hold.
    """
    check_target(folder, examination.settings)
    tables = {
        split: table.take([row for row in range(len(table)) if (split, row) not in planned.gone])
        for split, table in planned.tables.items()
    }
    cells = (cell for table in tables.values() for column in table.columns.values() for cell in column)
    as_text = all(isinstance(cell, str) and not SURROGATE.search(cell) for cell in cells)
    with atomic_folder(folder, MENDED, _COPY) as making:
        for split, table in tables.items():
            (_write_csv if as_text else _write_jsonl)(table, making / split)
        told = {
            "from": examination.corpus.source,
            "files": {path.name: sha256_of(path) for path in sorted(making.iterdir())},
            "dropped": [
                {"place": examination.where(place), "kind": why} for place, why in sorted(planned.gone.items())
            ],
            "changed": [
                {"place": examination.where(place), "kinds": why} for place, why in sorted(planned.changed.items())
            ],
        }
        write_json(making / MENDED, told)


def _gone(rows: Mapping[str, Rows], kinds: set[str]) -> dict[Place, str]:
    """Return the rows that go, and why."""
    says = {split: np.ones(len(part), bool) for split, part in rows.items()}
    gone: dict[Place, str] = {}
    for split, part in rows.items():
        blank = blank_rows(part.texts, part.pairs)
        says[split][blank] = False
        gone |= {(split, row): "empty" for row in blank} if "empty" in kinds else {}
    for source, target in LEAKS if "leak" in kinds else ():
        if source in rows and target in rows:
            known = rows[target].keys.take(np.flatnonzero(says[target]))
            leaked = says[source] & rows[source].keys.among(known)
            gone |= {(source, row): "leak" for row in np.flatnonzero(leaked).tolist()}
    train = rows["train"]
    left = np.array([row for row in np.flatnonzero(says["train"]).tolist() if ("train", row) not in gone], np.int64)
    for same in same_texts(train.keys.take(left)) if "repeat" in kinds else ():
        alike = left[same].tolist()
        # Where labels differ somebody has to decide, and how often each was given may help.
        if len({comparable(train.labels[row]) for row in alike}) == 1:
            gone |= {("train", row): "repeat" for row in _again(train, alike)}
    return gone


def _again(train: Rows, rows: Sequence[int]) -> Iterator[int]:
    """Yield which of the rows with one text have a label that an earlier one has."""
    first: set[object] = set()
    for row in rows:
        own = train.labels[row]
        label = comparable(own) if isinstance(own, str | tuple) else repr(own)
        if label in first:
            yield row
        first.add(label)


def _undone(cells: Iterable[Any], kinds: Sequence[str], done: Mapping[int, set[str]]) -> Iterator[Any]:
    """Yield texts as they are mended; note by row what was undone."""
    for row, cell in enumerate(cells):
        for kind in kinds:
            if isinstance(cell, str) and (mended := UNDO[kind](cell)) != cell:
                cell = mended
                done[row].add(kind)
        yield cell


def _respelled(
    cells: Iterable[Any], spelled: Mapping[str, str], separator: str | None, done: Mapping[int, set[str]]
) -> Iterator[Any]:
    """Yield the label of each row, or its labels, as most rows write it; note the rows that this changes."""
    for row, cell in enumerate(cells):
        if isinstance(cell, list | tuple):  # both spellings of one label are that label once
            names = [_spelling(each, spelled) for each in cell]
            new: Any = list(dict.fromkeys(names)) if names != list(cell) else cell
        elif separator and isinstance(cell, str):
            parts = [each.strip() for each in cell.split(separator)]
            names = [_spelling(each, spelled) for each in parts]
            new = separator.join(dict.fromkeys(names)) if names != parts else cell
        else:
            new = _spelling(cell, spelled)
        if new != cell:
            done[row].add("twin")
        yield new


def _spelling(cell: Any, spelled: Mapping[str, str]) -> Any:
    """Return a label as most rows write it; anything but text as it is."""
    return spelled.get(cell, spelled.get(cell.strip(), cell)) if isinstance(cell, str) else cell


def check_target(folder: Path, settings: DataSettings) -> None:
    """Refuse a folder that no copy may be written to; nothing need be looked at before.

    Args:
        folder: where a copy is wanted.
        settings: the group `data`, which names the original.

    Raises:
        UserError: if it has to do with the original, or holds something else or a copy that was changed since.
    """
    _check_apart(folder, settings)
    check_free(folder, MENDED, _COPY)
    _check_untouched(folder)


def _check_apart(folder: Path, settings: DataSettings) -> None:
    """Refuse to write over, into or around the original."""
    target = folder.resolve()
    for source in (expanded(name).resolve() for name in settings.files):
        if target == source or source in target.parents or target in source.parents:
            raise UserError(f"check.fix={folder} has to do with the original, {source}, which stays as it is")


def _check_untouched(folder: Path) -> None:
    """Refuse to write over a copy in which a file is another one than was written."""
    if not (folder / MENDED).is_file():
        return
    try:
        told = json.loads((folder / MENDED).read_text(encoding="utf-8"))
    except ValueError:
        told = None
    known = told.get("files") if isinstance(told, dict) else None
    if not isinstance(known, dict):
        raise UserError(f"{folder / MENDED} does not say what was written; name another folder, or delete {folder}")
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        same = path.is_file() and known.get(path.name) == sha256_of(path)
        if path.name != MENDED and not same:
            raise UserError(
                f"{path} is not as check.fix wrote it, and would be lost; name another folder, or delete {folder}"
            )


def _write_csv(table: Table, path: Path) -> None:
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as out:
        writer = cell_writer(out, ",")
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values(), strict=True))


def _write_jsonl(table: Table, path: Path) -> None:
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as out:
        for row, cells in enumerate(zip(*table.columns.values(), strict=True)):
            given = {name: cell for name, cell in zip(table.columns, cells, strict=True) if cell is not MISSING}
            try:
                out.write(json_line(given) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"{table.where(row)} cannot be written as JSON: {error}") from None
