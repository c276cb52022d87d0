"""The same runs in one process, in two with replicas of the model (DDP), and in two with a sharded model (FSDP2).

Where DeepSpeed is installed, also in two with sharded AdamW moments (ZeRO stage 1).

    python -m tests.worlds [CELL ...]

A cell is a strategy with an objective, or one of `MORE`. One JSON line per cell has its result in every world: the
losses of its steps, the outputs of the saved model, or why it was refused.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_hook

from nlp_transfer.errors import UserError
from nlp_transfer.objectives.objective import Step
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.running.run import adapt
from tests import sharded, zeroed
from tests.crash_harness import Case, start
from tests.encoder.families import tiny_encoder
from tests.runs import STRATEGIES, data_for, settings_for, texts_in

OBJECTIVES = ("classify", "contrast", "distill", "hint", "relations", "anchor", "coral", "mmd", "dann", "cdan", "mcc")
_PLAIN: dict[str, Any] = {"strategy": "finetune"}
# Ways to compute, each with the strategy that uses most of it.
MORE: dict[str, dict[str, Any]] = {
    "passes of three": _PLAIN | {"training.micro_batch_size": 3},
    "bf16": _PLAIN | {"training.precision": "bf16"},
    "bf16, passes of three": _PLAIN | {"training.precision": "bf16", "training.micro_batch_size": 3},
    "padded": _PLAIN | {"encoder.attention": "eager"},
    "windows": _PLAIN | {"tokens.long": "chunk", "tokens.max_length": 8},
    "activations again": _PLAIN | {"training.gradient_checkpointing": True},
    "frozen layers": _PLAIN | {"strategy.freeze_layers": 1},
    "head last": _PLAIN | {"strategy.head_last": True},
    # Without the head that is solved first: where it stops is decided by the last digits of the features.
    "pretraining": _PLAIN | {"pretraining.epochs": 1, "strategy.head_first": False},
    "averaged": _PLAIN | {"training.ema": 0.9},
    "clipped": _PLAIN | {"training.max_grad_norm": 0.01},
    "weights kept": _PLAIN,
}
KEPT = "weights kept"  # from forward to backward pass under FSDP2, as ZeRO stage 2 has them
CELLS = {
    f"{strategy} {objective}": {**values, "objective": objective}
    for strategy, values in STRATEGIES.items()
    for objective in OBJECTIVES
}
CELLS |= MORE
# How many processes, and what each of them is forced to.
WORLDS: dict[str, tuple[int, Callable[[], None]]] = {
    "one": (1, lambda: None),
    "ddp": (2, lambda: None),
    "fsdp": (2, sharded.force),
}
if zeroed.IS_INSTALLED:
    WORLDS["deepspeed"] = (2, zeroed.force)
STEPS = 6
_TEXTS = [row["text"] for row in data_for("single_label")["test"]]


def values_of(cell: str, home: Path) -> dict[str, Any]:
    """Return the settings of a cell without dropout, whose random numbers differ between ranks."""
    values = {"training.max_steps": STEPS, "training.min_steps": STEPS, "training.evaluate_every": 0.5}
    values |= {"encoder.head_dropout": 0.0, "training.keep": "last", "cache.gib": 0} | CELLS[cell]
    if values["strategy"] == "lora":
        values["strategy.dropout"] = 0.0
    objective = values.get("objective")
    if objective in ("distill", "hint", "relations"):
        values["objective.distill.teacher"] = str(home / "teacher")
    if objective in ("coral", "mmd", "dann", "cdan", "mcc"):
        values |= {"data.unlabelled": str(home / "target.csv"), "evaluation.source_only": False}
    return values


def run_cell(cell: str, home: Path, output: Path) -> dict[str, Any]:
    """Do a run; return what came of it."""
    settings = settings_for(home, output=str(output), **values_of(cell, home))
    os.environ["FSDP_RESHARD_AFTER_FORWARD"] = str(cell != KEPT).lower()
    apart: set[bool] = set()

    def look(module: nn.Module, *_: Any) -> None:
        if isinstance(module, Step) and module.training:
            apart.add(any(isinstance(parameter, DTensor) for parameter in module.parameters()))

    try:
        with register_module_forward_hook(look):
            run = adapt(settings, data=data_for("single_label"))
    except UserError as error:
        return {"refused": str(error)}
    log = run.folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {
        "losses": [line["loss"] for line in lines if "learning_rate" in line],
        "validation": [line["log_loss"] for line in lines if "split" in line],
        "apart": list(apart),  # whether weights are shared out between forward and backward pass
        "folder": str(run.folder),
    }


def running(cells: list[str], home: Path, force: Callable[[], None]) -> Callable[[Path], None]:
    """Return what does the cells one after the other in one process."""

    def run(output: Path) -> None:
        force()
        found = {cell: run_cell(cell, home, output / str(number)) for number, cell in enumerate(cells)}
        if os.environ.get("RANK", "0") == "0":
            (output / "found.json").write_text(json.dumps(found))

    return run


def main(cells: list[str]) -> None:
    """Do the cells in every world."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        texts_in(home / "target.csv")
        settings = settings_for(home, output=str(home / "taught"), strategy="probe")
        teacher = adapt(settings, data=data_for("single_label"))
        (home / "teacher").symlink_to(teacher.folder)
        found = {}
        for world, (processes, force) in WORLDS.items():
            case = Case(running(cells, home, force), lambda _: {}, lambda _: None, processes=processes)
            output = home / world
            assert start(case, output) == 0, world
            found[world] = json.loads((output / "found.json").read_text())
        for cell in cells:
            told = {world: found[world][cell] for world in WORLDS}
            for each in told.values():
                if folder := each.pop("folder", None):
                    answers = Predictor(Path(folder), precision="fp32").predict(_TEXTS)
                    each["probabilities"] = [list(answer.probabilities.values()) for answer in answers]
            print(json.dumps({"cell": cell, **told}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:] or list(CELLS))
