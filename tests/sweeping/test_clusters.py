"""Requests to clusters and rejected runs; the cluster commands are stand-ins."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.run import get_args_parser

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import job, remote, slurm
from nlp_transfer.sweeping.execution import run_jobs
from nlp_transfer.sweeping.on_ray import RayExecutor
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.sweeping.slurm import SlurmExecutor, SlurmJob

SBATCH = """#!/bin/bash
if [ -e "$TOLD" ]; then echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; fi
cp "$1" "$TOLD"; echo 'Submitted batch job 12'
"""
FOUR = "{num_processes: 4, distributed_type: FSDP}"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script of the one job that the cluster takes."""
    for name, body in {"sbatch": SBATCH, "srun": "#!/bin/bash\n"}.items():
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    (tmp_path / "four.yaml").write_text(FOUR)
    return tmp_path / "told"


def test_a_run_that_slurm_does_not_take_fails_alone(told: Path, tmp_path: Path):
    at, log = SlurmExecutor(LauncherSettings(where="slurm"), tmp_path / "slurm"), tmp_path / "log.txt"
    assert isinstance(at.start(["seed=1"], log), SlurmJob)
    runs = [("seed=2",), ("seed=3",)]
    found = run_jobs(runs, at, recipe=None, log_of=lambda _: log, on_end=lambda *_: None)
    assert [(each.state, each.status) for each in found.values()] == [(job.FAILED, UserError.status)] * 2
    assert "SLURM rejected it: sbatch: error: QOSMaxSubmitJobPerUserLimit" in found[runs[0]].said
    assert "hydra.launcher.jobs limits" in found[runs[0]].said


def test_slurm_is_asked_for_a_core_for_each_process_of_a_config_file(told: Path, tmp_path: Path):
    settings = LauncherSettings(
        where="slurm", config_file=str(tmp_path / "four.yaml"), slurm={"account": "lab"}, gpus=4
    )
    SlurmExecutor(settings, tmp_path / "slurm").start(["seed=1"], tmp_path / "log.txt")
    asked = told.read_text()
    assert "#SBATCH --cpus-per-task=4\n" in asked
    assert "#SBATCH --account=lab\n" in asked


@pytest.mark.parametrize(
    ("keys", "message", "threads"),
    [
        ({"processes": 2, "cpus": 12}, None, "6"),
        ({"processes": 2}, None, "1"),
        ({"cpus": 12}, None, None),
        ({"processes": 2, "cpus": 12}, "3", "3"),
    ],
)
def test_the_processes_of_a_run_divide_its_cores_on_a_node(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict, message: str | None, threads: str | None
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if message:
        monkeypatch.setenv("OMP_NUM_THREADS", message)
    shown = 'import os; print(os.environ.get("OMP_NUM_THREADS"))'
    monkeypatch.setattr(slurm, "command_of", lambda words, settings: [sys.executable, "-c", shown])
    at, log = SlurmExecutor(LauncherSettings(where="slurm", **keys), tmp_path / "slurm"), tmp_path / "log.txt"
    handed = at.start(["seed=1"], log)._job.submission()
    assert handed.result() == (0, f"{threads}\n")


@pytest.mark.parametrize(
    ("job_id", "array", "met_as", "port"),
    [("7", {}, "7", 29507), ("1234567", {}, "1234567", 30067), ("9", {"JOB": "8", "TASK": "3"}, "8_3", 29583)],
)
def test_all_nodes_of_a_job_get_one_rendezvous(
    monkeypatch: pytest.MonkeyPatch, job_id: str, array: dict[str, str], met_as: str, port: int
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[03-04],big7")
    for part in ("JOB", "TASK"):
        monkeypatch.delenv(f"SLURM_ARRAY_{part}_ID", raising=False)
    for part, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{part}_ID", value)
    told = []
    monkeypatch.setattr(remote, "run_command", lambda command, *_, warning: told.append(command))
    for node in range(3):
        monkeypatch.setenv("SLURM_NODEID", str(node))
        slurm.run(["seed=1"], LauncherSettings(where="slurm", nodes=3, processes=4), "folder", "log.txt", {})
    assert told == [told[0]] * 3
    asked = get_args_parser().parse_args(told[0][told[0].index("torch.distributed.run") + 1 :])
    assert (asked.nnodes, asked.nproc_per_node, asked.standalone) == ("3", "4", False)
    assert (asked.rdzv_backend, asked.rdzv_endpoint, asked.rdzv_id) == ("c10d", f"gpu03:{port}", met_as)
    assert [asked.training_script, *asked.training_script_args] == ["nlp_transfer", "adapt", "seed=1"]


def test_a_single_node_job_needs_no_rendezvous(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "run_command", lambda command, *_, warning: command)
    told = slurm.run(["seed=1"], LauncherSettings(where="slurm", processes=4), "folder", "log.txt", {})
    assert "--standalone" in told
    assert not [word for word in told if word.startswith("--rdzv")]


WARNED = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("committed", flush=True) or os._exit(143))
for each in os.getpid(), os.getppid():  # as the cluster does: every process of the job
    os.kill(each, signal.SIGUSR2)
time.sleep(60)
"""


@pytest.fixture
def _unwarned() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.usefixtures("_unwarned")
def test_a_job_whose_time_is_nearly_up_is_asked_to_end_and_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm, "command_of", lambda *_: [sys.executable, "-c", WARNED])
    assert slurm.run([], LauncherSettings(), str(tmp_path), "log.txt", {}) == (143, "committed\n")
    assert not (tmp_path / "log.txt").read_text()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the library, which notes what tasks need."""
    noted = SimpleNamespace(needs=None, init=lambda **_: None)
    noted.remote = lambda **needs: noted.__dict__.update(needs=needs) or (lambda task: task)
    monkeypatch.setitem(sys.modules, "ray", noted)
    return noted


def test_a_ray_cluster_that_does_not_answer_is_named(ray: SimpleNamespace):
    def init(**_: object) -> None:
        raise ConnectionError("nobody at\nray://there")

    ray.init = init
    with pytest.raises(UserError, match=r"\(RAY_ADDRESS\): nobody at ray://there"):
        RayExecutor(LauncherSettings())


def test_ray_is_asked_for_a_core_for_each_process_of_a_config_file(ray: SimpleNamespace, tmp_path: Path):
    (tmp_path / "four.yaml").write_text(FOUR)
    RayExecutor(LauncherSettings(config_file=str(tmp_path / "four.yaml")))
    assert ray.needs["num_cpus"] == 4
