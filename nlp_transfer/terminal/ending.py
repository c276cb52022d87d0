"""How a process begins and ends on the command line: its streams, what it says, its status, and that all ranks end."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress

from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import give_way, rank
from nlp_transfer.secrets import redacted

USER_ERROR = 2
DEFECT = 70  # EX_SOFTWARE of sysexits.h
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # what nobody told of who was writing
_NOWHERE = "the folder that this was called in is gone; change to one that is there"


def open_streams() -> None:
    """Open those standard streams that whoever started the process has closed; else files would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115, PTH123  # gets the lowest number that is free
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def say(message: str, *, first: bool) -> None:
    """Tell an error once: `first` goes first, others only if the launcher does not end them for it meanwhile."""
    if not first:
        give_way()
    who = f"nlp-transfer (process {rank()})" if rank() else "nlp-transfer"
    with suppress(OSError):  # a log on a full disk; the status says it all the same
        print(f"{who}: {message}", file=sys.stderr, flush=True)  # noqa: T201


def leave_log() -> None:
    """Leave a log that takes no more, or the interpreter tries once more and ends with a status of its own."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: a caller has closed it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


def unexpected(error: Exception, words: Sequence[str]) -> int:
    """Say what went wrong where nobody thought of it; return the exit status.

    Args:
        error: with its traceback, which goes into a file.
        words: of the command line.
    """
    if "torch" in sys.modules:
        from nlp_transfer.training.memory import is_lack_of_memory

        if is_lack_of_memory(error):
            say(f"memory does not suffice: {redacted(' '.join(str(error).split())[:300])}", first=rank() == 0)
            return USER_ERROR
    if isinstance(error, OSError) and error.errno in _DISK:
        what = error.filename or "standard output, or a temporary file,"
        advice = "make room, or write elsewhere (TMPDIR names the folder of temporary files)"
        say(f"{what} cannot be written: {error.strerror}; {advice}", first=rank() == 0)
        return USER_ERROR
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        say(_NOWHERE, first=rank() == 0)
        return USER_ERROR
    said = redacted(traceback.format_exception_only(error)[-1].strip())
    report = _report(error, words)
    say(f"this is a mistake of nlp_transfer, not of yours: {said}; please report it with {report}", first=False)
    return DEFECT


def check_folder() -> None:
    """Refuse to work in a folder that was taken away; torch would end the process when it is imported.

    Raises:
        UserError: saying so.
    """
    if _is_nowhere():
        raise UserError(_NOWHERE)


def leave_group() -> None:
    """Take leave of the other ranks, where torch has introduced them."""
    if "torch" in sys.modules:
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A DDP module that outlives the group ends gloo's threads while it holds the interpreter's lock, for which
            # these may be waiting: the process would hang (torch 2.13).
            gc.collect()
            torch.distributed.destroy_process_group()


def _is_nowhere() -> bool:
    """Return whether the working folder was taken away, by which names of files are meant."""
    try:
        return not os.getcwd()  # noqa: PTH109
    except OSError:
        return True


def _report(error: Exception, words: Sequence[str]) -> str:
    """Write what it takes to find a mistake, without secrets; return where it is."""
    from nlp_transfer.machine.versions import environment

    traced = "".join(traceback.format_exception(error))
    content = redacted("\n".join((" ".join(("nlp-transfer", *words)), json.dumps(environment(), indent=2), traced)))
    try:
        descriptor, name = tempfile.mkstemp(prefix="nlp-transfer-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as report:
            report.write(content)
    except OSError:  # there is no room for it
        print(content, file=sys.stderr)  # noqa: T201
        return "what is above"
    return name
