"""Our runs under the crash harness.

    python -m tests.crashes CASE [--every N] [--torn] [--after NAME]
    python -m tests.crashes CASE --chain CHANGES

The first command kills the run at every point and starts it again each time; the second kills the same run repeatedly.
One JSON line has the number of points and the failures by point: a run must end in the same files as an undisturbed
one. `two` is a run of two processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.running.folder import PACE
from nlp_transfer.running.resume import CheckpointWriter
from nlp_transfer.running.run import adapt
from nlp_transfer.training import checkpoint
from tests.crash_harness import Case, chain, crash
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for

_FINETUNE = {"strategy": "finetune", "strategy.gradual": 0.5, "training.ema": 0.9, "training.micro_batch_size": 3}
CASES: dict[str, dict[str, Any]] = {
    "probe": {"strategy": "probe"},
    "finetune": _FINETUNE,
    "lora": {"strategy": "lora", "strategy.rank": 4},
    "two": _FINETUNE,
}
PROCESSES = {"two": 2}
STEPS, BETWEEN = 7, 2  # three commits: the last takes the first away
CHAINED = {"steps": 8, "between": 1}


def case_of(name: str, home: Path, *, steps: int = STEPS, between: int = BETWEEN, **values: Any) -> Case:
    """Return a run of a few steps on the tiny encoder that lies in `home`, committed after every `between` of them."""
    length = {"training.max_steps": steps, "training.min_steps": steps}
    fixed = {"training.evaluate_every": 0.5, "evaluation.floors": False}

    def run(output: Path) -> None:
        done = iter(range(1, 10**9))
        CheckpointWriter.due = lambda self: next(done) % between == 0  # type: ignore[method-assign]  # not by the clock
        settings = settings_for(home, output=str(output), **{**length, **fixed, **CASES[name], **values})
        adapt(settings, data=data_for("single_label"))

    writers = [(checkpoint, "save_file", 1), (Path, "write_text", 0)]
    return Case(run, fingerprint, progress, writers, PROCESSES.get(name, 1))


def fingerprint(output: Path) -> dict[str, str]:
    """Return the hash of every file that a finished run leaves, without what a clock decided."""
    (folder,) = output.iterdir()
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.name != PACE:
            content = path.read_bytes()
            if path.name == "metrics.json":
                content = json.dumps(_without_clock(json.loads(content))).encode()
            if path.name == "README.md":
                content = re.sub(rb"in [\d,]+ s\.", b"", content)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def _without_clock(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_clock(value) for key, value in node.items() if key != "seconds"}
    return [_without_clock(value) for value in node] if isinstance(node, list) else node


def progress(output: Path) -> float | None:
    """Return the steps of a run that need not be done again."""
    for folder in output.iterdir():
        if (folder / "metrics.json").is_file():
            return math.inf
        try:
            found = checkpoint.newest(folder / "checkpoints")
        except UserError:  # all of them are damaged
            return None
        return found.snapshot.step if found else None
    return None


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--every", type=int, default=1, help="try each n-th point only")
    parser.add_argument("--torn", action="store_true", help="tear the file in half that was written last")
    parser.add_argument("--after", default="", help="of a run that goes on, killed before it changed a file so named")
    parser.add_argument("--chain", type=int, default=0, help="kill one run again and again, after so many changes each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home)
        if asked.chain:
            case = case_of(asked.case, home, **CHAINED)
            tally = chain(case, home, each=asked.chain)
        else:
            case = case_of(asked.case, home)
            tally = crash(case, home, every=asked.every, torn=asked.torn, after=asked.after)
    print(json.dumps({"case": asked.case, **asdict(tally), "tried": tally.tried}))  # noqa: T201


if __name__ == "__main__":
    main()
