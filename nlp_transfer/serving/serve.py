"""Start the HTTP server for a model, and stop it gracefully: pending requests are answered, new ones refused."""

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

_RELEASE_EVERY = 5.0  # seconds; releasing memory takes some 30 ms


def _releasing_memory(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that free memory is regularly returned to the system after its calls.

    Batches vary in size, which fragments the heap: the C library would hold more and more free memory.
    """
    from nlp_transfer.training.memory import release_free_memory

    last = time.monotonic()

    def predict_and_release(*texts: Any) -> Any:
        nonlocal last
        try:
            return predict(*texts)
        finally:
            if time.monotonic() - last > _RELEASE_EVERY:
                release_free_memory()
                last = time.monotonic()

    return predict_and_release


def _check(settings: ServeSettings) -> None:
    """Check the values of the `serve` group."""
    check_host("serve", settings)
    if settings.queue < settings.texts:
        raise UserError(
            f"serve.queue={settings.queue} is less than serve.texts={settings.texts}: the largest request would always "
            "be refused; raise the one or lower the other"
        )
    if not 0 < settings.seconds < math.inf:
        raise UserError(f"serve.seconds={settings.seconds} must be positive")
    if not 0 <= settings.wait_ms < 1000 * settings.seconds:
        raise UserError(f"serve.wait_ms={settings.wait_ms} must be at least 0 and less than serve.seconds")


def serve(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Answer requests until a signal stops the server.

    Args:
        folder: of a run, of a model, or of an export.
        settings: of which `serve`, `decision`, `training.precision` and `evaluation.batch_tokens` are used.
        screen: shows the address of the server.
        called: the name by which the user gave the model.

    Raises:
        UserError: for an invalid setting, an address that cannot be used, or a folder without a model of ours.
        Stopped: after a signal, when all pending requests are answered.
    """
    _check(settings.serve)
    limits, tokens = settings.serve, settings.evaluation.batch_tokens
    with bound("serve", limits.host, limits.port) as server:
        with screen.busy("loading the model"), permanent_imports():
            from nlp_transfer.predicting.predict import load_predictor
            from nlp_transfer.serving.app import Served, make_app
            from nlp_transfer.serving.batching import Batcher

            predictor = load_predictor(folder, settings, tell=screen.tell)
        record = predictor.record
        predictor.predict(["a"], ["a"] if record.task.pair else None)  # warm-up: the first call is slower
        batcher = Batcher(
            _releasing_memory(predictor.predict),
            max_tokens=tokens,
            max_text_tokens=None if record.tokens.chunk else record.tokens.limit,
            max_waiting=limits.queue,
            wait=limits.wait_ms / 1000,
        )
        versions = {"python": platform.python_version()} | installed(("nlp-transfer", "torch", "transformers"))
        served = Served(*named(folder, called), record.sha256, record.task, versions)
        app = make_app(served, batcher, limits)
        screen.tell(f"serving {served.name} at {listen(server)}, described at /docs")
        stopped = run(app, server, on_stop=batcher.refuse, grace_seconds=math.ceil(limits.seconds) + 1)
        batcher.close()
    raise stopped
