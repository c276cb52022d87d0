"""The start and end of a command-line process: standard streams, error messages, exit status and process group."""

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
from nlp_transfer.machine.launch import rank, wait_to_be_ended
from nlp_transfer.secrets import redacted

USER_ERROR = 2
DEFECT = 70  # EX_SOFTWARE of sysexits.h
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # faults of the user's disk, not of the code
_FOLDER_REMOVED = "the current working folder no longer exists; change to one that does"


def open_streams() -> None:
    """Open standard streams that were closed at the start; otherwise files would get their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115, PTH123  # gets the lowest free descriptor
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def print_error(message: str, *, first: bool) -> None:
    """Print an error, if possible once for all ranks.

    Ranks that are not `first` wait a while before printing: the launcher usually ends them when the first one exits.
    """
    if not first:
        wait_to_be_ended()
    prefix = f"nlp-transfer (process {rank()})" if rank() else "nlp-transfer"
    with suppress(OSError):  # a log on a full disk; the exit status still tells of the error
        print(f"{prefix}: {message}", file=sys.stderr, flush=True)  # noqa: T201


def replace_broken_stderr() -> None:
    """Replace a standard error that cannot be written to; flushing it at shutdown would change the exit status."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: a caller has closed it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


def report_unexpected(error: Exception, words: Sequence[str]) -> int:
    """Report an exception that no code has handled; return the exit status.

    Args:
        error: the exception, whose traceback goes into a file.
        words: the command line.
    """
    if "torch" in sys.modules:
        from nlp_transfer.training.memory import is_lack_of_memory

        if is_lack_of_memory(error):
            print_error(f"memory does not suffice: {redacted(' '.join(str(error).split())[:300])}", first=rank() == 0)
            return USER_ERROR
    if isinstance(error, OSError) and error.errno in _DISK:
        target = error.filename or "standard output, or a temporary file,"
        advice = "make room, or write elsewhere (TMPDIR names the folder of temporary files)"
        print_error(f"{target} cannot be written: {error.strerror}; {advice}", first=rank() == 0)
        return USER_ERROR
    if isinstance(error, FileNotFoundError) and _is_folder_removed():
        print_error(_FOLDER_REMOVED, first=rank() == 0)
        return USER_ERROR
    summary = redacted(traceback.format_exception_only(error)[-1].strip())
    report = _report(error, words)
    print_error(f"this is a bug in nlp_transfer: {summary}; please report it with {report}", first=False)
    return DEFECT


def check_working_folder() -> None:
    """Refuse to run in a working folder that was removed; torch would end the process when it is imported.

    Raises:
        UserError: saying so.
    """
    if _is_folder_removed():
        raise UserError(_FOLDER_REMOVED)


def destroy_process_group() -> None:
    """Destroy the torch process group, if there is one."""
    if "torch" in sys.modules:
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A DDP module that outlives the group joins gloo's threads while it holds the GIL, for which they may be
            # waiting: the process would hang (torch 2.13).
            gc.collect()
            torch.distributed.destroy_process_group()


def _is_folder_removed() -> bool:
    """Return whether the working folder, to which relative paths refer, was removed."""
    try:
        return not os.getcwd()  # noqa: PTH109
    except OSError:
        return True


def _report(error: Exception, words: Sequence[str]) -> str:
    """Write a bug report without secrets to a temporary file; return its path."""
    from nlp_transfer.machine.versions import environment

    trace = "".join(traceback.format_exception(error))
    content = redacted("\n".join((" ".join(("nlp-transfer", *words)), json.dumps(environment(), indent=2), trace)))
    try:
        descriptor, name = tempfile.mkstemp(prefix="nlp-transfer-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as report:
            report.write(content)
    except OSError:  # the disk is full
        print(content, file=sys.stderr)  # noqa: T201
        return "the text above"
    return name
