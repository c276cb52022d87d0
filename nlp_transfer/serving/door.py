"""From a folder to a server that listens, and its end: what is in flight is answered, new requests are refused."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.machine.versions import installed
from nlp_transfer.serving.host import bound, check_host, listen, named, run

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.verb_settings import ServeSettings

_KEPT = 5.0  # seconds that free memory is kept; giving it back takes some 30 ms


def _giving_back(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; after it, now and then, memory that is free goes back to the system.

    Passes are of many sizes, and the C library would keep ever more of what they leave in pieces.
    """
    from nlp_transfer.training.memory import release_free_memory

    last = time.monotonic()

    def answering(*given: Any) -> Any:
        nonlocal last
        try:
            return answer(*given)
        finally:
            if time.monotonic() - last > _KEPT:
                release_free_memory()
                last = time.monotonic()

    return answering


def _check(settings: ServeSettings) -> None:
    """Check the values of the `serve` group."""
    check_host("serve", settings)
    if settings.queue < settings.texts:
        raise UserError(
            f"serve.queue={settings.queue} is less than serve.texts={settings.texts}: the largest request would never "
            "be taken; raise the one or lower the other"
        )
    if not 0 < settings.seconds < math.inf:
        raise UserError(f"serve.seconds={settings.seconds} must be positive")
    if not 0 <= settings.wait_ms < 1000 * settings.seconds:
        raise UserError(f"serve.wait_ms={settings.wait_ms} must be at least 0 and less than serve.seconds")


def serve(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Answer requests until a signal comes.

    Args:
        folder: of a run, of a model, or what `nlp-transfer export` has written.
        settings: the groups `serve`, `decision`, `training.precision` and `evaluation.batch_tokens` count.
        screen: told where the server listens.
        called: how the model was named.

    Raises:
        UserError: for a value that it may not have, if the address cannot be had, or the folder is no model of ours.
        Stopped: when all is answered that had come before the signal.
    """
    _check(settings.serve)
    limits, tokens = settings.serve, settings.evaluation.batch_tokens
    with bound("serve", limits.host, limits.port) as door:
        with screen.busy("loading the model"), permanent_imports():
            from nlp_transfer.predicting.predict import opened
            from nlp_transfer.serving.app import Served, make_app
            from nlp_transfer.serving.batching import Batcher

            predictor = opened(folder, settings, tell=screen.tell)
        record = predictor.record
        predictor.predict(["a"], ["a"] if record.task.pair else None)  # what the first pass does once is done
        batcher = Batcher(
            _giving_back(predictor.predict),
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
