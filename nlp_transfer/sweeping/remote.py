"""Execute a run on the node of a cluster: start it, wait for it, and pass on the cluster's interruption."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nlp_transfer.sweeping.local import end_with_parent

_PAUSE = 1.0  # seconds of one wait: Ray can interrupt only between two system calls


def run_command(
    command: Sequence[str],
    folder: str,
    log: str,
    environment: Mapping[str, str],
    *,
    warning: signal.Signals | None = None,
) -> tuple[int, str]:
    """Execute the command of a run; return its exit status and its standard output.

    Args:
        command: of the run.
        folder: its working folder, the same as that of the sweep.
        log: the file for its messages.
        environment: variables in addition to those of the node.
        warning: a signal that the cluster sends to every process before it kills them; this function then ends the run.
    """
    if warning is not None:  # the run inherits this: it must not be killed by the warning, but ended by SIGTERM
        signal.signal(warning, signal.SIG_IGN)
    with Path(folder, log).open("ab") as messages:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            preexec_fn=end_with_parent,  # safe after a fork: a single system call
        )
    if warning is not None:
        signal.signal(warning, lambda *_: running.terminate())
    try:
        return _wait(running)
    finally:
        if warning is not None:
            signal.signal(warning, signal.SIG_IGN)


def _wait(running: subprocess.Popen[str]) -> tuple[int, str]:
    while True:
        try:
            output, _ = running.communicate(timeout=_PAUSE)
            return running.returncode, output
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            running.terminate()  # it writes a checkpoint before it ends
