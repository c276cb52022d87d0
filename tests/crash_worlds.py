"""A run with a checkpoint from one world that resumes in another, compared with undisturbed runs; see tests.worlds.

    python -m tests.crash_worlds

The examples of a step are recorded where they enter the model, independently of the code that distributes the rows.
One JSON line per run has the examples of its steps, and the distance of its weights to those of one undisturbed
process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlp_transfer.objectives.objective import Step
from nlp_transfer.training import checkpoint
from tests import zeroed
from tests.crash_harness import Case, start
from tests.crashes import case_of
from tests.encoder.families import tiny_encoder
from tests.worlds import WORLDS

COMMITTED = 4  # steps; the one that was killed did no more
RUNS = [["one"], ["ddp"], ["fsdp"], ["one", "ddp"], ["ddp", "one"], ["one", "fsdp"], ["fsdp", "one"], ["fsdp", "fsdp"]]
if zeroed.IS_INSTALLED:
    RUNS += [
        ["deepspeed"],
        ["one", "deepspeed"],
        ["deepspeed", "one"],
        ["deepspeed", "deepspeed"],
        ["deepspeed", "fsdp"],
    ]


def recorded(case: Case, journal: Path) -> Case:
    """Return the same case, which notes for every optimizer step the examples that it learned from."""

    def run(output: Path) -> None:
        seen: list[list[int]] = []

        def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if isinstance(module, Step) and module.training:
                batch = arguments[0]
                rows = zip(
                    batch["examples"].tolist(), batch["weights"].tolist(), batch["input_ids"].tolist(), strict=True
                )
                # What weighs nothing keeps a rank company that has no examples left; 0 is padding.
                seen.extend([example, *(token for token in ids if token)] for example, weight, ids in rows if weight)

        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            step = max(int(state["step"]) for state in optimizer.state.values() if state)
            with journal.open("a") as lines:
                lines.write(json.dumps({"step": step, "processes": case.processes, "examples": seen}) + "\n")
            seen.clear()

        register_module_forward_pre_hook(look)
        register_optimizer_step_post_hook(note)
        case.run(output)

    return replace(case, run=run)


def placed(case: Case, world: str) -> Case:
    """Return the same case in another world."""
    processes, force = WORLDS[world]

    def run(output: Path) -> None:
        force()
        case.run(output)

    return replace(case, run=run, processes=processes)


def die_committed() -> None:
    """Let this process be killed as soon as a checkpoint of so many steps is whole."""
    commit = checkpoint.commit

    def last(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        path = commit(folder, snapshot)
        if snapshot.step == COMMITTED:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    checkpoint.commit = last


def learned_from(journal: Path) -> dict[int, list[list[int]]]:
    """Return the examples of every step, each with its tokens, whichever process they went through."""
    steps = defaultdict(list)
    for line in journal.read_text().splitlines():
        noted = json.loads(line)
        steps[noted["step"]] += noted["examples"]
    return {step: sorted(examples) for step, examples in sorted(steps.items())}


def weights_of(output: Path) -> dict[str, Tensor]:
    """Return the weights of a finished run."""
    (folder,) = output.iterdir()
    return load_file(folder / "model" / "model.safetensors")


def worlds(home: Path) -> dict[str, dict[str, Any]]:
    """Return what came of each of the runs."""
    tiny_encoder(home, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    case = case_of("finetune", home, **{"encoder.head_dropout": 0.0, "training.keep": "last", "strategy.lr": 1e-3})
    output = home / "output"
    case.run(output)  # imports, for those forked from here
    told, wanted = {}, weights_of(output)
    for run in RUNS:
        shutil.rmtree(output)
        name = " then ".join(run)
        journal = home / name
        for number, world in enumerate(run, start=1):
            goes_on = number < len(run)
            disturb = [die_committed] if goes_on else []
            ended = start(recorded(placed(case, world), journal), output, *disturb)
            assert ended == (-signal.SIGKILL if goes_on else 0), f"{name}: ended with {ended}"
        weights = weights_of(output)
        examples = learned_from(journal)
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        told[name] = {
            "examples": examples,
            "processes": [next(each["processes"] for each in lines if each["step"] == step) for step in examples],
            "bits": hashlib.sha256(b"".join(weights[key].numpy().tobytes() for key in wanted)).hexdigest(),
            "difference": max(float((weights[key] - wanted[key]).abs().max()) for key in wanted),
        }
    return told


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(worlds(Path(scratch))))  # noqa: T201
