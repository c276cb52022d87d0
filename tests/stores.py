"""Runs of one and of two processes with one cache of features.

    python -m tests.stores

One JSON line per run: how often the encoder of each rank ran and how many splits it tokenised, the entries that the run
left, and a hash of all its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from nlp_transfer.cache import tokens as encoding
from nlp_transfer.cache.store import ENVIRONMENT
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.running.run import adapt
from nlp_transfer.training import inference
from tests.crash_harness import Case, start
from tests.crashes import fingerprint
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for

# run -> its processes, the stores of its ranks
RUNS = {
    "one, no store": (1, [None]),
    "one, empty": (1, ["a"]),
    "two again": (2, ["a", "a"]),
    "two, the second elsewhere": (2, ["a", "b"]),
    "two, empty": (2, ["c", "c"]),
}


def run_of(home: Path, stores: list[str | None]) -> Any:
    """Return a run that notes how often each rank's encoder ran, and its tokenizer over a split."""

    def run(output: Path) -> None:
        rank = int(os.environ.get("RANK", "0"))
        computed, passes, tokenised = inference.forward, 0, 0
        encode_whole = token_ids.encode_whole

        def counted(model: Any, batch: Any) -> Any:
            nonlocal passes
            passes += "input_ids" in batch
            return computed(model, batch)

        def counted_too(*given: Any) -> Any:
            nonlocal tokenised
            tokenised += 1
            return encode_whole(*given)

        inference.forward, token_ids.encode_whole = counted, counted_too
        encoding._WORTH_KEEPING = 0
        os.environ[ENVIRONMENT] = str(home / str(stores[rank]))
        values = {"strategy": "probe", "evaluation.batch_tokens": 64, "cache.gib": 10 if stores[rank] else 0}
        values |= {"evaluation.floors": True}
        try:
            adapt(settings_for(home, output=str(output / "runs"), **values), data=data_for("single_label"))
        finally:
            inference.forward, token_ids.encode_whole = computed, encode_whole
        (output / f"passes-{rank}").write_text(str(passes))
        (output / f"tokenised-{rank}").write_text(str(tokenised))

    return run


def main() -> None:
    """Do all of it."""
    told = {}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_encoder(home)
        for number, (name, (processes, stores)) in enumerate(RUNS.items()):
            output = home / str(number)
            output.mkdir()
            run, status = run_of(home, stores), 0
            if processes == 1:  # here, so that those forked from this process have imported what they need
                run(output)
            else:
                status = start(Case(run, lambda _: {}, lambda _: None, processes=processes), output)
            left = fingerprint(output / "runs") if status == 0 else {}
            # The plan and the card say how many processes there were.
            told_so = ("config.yaml", "plan.json", "model/README.md")
            kept = {file: bits for file, bits in left.items() if file not in told_so}
            told[name] = {
                "status": status,
                "tokenised": [int((output / f"tokenised-{rank}").read_text()) for rank in range(processes)],
                "passes": [int((output / f"passes-{rank}").read_text()) for rank in range(processes)],
                "entries": {store: sorted(p.name for p in (home / store).glob("*")) for store in stores if store},
                "left": hashlib.sha256(json.dumps(kept).encode()).hexdigest(),
            }
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main()
