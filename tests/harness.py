"""Test modules that run as programs in separate processes, because a process with threads should not fork."""

import json
import os

from tests.warm import MODULE, Warm

HARNESS = "import warnings; warnings.simplefilter('ignore')\n" + MODULE


def environment() -> dict[str, str]:
    """Return what such a process finds in its environment: that of this one, and one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def told_by(running: Warm, module: str, *words: str) -> dict:
    """The output of such a module."""
    done = running.run(HARNESS.format(module), *words, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
