"""Hostile folders and files, and the effects of reading them: run as a program, it prints a JSON report.

An audit hook sees every event of the interpreter and records those that reading a file must never cause.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "webbrowser.open"),
    *("pickle.find_class", "ctypes.dlopen", "os.remove", "os.rename", "shutil.rmtree"),
)


class Watch:
    """The audit hook: while `place` is set, it notes what reading a file from there must not do."""

    def __init__(self) -> None:
        self.place: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.place is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments[:1]}")
        elif event in ("exec", "compile", "import"):
            # exec: a code object; compile: source and file name; import: name of the module, and its file.
            words = [str(getattr(argument, "co_filename", argument))[:500] for argument in arguments]
            if any(str(self.place) in word or "evil" in word for word in words):
                self.seen.append(f"{event} {words}")


def watched(watch: Watch, place: Path, call: Callable[[], Any]) -> dict[str, Any]:
    """Return how a call ended, how long it took and what it did."""
    watch.place, watch.seen = place, []
    started = time.monotonic()
    try:
        said, kind = str(call()), "value"
    except Exception as error:
        said, kind = str(error), type(error).__name__
    seconds, watch.place = time.monotonic() - started, None
    return {"kind": kind, "said": said, "seconds": seconds, "seen": watch.seen}


def open_recipe(place: Path) -> Any:
    """Compose what `plan --cfg` would print."""
    from nlp_transfer.checks import check_settings
    from nlp_transfer.config import compose, to_yaml

    settings = compose(str(place / "recipe.yaml"))
    check_settings(settings)
    return to_yaml(settings)


def open_encoder(place: Path) -> Any:
    """Load an encoder under each head."""
    from nlp_transfer.data.task import Task
    from nlp_transfer.encoder.classifier import load_classifier
    from nlp_transfer.settings import EncoderSettings

    task = Task("single_label", ("card", "film"), pair=False)
    for head in ("native", "pooled"):
        load_classifier(EncoderSettings(name=str(place)), task, head=head, seed=0)


def open_run(place: Path) -> Any:
    """Load a saved model and let it answer."""
    from nlp_transfer.predicting.predict import Predictor

    return Predictor(place).predict(["my card"])[0].label


OPENERS = {"recipe": open_recipe, "encoder": open_encoder, "run": open_run}


def main(kind: str, folder: Path) -> None:
    """Open every folder below `folder` and print what happened, by its name."""
    opener = OPENERS[kind]
    watch = Watch()
    innocent = folder / "innocent"  # imports what the others need before they are watched
    found = {"innocent": watched(watch, innocent, lambda: opener(innocent))}
    for place in sorted(folder.iterdir()):
        if place != innocent:
            os.chdir(place)  # where `python -m` would find modules
            found[place.name] = watched(watch, place, lambda place=place: opener(place))
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
