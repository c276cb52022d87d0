"""Figures of one process and of two, for data of all sizes, and whole runs on very few rows.

    python -m tests.exactness

Prints one JSON line per size and batch: whether the outputs of the ranks equal those of one process bit by bit, and
which figures follow; and one per run on few rows, with its figures and the files that each rank has changed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import encode, full_lengths, resolve_spec
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EncoderSettings, TokenSettings, TrackingSettings
from nlp_transfer.training import inference
from nlp_transfer.training.device import make_accelerator
from tests.crash_harness import Case, start
from tests.encoder.families import TEXTS, tiny_encoder
from tests.runs import TOPICS, data_for, settings_for

ROWS, BATCHES = range(1, 18), range(1, 6)
LABELS = ("card", "film", "refund")
FEW = {"train": 3, "validation": 1, "test": 2}  # of 2 ranks, in batches of 8
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")


def measure(encoder: Path, output: Path) -> None:
    """Write the logits of every number of rows in every size of batch, as each rank sees them."""
    classifier = load_classifier(
        EncoderSettings(name=str(encoder)), Task("single_label", LABELS, False), head="native", seed=0
    )
    accelerator = make_accelerator("fp32", TrackingSettings(), output)
    found = {}
    for rows in ROWS:
        texts = [" ".join([TEXTS[i % len(TEXTS)]] * (1 + i % 3)) for i in range(rows)]
        lengths = full_lengths(classifier.tokenizer, texts, None)
        spec = resolve_spec(TokenSettings(), lengths, limit=classifier.max_tokens, pair=False)
        tokens = encode(classifier.tokenizer, texts, None, spec, max_length=spec.max_length)
        columns = Columns(tokens, np.zeros(rows, np.int64), np.ones(rows, np.float32))
        for batch in BATCHES:
            most = batch * int(tokens.longest.max())
            found[f"{rows} {batch}"] = inference.run(
                accelerator, classifier.model, columns, padding=Padding(0, 0, False), most_tokens=most
            )
    np.savez(output / f"rank-{accelerator.process_index}-of-{accelerator.num_processes}.npz", **found)


def figures(alone: dict[str, np.ndarray], ranks: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return for every size whether all ranks found the same bits, what was found, and the figures of it."""
    task, told = Task("single_label", LABELS, False), {}
    for name, logits in alone.items():
        targets = np.arange(len(logits)) % 3
        told[name] = {
            "same": all(logits.tobytes() == rank[name].tobytes() for rank in ranks),
            "logits": logits.tolist(),
            "figures": [compute(task, found, targets) for found in (logits, *(rank[name] for rank in ranks))],
        }
    return told


def few(home: Path, output: Path, strategy: str) -> None:
    """Do a run on fewer rows than a batch has, and in evaluation than there are ranks."""
    data = data_for("single_label")
    one_each = [next(row for row in data["train"] if row["label"] == label) for label in TOPICS]
    rows = {split: (one_each if split == "train" else part)[: FEW[split]] for split, part in data.items()}
    rows |= {"validation": one_each[:1], "test": one_each[1:]}  # no row may be of an unseen label
    rows |= {s: [row | {"text": f"{row['text']} {s}"} for row in part] for s, part in rows.items()}
    values = {"checkpoint.seconds": 0, "evaluation.floors": True}
    settings = settings_for(home, output=str(output / "runs"), strategy=strategy, **values)
    adapt(settings, data=rows)


def noting(work: Callable[[Path], None], changed: Path) -> Callable[[Path], None]:
    """Return the same work, which notes for every rank what it changes below its folder."""

    def run(output: Path) -> None:
        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in _CHANGES or (event == "open" and not arguments[2] & _WRITES):
                return
            path = os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else ""
            if path.startswith(str(output)):
                lines.write(f"{path}\n")

        with (changed / os.environ.get("RANK", "0")).open("w") as lines:
            sys.addaudithook(watch)
            work(output)
            lines.flush()

    return run


def main() -> None:
    """Do all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        encoder = tiny_encoder(home, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        measured = Case(lambda output: measure(encoder, output), lambda _: {}, lambda _: None)
        output = home / "measured"
        for processes in (1, 2):
            assert start(replace(measured, processes=processes), output) == 0
        alone, *ranks = (
            dict(np.load(output / name)) for name in ("rank-0-of-1.npz", "rank-0-of-2.npz", "rank-1-of-2.npz")
        )
        told: dict[str, Any] = {"figures": figures(alone, ranks), "few": {}}
        for strategy in ("probe", "finetune"):
            for processes in (1, 2):
                place, changed = home / f"{strategy}-{processes}", home / f"changed-{strategy}-{processes}"
                changed.mkdir()
                case = replace(measured, run=noting(lambda output, s=strategy: few(home, output, s), changed))
                status = start(replace(case, processes=processes), place)
                report = [json.loads(path.read_text())["report"] for path in place.rglob("metrics.json")]
                files = {path.name: len(path.read_text().splitlines()) for path in changed.iterdir()}
                told["few"][f"{strategy} {processes}"] = {"status": status, "report": report, "changed": files}
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main()
