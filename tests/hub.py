"""A Hub on this machine: as much of it as the real clients need to download a model or a data set."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_SecretSecretSecretSecret"


class Hub(BaseHTTPRequestHandler):
    """Serves `folder` under every name; `answers` maps a repository to an error."""

    folder: Path
    seen: list[str]
    answers: ClassVar = {"acme/missing": (404, "RepoNotFound"), "acme/down": (503, "")}

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.seen.append(path)
        for repository, (status, code) in self.answers.items():
            if repository in path:
                return self.reply(status, b"{}", **{"X-Error-Code": code, "X-Error-Message": f"token {TOKEN}"})
        if "/revision/nowhere" in path:
            return self.reply(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        files = {str(file.relative_to(self.folder)): file for file in self.folder.rglob("*") if file.is_file()}
        if "/tree/" in path:
            folder = self.folder / "/".join(path.split("/tree/")[1].split("/")[1:])
            if not folder.is_dir():
                return self.reply(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
            within = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
            return self.reply(200, json.dumps([self.entry(item) for item in within]).encode())
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in files]
            about = {"id": "acme/tiny", "sha": COMMIT, "siblings": siblings, "gated": "gated" in path and "manual"}
            return self.reply(200, json.dumps(about).encode())
        if "gated" in path:
            return self.reply(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        file = files.get(path.split(f"/resolve/{COMMIT}/")[1])
        if file is None:
            return self.reply(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        return self.reply(200, file.read_bytes(), ETag=f'"{sha(file)}"', **{"X-Repo-Commit": COMMIT})

    def entry(self, item: Path) -> dict[str, Any]:
        where = {"path": str(item.relative_to(self.folder))}
        if item.is_dir():
            return where | {"type": "directory", "oid": "0" * 40}
        return where | {"type": "file", "size": item.stat().st_size, "oid": sha(item)}

    def reply(self, status, body, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def sha(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A Hub that serves `folder`, to clients with an empty cache and a token."""
    handler = type("Handler", (Hub,), {"folder": folder, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    at(f"http://127.0.0.1:{server.server_port}", cache, monkeypatch)
    yield handler
    server.shutdown()
    server.server_close()


def at(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the client at an endpoint."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for proxy in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(proxy)
