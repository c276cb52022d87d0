"""A corrected copy of a corpus, with the defects mended that need no human decision.

The original is never changed. First, damaged texts and label spellings are corrected, then superfluous rows are
dropped. Of a test split only rows without text are dropped, so that figures stay comparable.
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
    """The planned corrections of a corpus.

    Attributes:
        tables: by split, all rows with their corrections.
        gone: rows to drop, and why.
        changed: rows that stay with corrections, and which.
        lost: labels that no training row will have any more.
    """

    tables: dict[str, Table]
    gone: dict[Place, str]
    changed: dict[Place, list[str]]
    lost: list[str]

    def __bool__(self) -> bool:
        """Whether the copy would differ from the original."""
        return bool(self.gone or self.changed)

    def summary(self) -> str:
        """Return the numbers of dropped and changed rows, by kind."""
        dropped, changed = Counter(self.gone.values()), Counter(kind for why in self.changed.values() for kind in why)
        parts = (self.gone, "dropped", dropped), (self.changed, "changed", changed)
        return ", ".join(f"{counted(len(rows), 'row')} {action}{_listed(counts)}" for rows, action, counts in parts)


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{kind} {count:,}' for kind, count in sorted(counts.items()))})" if counts else ""


def plan(examination: Examination) -> Mending:
    """Plan the corrections of findings that need no decision by someone who knows the data.

    These are damage that can be undone (see ``damage.UNDO``), labels with two spellings, rows without text, leaks
    (dropped from the earlier split), and training rows that repeat others.

    Raises:
        UserError: if a split would have no rows left.
    """
    kinds = {finding.kind for finding in examination.findings}
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
            columns[name] = cells_of(_undo_damage(columns[name], undone, done), count)
        name = corpus.roles["label"]
        columns[name] = cells_of(_respell(columns[name], spelled, settings.label_separator, done), count)
        changed |= {(split, row): sorted(done[row]) for row in sorted(done)}
        tables[split] = Table(columns, table.origin, table.lines, table.files)
        rows[split] = rows_of(tables[split], corpus.roles, settings, split=split, problem=corpus.task.problem, notes=[])
    # Corrected rows may now repeat others.
    possible = {"leak", "repeat"} if kinds & {*UNDO, "twin"} else set()
    gone = _rows_to_drop(rows, (kinds | possible) - examination.skipped)
    for split, part in rows.items():
        if all((split, row) in gone for row in range(len(part))):
            raise UserError(f"a mended copy would have no {called(split)} row: all of them are repeated, or empty")
    remaining = rows["train"].take([row for row in range(len(rows["train"])) if ("train", row) not in gone])
    before, after = label_counts(rows["train"]), label_counts(remaining)
    lost = [name for name in corpus.task.labels if before[name] and not after[name]]
    return Mending(tables, gone, {place: done for place, done in changed.items() if place not in gone}, lost)


def write(planned: Mending, examination: Examination, folder: Path) -> None:
    """Write the copy, one file per split, and ``mended.json``, which lists every dropped or changed row.

    Files are CSV in UTF-8 if every cell is text, else JSON lines.

    Raises:
        UserError: if the folder cannot be written, contains other files or a copy that was edited, or overlaps with the
            original; and for a cell that JSON cannot represent.
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
        log = {
            "from": examination.corpus.source,
            "files": {path.name: sha256_of(path) for path in sorted(making.iterdir())},
            "dropped": [
                {"place": examination.where(place), "kind": why} for place, why in sorted(planned.gone.items())
            ],
            "changed": [
                {"place": examination.where(place), "kinds": why} for place, why in sorted(planned.changed.items())
            ],
        }
        write_json(making / MENDED, log)


