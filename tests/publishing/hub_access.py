"""Users, repositories and the dispatch of requests of the test Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.publishing.hub_repository import MAIN, Refusal, Repository

NAME = r"([^/]+/[^/]+|[^/]+)"
AT = rf"/api/(models|datasets|spaces)/{NAME}"


@dataclass
class Request:
    """A request; `target` is the quoted path and the query, headers are in lower case, strangers are user None."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    token: str | None
    user: str | None = None
    role: str | None = None

    @property
    def route(self) -> str:
        return f"{self.method} {self.target.partition('?')[0]}"

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.target.partition("?")[2]).items()}

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")


@dataclass
class Answer:
    """An answer; `content` is bytes or becomes JSON."""

    content: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


_ROUTES: list[tuple[re.Pattern[str], Callable[..., Answer]]] = []


def route(pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Let a method answer whatever "METHOD path" is like `pattern`, whose groups it is given."""

    def register(endpoint: Callable[..., Answer]) -> Callable[..., Answer]:
        _ROUTES.append((re.compile(pattern), endpoint))
        return endpoint

    return register


class HubState:
    """Repositories, and who may see and change them.

    Args:
        tokens: token to user name and role, ``write`` or ``read``.
        organisations: name to members, who may do everything there.
    """

    def __init__(self, *, tokens: Mapping[str, tuple[str, str]], organisations: Mapping[str, tuple[str, ...]]):
        self.tokens = tokens
        self.organisations = organisations
        self.repositories: dict[str, Repository] = {}  # by what follows the host in their address
        self.url = ""

    def add(
        self, name: str, files: Mapping[str, bytes] | None = None, *, oid: str | None = None, **options: Any
    ) -> Repository:
        """Add and return a repository with these files, whatever their names, committed as `oid`.

        Options are those of `Repository`.
        """
        repository = Repository(name, **options)
        if files:
            repository.commit(files, oid=oid)
        self.repositories[address(repository.kind, name)] = repository
        return repository

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        try:
            if request.token and request.user is None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            for pattern, endpoint in _ROUTES:
                if match := pattern.fullmatch(request.route):
                    return endpoint(self, request, *(group and unquote(group) for group in match.groups()))
            raise Refusal(404, f"This Hub has no {request.route}")
        except Refusal as refusal:
            return Answer(refusal.body, refusal.status, refusal.headers)

    # Who may do what.

    def owns(self, request: Request, namespace: str) -> bool:
        return request.user is not None and request.user in (namespace, *self.organisations.get(namespace, ()))

    def visible(self, request: Request, kind: str | None, name: str) -> Repository:
        """Return a repository; a private one is not there for others."""
        repository = self.repositories.get(address(kind or "models", name))
        if repository is None or (repository.private and not self.owns(request, name.split("/")[0])):
            raise Refusal(404 if request.user else 401, "Repository not found", code="RepoNotFound")
        return repository

    def readable(self, request: Request, kind: str | None, name: str) -> Repository:
        """Return a repository whose files may be read."""
        repository = self.visible(request, kind, name)
        if repository.gated and not self.owns(request, name.split("/")[0]):
            raise Refusal(403 if request.user else 401, f"Access to {name} is restricted", code="GatedRepo")
        return repository

    def proposable(self, request: Request, kind: str | None, name: str) -> Repository:
        """Return a repository which the user may propose changes to."""
        repository = self.visible(request, kind, name)
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        if request.role != "write":
            raise Refusal(403, "This token may only read")
        return repository

    def writable(self, request: Request, kind: str | None, name: str, ref: str = MAIN) -> Repository:
        """Return a repository in which the user may change `ref`: all of theirs, and their own pull requests."""
        repository = self.proposable(request, kind, name)
        pull = next((pull for pull in repository.discussions if pull.ref == ref), None)
        if not self.owns(request, name.split("/")[0]) and (pull is None or pull.author != request.user):
            raise Refusal(403, f"{request.user} may not write to {name}")
        return repository


def address(kind: str, name: str) -> str:
    """The path of a repository's address."""
    return name if kind == "models" else f"{kind}/{name}"
