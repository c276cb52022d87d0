"""Runs that are stopped after some steps and resumed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nlp_transfer.running.run import adapt
from nlp_transfer.training import checkpoint
from nlp_transfer.training.signals import Stopped
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for


def stopped_run(home: Path, *, at: int = 3, task: str = "single_label", **values) -> tuple[Path, dict]:
    """Leave the checkpoint of a run that was stopped after some steps; return it with the run's settings."""
    tiny_encoder(home)
    wanted = {"output": str(home / "runs"), "checkpoint.seconds": 0, "training.max_steps": 6, **values}
    wanted |= {"evaluation.floors": False}
    commit, stopped = checkpoint.commit, []

    def die(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        path = commit(folder, snapshot)
        if snapshot.step == at:
            stopped.append(path)
            raise KeyboardInterrupt
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            adapt(settings_for(home, **wanted), data=data_for(task))
    return stopped[0], wanted


def weights_of_a_stopped_run_and_another(folder: Path, **values) -> tuple[bytes, bytes]:
    """Return the saved weights of a run that was stopped and went on, and of one that was not."""
    parts, whole = folder / "parts", folder / "whole"
    parts.mkdir()
    whole.mkdir()
    _, wanted = stopped_run(parts, **values)
    resumed = adapt(settings_for(parts, **wanted), data=data_for("single_label"))
    tiny_encoder(whole)
    plain = adapt(settings_for(whole, **wanted | {"output": str(whole / "runs")}), data=data_for("single_label"))
    first, second = ((run.folder / "model" / "model.safetensors").read_bytes() for run in (resumed, plain))
    return first, second


@contextmanager
def stopped_at_the_commit(step: int) -> Iterator[None]:
    """Ask what is done in the block to stop while it commits a step, and expect that it does."""
    commit = checkpoint.commit

    def signalled(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        if snapshot.step == step:
            signal.raise_signal(signal.SIGTERM)
        return commit(folder, snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "commit", signalled)
        with pytest.raises(Stopped):
            yield
