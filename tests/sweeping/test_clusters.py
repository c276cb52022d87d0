"""What clusters are asked for, and what becomes of a run that they do not take; their commands are stand-ins."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import job, slurm
from nlp_transfer.sweeping.on_ray import Ray
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.sweeping.slurm import Slurm, Submitted
from nlp_transfer.sweeping.work import work

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
    at, log = Slurm(LauncherSettings(where="slurm"), tmp_path / "slurm"), tmp_path / "log.txt"
    assert isinstance(at.start(["seed=1"], log), Submitted)
    runs = [("seed=2",), ("seed=3",)]
    found = work(runs, at, recipe=None, log_of=lambda _: log, on_end=lambda *_: None)
    assert [(each.state, each.status) for each in found.values()] == [(job.FAILED, UserError.status)] * 2
    assert "SLURM did not take it: sbatch: error: QOSMaxSubmitJobPerUserLimit" in found[runs[0]].said
    assert "hydra.launcher.jobs limits" in found[runs[0]].said


def test_slurm_is_asked_for_a_core_for_each_process_of_a_config_file(told: Path, tmp_path: Path):
    settings = LauncherSettings(
        where="slurm", config_file=str(tmp_path / "four.yaml"), slurm={"account": "lab"}, gpus=4
    )
    Slurm(settings, tmp_path / "slurm").start(["seed=1"], tmp_path / "log.txt")
    asked = told.read_text()
    assert "#SBATCH --cpus-per-task=4\n" in asked
    assert "#SBATCH --account=lab\n" in asked


@pytest.mark.parametrize(
    ("keys", "said", "threads"),
    [
        ({"processes": 2, "cpus": 12}, None, "6"),
        ({"processes": 2}, None, "1"),
        ({"cpus": 12}, None, None),
        ({"processes": 2, "cpus": 12}, "3", "3"),
    ],
)
def test_the_processes_of_a_run_divide_its_cores_on_a_node(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict, said: str | None, threads: str | None
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    shown = 'import os; print(os.environ.get("OMP_NUM_THREADS"))'
    monkeypatch.setattr(slurm, "command_of", lambda words, settings: [sys.executable, "-c", shown])
    at, log = Slurm(LauncherSettings(where="slurm", **keys), tmp_path / "slurm"), tmp_path / "log.txt"
    handed = at.start(["seed=1"], log)._job.submission()
    assert handed.result() == (0, f"{threads}\n")


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
        Ray(LauncherSettings())


def test_ray_is_asked_for_a_core_for_each_process_of_a_config_file(ray: SimpleNamespace, tmp_path: Path):
    (tmp_path / "four.yaml").write_text(FOUR)
    Ray(LauncherSettings(config_file=str(tmp_path / "four.yaml")))
    assert ray.needs["num_cpus"] == 4
