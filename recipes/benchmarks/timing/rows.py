"""CSV files of texts and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file with a header, all columns."""
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def read_texts(path: Path) -> list[str]:
    """Return the column `text` of a CSV file."""
    return [row["text"] for row in read_rows(path)]


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the columns `text` and `label` of rows as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["text", "label"], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
