"""From a folder to a server that listens, and its end: what is in flight is answered, new requests are refused."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.importing import for_good
from nlp_transfer.serving.host import bound, listen, named, run
from nlp_transfer.versions import installed

if TYPE_CHECKING:
    from nlp_transfer.console import Screen
    from nlp_transfer.settings import Settings


def serve(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Answer requests until a signal comes.

    Args:
        folder: of a run, of a model, or what `nlp-transfer export` has written.
        settings: the groups `serve`, `decision`, `training.precision` and `evaluation.batch_tokens` count.
        screen: told where the server listens.
        called: how the model was named.

    Raises:
        UserError: if the address cannot be had, or the folder is no model of ours.
        Stopped: when all is answered that had come before the signal.
    """
    limits, tokens = settings.serve, settings.evaluation.batch_tokens
    with bound("serve", limits.host, limits.port) as door:
        with screen.busy("loading the model"), for_good():
            from nlp_transfer.predict import opened
            from nlp_transfer.serving.app import Served, make_app
            from nlp_transfer.serving.batching import Batcher

            predictor = opened(folder, precision=settings.training.precision, batch_tokens=tokens)
            predictor.decide_by(settings.decision)
        record = predictor.record
        predictor.predict(["a"], ["a"] if record.task.pair else None)  # what the first pass does once is done
        batcher = Batcher(
            predictor.predict,
            most_tokens=tokens,
            most_of_one=None if record.tokens.chunk else record.tokens.limit,
            most_waiting=limits.queue,
            wait=limits.wait_ms / 1000,
        )
        versions = {"python": platform.python_version()} | installed(("nlp-transfer", "torch", "transformers"))
        served = Served(*named(folder, called), record.sha256, record.task, versions)
        app = make_app(served, batcher, limits)
        screen.tell(f"serving {served.name} at {listen(door)}, described at /docs")
        stopped = run(app, door, on_stop=batcher.refuse, patience=math.ceil(limits.seconds) + 1)
        batcher.close()
    raise stopped
