"""Sweeps whose runs are real processes: several of each, ended early, killed, on a cluster."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlp_transfer.sweeping import job
from nlp_transfer.sweeping.execution import Executor, Words, run_jobs
from nlp_transfer.sweeping.job import Job
from nlp_transfer.sweeping.local import LocalExecutor, visible_gpus
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.sweeping.slurm import SlurmExecutor

ACCELERATE, OPTUNA = "hydra/launcher=accelerate", "hydra/sweeper=optuna"


def words_of(place: Path, output: Path, *more: str) -> Words:
    """Return the words of a quick run."""
    return (
        *("data=files", f"data.path={place / 'data'}", "encoder=custom", f"encoder.name={place / 'tiny-bert'}"),
        *("evaluation.resamples=20", "evaluation.floors=false", "verify=false", "report.write=false"),
        *(f"output={output}", "training.precision=fp32", *more),
    )


def finetuned(place: Path, output: Path, steps: int, *more: str) -> Words:
    own = ("strategy=finetune", "strategy.lr=1e-3", f"training.max_steps={steps}", f"training.min_steps={steps}")
    return words_of(place, output, *own, *more)


def done(
    runs: list[Words], at: Executor, folder: Path, lags: Callable[[Words], bool] = lambda words: False
) -> list[Job]:
    log = folder / "log.txt"
    log.parent.mkdir(exist_ok=True, parents=True)
    found = run_jobs(runs, at, recipe=None, log_of=lambda _: log, should_prune=lags, on_end=lambda *_: None)
    return [found[words] for words in runs]


def until(what: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.1)


def processes_with(words: str) -> list[int]:
    """Return the processes whose command line holds these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words in path.read_text() and "nlp_transfer" in path.read_text():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_search_whose_sweeper_is_killed_leaves_no_process_and_goes_on(place: Path, tmp_path: Path):
    """Two processes a run: both are given the same words, and both end with the sweep."""
    output = tmp_path / "runs"
    words = [*finetuned(place, output, 200, "training.evaluate_every=0.5"), "seed=3,4", ACCELERATE, OPTUNA]
    words += ["hydra.launcher.processes=2", "hydra.sweeper.n_trials=1", "--multirun"]
    command = [sys.executable, "-m", "nlp_transfer", "adapt", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until(lambda: len(list(output.glob("*/metrics.jsonl"))) == 1)
    assert len([pid for pid in processes_with(str(output)) if pid != first.pid]) == 3  # torchrun's agent, and its two
    first.kill()
    first.wait()
    until(lambda: not processes_with(str(output)))
    assert len(list(output.glob("*/checkpoints/*/manifest.json"))) == 1
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    (run,) = (Path(json.loads(line)["folder"]) for line in again.stdout.splitlines())
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    assert json.loads((run / "metrics.json").read_text())["steps"] == 200
    assert len(list(output.glob("*/metrics.json"))) == 1  # the same trial, not another one
    assert steps[-1] == 200
    (results,) = output.glob("sweep/*/results.csv")
    (row,) = csv.DictReader(results.open())
    assert float(row["validation"]) == json.loads((run / "metrics.json").read_text())["validation"]["macro_f1"]
    (log,) = output.glob("sweep/*/logs/*.txt")
    assert "resuming from" in log.read_text()


@pytest.mark.slow
def test_concurrent_runs_are_pruned_and_get_signals(place: Path, tmp_path: Path):
    """One finishes, one is pruned, one is killed externally; the others are not affected."""
    good, lagging, killed = (
        finetuned(place, tmp_path / name, steps) for name, steps in (("good", 4), ("lagging", 10**6), ("killed", 10**6))
    )

    def begun(name: str) -> bool:
        return bool(list((tmp_path / name).glob("*/metrics.jsonl")))

    def lags(words: Words) -> bool:
        if words == killed and begun("killed"):
            for pid in processes_with(str(tmp_path / "killed")):
                os.kill(pid, signal.SIGKILL)
        return words == lagging and begun("lagging")

    found = done([good, lagging, killed], LocalExecutor(LauncherSettings(jobs=3)), tmp_path, lags)
    assert [each.state for each in found] == [job.FINISHED, job.PRUNED, job.FAILED]
    assert [each.status for each in found] == [0, 128 + signal.SIGTERM, -signal.SIGKILL]
    assert len(list((tmp_path / "lagging").glob("*/checkpoints/*/manifest.json"))) == 1
    assert found[0].figure is not None
    assert not processes_with(str(tmp_path))


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """The signal by which submitit stops local runs; background jobs of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
def test_a_cluster_does_a_run_and_ends_one(place: Path, tmp_path: Path):
    at = SlurmExecutor(LauncherSettings(), tmp_path / "slurm", cluster="local")
    long = finetuned(place, tmp_path / "long", 10**6)
    lags = lambda words: words == long and bool(list((tmp_path / "long").glob("*/metrics.jsonl")))  # noqa: E731
    short, ended = done([words_of(place, tmp_path / "runs", "strategy=probe"), long], at, tmp_path, lags)
    assert short.state == job.FINISHED, short.said
    assert short.figure is not None
    assert ended.state == job.PRUNED
    until(lambda: not processes_with(str(tmp_path / "long")), 30)
    assert len(list((tmp_path / "long").glob("*/checkpoints/*/manifest.json"))) == 1


@pytest.mark.parametrize(
    ("visible", "settings", "slots", "each"),
    [
        ("0,1,2,3", LauncherSettings(), 4, "1"),
        ("4,5,6,7", LauncherSettings(processes=2), 2, "6,7"),
        ("GPU-a,GPU-b", LauncherSettings(jobs=1), 1, None),
        ("", LauncherSettings(jobs=3), 3, None),
    ],
)
def test_runs_at_once_divide_the_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, settings: LauncherSettings, slots: int, each: str | None
):
    started: list[dict[str, str]] = []

    class Noted:
        def __init__(
            self, command: list[str], environment: dict[str, str], log: Path, on_end: Callable[[], None]
        ) -> None:
            started.append(environment)
            self.done = on_end

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    monkeypatch.setattr("nlp_transfer.sweeping.local.Process", Noted)
    at = LocalExecutor(settings)
    assert at.slots == slots
    runs = [at.start(["seed=1"], None) for _ in range(slots)]
    if each:
        assert started[1]["CUDA_VISIBLE_DEVICES"] == each
    together = slots * settings.processes
    assert started[0].get("OMP_NUM_THREADS") == (None if together == 1 else str(12 // together))
    runs[0].done()
    at.start(["seed=2"], None)
    assert started[-1] == started[0]  # the place that is free again


def test_more_runs_than_there_are_devices_for_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ValueError, match="need 4 GPUs, and there are 3"):
        LocalExecutor(LauncherSettings(processes=2, jobs=2))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert visible_gpus() == []
