"""What a launcher reads of conf/launch: accepted by accelerate, no part of a run's keys; a SLURM job and its signal."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from nlp_transfer.composing.shipped import GROUPS, launch_file
from nlp_transfer.training.zero import check_deepspeed
from tests import sharded, zeroed

LAUNCH = Path(__file__).parent.parent / "conf" / "launch"
FILES = sorted(LAUNCH.glob("*.yaml"))
SLURM = LAUNCH / "slurm.sbatch"


def command_of(path: Path) -> list[str]:
    """The command in the comment at the top of a file."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(lines).replace("\\ ", "")
    found = re.search(r"accelerate launch .*", text)
    assert found
    return shlex.split(found[0].replace("conf/launch", str(LAUNCH)))[2:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_every_key_and_the_command_of_every_file(path: Path):
    config = load_config_from_file(str(path))  # refuses keys that it does not know at the top
    arguments = launch_command_parser().parse_args(command_of(path))
    assert arguments.config_file == str(path)
    assert [arguments.training_script, *arguments.training_script_args[:2]] == ["nlp_transfer", "adapt", "RECIPE"]
    for key in config.fsdp_config | config.deepspeed_config:
        assert hasattr(arguments, key), f"{key} is no argument of accelerate launch"
    assert config.mixed_precision == "no"
    assert config.num_processes > 1


def test_launch_files_are_found_next_to_the_package():
    assert Path(launch_file("slurm.sbatch")).resolve() == SLURM.resolve()


def test_launch_files_are_no_configuration_group():
    assert len(FILES) == 5
    assert "launch" not in GROUPS
    assert all("launch" not in yaml.safe_load(path.read_text()) for path in LAUNCH.parent.glob("*.yaml"))


def test_test_sharding_follows_the_fsdp_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {})  # what accelerate's own says, without that of this process
    arguments = launch_command_parser().parse_args(command_of(LAUNCH / "fsdp2.yaml"))
    arguments, *_ = _validate_launch_command(arguments)
    output = prepare_multi_gpu_env(arguments)
    assert {name: output.get(name) for name in sharded.ENVIRONMENT} == sharded.ENVIRONMENT
    assert output["ACCELERATE_MIXED_PRECISION"] == "no"


def test_test_sharding_follows_the_deepspeed_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {})
    arguments = launch_command_parser().parse_args(command_of(LAUNCH / "deepspeed.yaml"))
    arguments, *_ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ""
    _, output = prepare_deepspeed_cmd_env(arguments)
    assert {name: value for name, value in output.items() if "DEEPSPEED" in name} == zeroed.ENVIRONMENT
    assert output["ACCELERATE_MIXED_PRECISION"] == "no"
    for name, value in output.items():
        monkeypatch.setitem(os.environ, name, value)
    check_deepspeed(SimpleNamespace(num_processes=1, mixed_precision="bf16"))  # of several it wants DeepSpeed itself


TOOLS = {
    "scontrol": 'if [ "$1" = show ]; then echo first; echo second; else echo "$@" >> "$TOLD"; fi',
    "scancel": 'echo "$@" >> "$TOLD"; kill -TERM $(cat "$TOLD.run")',
    "srun": 'shift; export SLURM_NODEID=1; exec "$@"',
    "accelerate": 'trap "exit 1" TERM; echo $PPID $$ > "$TOLD.run"; printf "%s\\n" "$*" >> "$TOLD"; '
    'for _ in $(seq "${TENTHS:-0}"); do sleep 0.1; done; exit "${STATUS:-0}"',
    "python": "echo /conf/ddp_multinode.yaml",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a SLURM job whose commands only tell of themselves."""
    for name, body in TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    output = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_GPUS_ON_NODE": "4",
    }
    return output | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(tmp_path / "told")}


def test_a_job_starts_the_run_on_every_machine(job: dict[str, str]):
    done = subprocess.run(["bash", SLURM, "adapt", "intent", "name=two words"], env=job, check=False)
    assert done.returncode == 0
    (launched,) = Path(job["TOLD"]).read_text().splitlines()  # and nothing was put into the queue again
    assert "--num_machines 2 --num_processes 8 --machine_rank 1 --main_process_ip first" in launched
    assert launched.endswith("-m nlp_transfer adapt intent name=two words")
    launch_command_parser().parse_args(launched.split()[1:])


def test_a_failed_job_is_not_requeued(job: dict[str, str]):
    assert subprocess.run(["bash", SLURM, "adapt"], env=job | {"STATUS": "2"}, check=False).returncode == 2
    assert "requeue" not in Path(job["TOLD"]).read_text()


def test_a_job_at_its_time_limit_writes_a_checkpoint_and_is_requeued(job: dict[str, str]):
    output = Path(job["TOLD"])
    with subprocess.Popen(["bash", SLURM, "adapt"], env=job | {"TENTHS": "600"}) as running:
        while not output.exists():
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 1
    assert output.read_text().splitlines()[1:] == ["--signal=TERM 7.0", "requeue 7"]


def test_a_job_whose_run_alone_gets_the_signal_is_requeued(job: dict[str, str]):
    output, run = Path(job["TOLD"]), Path(f"{job['TOLD']}.run")
    with subprocess.Popen(["bash", SLURM, "adapt"], env=job | {"TENTHS": "600"}) as running:
        while not output.exists():
            time.sleep(0.01)
        for pid in run.read_text().split():  # the shell around it as well
            os.kill(int(pid), signal.SIGTERM)
        assert running.wait(timeout=30) == 1
    assert output.read_text().splitlines()[1:] == ["requeue 7"]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "needs_gpus"), [("cpu.yaml", False), ("fsdp2.yaml", True)])
def test_accelerate_starts_several_processes_on_a_machine_without_gpus(file: str, needs_gpus: bool):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / file)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, "-m", "nlp_transfer", "doctor"],
        env=environment,
        cwd=LAUNCH.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"processes": 2' in done.stdout
    assert ("accelerate has FSDP on GPUs alone" in done.stdout) == needs_gpus
