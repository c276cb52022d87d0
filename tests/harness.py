"""Modules of tests that run as programs, in processes of their own: they fork, which one with threads should not."""

import json
import os

from tests.warm import MODULE, Warm

HARNESS = "import warnings; warnings.simplefilter('ignore')\n" + MODULE
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # of what forks


def told_by(running: Warm, module: str, *words: str) -> dict:
    """What such a module says in the end."""
    done = running.run(HARNESS.format(module), *words, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