def _rows_to_drop(rows: Mapping[str, Rows], kinds: set[str]) -> dict[Place, str]:
    """Return the rows to drop, and why."""
    has_text = {split: np.ones(len(part), bool) for split, part in rows.items()}
    gone: dict[Place, str] = {}
    for split, part in rows.items():
        blank = blank_rows(part.texts, part.pairs)
        has_text[split][blank] = False
        gone |= {(split, row): "empty" for row in blank} if "empty" in kinds else {}
    for source, target in LEAKS if "leak" in kinds else ():
        if source in rows and target in rows:
            target_keys = rows[target].keys.take(np.flatnonzero(has_text[target]))
            leaked = has_text[source] & rows[source].keys.among(target_keys)
            gone |= {(source, row): "leak" for row in np.flatnonzero(leaked).tolist()}
    train = rows["train"]
    left = np.array([row for row in np.flatnonzero(has_text["train"]).tolist() if ("train", row) not in gone], np.int64)
    for same in same_texts(train.keys.take(left)) if "repeat" in kinds else ():
        alike = left[same].tolist()
        # Conflicting labels need a decision, for which it may matter how often each was given.
        if len({comparable(train.labels[row]) for row in alike}) == 1:
            gone |= {("train", row): "repeat" for row in _repeated_labels(train, alike)}
    return gone


def _repeated_labels(train: Rows, rows: Sequence[int]) -> Iterator[int]:
    """Yield those of the rows with the same text whose label an earlier one has."""
    seen: set[object] = set()
    for row in rows:
        label = train.labels[row]
        key = comparable(label) if isinstance(label, str | tuple) else repr(label)
        if key in seen:
            yield row
        seen.add(key)


def _undo_damage(cells: Iterable[Any], kinds: Sequence[str], done: Mapping[int, set[str]]) -> Iterator[Any]:
    """Yield corrected texts; add the kinds that were undone to `done`, by row."""
    for row, cell in enumerate(cells):
        for kind in kinds:
            if isinstance(cell, str) and (mended := UNDO[kind](cell)) != cell:
                cell = mended
                done[row].add(kind)
        yield cell


def _respell(
    cells: Iterable[Any], spelled: Mapping[str, str], separator: str | None, done: Mapping[int, set[str]]
) -> Iterator[Any]:
    """Yield each row's label or labels in the most frequent spelling; add changed rows to `done`."""
    for row, cell in enumerate(cells):
        if isinstance(cell, list | tuple):  # two spellings of the same label are merged
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
    """Return a label in its most frequent spelling; cells that are not text are unchanged."""
    return spelled.get(cell, spelled.get(cell.strip(), cell)) if isinstance(cell, str) else cell


def check_target(folder: Path, settings: DataSettings) -> None:
    """Check that a copy may be written to a folder, before anything is examined.

    Args:
        folder: where to write the copy.
        settings: the group `data`, which names the original.

    Raises:
        UserError: if it overlaps with the original, or contains other files or a copy that was edited.
    """
    _check_apart(folder, settings)
    check_free(folder, MENDED, _COPY)
    _check_untouched(folder)


def _check_apart(folder: Path, settings: DataSettings) -> None:
    """Refuse a folder that is, contains or lies in the original."""
    target = folder.resolve()
    for source in (expanded(name).resolve() for name in settings.files):
        if target == source or source in target.parents or target in source.parents:
            raise UserError(f"check.fix={folder} has to do with the original, {source}, which stays as it is")


def _check_untouched(folder: Path) -> None:
    """Refuse to overwrite a copy whose files were edited."""
    if not (folder / MENDED).is_file():
        return
    try:
        log = json.loads((folder / MENDED).read_text(encoding="utf-8"))
    except ValueError:
        log = None
    digests = log.get("files") if isinstance(log, dict) else None
    if not isinstance(digests, dict):
        raise UserError(f"{folder / MENDED} does not say what was written; name another folder, or delete {folder}")
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        is_same = path.is_file() and digests.get(path.name) == sha256_of(path)
        if path.name != MENDED and not is_same:
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
            present = {name: cell for name, cell in zip(table.columns, cells, strict=True) if cell is not MISSING}
            try:
                out.write(json_line(present) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"{table.where(row)} cannot be written as JSON: {error}") from None
