"""A server in a thread of the tests, and its client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from nlp_transfer.data.task import Task
from nlp_transfer.serving.app import Served, make_app
from nlp_transfer.serving.batching import AnswerTexts, Batcher
from nlp_transfer.verb_settings import ServeSettings

JSON = {"Content-Type": "application/json"}


@dataclass
class Reply:
    status: int
    content: Any
    headers: dict[str, str]


@dataclass
class Client:
    """Asks a server, one connection a request."""

    port: int
    batcher: Any = None

    def ask(self, path: str, content: Any = None, *, method: str = "", headers: dict[str, str] | None = None) -> Reply:
        """Send a request, with a body that is JSON unless it is bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        try:
            connection.request(method or ("GET" if content is None else "POST"), path, body, headers or JSON)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return Reply(answer.status, json.loads(text), {key.lower(): value for key, value in answer.getheaders()})

    def predict(self, texts: list[str], pairs: list[str] | None = None, **more: Any) -> Reply:
        return self.ask("/predict", {"texts": texts} | ({"pairs": pairs} if pairs is not None else {}) | more)

    def leave(self, texts: list[str]) -> socket.socket:
        """Send a request and return its connection, on which nobody reads."""
        body = json.dumps({"texts": texts})
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return connection


@contextmanager
def serving(
    answer: AnswerTexts, task: Task, *, batch_tokens: int = 4096, max_text_tokens: int | None = None, **limits: Any
) -> Iterator[Client]:
    """Serve a function from texts to predictions."""
    settings = ServeSettings(**limits)
    batcher = Batcher(
        answer,
        max_tokens=batch_tokens,
        max_text_tokens=max_text_tokens,
        max_waiting=settings.queue,
        wait=settings.wait_ms / 1000,
    )
    app = make_app(Served("owner/name", "c0ffee", "0" * 64, task, {"python": "3"}), batcher, settings)
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield Client(door.getsockname()[1], batcher)
        finally:
            server.should_exit = True
            thread.join()
            batcher.close()


def until(condition: Any, seconds: float = 10) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
