"""What starts warm ends as what starts cold."""

import signal
import subprocess
import sys

import pytest

from tests.warm import ROOT, Warm


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


def test_an_error_is_told_and_nothing_stays_for_the_next(composing: Warm):
    failed = composing.run("import wave; left = 1; wave.no_such_name")
    assert failed.returncode == 1
    assert "AttributeError: module 'wave' has no attribute 'no_such_name'" in failed.stderr
    assert composing.run("import sys; print('wave' in sys.modules, 'left' in globals())").stdout == "False False\n"
