"""Start the demo page for a model, and stop it without leaving anything that was typed or uploaded."""

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

_GRACE_SECONDS = 10  # for predictions that are in progress when the page is stopped


def _check(settings: DemoSettings) -> None:
    """Check the values of the `demo` group."""
    check_host("demo", settings)
    at_least(settings, "demo.", 1, "effort")


def demo(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Serve the demo page of a model until a signal stops it.

    Args:
        folder: of a run, of a model, or of an export.
        settings: of which `demo`, `decision`, `data`, `predict`, `training.precision` and `evaluation.batch_tokens`
            are used.
        screen: shows the address of the page.
        called: the name by which the user gave the model.

    Raises:
        UserError: for an invalid setting, an address that cannot be used, or a folder without a model of ours.
        Stopped: after a signal.
    """
    limits = settings.demo
    _check(limits)
    with (
        bound("demo", limits.host, limits.port) as server,
        tempfile.TemporaryDirectory(prefix="nlp-transfer-demo-") as temporary,
    ):
        # Gradio reads these when it is imported: no analytics, and uploads go to a folder that is removed.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": temporary}
        with screen.busy("loading the model"), permanent_imports():
            from nlp_transfer.demo.site import make_site
            from nlp_transfer.predicting.predict import load_predictor

            labeller = load_predictor(folder, settings, tell=screen.tell)
        name, _ = named(folder, called)
        app, stop = make_site(labeller, settings, name=name, folder=Path(temporary))
        url = listen(server)
        screen.tell(f"{name} can be tried at {url}, until Ctrl-C")
        if _opens_browser(limits.browser, screen):
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        stopped = run(app, server, on_stop=stop, grace_seconds=_GRACE_SECONDS)
    raise stopped


def _opens_browser(setting: bool | None, screen: Screen) -> bool:
    """Return whether to open a browser; without a desktop it might be one that occupies the terminal."""
    has_desktop = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return screen.is_interactive and has_desktop if setting is None else setting
