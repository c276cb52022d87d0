"""An application behind an address of this machine, until a signal comes: what `serve` and `demo` share.

It knows no routes and no model.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.artefact.places import run_of
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError, at_least
from nlp_transfer.training.signals import Stopped, catching_signals
from nlp_transfer.verb_settings import DemoSettings, ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

# Verb, and the extra of this package that brings what it needs -> libraries.
NEEDED = {"serve": ("fastapi", "uvicorn"), "demo": ("gradio",)}
_BACKLOG = 2048  # connections that the system holds until they are taken


def check_installed(verb: str) -> None:
    """Say at once, before anything is loaded, that the extra is missing.

    Raises:
        UserError: naming the extra.
    """
    if missing := [name for name in NEEDED[verb] if importlib.util.find_spec(name) is None]:
        raise UserError(f'{verb} needs {" and ".join(missing)}: pip install "nlp-transfer[{verb}]"')


def check_host(verb: str, settings: ServeSettings | DemoSettings) -> None:
    """Check an address to listen at, and how much may come there.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    if not settings.host.strip():
        raise UserError(f"{verb}.host is empty; it takes an address of this machine, such as 127.0.0.1")
    if not 0 <= settings.port < 2**16:
        raise UserError(f"{verb}.port={settings.port} must lie between 0 and 65535")
    at_least(settings, f"{verb}.", 1, "texts", "characters", "bytes")


@contextmanager
def bound(verb: str, host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket at an address, before the seconds that a model takes; nobody can connect before it listens.

    Raises:
        UserError: naming the keys of the verb's group.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # of names that are none
        raise UserError(f"{verb}.host={host} is no address of this machine: {error}") from None
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a second start would wait for a minute
        try:
            door.bind(address)
        except OSError as error:
            raise UserError(
                f"{verb}.host={host} {verb}.port={port} cannot be listened at ({error.strerror}); take another port, "
                "0 for any that is free"
            ) from None
        yield door


def listen(door: socket.socket) -> str:
    """Let others connect; return the URL under which they do."""
    door.listen(_BACKLOG)
    host, port = door.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: FastAPI, door: socket.socket, *, on_stop: Callable[[], None], patience: int) -> Stopped:
    """Answer until one of the signals comes that end all our commands; return it when all is answered.

    Args:
        app: the application.
        door: it listens.
        on_stop: called when the signal comes, by its handler.
        patience: seconds that what is being answered has from then on.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Ends for the signals that end all our commands, and with their status."""

        number = 0

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            with catching_signals(self.stop) as asked:
                yield
            self.number = asked.number

        def stop(self) -> None:
            on_stop()
            self.should_exit = True

    logging.getLogger("uvicorn.error").addFilter(_in_short)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,  # a path may hold a text
            server_header=False,
            timeout_graceful_shutdown=patience,
        )
    )
    server.run(sockets=[door])
    return Stopped(server.number)


def _in_short(record: logging.LogRecord) -> bool:
    """Say an error of the server in our way, and not that it was cut off at the end; what has no error is logged."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Exception):
        say_failure(error)
    return error is None


def named(folder: Path, called: str) -> tuple[str, str | None]:
    """Return what is told of where a model comes from: its name, of a path the last part, and the commit of the Hub.

    Args:
        folder: it was loaded from.
        called: how it was named on the command line.
    """
    if not expanded(called).is_dir():  # it was pulled, into a folder that is called like its commit
        return called.partition("@")[0], folder.name
    inside = folder.resolve()
    if inside.name == "model":
        return inside.parent.name, None
    of_a_run = run_of(inside) is None and run_of(inside.parent) is not None  # an export, called like its format
    return f"{inside.parent.name}/{inside.name}" if of_a_run else inside.name, None


def say_failure(error: Exception) -> None:
    """Say what went wrong and where, without the words of the error, which may quote a text."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}" if place is not None else ""
    print(f"nlp-transfer: a request failed: {type(error).__name__}{where}", file=sys.stderr, flush=True)  # noqa: T201
