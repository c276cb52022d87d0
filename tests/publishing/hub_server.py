"""A Hub on this machine, which real clients push to and pull from; with a log, and with faults on request.

Used like this::

    with HubServer() as hub:
        hub.add("acme/tiny", {"config.json": b"{}"})
        hub.attach(monkeypatch, tmp_path, token=ALICE)  # the client of this process, or
        subprocess.run(command, env=hub.environment(tmp_path, token=ALICE))
        hub.faults.append(Fault("POST .*/commit/", after=True))
"""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _xet

from tests.publishing.hub_access import Answer, HubState, Request
from tests.publishing.hub_api import HubAPI

ALICE, READER, BOB = (f"hf_{name * 7}" for name in ("Alice", "Reads", "BobBo"))  # READER is Alice, only reading
TOKENS = {ALICE: ("alice", "write"), READER: ("alice", "read"), BOB: ("bob", "write")}
ORGANISATIONS = {"acme": ("alice",)}
ALWAYS = math.inf


@dataclass
class Fault:
    """What goes wrong the next `times` times that "METHOD path" has a match of `match`.

    Args:
        match: a regular expression; the path is quoted as it was sent.
        status: answered instead of doing anything.
        headers: put on the answer, whichever it is.
        times: how often; ALWAYS.
        close: hang up instead of answering.
        after: do what was asked first, then answer with `status`, or hang up: the answer is lost.
        delay: seconds before anything is done.
        truncate: bytes of the body that are sent before the connection is closed.
    """

    match: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: float = 1
    close: bool = False
    after: bool = False
    delay: float = 0
    truncate: int | None = None

    def answer(self, hub: HubState, request: Request) -> Answer | None:
        """Return the answer that is sent; None hangs up."""
        lost = self.close or self.status is not None
        done = hub.answer(request) if self.after or not lost else Answer()
        if self.close or (self.after and self.status is None):
            return None
        answer = Answer({"error": "a fault"}, self.status) if self.status is not None else done
        answer.headers = {**answer.headers, **self.headers}
        return answer


@dataclass
class Entry:
    """A request in the log; `status` is None while there is no answer."""

    method: str
    path: str
    query: str
    user: str | None
    authorized: bool  # whether a token was sent; which one is not kept
    received: int  # bytes of the body
    status: int | None = None


class HubServer(HubAPI):
    """A Hub in a thread, at `url`, for as long as the context lasts.

    Args:
        tokens: token to user name and role, ``write`` or ``read``.
        organisations: name to members, who may do everything there.
        xet: folder of Xet storage; None: a Hub without it.
        lfs_chunk: bytes; larger files are uploaded in parts.
    """

    def __init__(
        self,
        *,
        tokens: Mapping[str, tuple[str, str]] = TOKENS,
        organisations: Mapping[str, tuple[str, ...]] = ORGANISATIONS,
        xet: Path | None = None,
        lfs_chunk: int | None = None,
    ):
        super().__init__(tokens=tokens, organisations=organisations, xet=xet, lfs_chunk=lfs_chunk)
        self.log: list[Entry] = []
        self.faults: list[Fault] = []
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        self.listener = _Listener(("127.0.0.1", 0), _Handler)
        self.listener.hub = self
        self.url = f"http://127.0.0.1:{self.listener.server_port}"
        threading.Thread(target=self.listener.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, and hang up on everyone."""
        if self.stopped.is_set():
            return
        self.stopped.set()
        self.listener.shutdown()
        self.listener.server_close()
        for connection in list(self.listener.connections):
            _hang_up(connection)

    def asked(self, match: str) -> list[Entry]:
        """Return the requests whose "METHOD path" has a match."""
        return [entry for entry in self.log if re.search(match, f"{entry.method} {entry.path}")]

    def receive(self, request: Request) -> tuple[Entry, Fault | None]:
        """Find out who asks, enter it in the log and see whether something is to go wrong."""
        request.user, request.role = self.tokens.get(request.token or "", (None, None))
        path, _, query = request.target.partition("?")
        entry = Entry(request.method, path, query, request.user, request.token is not None, len(request.body))
        with self.lock:
            self.log.append(entry)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, request.route):
                    fault.times -= 1
                    return entry, fault
        return entry, None

    def reply(self, request: Request, fault: Fault | None) -> Answer | None:
        """Return the answer; None hangs up."""
        if fault:
            self.stopped.wait(fault.delay)
        with self.lock:
            return fault.answer(self, request) if fault else self.answer(request)

    def attach(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, token: str | None = None, xet: bool = False
    ) -> None:
        """Point the client of this process here; see `attach`."""
        attach(self.url, monkeypatch, folder, token=token, xet=xet)

    def environment(self, folder: Path, *, token: str | None = None, xet: bool = False) -> dict[str, str]:
        """Return what points a new process here; see `environment`."""
        return environment(self.url, folder, token=token, xet=xet)


def attach(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, folder: Path, *, token: str | None = None, xet: bool = False
) -> None:
    """Point the client of this process at an endpoint.

    Args:
        endpoint: its address.
        monkeypatch: undoes it.
        folder: where the client keeps what it has fetched, and finds nobody's token.
        token: who it is; None: a stranger.
        xet: whether it moves large files by Xet.
    """
    values = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    # What other libraries keep for themselves once they are imported.
    kept = {"datasets.config": ("HF_ENDPOINT", endpoint), "transformers.utils.hub": ("_hf_api", None)}
    for module in kept.keys() & sys.modules:
        monkeypatch.setattr(sys.modules[module], *kept[module], raising=False)
    for name in {*os.environ} - {*environment(endpoint, folder)}:
        monkeypatch.delenv(name)
    for name, value in environment(endpoint, folder, token=token, xet=xet).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)


def environment(endpoint: str, folder: Path, *, token: str | None = None, xet: bool = False) -> dict[str, str]:
    """Return the environment of a new process whose client talks to an endpoint; arguments as for `attach`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"HF_TOKEN": token} if token else {}),
    }


class _Listener(ThreadingHTTPServer):
    hub: HubServer

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.connections: set[socket.socket] = set()

    def handle_error(self, *arguments: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client may hang up whenever it likes
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        request = self.read()
        entry, fault = hub.receive(request)
        answer = hub.reply(request, fault)
        if answer is None:
            return self.hang_up()
        entry.status = answer.status
        self.send(answer, fault.truncate if fault else None)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read(self) -> Request:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, body, token)

    def read_chunk(self) -> bytes:
        chunk = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return chunk

    def send(self, answer: Answer, truncate: int | None) -> None:
        body = answer.body
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:truncate])
        if truncate is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        _hang_up(self.connection)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side may be faster
        connection.shutdown(socket.SHUT_RDWR)
