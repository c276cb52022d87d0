"""Kill a run where it changes files, start it again, and compare the result with that of an undisturbed run.

Every start is forked from a process that has imported everything. An audit hook sees what Python opens for writing,
creates, renames and removes under the run's folder, and kills the process at the k-th of these operations. Writes from
Rust or C++ cause no such events: the other kind of point cuts a file in half as soon as it is written, and kills then.

The harness does not know what it runs: a `Case` defines it, for our package or another library.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MOST_STARTS = 200
Writer = tuple[Any, str, int]


@dataclass(frozen=True)
class Case:
    """What is run, and what it looks like from outside.

    Attributes:
        run: does the run whose files lie below a folder, or goes on with it; it is called in processes of their own.
        fingerprint: hashes of what a finished run left there.
        progress: the steps that need not be done again, infinite for a finished run; None: there is nothing to go on
            from.
        writers: functions that write files, each by (what holds it, its name, which argument is the path).
        processes: that make up one run; only the first of them writes.
    """

    run: Callable[[Path], None]
    fingerprint: Callable[[Path], dict[str, str]]
    progress: Callable[[Path], float | None]
    writers: Sequence[Writer] = ()
    processes: int = 1


@dataclass
class Tally:
    """How the runs ended that were killed and started again.

    Attributes:
        points: changes that an undisturbed run makes.
        same: runs that ended in the bits of an undisturbed one.
        other: runs that ended in others.
        refused: runs that could not be started again.
        failures: what went wrong, a sentence each.
    """

    points: int = 0
    same: int = 0
    other: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many runs were killed and started again."""
        return self.same + self.other + self.refused

    def start_again(self, case: Case, output: Path, wanted: dict[str, str], after: str) -> None:
        """Let a killed run go on undisturbed and note what became of it."""
        if start(case, output) != 0:
            self.refused += 1
            self.failures.append(f"{after}: cannot be started again")
            return
        now = case.fingerprint(output)
        if now == wanted:
            self.same += 1
            return
        differing = sorted(name for name in wanted.keys() | now.keys() if wanted.get(name) != now.get(name))
        self.other += 1
        self.failures.append(f"{after}: other bits in {', '.join(differing)}")


def crash(case: Case, home: Path, *, every: int = 1, torn: bool = False, after: str = "") -> Tally:
    """Kill a run at its points, one after the other, and start it again each time.

    Args:
        case: what is run.
        home: a folder to work in.
        every: try each n-th point only.
        torn: tear the file in half that was written last.
        after: let it be a run that goes on, killed before it changed a file of this name; empty: one that starts from
            nothing.
    """
    output, killed, journal = home / "output", home / "killed", home / "journal"
    tally, wanted = Tally(), undisturbed(case, output)
    killed.mkdir()
    if after:
        assert start(case, output, partial(die_at, 1, output, journal, of=after)) == -signal.SIGKILL
        shutil.copytree(output, killed, dirs_exist_ok=True)
    point, committed = 1, False
    while True:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(killed, output)
        ended = start(case, output, partial(die_at, point, output, journal, case.writers if torn else None))
        if ended == 0:  # there was no such point any more
            break
        if ended != -signal.SIGKILL:
            tally.failures.append(f"point {point}: ended with {ended} instead of being killed")
        has_work = case.progress(output) is not None
        if committed and not has_work:
            tally.failures.append(f"point {point}: no complete checkpoint is left")
        committed = committed or has_work
        tally.start_again(case, output, wanted, f"point {point}")
        point += every
    tally.points = int(journal.read_text())
    return tally


