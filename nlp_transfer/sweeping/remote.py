"""A run where a cluster has put it: started there, waited for, and asked to end where the cluster interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nlp_transfer.sweeping.local import end_with_parent

_PAUSE = 1.0  # seconds; Ray interrupts between two calls of the system, not within one


def do(
    command: Sequence[str],
    folder: str,
    log: str,
    environment: Mapping[str, str],
    *,
    warning: signal.Signals | None = None,
) -> tuple[int, str]:
    """Do a run; return its exit status and its standard output.

    Args:
        command: of the run.
        folder: in which it works, as the process of the sweep does.
        log: the file for what it says.
        environment: what is added to that of the node.
        warning: a signal that the cluster sends to every process before it kills them. This one ends the run then.
    """
    if warning is not None:  # nor does it kill what is started now, which inherits that: the run is told by SIGTERM
        signal.signal(warning, signal.SIG_IGN)
    with Path(folder, log).open("ab") as said:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            preexec_fn=end_with_parent,  # one call of the system, made ready before
        )
    if warning is not None:
        signal.signal(warning, lambda *_: running.terminate())
    try:
        return _waited_for(running)
    finally:
        if warning is not None:
            signal.signal(warning, signal.SIG_IGN)


def _waited_for(running: subprocess.Popen[str]) -> tuple[int, str]:
    while True:
        try:
            output, _ = running.communicate(timeout=_PAUSE)
            return running.returncode, output
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            running.terminate()  # it commits its step
