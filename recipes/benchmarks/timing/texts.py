"""The texts of a job: drawn from a data set by the job's seed, or generated."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from recipes.benchmarks.timing.rows import read_rows

DATASETS = {"short": "sst2", "medium": "scicite"}
SPLITS = ("train", "validation", "test")
VALIDATION_ROWS = 50
WORDS = (
    *("time", "people", "world", "house", "water", "light", "music", "story"),
    *("paper", "river", "night", "field", "stone", "voice", "table", "horse"),
)


def job_folder(job: dict[str, Any], *, source: Path, scratch: Path) -> Path:
    """Return a folder with train.csv, validation.csv and test.csv for a job, created if missing.

    Args:
        job: has `rows`, `held_out` and `seed`, and `texts` (a key of DATASETS) or `generated` (`length` and `classes`).
        source: folder with one folder per data set.
        scratch: where the folder is created.
    """
    counts = {"train": job["rows"], "validation": VALIDATION_ROWS, "test": job["held_out"]}
    key = json.dumps([job.get("texts"), job.get("generated"), counts, job["seed"]])
    folder = scratch / f"data-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    folder.mkdir()
    for split, count in counts.items():
        rng = random.Random(f"{split} {job['seed']}")
        if "generated" in job:
            rows = generate_rows(rng, max(count, job["generated"]["classes"]), **job["generated"])
        else:
            table = read_pairs(source / DATASETS[job["texts"]] / f"{split}.csv")
            rows = rng.sample(table, min(count, len(table)))
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows([("text", "label"), *rows])
    return folder


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the text and the label of each row of a file."""
    return [(row["text"], row["label"]) for row in read_rows(path)]


def generate_rows(rng: random.Random, count: int, *, length: int, classes: int) -> list[tuple[str, str]]:
    """Return texts of about `length` tokens with the classes in turn; three words of each text determine its class."""
    rows = []
    for row in range(count):
        label = row % classes
        words = [WORDS[label % 16], WORDS[label // 16 % 16], WORDS[label // 256 % 16], str(rng.randrange(1000))]
        words += rng.choices(WORDS, k=max(0, length - 6))
        rows.append((" ".join(words), f"class {label:04}"))
    return rows


def digest(job: dict[str, Any], source: Path) -> str | None:
    """Return a digest of the data set's files that a job reads, or None for generated texts."""
    if "texts" not in job:
        return None
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update((source / DATASETS[job["texts"]] / f"{split}.csv").read_bytes())
    return digest.hexdigest()[:12]
