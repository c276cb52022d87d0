"""Processes that begin with some imports already done: each is forked from one that has done them and nothing else.

What starts in a second takes milliseconds then. The process is one of its own in all else: it can be killed, it ends as
Python ends, and what it imports beyond that shows in its `sys.modules`, in which what it began with stands as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Warm:
    """A process that waits, with what all the others are to begin with."""

    def __init__(self, imports: str) -> None:
        command = [sys.executable, __file__, imports]
        self._waiting = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdin=-1, stdout=-1
        )

    def run(self, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Do what ``python -c code words`` would do in the root of the repository, and return how it ended."""
        assert self._waiting.stdin
        assert self._waiting.stdout
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps([code, words, folder]), file=self._waiting.stdin, flush=True)
            status = int(self._waiting.stdout.readline())
            out, err = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess([sys.executable, "-c", code, *words], status, out, err)

    def close(self) -> None:
        """End the process that waits."""
        self._waiting.communicate()


def _wait() -> str:
    """Fork a process for every line of standard input; return in each of them, with the code that it is to run."""
    for line in sys.stdin:
        code, words, folder = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, path in enumerate((os.devnull, f"{folder}/out", f"{folder}/err")):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
            sys.argv = ["-c", *words]
            return code
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
    return ""


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # the folder of this file, where Python puts it
    exec(sys.argv[1], {})
    exec(_wait(), {"__name__": "__main__"})
