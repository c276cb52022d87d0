"""A run that a signal ends after its training, while it is measured: told, and continued to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nlp_transfer.running import run as run_module
from nlp_transfer.running.run import adapt
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.signals import Interrupted
from tests.runs import data_for, digest, settings_for


@pytest.mark.parametrize(
    ("function", "seconds", "sentence"),
    [
        ("measure", 0.0, "stopped; the same command continues from the last checkpoint in"),
        ("measure", 60.0, "stopped; this training has no checkpoint yet, and the same command starts it again"),
        ("_describe", 60.0, "is finished"),
    ],
)
def test_a_signal_after_the_training_is_told_and_the_run_goes_on_to_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, seconds: float, sentence: str
):
    values = {"training.max_steps": 3, "checkpoint.seconds": seconds}
    whole = adapt(settings_for(home, output=str(tmp_path / "whole"), **values), data=data_for("single_label"))
    settings, told = settings_for(home, output=str(tmp_path / "runs"), **values), []
    with monkeypatch.context() as patch:
        patch.setattr(run_module, function, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted) as stopped:
            adapt(settings, data=data_for("single_label"), screen=Screen(quiet=True, on_message=told.append))
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sentence in told[-1]
    again = adapt(settings, data=data_for("single_label"))
    assert digest(again) == digest(whole)
    assert again.metrics == whole.metrics
