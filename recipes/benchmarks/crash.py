"""Crashes during training: our package, transformers' Trainer and accelerate are killed and restarted.

    python recipes/benchmarks/crash.py [--every N] [--results crash.jsonl]

All three fine-tune the same tiny encoder on the same rows for seven steps, with dropout, and write a checkpoint after
every second step. The second start is the same script, which continues from the newest checkpoint if there is one.
They run in the harness of our tests: this script adds the root of the repository to the path and imports `tests`. The
output is two Markdown tables: how many second starts ended with the same bits as an undisturbed run (of ours all files
of the run are compared, of the peers the weights), and the weights after NaN. Faults:

- killed: SIGKILL at every operation by which Python changes the files of the run (torch.save writes from C++, which
  cannot be intercepted, so there are fewer points where it writes files);
- torn: each file is cut in half as soon as it is written, then SIGKILL;
- disk full: a disk of 0.6, 1.5 and 2.5 checkpoints, enlarged before the second start (mounting it needs root);
- nan: one forward pass of step 5 returns NaN; the share of weights that are NaN at the end.

Peers, each in its best setting for this:

- trainer: save_strategy=steps, save_total_limit=2, data_seed, resume_from_checkpoint from get_last_checkpoint;
- accelerate: save_state and load_state with automatic naming and total_limit=2, seedable sampler, skip_first_batches.

Each measurement is appended to --results at once and not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

# Runs are forked: a child would wait forever for a lock that an OpenMP thread of the parent holds.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.models.bert.modeling_bert import BertEmbeddings

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row
from tests.crash_harness import Case, Tally, crash, die_at, start, undisturbed
from tests.crash_peers import accelerated, trainer
from tests.crashes import case_of
from tests.encoder.families import tiny_encoder

DISKS = (0.6, 1.5, 2.5)  # checkpoints that fit
NAN_STEP = 5


def ours(home: Path) -> Case:
    """Return our fine-tuning, without gradual unfreezing, averaged weights and micro-batches."""
    refinements: dict[str, Any] = {"strategy.gradual": 0.0, "training.ema": 0.0, "training.micro_batch_size": None}
    return case_of("finetune", home, **refinements)


METHODS: dict[str, Callable[[Path], Case]] = {"nlp_transfer": ours, "trainer": trainer, "accelerate": accelerated}


def killed(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Kill the run at each of its file operations."""
    return counts(crash(case, home, every=every))


def torn(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Cut each file that the run writes in half, then kill it."""
    return counts(crash(case, home, every=every, torn=True))


def disk_full(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Start the run on a disk that becomes full, enlarge the disk, start the run again."""
    output, tally = home / "output", Tally()
    reference = undisturbed(case, output)
    size = checkpoint_size(case, output, home / "journal")
    for share in DISKS:
        output.mkdir()
        with disk(output, int(share * size)) as enlarge:
            ended = start(case, output)
            if ended != 0:  # otherwise the disk was large enough
                tally.points += 1
                enlarge()
                tally.start_again(case, output, reference, f"a disk of {share} checkpoints")
        output.rmdir()
    return counts(tally)


def counts(tally: Tally) -> dict[str, Any]:
    """Return the numbers of crash points and of the outcomes of the second starts."""
    return {"points": tally.points, "same": tally.same, "other": tally.other, "refused": tally.refused}


def checkpoint_size(case: Case, output: Path, journal: Path) -> int:
    """Return the bytes of a checkpoint: of the largest checkpoint folder after three quarters of the operations."""
    start(case, output, partial(die_at, sys.maxsize, output, journal))
    shutil.rmtree(output)
    start(case, output, partial(die_at, int(journal.read_text()) * 3 // 4, output, journal))
    folders = [path for name in ("step-*", "checkpoint-*", "checkpoint_*") for path in output.rglob(name)]
    size = max(sum(path.stat().st_size for path in folder.rglob("*")) for folder in folders)
    shutil.rmtree(output)
    return size


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """Mount a disk of `size` bytes during the block, which gets a function that enlarges it."""

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True)

    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield enlarge
    finally:
        subprocess.run(["umount", folder], check=True)


def nan(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Make one forward pass return NaN; return the exit status and how many of the saved weights are NaN."""
    output = home / "output"
    undisturbed(case, output)
    ended = start(case, output, make_one_pass_nan)
    paths = output.rglob("model/model.safetensors")
    weights = torch.cat([tensor.flatten() for path in paths for tensor in load_file(path).values()] or [torch.empty(0)])
    return {"ended": ended, "weights": len(weights), "nan": int(weights.isnan().sum())}


def make_one_pass_nan() -> None:
    """Make the embedding layer return NaN once: in the first pass after four optimizer steps."""
    steps, is_done = 0, False

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    def replace(module: torch.nn.Module, _: Any, output: Any) -> Any:
        nonlocal is_done
        if is_done or steps < NAN_STEP - 1 or not module.training or not isinstance(module, BertEmbeddings):
            return output
        is_done = True
        return output * math.nan

    register_optimizer_step_post_hook(count)
    register_module_forward_hook(replace)


FAULTS: dict[str, Callable[[Case, Path, int], dict[str, Any]]] = {
    "killed": killed,
    "torn": torn,
    "disk full": disk_full,
    "nan": nan,
}


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th crash point")
    parser.add_argument("--results", type=Path, default=Path("crash.jsonl"))
    arguments = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    results = ResultsFile(arguments.results)
    for method in arguments.methods:
        for fault in FAULTS:
            if results.find({"method": method, "fault": fault, "every": arguments.every}):
                continue
            if fault == "disk full" and os.geteuid() != 0:
                print("disk full: skipped, mounting a disk needs root", file=sys.stderr)
                continue
            results.add(measure(method, fault, arguments.every))
    show([row for row in results.lines if row["method"] in arguments.methods and row["every"] == arguments.every])


def measure(method: str, fault: str, every: int) -> dict[str, Any]:
    """Return one line of the results file."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home)
        figures = FAULTS[fault](METHODS[method](home), home, every)
    versions = {name: metadata.version(name) for name in ("nlp-transfer", "torch", "transformers", "accelerate")}
    row = {"method": method, "fault": fault, "every": every, **figures, "date": time.strftime("%Y-%m-%d"), **versions}
    print(json.dumps(row), flush=True)
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the results as two Markdown tables."""
    columns = ["fault", "training", "points", "tried", "same bits", "other bits", "failed to restart"]
    print("\n" + markdown_header(columns))
    for fault in FAULTS:
        for row in (row for row in rows if row["fault"] == fault != "nan"):
            tried = row["same"] + row["other"] + row["refused"]
            counts = (row["points"], tried, row["same"], row["other"], row["refused"])
            print(markdown_row([fault, row["method"], *map(str, counts)]))
    print("\n" + markdown_header([f"NaN once, at step {NAN_STEP}", "exit status", "weights saved", "of them NaN"]))
    for row in (row for row in rows if row["fault"] == "nan"):
        share = f"{row['nan'] / row['weights']:.0%}" if row["weights"] else "–"
        print(f"| {row['method']} | {row['ended']} | {row['weights']:,} | {share} |")


if __name__ == "__main__":
    main()
