"""Short runs after a pretraining, and their weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from nlp_transfer.running.run import Run, adapt
from nlp_transfer.settings import Settings
from tests.runs import data_for, settings_for

QUICK = {"training.epochs": 1, "evaluation.floors": False, "decision.calibrate": False}
FIRST = {"pretraining.epochs": 3, "pretraining.batch_size": 8} | QUICK


def settings_of(home: Path, output: Path, **values) -> Settings:
    return settings_for(home, output=str(output), **FIRST | values)


def run_of_them(home: Path, output: Path, **values) -> Run:
    return adapt(settings_of(home, output, **values), data=data_for("single_label"))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