def chain(case: Case, home: Path, *, each: int) -> Tally:
    """Kill one and the same run again and again, until it has nothing left to do.

    Every other start dies at its `each`-th change; those between die earlier, while the run takes up what it finds: the
    first of them at its first change, the second at its second.
    """
    output, journal = home / "output", home / "journal"
    tally, wanted = Tally(), undisturbed(case, output)
    done: float | None = None
    for number in range(_MOST_STARTS):
        at = number // 2 + 1 if number % 2 else each
        ended = start(case, output, partial(die_at, at, output, journal))
        if ended == 0:
            break
        if ended != -signal.SIGKILL:
            tally.failures.append(f"start {number + 1}: ended with {ended} instead of being killed")
            break
        tally.points += 1
        now = case.progress(output)
        if done is not None and (now is None or now < done):
            tally.failures.append(f"start {number + 1}: {done} steps were done, then {now}")
        done = now
    else:
        tally.failures.append(f"not finished after {_MOST_STARTS} starts")
    tally.start_again(case, output, wanted, f"killed {tally.points} times")
    return tally


def undisturbed(case: Case, output: Path) -> dict[str, str]:
    """Return what a run ends in that nobody disturbs.

    It is done once in this process as well, so that those forked from it have imported what they need.
    """
    case.run(output)
    shutil.rmtree(output)
    ended = start(case, output)
    assert ended == 0, f"without being disturbed it ended with {ended}"
    wanted = case.fingerprint(output)
    shutil.rmtree(output)
    return wanted


def start(case: Case, output: Path, disturb: Callable[[], None] = lambda: None) -> int:
    """Run a case in processes of its own, and let the first of them prepare to be disturbed.

    When one of them dies, the others are killed, as torchrun does.

    Returns:
        The exit status of the first that did not end well, or 0; a signal counts as its negative number.
    """
    output.mkdir(exist_ok=True)
    port = str(free_port())
    running, worst = set(), 0
    for rank in range(case.processes):
        child = os.fork()
        if child == 0:
            _be_rank(case, output, rank, port, disturb)
        running.add(child)
    while running:
        child, ended = os.wait()
        running.discard(child)
        status = os.waitstatus_to_exitcode(ended)
        if status and not worst:
            worst = status
            for other in running:
                os.kill(other, signal.SIGKILL)
    return worst


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _be_rank(case: Case, output: Path, rank: int, port: str, disturb: Callable[[], None]) -> None:
    """Do one process's part of a run; it does not return."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        AcceleratorState._reset_state(reset_partial_state=True)  # what the parent was is no matter
        if case.processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(case.processes))
            os.environ["ACCELERATE_USE_CPU"] = "true"
        if rank == 0:
            disturb()
        case.run(output)
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
    finally:
        os._exit(status)


def die_at(point: int, output: Path, journal: Path, writers: Sequence[Writer] | None = None, *, of: str = "") -> None:
    """Let this process be killed at the point-th change below `output`, or when writers wrote and tore that many files.

    Args:
        point: counted from one.
        output: where changes count.
        journal: gets the number of changes seen so far.
        writers: see `Case`; None: every change that Python makes counts.
        of: a name; changes of other files do not count.
    """
    seen = 0
    inside = str(output)

    def reached() -> bool:
        nonlocal seen
        seen += 1
        with open(journal, "w") as out:  # noqa: PTH123
            out.write(str(seen))
        return seen == point

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if any(path.startswith(inside) and of in path for path in _changed(event, arguments)) and reached():
            os.kill(os.getpid(), signal.SIGKILL)

    def tearing(write: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        def written(*arguments: Any, **named: Any) -> Any:
            answer = write(*arguments, **named)
            path = os.fspath(arguments[path_at])
            if inside in path and reached():
                os.truncate(path, os.stat(path).st_size // 2)  # noqa: PTH116
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return written

    journal.write_text("0")
    if writers is None:
        sys.addaudithook(watch)
    for holder, name, path_at in writers or ():
        setattr(holder, name, tearing(getattr(holder, name), path_at))


def _changed(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths that an audited event changes."""
    if event == "open":
        path, _, flags = arguments
        return [os.fsdecode(path)] if isinstance(path, (str, bytes, os.PathLike)) and flags & _WRITES else []
    if event not in _CHANGES:
        return []
    named = [os.fsdecode(each) for each in arguments[:2] if isinstance(each, (str, bytes, os.PathLike))]
    folder = arguments[-1]
    if isinstance(folder, int) and folder >= 0:  # removing a tree names each file relative to its open folder
        return [os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name) for name in named]  # noqa: PTH115, PTH118
    return named
