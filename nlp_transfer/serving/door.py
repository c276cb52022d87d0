"""From a folder to a server that listens, and its end: what is in flight is answered, new requests are refused."""

from __future__ import annotations

import importlib.util
import math
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.importing import for_good
from nlp_transfer.training.signals import Stopped, listening
from nlp_transfer.versions import installed

if TYPE_CHECKING:
    from nlp_transfer.console import Screen
    from nlp_transfer.record import Record
    from nlp_transfer.serving.app import Served
    from nlp_transfer.settings import Settings

_NEEDED = ("fastapi", "uvicorn")
_BACKLOG = 2048  # connections that the system holds until they are taken


def check_installed() -> None:
    """Say at once, before anything is loaded, that the extra is missing.

    Raises:
        UserError: naming the extra.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f'serve needs {" and ".join(missing)}: pip install "nlp-transfer[serve]"')


def serve(folder: Path, settings: Settings, screen: Screen, *, called: str) -> None:
    """Answer requests until a signal comes.

    Args:
        folder: of a run or a model.
        settings: the groups `serve`, `decision`, `training.precision` and `evaluation.batch_tokens` count.
        screen: told where the server listens.
        called: how the model was named.

    Raises:
        UserError: if the address cannot be had, or the folder is no model of ours.
        Stopped: when all is answered that had come before the signal.
    """
    limits, tokens = settings.serve, settings.evaluation.batch_tokens
    with _bound(limits.host, limits.port) as door:
        with screen.busy("loading the model"), for_good():
            import uvicorn

            from nlp_transfer.predict import Predictor
            from nlp_transfer.serving.app import make_app
            from nlp_transfer.serving.batching import Batcher

            predictor = Predictor(folder, precision=settings.training.precision, batch_tokens=tokens)
            predictor.decide_by(settings.decision)
        predictor.predict(["a"], ["a"] if predictor.record.task.pair else None)  # what the first pass does once is done
        spec = predictor.record.tokens
        batcher = Batcher(
            predictor.predict,
            most_tokens=tokens,
            most_of_one=None if spec.chunk else spec.limit,
            most_waiting=limits.queue,
            wait=limits.wait_ms / 1000,
        )
        served = _served(predictor.record, folder, called)

        class Server(uvicorn.Server):
            """Ends for the signals that end all our commands, and with their status."""

            number = 0

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                with listening(self.stop) as asked:
                    yield
                self.number = asked.number

            def stop(self) -> None:
                batcher.refuse()
                self.should_exit = True

        server = Server(
            uvicorn.Config(
                make_app(served, batcher, limits),
                log_config=None,
                log_level="warning",
                access_log=False,  # a path may hold a text
                server_header=False,
                timeout_graceful_shutdown=math.ceil(limits.seconds) + 1,
            )
        )
        door.listen(_BACKLOG)
        host, port = door.getsockname()[:2]
        screen.tell(
            f"serving {served.name} at http://{f'[{host}]' if ':' in host else host}:{port}, described at /docs"
        )
        server.run(sockets=[door])
        batcher.close()
    raise Stopped(server.number)


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket at an address, before the seconds that a model takes; nobody can connect before it listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # of names that are none
        raise UserError(f"serve.host={host} is no address of this machine: {error}") from None
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a second start would wait for a minute
        try:
            door.bind(address)
        except OSError as error:
            raise UserError(
                f"serve.host={host} serve.port={port} cannot be listened at ({error.strerror}); take another port, "
                "0 for any that is free"
            ) from None
        yield door


def _served(record: Record, folder: Path, called: str) -> Served:
    """Return what is told of a model: of a path its last part."""
    from nlp_transfer.serving.app import Served

    here = expanded(called).is_dir()  # else it was pulled, into a folder that is called like its commit
    inside = folder.resolve()
    name = (inside.parent if inside.name == "model" else inside).name if here else called.partition("@")[0]
    versions = {"python": platform.python_version()} | installed(("nlp-transfer", "torch", "transformers"))
    return Served(name, None if here else folder.name, record.sha256, record.task, versions)
