"""A folder to call the command line in: a tiny encoder, and a corpus in three CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.encoder.families import tiny_encoder
from tests.runs import data_for


def furnish(folder: Path) -> Path:
    """Write ``tiny-bert`` and ``data/{train,validation,test}.csv`` into a folder; return it."""
    tiny_encoder(folder)
    (folder / "data").mkdir()
    for split, part in data_for("single_label").items():
        write_csv(folder / "data" / f"{split}.csv", part)
    return folder


def write_csv(path: Path, part: list[dict]) -> None:
    """Write rows with the columns id, text and label."""
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows({key: row[key] for key in ("id", "text", "label")} for row in part)


def adapt_words(folder: Path, *more: str) -> list[str]:
    """Return a short run's command line; of what is given for one key the last is taken."""
    words = [
        "data=files",
        f"data.path={folder / 'data'}",
        "encoder=custom",
        f"encoder.name={folder / 'tiny-bert'}",
        "strategy=probe",
        "evaluation.resamples=20",
        "verify=false",
        "report.write=false",
        f"output={folder / 'runs'}",
        *more,
    ]
    return ["adapt", *{word.partition("=")[0]: word for word in words}.values()]


def run_of(folder: Path) -> str:
    return str(next((folder / "runs").iterdir()))
