"""Serve an application at a local address until a signal stops it; shared by `serve` and `demo`.

This module knows no routes and no model.
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

# The verb, which is also the name of its extra of this package -> required libraries.
NEEDED = {"serve": ("fastapi", "uvicorn"), "demo": ("gradio",)}
_BACKLOG = 2048  # connections that wait to be accepted


def check_installed(verb: str) -> None:
    """Check that the libraries of a verb are installed, before anything is loaded.

    Raises:
        UserError: naming the extra that installs them.
    """
    if missing := [name for name in NEEDED[verb] if importlib.util.find_spec(name) is None]:
        raise UserError(f'{verb} needs {" and ".join(missing)}: pip install "nlp-transfer[{verb}]"')


def check_host(verb: str, settings: ServeSettings | DemoSettings) -> None:
    """Check the address to listen at and the limits of a request.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    if not settings.host.strip():
        raise UserError(f"{verb}.host is empty; it takes an address of this machine, such as 127.0.0.1")
    if not 0 <= settings.port < 2**16:
        raise UserError(f"{verb}.port={settings.port} must lie between 0 and 65535")
    at_least(settings, f"{verb}.", 1, "texts", "characters", "bytes")


@contextmanager
def bound(verb: str, host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket to an address, before a model is loaded; clients cannot connect until it listens.

    Raises:
        UserError: naming the keys of the verb's group.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        raise UserError(f"{verb}.host={host} is not an address of this machine: {error}") from None
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # otherwise a restart has to wait a minute
        try:
            server.bind(address)
        except OSError as error:
            raise UserError(
                f"{verb}.host={host} {verb}.port={port} cannot be listened at ({error.strerror}); choose another port, "
                "or 0 for any free port"
            ) from None
        yield server


def listen(server: socket.socket) -> str:
    """Accept connections from now on; return the URL of the server."""
    server.listen(_BACKLOG)
    host, port = server.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: FastAPI, server: socket.socket, *, on_stop: Callable[[], None], grace_seconds: int) -> Stopped:
    """Serve until a signal comes that ends our commands; return it when all pending requests are answered.

    Args:
        app: the application.
        server: a listening socket.
        on_stop: called by the signal handler.
        grace_seconds: time for pending requests after the signal.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Handles the same signals as our other commands, and records which one came."""

        number = 0

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            with catching_signals(self.stop) as signalled:
                yield
            self.number = signalled.number

        def stop(self) -> None:
            on_stop()
            self.should_exit = True

    logging.getLogger("uvicorn.error").addFilter(_summarise_error)
    running = Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,  # a path may contain a text
            server_header=False,
            timeout_graceful_shutdown=grace_seconds,
        )
    )
    running.run(sockets=[server])
    return Stopped(running.number)


def _summarise_error(record: logging.LogRecord) -> bool:
    """Log errors of the server without their messages, and cancellations at shutdown not at all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Exception):
        say_failure(error)
    return error is None


def named(folder: Path, called: str) -> tuple[str, str | None]:
    """Return the public name of a model, without its path, and its commit on the Hub (None for a local model).

    Args:
        folder: from which it was loaded.
        called: its name on the command line.
    """
    if not expanded(called).is_dir():  # downloaded from the Hub, into a folder named after the commit
        return called.partition("@")[0], folder.name
    path = folder.resolve()
    if path.name == "model":
        return path.parent.name, None
    is_export = run_of(path) is None and run_of(path.parent) is not None  # its folder is named after its format
    return f"{path.parent.name}/{path.name}" if is_export else path.name, None


def say_failure(error: Exception) -> None:
    """Print the type and place of an error, without its message, which may quote a text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace is not None else ""
    print(f"nlp-transfer: a request failed: {type(error).__name__}{where}", file=sys.stderr, flush=True)  # noqa: T201
