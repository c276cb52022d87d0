"""From a folder to a page that listens, and its end: nothing that was typed or uploaded stays."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.errors import at_least
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.serving.host import bound, check_host, listen, named, run

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.verb_settings import DemoSettings

_PATIENCE = 10  # seconds that what is being labelled has when the page is told to stop


def _check(settings: DemoSettings) -> None:
    """Check the values of the `demo` group."""
    check_host("demo", settings)
    at_least(settings, "demo.", 1, "effort")


def demo(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Show the page of a model until a signal comes.

    Args:
        folder: of a run, of a model, or what `nlp-transfer export` has written.
        settings: the groups `demo`, `decision`, `data` and `predict` count, `training.precision` and
            `evaluation.batch_tokens`.
        screen: told where the page is.
        called: how the model was named.

    Raises:
        UserError: for a value that it may not have, if the address cannot be had, or the folder is no model of ours.
        Stopped: when the signal came.
    """
    wanted = settings.demo
    _check(wanted)
    with (
        bound("demo", wanted.host, wanted.port) as door,
        tempfile.TemporaryDirectory(prefix="nlp-transfer-demo-") as made,
    ):
        # Gradio asks for these when it is imported: it calls nobody, and what is uploaded goes where we remove it.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": made}
        with screen.busy("loading the model"), permanent_imports():
            from nlp_transfer.demo.site import make_site
            from nlp_transfer.predicting.predict import opened

            labeller = opened(folder, settings, tell=screen.tell)
        name, _ = named(folder, called)
        app, stop = make_site(labeller, settings, name=name, folder=Path(made))
        url = listen(door)
        screen.tell(f"{name} can be tried at {url}, until Ctrl-C")
        if _opens(wanted.browser, screen):
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        stopped = run(app, door, on_stop=stop, patience=_PATIENCE)
    raise stopped


def _opens(wanted: bool | None, screen: Screen) -> bool:
    """Return whether to open a browser: one in the terminal itself would take it from us."""
    desktop = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return screen.shows and desktop if wanted is None else wanted
