"""Runs of tiny encoders on some labels, and settings that continue them."""

import json
from pathlib import Path

from nlp_transfer.running.run import adapt
from tests.runs import STRATEGIES, data_for, settings_for


def rows_with_labels(labels: set[str], problem: str = "single_label", *, extra: bool = False) -> dict[str, list[dict]]:
    """The rows that have these labels; `extra`: half of them another one, for a task of one label is none."""
    found = {}
    for split, rows in data_for(problem).items():
        kept = rows if problem == "regression" else [row for row in rows if set(_names(row["label"])) & labels]
        if extra:
            kept = [row | {"label": "late"} if number % 2 else row for number, row in enumerate(kept)]
        found[split] = kept
    return found


def _names(label) -> list[str]:
    return [label] if isinstance(label, str) else list(label)


def write_rows(home: Path, labels: set[str], problem: str = "single_label", *, extra: bool = False) -> Path:
    """The same in a folder."""
    folder = home / "-".join(["rows", problem, *sorted(labels), *["extra"] * extra])
    folder.mkdir(exist_ok=True)
    for split, rows in rows_with_labels(labels, problem, extra=extra).items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def old_run(
    home: Path, labels: set[str], problem: str = "single_label", strategy: str = "finetune", *, extra: bool = False
) -> Path:
    """The folder of a run on the rows that have these labels; it is read back where it was asked for before."""
    folder = write_rows(home, labels, problem, extra=extra)
    own = STRATEGIES[strategy] | {"data": "files", "data.path": str(folder), "output": str(home / "old")}
    return adapt(settings_for(home, problem, **own)).folder


def continuing(home: Path, old: Path, problem: str = "single_label", strategy: str = "finetune", **values):
    """Settings of a run that keeps the labels of another one."""
    own = {key: value for key, value in STRATEGIES[strategy].items() if key != "encoder.head"}
    return settings_for(home, problem, **own | {"encoder.name": str(old), "continual.labels": "all"} | values)
