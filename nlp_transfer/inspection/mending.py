"""A copy of a corpus in which is mended what can be mended without knowing better than its owner.

The original is never touched. No row of a test split goes but those with nothing to read: figures stay comparable.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.data.checks import comparable, twins
from nlp_transfer.data.delimited import cell_writer
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.labels import name_of
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.table import MISSING, Table
from nlp_transfer.data.task import Task, shares
from nlp_transfer.disk import appearing
from nlp_transfer.inspection.damage import UNDO
from nlp_transfer.inspection.examine import Examination
from nlp_transfer.inspection.kinds import KINDS

MENDED = "mended.json"
_DROPPED = ("empty", "leak", "near_leak")


def mend(examination: Examination, folder: Path, *, separator: str | None) -> tuple[int, int]:
    """Write a mended copy, one file a split, and what was done; return how many rows were dropped and changed.

    Args:
        examination: whose findings are mended, as ``kinds.KINDS`` says.
        folder: of the copy. A text source becomes CSV in UTF-8, one with types JSON lines.
        separator: of several labels in one cell, see `data.label_separator`.

    Raises:
        UserError: if the folder cannot be written, or holds something else.
    """
    corpus, kinds = examination.corpus, {found.kind for found in examination.findings}
    gone = _dropped(corpus.rows, examination.findings, kinds)
    spelled = _spellings(corpus.rows, corpus.task) if "twin" in kinds else {}
    undone = [kind for kind in UNDO if kind in kinds]
    changed: dict[Place, list[str]] = {}
    with appearing(folder, MENDED, "mended corpus") as making:
        for split, rows in corpus.rows.items():
            table, roles = rows.table, corpus.roles
            columns = {name: list(cells) for name, cells in table.columns.items()}
            for row in range(len(table)):
                done = [
                    kind
                    for role in ("text", "text_pair")
                    if role in roles
                    for kind in _undo(columns[roles[role]], row, undone)
                ]
                done += ["twin"] * _respell(columns[roles["label"]], row, spelled, separator)
                if done and (split, row) not in gone:
                    changed[split, row] = sorted(set(done))
            kept = [row for row in range(len(table)) if (split, row) not in gone]
            _write(Table(columns, table.origin, table.lines, table.files).take(kept), making / split)
        told = {
            "from": corpus.source,
            "dropped": [{"place": examination.where(place), "kind": kind} for place, kind in sorted(gone.items())],
            "changed": [{"place": examination.where(place), "kinds": done} for place, done in sorted(changed.items())],
        }
        (making / MENDED).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(gone), len(changed)


def mends(examination: Examination) -> bool:
    """Return whether a copy would be any better."""
    return any(KINDS[found.kind].mended for found in examination.findings)


def _dropped(splits: Mapping[str, Rows], findings: Sequence[Finding], kinds: set[str]) -> dict[Place, str]:
    """Return the rows that go, and why."""
    gone = {place: found.kind for found in findings if found.kind in _DROPPED for place in found.places}
    if not kinds & {"repeat", "conflict"}:
        return gone
    alike: defaultdict[bytes, list[int]] = defaultdict(list)
    train = splits["train"]
    for row, key in enumerate(train.keys):
        if ("train", train.numbers[row]) not in gone:
            alike[key].append(row)
    for rows in alike.values():
        for row, kind in _superfluous(train, rows, kinds):
            gone["train", train.numbers[row]] = kind
    return gone


def _superfluous(train: Rows, rows: Sequence[int], kinds: set[str]) -> Iterator[tuple[int, str]]:
    """Yield which of the rows with one text go: those without the majority's label, then all but the first."""
    votes = Counter(comparable(train.labels[row]) for row in rows).most_common(2)
    kept = list(rows)
    if len(votes) > 1 and "conflict" in kinds:
        (best, most), (_, next_most) = votes
        kept = [row for row in rows if most > next_most and comparable(train.labels[row]) == best]
        yield from ((row, "conflict") for row in rows if row not in kept)
    if "repeat" in kinds:
        first: set[object] = set()
        for row in kept:
            label = comparable(train.labels[row])
            if label in first:
                yield row, "repeat"
            first.add(label)


def _spellings(splits: Mapping[str, Rows], task: Task) -> dict[str, str]:
    counts = Counter(name for label in splits["train"].labels for name, share in shares(label).items() if share)
    return twins(task, counts)


def _undo(cells: list[Any], row: int, kinds: Sequence[str]) -> Iterator[str]:
    """Mend a text where it stands; yield what was undone."""
    for kind in kinds:
        if isinstance(cells[row], str) and (mended := UNDO[kind](cells[row])) != cells[row]:
            cells[row] = mended
            yield kind


def _respell(cells: list[Any], row: int, spelled: Mapping[str, str], separator: str | None) -> bool:
    """Write the label of a row, or its labels, as most rows do; return whether that changed it."""
    cell = cells[row]
    if isinstance(cell, dict):
        return False  # soft labels of one text may name both spellings
    if isinstance(cell, list | tuple):
        new: Any = [spelled.get(str(name_of(each)), each) for each in cell]
        changed = new != list(cell)
    elif separator and isinstance(cell, str):
        new = separator.join(spelled.get(each.strip(), each) for each in cell.split(separator))
        changed = new != cell
    else:
        new = spelled.get(str(name_of(cell)), cell)
        changed = new != cell
    if changed:
        cells[row] = new
    return changed


def _write(table: Table, path: Path) -> None:
    """Write a table under a name without its ending."""
    rows = zip(*table.columns.values(), strict=True)
    if all(isinstance(cell, str) for cells in table.columns.values() for cell in cells):
        with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as out:
            writer = cell_writer(out, ",")
            writer.writerow(table.columns)
            writer.writerows(rows)
        return
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as out:
        for row in rows:
            given = {name: cell for name, cell in zip(table.columns, row, strict=True) if cell is not MISSING}
            out.write(json.dumps(given, ensure_ascii=False, default=str) + "\n")
