"""Kill a run at every operation by which Python changes its files, start it again, and compare the bits.

    python -m tests.crashes CASE [--every N] [--torn]

A child process is forked for each crash point. An audit hook sees what Python opens for writing, makes, renames and
removes under the run's folder, and kills the child at the k-th of these. What is written from Rust (safetensors) has no
such events: the other kind of point tears a file in half as soon as it is written, by whomever, and kills then. Then
the same run is started again, and must end in the same files as one that was never disturbed. One JSON line says how
many points there were and which of them failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nlp_transfer.resume import Commits
from nlp_transfer.run import adapt
from nlp_transfer.settings import Settings
from nlp_transfer.training import checkpoint
from tests.encoder.families import tiny_encoder
from tests.test_run import data_for, settings_for

CASES: dict[str, dict[str, Any]] = {
    "probe": {"strategy": "probe"},
    "finetune": {
        "strategy": "finetune",
        "strategy.gradual": 0.5,
        "training.ema": 0.9,
        "training.micro_batch_size": 3,
    },
    "lora": {"strategy": "lora", "strategy.rank": 4},
}
STEPS, BETWEEN = 7, 2  # three commits: the last takes the first away
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def settings_of(case: str, home: Path, output: Path) -> Settings:
    """Return a run of a few steps, committed after every second."""
    values = {"training.max_steps": STEPS, "training.evaluate_every": 0.5, "evaluation.floors": False}
    return settings_for(home, output=str(output), **values, **CASES[case])


def run(settings: Settings) -> None:
    """Do the run; commits come by steps, not by the clock."""
    steps = iter(range(1, 10**9))
    Commits.due = lambda self: next(steps) % BETWEEN == 0  # type: ignore[method-assign]
    adapt(settings, data=data_for("single_label"))


def fingerprint(output: Path) -> dict[str, str]:
    """Return the hash of every file that a finished run leaves, without what a clock decided."""
    (folder,) = output.iterdir()
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            content = path.read_bytes()
            if path.name == "metrics.json":
                content = json.dumps(_without_clock(json.loads(content))).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def _without_clock(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_clock(value) for key, value in node.items() if key != "seconds"}
    return [_without_clock(value) for value in node] if isinstance(node, list) else node


def in_child(work: Callable[[], None]) -> int:
    """Return the exit status of `work` in a forked process; a signal counts as its negative number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            work()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended)


def die_at(point: int, output: Path, journal: Path, *, torn: bool) -> None:
    """Kill this process at the point-th change below `output`, or when the point-th file was written, then torn."""
    seen = 0
    inside = str(output)

    def reached() -> bool:
        nonlocal seen
        seen += 1
        with open(journal, "w") as out:  # noqa: PTH123
            out.write(str(seen))
        return seen == point

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if any(path.startswith(inside) for path in _changed(event, arguments)) and reached():
            os.kill(os.getpid(), signal.SIGKILL)

    def tearing(write: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        def written(*arguments: Any, **named: Any) -> Any:
            answer = write(*arguments, **named)
            path = Path(arguments[path_at])
            if inside in str(path) and reached():
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return written

    if torn:
        checkpoint.save_file = tearing(checkpoint.save_file, 1)  # type: ignore[assignment]
        Path.write_text = tearing(Path.write_text, 0)  # type: ignore[method-assign]
    else:
        sys.addaudithook(watch)


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


def crash(case: str, *, every: int = 1, torn: bool = False) -> dict[str, Any]:
    """Return how many points a run has, how many were tried, and what went wrong at which."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home)
        output = home / "output"
        settings = settings_of(case, home, output)
        run(settings)  # in this process, so that those forked from it have all that they need imported
        wanted = fingerprint(output)
        journal = home / "journal"
        point, committed = 1, False
        while True:
            shutil.rmtree(output, ignore_errors=True)

            def disturbed(point: int = point) -> None:
                output.mkdir()
                die_at(point, output, journal, torn=torn)
                run(settings)

            ended = in_child(disturbed)
            if ended == 0:  # there was no such point any more
                break
            if ended != -signal.SIGKILL:
                failures.append(f"point {point}: ended with {ended} instead of being killed")
            committed = committed or _has_work(output)
            if committed and not _has_work(output):
                failures.append(f"point {point}: no complete checkpoint is left")
            if in_child(lambda: run(settings)) != 0:
                failures.append(f"point {point}: cannot be started again")
            elif (now := fingerprint(output)) != wanted:
                differing = [name for name in wanted.keys() | now.keys() if wanted.get(name) != now.get(name)]
                failures.append(f"point {point}: other bits in {', '.join(sorted(differing))}")
            point += every
        points = int(journal.read_text())
    return {"case": case, "torn": torn, "points": points, "tried": (point - 1) // every, "failures": failures}


def _has_work(output: Path) -> bool:
    """Whether a run that was killed can go on from somewhere, or is finished."""
    folder = next(iter(output.iterdir()), None)
    if folder is None:
        return False
    return (folder / "metrics.json").is_file() or checkpoint.newest(folder / "checkpoints") is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--every", type=int, default=1, help="try each n-th point only")
    parser.add_argument("--torn", action="store_true", help="tear the file in half that was written last")
    asked = parser.parse_args()
    print(json.dumps(crash(asked.case, every=asked.every, torn=asked.torn)))  # noqa: T201
