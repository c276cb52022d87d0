"""Make file operations of a run fail or interrupt it at them, and start it again.

    python -m tests.faults CASE [--first K] [--every N] [--kind once|sticky|interrupt]

The k-th time that a run opens, lists, creates, renames, removes, flushes or writes something below its folder fails,
with a different error each time; if sticky, so do all later operations, as on a removed disk. The run must finish, or
end with a UserError that names its folder. With `interrupt` the run is interrupted there as by Ctrl-C. Started again
undisturbed, it must end in the same files as an undisturbed run. One JSON line has the number of points tried, how the
runs ended, and the failures by point.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from nlp_transfer.errors import UserError
from nlp_transfer.training import checkpoint
from tests.crash_harness import Case, Tally, start, undisturbed
from tests.crashes import CASES, case_of
from tests.encoder.families import tiny_encoder

REASONS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
KINDS = ("once", "sticky", "interrupt")
ENDS = {0: "finished", 3: "refused", 4: "interrupted"}  # exit statuses of a disturbed run
_CHANGES = ("mkdir", "rename", "remove", "rmdir", "chmod", "listdir", "scandir", "truncate")
_EVENTS = {"open", *(f"os.{name}" for name in _CHANGES)}


@dataclass
class Faults:
    """Disturbs the point-th operation below a folder; see `KINDS`."""

    inside: Path
    journal: Path
    point: int
    kind: str
    seen: int = 0

    def strike(self, what: str, path: str) -> OSError | None:
        """Count an operation; return the error that it ends with, or None where it is let through."""
        if not path.startswith(str(self.inside)):
            return None
        self.seen += 1
        if self.seen < self.point or (self.seen > self.point and self.kind != "sticky"):
            return None
        if self.seen == self.point:
            with open(self.journal, "w") as out:  # noqa: PTH123
                out.write(f"{what} {Path(path).relative_to(self.inside)}")
        if self.kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return None
        reason = REASONS[self.point % len(REASONS)]
        return OSError(reason, os.strerror(reason), path)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of what Python opens, lists, makes, renames and removes, before it does."""
        if event not in _EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path, folder = os.fsdecode(arguments[0]), arguments[-1]
        if event != "open" and isinstance(folder, int) and folder >= 0 and not path.startswith("/"):
            # Removing a tree names each file relative to its open folder.
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)  # noqa: PTH115, PTH118
        if error := self.strike(event, path):
            raise error

    def torn(self, write: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        """Return a writer that writes half of its file and fails, and says it as Rust or as Python does."""

        def written(*arguments: Any, **named: Any) -> Any:
            answer = write(*arguments, **named)
            path = os.fspath(arguments[path_at])
            error = self.strike("write", path)
            if error is None:
                return answer
            if path.endswith(".safetensors"):
                raise SafetensorError(f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})")
            raise error

        return written

    def flush(self, flush: Callable[[int], None]) -> Callable[[int], None]:
        """Return what flushes a file, or not."""

        def flushed(descriptor: int) -> None:
            if error := self.strike("fsync", os.readlink(f"/proc/self/fd/{descriptor}")):  # noqa: PTH115
                raise error
            flush(descriptor)

        return flushed

    def install(self) -> None:
        """Be there from here on, for the life of this process."""
        Path.write_text = self.torn(Path.write_text, 0)  # type: ignore[method-assign]
        checkpoint.save_file = safetensors.torch.save_file = self.torn(safetensors.torch.save_file, 1)
        os.fsync = self.flush(os.fsync)
        sys.addaudithook(self.audit)


def refusing(case: Case) -> Case:
    """Return the same case, whose processes end with a status of their own where the run said what is wrong."""

    def run(output: Path) -> None:
        try:
            case.run(output)
        except UserError as error:
            if "\n" not in str(error) and str(output) in str(error):  # one sentence that names the folder
                os._exit(3)
            raise
        except KeyboardInterrupt:
            os._exit(4)

    return replace(case, run=run)


def disturb(case: Case, home: Path, *, first: int, every: int, kind: str) -> tuple[Tally, Counter[str]]:
    """Disturb a run at its points, one after the other, and start it again each time."""
    output, journal = home / "output", home / "journal"
    tally, ended, point = Tally(), Counter[str](), first
    wanted = undisturbed(case, output)
    while True:
        shutil.rmtree(output, ignore_errors=True)
        journal.unlink(missing_ok=True)
        status = start(refusing(case), output, Faults(output, journal, point, kind).install)
        if not journal.exists():  # there was no such point any more
            return tally, ended
        where = f"point {point} ({journal.read_text()})"
        ended[ENDS.get(status, "failed")] += 1
        if status not in ENDS:
            tally.failures.append(f"{where}: ended with {status}")
        tally.start_again(case, output, wanted, where)
        point += every


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--first", type=int, default=1, help="the first point to try")
    parser.add_argument("--every", type=int, default=1, help="try each n-th point only")
    parser.add_argument("--kind", choices=KINDS, default="once", help="what is done to the run there")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch).resolve()
        tiny_encoder(home)
        case = case_of(asked.case, home)
        tally, ended = disturb(case, home, first=asked.first, every=asked.every, kind=asked.kind)
    print(json.dumps({"case": asked.case, "tried": tally.tried, "ended": ended, "failures": tally.failures}))  # noqa: T201


if __name__ == "__main__":
    main()
