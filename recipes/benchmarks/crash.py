"""Kill a training wherever its files change, start it again: ours beside transformers' Trainer and accelerate.

    python recipes/benchmarks/crash.py [--every N] [--results crash.jsonl]

All three fine-tune the same tiny encoder on the same rows for seven steps, dropout on, and write a checkpoint after
every second one; the second start is the same script, which goes on from the newest checkpoint if there is one. They
run under the harness of our own tests: this script puts the root of the repository on the path and imports it from
`tests`. Of ours every file that a run leaves is compared, of the peers the weights. Faults:

- killed: SIGKILL at every operation by which Python changes the files of the run (torch.save writes from C++, which
  cannot be seen, hence fewer points where files are written by it);
- torn: each file is torn in half as soon as it is written, then SIGKILL;
- disk full: a disk of 0.6, 1.5 and 2.5 checkpoints, enlarged before the second start (needs root, to mount it);
- nan: one forward pass of step 5 gives no number; how many weights are none at the end.

Peers, each at its best setting for this:

- trainer: save_strategy=steps, save_total_limit=2, data_seed, resume_from_checkpoint as get_last_checkpoint finds it;
- accelerate: save_state and load_state with automatic naming and total_limit=2, seedable sampler, skip_first_batches.

Every result is appended to a JSON-lines file at once and is not computed again.
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

# Runs are forked: what OpenMP threads of the parent hold, a child would wait for in vain.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.models.bert.modeling_bert import BertEmbeddings

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.kept import Kept
from tests.crash_harness import Case, Tally, crash, die_at, start, undisturbed
from tests.crash_peers import accelerated, trainer
from tests.crashes import case_of
from tests.encoder.families import tiny_encoder

DISKS = (0.6, 1.5, 2.5)  # checkpoints that fit
NAN_STEP = 5


def ours(home: Path) -> Case:
    """Return our fine-tuning, its refinements left out."""
    refinements: dict[str, Any] = {"strategy.gradual": 0.0, "training.ema": 0.0, "training.micro_batch_size": None}
    return case_of("finetune", home, **refinements)


METHODS: dict[str, Callable[[Path], Case]] = {"nlp_transfer": ours, "trainer": trainer, "accelerate": accelerated}


def killed(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Kill the run at its points."""
    return counts(crash(case, home, every=every))


def torn(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Tear what the run writes."""
    return counts(crash(case, home, every=every, torn=True))


def disk_full(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Let the run end because its disk is full, enlarge the disk, start it again."""
    output, tally = home / "output", Tally()
    wanted = undisturbed(case, output)
    size = checkpoint_size(case, output, home / "journal")
    for share in DISKS:
        output.mkdir()
        with disk(output, int(share * size)) as enlarge:
            ended = start(case, output)
            if ended != 0:  # else it was large enough
                tally.points += 1
                enlarge()
                tally.start_again(case, output, wanted, f"a disk of {share} checkpoints")
        output.rmdir()
    return counts(tally)


def counts(tally: Tally) -> dict[str, Any]:
    """Return how the second starts ended."""
    return {"points": tally.points, "same": tally.same, "other": tally.other, "refused": tally.refused}


def checkpoint_size(case: Case, output: Path, journal: Path) -> int:
    """Return the bytes of a checkpoint: the largest folder of that name after three quarters of a run's changes."""
    start(case, output, partial(die_at, sys.maxsize, output, journal))
    shutil.rmtree(output)
    start(case, output, partial(die_at, int(journal.read_text()) * 3 // 4, output, journal))
    folders = [path for name in ("step-*", "checkpoint-*", "checkpoint_*") for path in output.rglob(name)]
    size = max(sum(path.stat().st_size for path in folder.rglob("*")) for folder in folders)
    shutil.rmtree(output)
    return size


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """Mount a disk of so many bytes; what is yielded enlarges it."""

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True)

    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield enlarge
    finally:
        subprocess.run(["umount", folder], check=True)


def nan(case: Case, home: Path, every: int) -> dict[str, Any]:
    """Let one forward pass give no number."""
    output = home / "output"
    undisturbed(case, output)
    ended = start(case, output, spoil_one_pass)
    found = list(output.rglob("model/model.safetensors"))
    weights = torch.cat([tensor.flatten() for path in found for tensor in load_file(path).values()] or [torch.empty(0)])
    return {"ended": ended, "weights": len(weights), "nan": int(weights.isnan().sum())}


def spoil_one_pass() -> None:
    """Make the encoder's first layer answer nan once: in the first pass after four optimizer steps."""
    steps, spoiled = 0, False

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    def spoil(module: torch.nn.Module, _: Any, answer: Any) -> Any:
        nonlocal spoiled
        if spoiled or steps < NAN_STEP - 1 or not module.training or not isinstance(module, BertEmbeddings):
            return answer
        spoiled = True
        return answer * math.nan

    register_optimizer_step_post_hook(count)
    register_module_forward_hook(spoil)


FAULTS: dict[str, Callable[[Case, Path, int], dict[str, Any]]] = {
    "killed": killed,
    "torn": torn,
    "disk full": disk_full,
    "nan": nan,
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--every", type=int, default=1, help="try each n-th point only")
    parser.add_argument("--results", type=Path, default=Path("crash.jsonl"))
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    kept = Kept(arguments.results)
    for method in arguments.methods:
        for fault in FAULTS:
            if kept.find({"method": method, "fault": fault, "every": arguments.every}):
                continue
            if fault == "disk full" and os.geteuid() != 0:
                print("disk full: left out, only root can mount a disk", file=sys.stderr)
                continue
            kept.add(measure(method, fault, arguments.every))
    show([row for row in kept.lines if row["method"] in arguments.methods and row["every"] == arguments.every])


def measure(method: str, fault: str, every: int) -> dict[str, Any]:
    """Return one row of results."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home)
        found = FAULTS[fault](METHODS[method](home), home, every)
    versions = {name: metadata.version(name) for name in ("nlp-transfer", "torch", "transformers", "accelerate")}
    row = {"method": method, "fault": fault, "every": every, **found, "date": time.strftime("%Y-%m-%d"), **versions}
    print(json.dumps(row), flush=True)
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the results as two Markdown tables."""
    print("\n| fault | training | points | tried | same bits | other bits | not started again |")
    print("|---|---|---|---|---|---|---|")
    for fault in FAULTS:
        for row in (row for row in rows if row["fault"] == fault != "nan"):
            tried = row["same"] + row["other"] + row["refused"]
            cells = (row["points"], tried, row["same"], row["other"], row["refused"])
            print(f"| {fault} | {row['method']} | {' | '.join(map(str, cells))} |")
    print(f"\n| nan once, at step {NAN_STEP} | exit status | weights saved | of them nan |")
    print("|---|---|---|---|")
    for row in (row for row in rows if row["fault"] == "nan"):
        share = f"{row['nan'] / row['weights']:.0%}" if row["weights"] else "–"
        print(f"| {row['method']} | {row['ended']} | {row['weights']:,} | {share} |")


if __name__ == "__main__":
    main()
