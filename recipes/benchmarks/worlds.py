"""The effect of the number of processes on training: one process, two with DDP, two with FSDP2.

    python recipes/benchmarks/worlds.py DATA_FOLDER [--dataset trec] [--rows 400] [--steps 20] [--length 32]
        [--results worlds.jsonl]

DATA_FOLDER has one folder per data set with train, validation and test files. All runs have the same seed, rows, order
of data and settings, and MiniLM without dropout, whose random numbers differ between ranks. The table has the loss of
some steps; the largest difference to one process in the loss of any step, and in any predicted probability for 100 test
rows; and the accuracy on all test rows. All processes run on this machine's CPU, for which accelerate has no FSDP: as
in the tests, and with their harness, it is made to take the code path of GPUs. Where DeepSpeed is installed, two
processes with ZeRO (AdamW's moments sharded) are measured too.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# Runs are forked: a child would wait forever for a lock that an OpenMP thread of the parent holds.
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
from recipes.benchmarks.timing.command import MINIMAL, data_parser
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import read_texts
from recipes.benchmarks.timing.tables import markdown_header, markdown_row
from tests.crash_harness import Case, start
from tests.worlds import WORLDS

CONFIGURATIONS = (("finetune", "fp32"), ("lora", "fp32"), ("finetune", "bf16"))
COMPARED_ROWS = 100  # test rows whose probabilities are compared


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--dataset", default="trec")
    parser.add_argument("--rows", type=int, default=400, help="training rows")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=32, help="maximum tokens of a text")
    parser.add_argument("--results", type=Path, default=Path("worlds.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    shared = {name: getattr(arguments, name) for name in ("dataset", "rows", "steps", "length")}
    jobs = [
        shared | {"strategy": strategy, "precision": precision, "world": world}
        for strategy, precision in CONFIGURATIONS
        for world in WORLDS
    ]
    for job in results.missing(jobs):
        results.add(job | measure(arguments.data / arguments.dataset, job))
    print("\n".join(table(results.select(jobs), arguments.steps)))


def measure(data: Path, job: Line) -> dict[str, Any]:
    """Train in the job's world; return the loss of each step, the accuracy, and probabilities of some test rows."""
    processes, force = WORLDS[job["world"]]
    with tempfile.TemporaryDirectory() as scratch:
        encoder, output = Path(scratch) / "encoder", Path(scratch) / "runs"
        write_encoder_without_dropout(encoder)
        values: dict[str, Any] = {
            "data": "files",
            "data.path": str(data),
            "data.train_limit": job["rows"],
            "data.unseen": "ignore",
            "encoder": "custom",
            "encoder.name": str(encoder),
            "encoder.head_dropout": 0.0,
            "strategy": job["strategy"],
            "training.precision": job["precision"],
            "training.max_steps": job["steps"],
            "training.min_steps": job["steps"],
            "tokens.max_length": job["length"],
            "evaluation.resamples": 2,
            "cache.gib": 0,
            "output": str(output),
            **MINIMAL,
        }
        if job["strategy"] == "lora":
            values["strategy.dropout"] = 0.0

        def run(_: Path) -> None:
            force()
            adapt(compose(None, from_mapping(values)))

        status = start(Case(run, lambda _: {}, lambda _: None, processes=processes), output)
        assert status == 0, f"{job}: ended with {status}"
        (folder,) = output.iterdir()
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        metrics = json.loads((folder / "metrics.json").read_text())
        predictions = nlp_transfer.load(folder).predict(read_texts(data / "test.csv")[:COMPARED_ROWS])
        return {
            "losses": [line["loss"] for line in lines if "learning_rate" in line],
            "accuracy": metrics["report"]["rows"][0]["intervals"]["accuracy"]["value"],
            "probabilities": [[round(p, 7) for p in each.probabilities.values()] for each in predictions],
        }


def write_encoder_without_dropout(folder: Path) -> None:
    """Copy MiniLM into a folder, and set its dropout to 0."""
    shutil.copytree(locate(compose(None, ["encoder=minilm"]).encoder).folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))


def table(lines: list[Line], steps: int) -> list[str]:
    """Return the lines of a Markdown table, one row per run."""
    shown = sorted({1, *(round(steps * share) for share in (0.25, 0.5, 0.75, 1))})
    columns = ["strategy", "precision", "world", *(f"loss {step}" for step in shown)]
    columns += ["loss differs by", "probability by", "accuracy"]
    rows = markdown_header(columns).splitlines()
    one_process = {(line["strategy"], line["precision"]): line for line in lines if line["world"] == "one"}
    for line in lines:
        reference = one_process[line["strategy"], line["precision"]]
        differences = [np.abs(np.subtract(line[key], reference[key])).max() for key in ("losses", "probabilities")]
        cells = [line["strategy"], line["precision"], line["world"]]
        cells += [f"{line['losses'][step - 1]:.5f}" for step in shown]
        cells += ["" if line is reference else f"{value:.0e}" for value in differences]
        rows.append(markdown_row([*cells, f"{line['accuracy']:.3f}"]))
    return rows


if __name__ == "__main__":
    main()
