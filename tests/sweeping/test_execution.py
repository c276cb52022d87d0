"""The execution of runs where something goes wrong: the others lose nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from nlp_transfer.sweeping import execution as module
from nlp_transfer.sweeping.execution import run_jobs
from tests.sweeping.pretended import Place, Run


def test_if_a_run_cannot_start_the_others_are_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_PAUSE", 0)
    started: list[Run] = []

    class Full(Place):
        def start(self, words: Sequence[str], log: Path | None) -> Run:
            if len(started) == 2:
                raise OSError(28, "No space left on device")
            started.append(super().start(words, log))
            return started[-1]

    at = Full(lambda _: [0.1] * 1000, slots=3)
    runs = [(f"seed={seed}",) for seed in range(3)]
    with pytest.raises(OSError, match="No space left"):
        run_jobs(runs, at, recipe=None, log_of=lambda _: None, should_prune=lambda words: False, on_end=lambda *_: None)
    assert [run.ended for run in started] == [True, True]
    assert [run.poll() for run in started] == [143, 143]  # not killed, which would be -9
