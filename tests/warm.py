"""Processes that start with modules already imported: each is forked from a process that has only imported them.

They start in milliseconds instead of seconds. Otherwise they are separate processes: with their own environment,
working directory, session and files; they can get signals and be killed, end as Python ends, and their `sys.modules`
shows what
they import beyond the initial modules.

Libraries read much of the environment at import. The environment of a process may therefore differ from that of the
waiting one only in variables that are read later, `LATE`; anything else is refused and needs a cold start or another
`Warm`. Values that cold starts draw at random are equal in all processes of one `Warm`: the seed of string hashes, and
with it the order of sets, and the seeds of NumPy's and torch's global generators.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# What the command line sets itself before it imports more.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "GOMP_SPINCOUNT": "1000"}
# Read when a run begins, whenever it is asked for, or by nobody; or set by what is imported.
LATE = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"),
    *("NLP_TRANSFER_CACHE", "TOKENIZERS_PARALLELISM", "PYTEST_CURRENT_TEST", "PYTHONPATH", "TMPDIR", *QUIET),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # scikit-learn sets them, wherever it is imported
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",  # torch sets it, where something was compiled
}
# What does as `python -m NAME` does.
MODULE = "import runpy; runpy.run_module('{}', run_name='__main__', alter_sys=True)"
CLI = MODULE.format("nlp_transfer")


class Process:
    """A process that was forked, with as much of `subprocess.Popen` as tests need."""

    def __init__(self, args: list[str], pid: int, folder: Path) -> None:
        self.args, self.pid, self.returncode, self._folder = args, pid, None, folder
        self.returncode: int | None

    def poll(self) -> int | None:
        """Return the exit status, or None as long as it runs."""
        with contextlib.suppress(FileNotFoundError):
            self.returncode = int((self._folder / "status").read_text())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit status."""
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        while self.poll() is None:
            if time.monotonic() > until:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def said(self, name: str = "err") -> str:
        """Return what has been written so far, to standard error or to standard output (`out`)."""
        return (self._folder / name).read_text(encoding="utf-8")

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; return what it wrote to standard output and to standard error."""
        self.wait(timeout)
        return self.said("out"), self.said("err")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """A process that waits, with what all the others are to begin with."""

    def __init__(self, imports: str, env: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            imports: code that imports, starts no thread and changes nothing.
            env: what libraries find in their environment while they are imported; None: that of this process.
        """
        self._env = QUIET | dict(os.environ if env is None else env)
        self._home, self._started = Path(tempfile.mkdtemp(prefix="warm-")), list[Process]()
        self._waiting = subprocess.Popen(
            [sys.executable, __file__, imports],
            cwd=ROOT,
            env=self._env | {"PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, code: str, *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Process:
        """Begin what ``python -c code words`` would do, in a session of its own, without standard input.

        Args:
            code: see `CLI` and `MODULE` for ``python -m``.
            words: of the command line.
            cwd: where it works; what it imports is found in the root of the repository nevertheless.
            env: its environment; None: that of this process.
        """
        env = dict(os.environ if env is None else env)
        early = {name for name, _ in env.items() ^ self._env.items()} - LATE
        assert not early, f"{sorted(early)} may be read while libraries are imported: start cold"
        folder = self._home / str(len(self._started))
        folder.mkdir()
        assert self._waiting.stdin
        assert self._waiting.stdout
        print(json.dumps([code, words, str(folder), str(cwd), env]), file=self._waiting.stdin, flush=True)
        process = Process([sys.executable, "-c", code, *words], int(self._waiting.stdout.readline()), folder)
        self._started.append(process)
        return process

    def run(self, code: str, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
        """Do it, and return how it ended; see `start`."""
        process = self.start(code, *words, **given)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.wait(), out, err)

    def close(self) -> None:
        """End the process that waits, and whatever it has started that still runs."""
        for process in self._started:
            process.kill()
        self._waiting.communicate()
        shutil.rmtree(self._home)


def _wait() -> str:
    """Fork a process for every line of standard input; return in each of them, with the code that it is to run.

    Between the two is one more, which waits for the end of it and notes how it ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between
    for line in sys.stdin:
        code, words, folder, cwd, env = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child == 0:
            _become(words, folder, cwd, env)
            return code
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        Path(folder, "noted").write_text(str(status))
        Path(folder, "noted").rename(Path(folder, "status"))
        os._exit(0)
    return ""


def _become(words: list[str], folder: str, cwd: str, env: dict[str, str]) -> None:
    """Let this process be one that has just been started, and tell its number then."""
    os.setsid()
    told = os.dup(1)
    for number, path in enumerate((os.devnull, f"{folder}/out", f"{folder}/err")):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # which TMPDIR decides
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.argv = ["-c", *words]
    os.write(told, f"{os.getpid()}\n".encode())
    os.close(told)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # the folder of this file, where Python puts it
    exec(sys.argv[1], {})
    gc.collect()
    gc.freeze()  # as the command line does; what all share is not gone through, and so copied, at the end of each
    exec(_wait(), {"__name__": "__main__"})
