"""The texts a job reads: drawn from a data set by the job's seed, or generated. It knows no model and no peer."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

DATASETS = {"short": "sst2", "medium": "scicite"}
SPLITS = ("train", "validation", "test")
VALIDATION_ROWS = 50
WORDS = (
    *("time", "people", "world", "house", "water", "light", "music", "story"),
    *("paper", "river", "night", "field", "stone", "voice", "table", "horse"),
)


def folder_of(job: dict[str, Any], *, source: Path, scratch: Path) -> Path:
    """Return a folder with train.csv, validation.csv and test.csv for a job; it is made when it is first asked for.

    Args:
        job: `rows`, `held_out` and `seed`; `texts` (a key of DATASETS) or `generated` (`length` and `classes`).
        source: one folder a data set.
        scratch: where the folder is made.
    """
    counts = {"train": job["rows"], "validation": VALIDATION_ROWS, "test": job["held_out"]}
    asked = json.dumps([job.get("texts"), job.get("generated"), counts, job["seed"]])
    folder = scratch / f"data-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    folder.mkdir()
    for split, count in counts.items():
        chooser = random.Random(f"{split} {job['seed']}")
        if "generated" in job:
            rows = generated(chooser, max(count, job["generated"]["classes"]), **job["generated"])
        else:
            table = read(source / DATASETS[job["texts"]] / f"{split}.csv")
            rows = chooser.sample(table, min(count, len(table)))
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows([("text", "label"), *rows])
    return folder


def read(path: Path) -> list[tuple[str, str]]:
    """Return the texts and labels of a file."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [(row["text"], row["label"]) for row in csv.DictReader(lines)]


def generated(chooser: random.Random, count: int, *, length: int, classes: int) -> list[tuple[str, str]]:
    """Return texts of about `length` tokens, the classes in turn; three words of a text tell its class."""
    made = []
    for row in range(count):
        label = row % classes
        told = [WORDS[label % 16], WORDS[label // 16 % 16], WORDS[label // 256 % 16], str(chooser.randrange(1000))]
        made.append((" ".join([*told, *chooser.choices(WORDS, k=max(0, length - 6))]), f"class {label:04}"))
    return made


def digest(job: dict[str, Any], source: Path) -> str | None:
    """Return what tells the data set of a job from another of its name; None where it reads none."""
    if "texts" not in job:
        return None
    together = hashlib.sha256()
    for split in SPLITS:
        together.update((source / DATASETS[job["texts"]] / f"{split}.csv").read_bytes())
    return together.hexdigest()[:12]
