"""Whether it matters how many processes train: one, two that hold the model each (DDP), two that share it out (FSDP2).

    python recipes/benchmarks/worlds.py DATA_FOLDER [--dataset trec] [--rows 400] [--steps 20] [--length 32]
        [--results worlds.jsonl]

DATA_FOLDER holds one folder a data set with train, validation and test files. Every run has the same seed, rows, order
of data and settings, and MiniLM without dropout, which draws otherwise on every rank. Told are the loss of some steps,
the largest difference to one process of any step's loss and of any probability of the saved model for 100 test rows,
and its accuracy on all of them. All processes run on this machine's processor, where accelerate has no FSDP of its own:
as in our tests, and with their harness, it is made to take the path that it takes on GPUs. Where DeepSpeed is
installed, two processes share out AdamW's moments with it as well.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# Runs are forked: what OpenMP threads of the parent hold, a child would wait for in vain.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import nlp_transfer
from nlp_transfer.composing.words import from_mapping
from nlp_transfer.config import compose
from nlp_transfer.encoder.source import locate
from nlp_transfer.running.run import adapt
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.kept import Kept, Line
from tests.crash_harness import Case, start
from tests.worlds import WORLDS

WORKS = (("finetune", "fp32"), ("lora", "fp32"), ("finetune", "bf16"))
ASKED = 100  # test rows whose probabilities are compared


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dataset", default="trec")
    parser.add_argument("--rows", type=int, default=400, help="training rows")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=32, help="tokens of a text that are read")
    parser.add_argument("--results", type=Path, default=Path("worlds.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    same = {name: getattr(arguments, name) for name in ("dataset", "rows", "steps", "length")}
    wanted = [
        same | {"strategy": strategy, "precision": precision, "world": world}
        for strategy, precision in WORKS
        for world in WORLDS
    ]
    for asked in kept.missing(wanted):
        kept.add(asked | measured(arguments.data / arguments.dataset, asked))
    print("\n".join(table(kept.of(wanted), arguments.steps)))


def measured(data: Path, asked: Line) -> dict[str, Any]:
    """Return what a run comes to: the losses of its steps, its accuracy, and probabilities of some test rows."""
    processes, force = WORLDS[asked["world"]]
    with tempfile.TemporaryDirectory() as scratch:
        encoder, output = Path(scratch) / "encoder", Path(scratch) / "runs"
        without_dropout(encoder)
        values: dict[str, Any] = {
            "data": "files",
            "data.path": str(data),
            "data.train_limit": asked["rows"],
            "data.unseen": "ignore",
            "encoder": "custom",
            "encoder.name": str(encoder),
            "encoder.head_dropout": 0.0,
            "strategy": asked["strategy"],
            "training.precision": asked["precision"],
            "training.max_steps": asked["steps"],
            "training.min_steps": asked["steps"],
            "tokens.max_length": asked["length"],
            "evaluation.floors": False,
            "evaluation.resamples": 2,
            "cache.gib": 0,
            "verify": False,
            "report.write": False,
            "output": str(output),
        }
        if asked["strategy"] == "lora":
            values["strategy.dropout"] = 0.0

        def run(_: Path) -> None:
            force()
            adapt(compose(None, from_mapping(values)))

        status = start(Case(run, lambda _: {}, lambda _: None, processes=processes), output)
        assert status == 0, f"{asked}: ended with {status}"
        (folder,) = output.iterdir()
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        result = json.loads((folder / "metrics.json").read_text())
        predictor = nlp_transfer.load(folder)
        answers = predictor.predict(texts_of(data / "test.csv"))
        return {
            "losses": [line["loss"] for line in lines if "learning_rate" in line],
            "accuracy": result["report"]["rows"][0]["intervals"]["accuracy"]["value"],
            "probabilities": [[round(p, 7) for p in answer.probabilities.values()] for answer in answers],
        }


def without_dropout(folder: Path) -> None:
    """Write MiniLM into a folder, with a configuration that drops nothing."""
    shutil.copytree(locate(compose(None, ["encoder=minilm"]).encoder).folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))


def texts_of(file: Path) -> list[str]:
    """Return the first texts of a file of rows."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [row["text"] for _, row in zip(range(ASKED), csv.DictReader(lines), strict=False)]


def table(lines: list[Line], steps: int) -> list[str]:
    """Return a Markdown table, a run a line."""
    shown = sorted({1, *(round(steps * share) for share in (0.25, 0.5, 0.75, 1))})
    heads = ["strategy", "precision", "world", *(f"loss {step}" for step in shown)]
    heads += ["loss differs by", "probability by", "accuracy"]
    found = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for line in lines:
        one = next(o for o in lines if o["world"] == "one" and all(o[k] == line[k] for k in ("strategy", "precision")))
        apart = [np.abs(np.subtract(line[key], one[key])).max() for key in ("losses", "probabilities")]
        cells = [line["strategy"], line["precision"], line["world"]]
        cells += [f"{line['losses'][step - 1]:.5f}" for step in shown]
        cells += ["" if line is one else f"{value:.0e}" for value in apart]
        cells.append(f"{line['accuracy']:.3f}")
        found.append(f"| {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    main()
