"""Verification in forked processes, with all checks of the cold ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tests.warm import Warm

# What verification starts cold does this with its job, where it has nothing of ours.
PLAIN = """
import io, os, runpy, sys
file, job = sys.argv[1:]
sys.stdin = io.StringIO(job)
runpy.run_path(file, run_name="__main__")
assert "nlp_transfer" not in sys.modules
"""
OURS = "import io, sys\nsys.stdin = io.StringIO(sys.argv[1])\n"


class Job(io.StringIO):
    """The standard input of a process that begins when all is written."""

    def __init__(self, begin: Callable[[str], None]) -> None:
        super().__init__()
        self._begin = begin

    def close(self) -> None:
        if not self.closed:
            self._begin(self.getvalue())
        super().close()


class Plain:
    """Processes that begin with what loads a folder, in the environment that verification gives.

    Attributes:
        modules: where transformers copies the code of folders that have some.
    """

    def __init__(self, modules: Path) -> None:
        self.modules = modules
        self.given = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(modules), "CUDA_VISIBLE_DEVICES": ""}
        self.given["PYTHONWARNINGS"] = "ignore"
        self.warm = Warm("import peft, transformers.models.bert.modeling_bert", os.environ | self.given)


class Forked:
    """In place of the process that verification starts cold, one that is forked."""

    stdout = None

    def __init__(self, plain: Plain, command: list[str], *, stderr: IO[str], env: dict[str, str], **_: Any) -> None:
        _, flag, what = command
        self._code, self._words = (PLAIN, [what]) if flag == "-P" else (OURS + what, [])
        self.stdin, self._warm, self._errors = Job(self._begin), plain.warm, stderr
        self._env = env | plain.given  # read while transformers is imported

    def _begin(self, job: str) -> None:
        self._process = self._warm.start(self._code, *self._words, job, env=self._env)
        self.kill, self.wait = self._process.kill, self._process.wait

    def communicate(self, timeout: float) -> tuple[str, None]:
        out, err = self._process.communicate(timeout)
        self._errors.write(err)
        self.returncode = self._process.wait()
        return out, None
