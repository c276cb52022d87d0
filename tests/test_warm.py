"""Warm processes give the same results as cold ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm import CLI, LATE, ROOT, Warm


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; print(sys.argv, __name__); print('told', file=sys.stderr)", 0),
        ("import sys; sys.exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import sys; print(sys.stdin.read() == '')", 0),
    ],
)
def test_a_warm_process_ends_as_a_cold_one(composing: Warm, code: str, status: int):
    command = [sys.executable, "-c", code, "a b", "c"]
    cold = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    warm = composing.run(code, "a b", "c")
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert warm.returncode == status


def test_an_error_is_reported_and_leaves_no_state(composing: Warm):
    failed = composing.run("import wave; left = 1; wave.no_such_name")
    assert failed.returncode == 1
    assert "AttributeError: module 'wave' has no attribute 'no_such_name'" in failed.stderr
    assert composing.run("import sys; print('wave' in sys.modules, 'left' in globals())").stdout == "False False\n"


SHOW = """
import json, os, signal, sys, tempfile
print(json.dumps([dict(os.environ), os.getcwd(), os.getsid(0) == os.getpid(), tempfile.gettempdir()]))
"""


def test_it_has_its_own_environment_folder_session_and_files(composing: Warm, tmp_path: Path):
    environment = os.environ | {"RANK": "1", "TMPDIR": str(tmp_path)}
    environment.pop("NLP_TRANSFER_CACHE")
    done = composing.run(SHOW, cwd=tmp_path, env=environment)
    found, folder, leads, temporary = json.loads(done.stdout)
    assert found == environment
    assert (folder, temporary, leads) == (str(tmp_path), str(tmp_path), True)


def test_variables_read_at_import_cannot_be_changed(composing: Warm):
    for name in ("HF_HOME", "OMP_NUM_THREADS", "TRANSFORMERS_OFFLINE"):
        assert name not in LATE
        with pytest.raises(AssertionError, match=rf"\['{name}'\] may be read while libraries are imported"):
            composing.start("", env=os.environ | {name: "7"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_ended_by_a_signal_as_a_cold_one(composing: Warm, number: int):
    process = composing.start("import time; print('there', flush=True); time.sleep(60)")
    while not process.said("out"):
        time.sleep(0.01)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == "there\n"
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert process.returncode == -number
    assert not Path(f"/proc/{process.pid}").exists()
    process.kill()  # what has ended is left alone


def test_two_run_side_by_side_and_close_ends_what_still_runs():
    warm = Warm("pass")
    first, second = (warm.start("import time; time.sleep(60)") for _ in range(2))
    first.kill()
    assert (first.wait(60), second.poll()) == (-signal.SIGKILL, None)
    warm.close()
    with pytest.raises(ProcessLookupError):
        os.kill(second.pid, 0)


@pytest.mark.slow
def test_imports_start_no_threads(running: Warm):
    """No thread, process group, device, or handler of a signal: a run finds what it finds in a cold process."""
    code = """
import os, signal, sys
assert {"nlp_transfer.running.run", "accelerate", "peft", "torch"} <= set(sys.modules)
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
states = [state._shared_state for state in (AcceleratorState, GradientState, PartialState)]
handled = [number for number in signal.Signals if callable(signal.getsignal(number))]
print(len(os.listdir("/proc/self/task")), states, torch.distributed.is_initialized(), torch.cuda.is_initialized())
print(handled == [signal.SIGINT], signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    assert running.run(code).stdout == "1 [{}, {}, {}] False False\nTrue True\n"


@pytest.mark.slow
def test_the_command_line_answers_as_a_cold_one(running: Warm):
    words = ["plan", "training.epoch=1"]
    cold = subprocess.run([sys.executable, "-m", "nlp_transfer", *words], cwd=ROOT, capture_output=True, text=True)
    warm = running.run(CLI, *words)
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert warm.returncode == 2
