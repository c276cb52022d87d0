"""Runs of two processes under torchrun's own agent, in which one of them fails.

    python -m tests.ranks CASE ...

Each case is a failure at one place of one rank (see `CASES`). The ranks are forked from this process, which has
imported everything, and are watched by torchrun's agent. One JSON line per case: how the job ended, the time from the
failure to
its end, its output, which processes were left, and whether the same command afterwards ends in the same bits as an
undisturbed run of two processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from nlp_transfer.cli import main as command_line
from nlp_transfer.data import corpus
from nlp_transfer.errors import UserError
from nlp_transfer.running import learning, run
from nlp_transfer.running.resume import CheckpointWriter
from nlp_transfer.training import checkpoint, loop
from tests.crashes import fingerprint
from tests.place import adapt_words, furnish


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse() -> None:
    raise UserError("this rank alone cannot go on")


def _break() -> None:
    raise RuntimeError("this rank alone is broken")


# Where a rank can fail: a function of the run, what holds it, and how often it goes well before.
PLACES: dict[str, tuple[Any, str, int]] = {
    "reading": (corpus, "_encode_splits", 0),
    "training": (loop.MovingAverage, "update", 3),  # once a step
    "saving": (checkpoint, "save_file", 5),  # in the middle of the second checkpoint; rank 0 alone is there
    "committing": (CheckpointWriter, "commit", 1),
    "measuring": (learning.metrics, "compute", 1),
    "finishing": (run, "_record", 0),
}
WAYS: dict[str, Callable[[], None]] = {"killed": _die, "refused": _refuse, "broken": _break}
# The way, the place, and the ranks that fail there; 2 processes run.
CASES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    **{f"killed {place} {rank}": ("killed", place, (rank,)) for place in ("training", "measuring") for rank in (0, 1)},
    "killed saving 0": ("killed", "saving", (0,)),
    "killed committing 1": ("killed", "committing", (1,)),
    "killed finishing 0": ("killed", "finishing", (0,)),
    **{f"{way} training {rank}": (way, "training", (rank,)) for way in ("refused", "broken") for rank in (0, 1)},
    "refused reading 1": ("refused", "reading", (1,)),
    "refused reading both": ("refused", "reading", (0, 1)),
}
# The launcher starts both ranks again where these happen; the second time nothing does.
AGAIN = {f"again after {case}": case for case in ("killed training 1", "killed saving 0", "broken training 0")}


def fail_at(case: str, journal: Path) -> None:
    """Let this process fail as the case defines, if it is one of its processes, and record when."""
    way, place, ranks = CASES[case]
    if int(os.environ["RANK"]) not in ranks or os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        return
    holder, name, before = PLACES[place]
    well, left = getattr(holder, name), iter(range(before))

    def failing(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            journal.write_text(repr(time.time()))
            WAYS[way]()
        return well(*arguments, **named)

    setattr(holder, name, failing)


def rank(words: list[str], said: Path, pids: Path, case: str | None, journal: Path) -> None:
    """Run one process of a job: the command line with a checkpoint after every second step, its output in a file."""
    (pids / str(os.getpid())).touch()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a program that torchrun starts
    os.dup2(os.open(said / os.environ["RANK"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    AcceleratorState._reset_state(reset_partial_state=True)
    done = iter(range(1, 10**9))
    CheckpointWriter.due = lambda self: next(done) % 2 == 0  # type: ignore[method-assign]  # not by the clock
    if case:
        fail_at(case, journal)
    try:
        status = command_line(words)
    except Exception:
        traceback.print_exc()  # as the interpreter would
        status = 1
    if status:
        sys.exit(status)


def launch(words: list[str], home: Path, case: str | None = None, *, restarts: int = 0) -> dict[str, Any]:
    """Start two ranks and wait for them, as torchrun does, maybe once more; return how they ended."""
    said, pids, journal = home / "said", home / "pids", home / "failed-at"
    for folder in (said, pids):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    journal.unlink(missing_ok=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="none",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        start_method="fork",
        monitor_interval=0.1,  # as torchrun
    )
    try:
        elastic_launch(config, rank)(words, said, pids, case, journal)
        failed = False
    except ChildFailedError:
        failed = True
    ended = time.time()
    return {
        "failed": failed,
        "seconds": ended - float(journal.read_text()) if case else None,
        "left": [pid.name for pid in pids.iterdir() if Path("/proc", pid.name).exists()],
        "said": {path.name: path.read_text() for path in sorted(said.iterdir())},
    }


def words_of(home: Path, *, steps: int = 7) -> list[str]:
    """Return the command line of a run of so many steps on files that are written into `home`."""
    furnish(home)
    given = [word for word in adapt_words(home) if not word.startswith("strategy=")]
    given += ["strategy=finetune", f"training.max_steps={steps}", f"training.min_steps={steps}", "training.ema=0.9"]
    return [*given, "training.evaluate_every=0.5", "training.precision=fp32", "evaluation.floors=false"]


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=[*CASES, *AGAIN])
    os.environ |= {"ACCELERATE_USE_CPU": "true", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        words = words_of(home)
        output = home / "runs"
        with contextlib.redirect_stdout(io.StringIO()):  # once here, so that ranks find imported what they need
            assert command_line(words) == 0
        shutil.rmtree(output)
        undisturbed = launch(words, home)
        assert not undisturbed["failed"], undisturbed
        wanted = fingerprint(output)
        for case in parser.parse_args().cases:
            shutil.rmtree(output)
            if case in AGAIN:
                ended = again = launch(words, home, AGAIN[case], restarts=1)
            else:
                ended, again = launch(words, home, case), launch(words, home)
            same = not again["failed"] and fingerprint(output) == wanted
            print(json.dumps({"case": case, **ended, "same": same}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
