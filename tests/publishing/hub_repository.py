"""What a Hub keeps, in memory: repositories with their commits, references, discussions and pull requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAIN = "refs/heads/main"
_LARGE_FILES = (".safetensors", ".bin", ".pt", ".onnx", ".model", ".arrow", ".parquet", ".gz", ".zip")
_LARGE = 10 * 2**20  # bytes


class Refusal(Exception):
    """An answer other than success: its status, a message, the Hub's code for it and what else the body says."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **body}
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def read(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_large(path: str, size: int) -> bool:
    """Whether a file's bytes are kept outside git, under their SHA-256."""
    return path.endswith(_LARGE_FILES) or size > _LARGE


@dataclass(frozen=True)
class Blob:
    """A file's bytes; `sha256` where they are kept outside git, `xet` where only Xet storage has them."""

    size: int
    content: bytes | None = None
    sha256: str | None = None
    xet: str | None = None

    @classmethod
    def of(cls, path: str, content: bytes) -> Blob:
        large = is_large(path, len(content))
        return cls(len(content), content, hashlib.sha256(content).hexdigest() if large else None)

    @property
    def oid(self) -> str:
        """Git's name of what git keeps: the bytes, or a pointer to them."""
        kept = f"oid sha256:{self.sha256}\nsize {self.size}\n".encode() if self.sha256 else self.content or b""
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept).hexdigest()

    @property
    def etag(self) -> str:
        """What the client compares with a file of its own."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time, by path."""

    oid: str
    parent: str | None
    files: Mapping[str, Blob]
    title: str
    description: str
    author: str
    date: str = field(default_factory=now)


@dataclass
class Discussion:
    """A discussion or, with `base` (the commit it starts from), a pull request."""

    number: int
    title: str
    author: str
    base: str | None
    status: str
    merged: str | None = None
    created: str = field(default_factory=now)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"

    def record(self, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        """Add an event and return it."""
        number = f"{self.number}-{len(self.events)}"
        event = {"id": number, "type": kind, "author": {"name": author}, "createdAt": now(), "data": data}
        self.events.append(event)
        return event

    def turn(self, status: str, author: str) -> dict[str, Any]:
        """Change the status and return the event that says so."""
        self.status = status
        return self.record("status-change", author, {"status": status})


class Repository:
    """A repository with one commit, as the Hub makes it."""

    def __init__(self, name: str, *, kind: str = "models", private: bool = False, gated: bool = False):
        self.name = name
        self.kind = kind
        self.private = private
        self.gated: bool | str = gated
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.discussions: list[Discussion] = []
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial commit")

    @property
    def head(self) -> Commit:
        return self.commits[self.refs[MAIN]]

    def commit(
        self,
        changes: Mapping[str, bytes | Blob | None],
        *,
        ref: str = MAIN,
        title: str = "Update",
        description: str = "",
        author: str = "hub",
        oid: str | None = None,
    ) -> Commit:
        """Change files, whatever their names; None deletes.

        Args:
            changes: path to content.
            ref: full name of the reference that moves to the new commit.
            title: first line of the message.
            description: the rest of it.
            author: user name.
            oid: the commit's name, for tests that need to know it beforehand.
        """
        parent = self.refs.get(ref)
        files = dict(self.commits[parent].files) if parent else {}
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = Blob.of(path, content) if isinstance(content, bytes) else content
        # The same commit sent twice is two commits, hence their count.
        named = [len(self.commits), parent, title, author, {path: files[path].oid for path in sorted(files)}]
        oid = oid or hashlib.sha1(json.dumps(named).encode()).hexdigest()
        assert oid not in self.commits
        self.commits[oid] = Commit(oid, parent, files, title, description, author)
        self.refs[ref] = oid
        return self.commits[oid]

    def ref(self, revision: str) -> str:
        """Return the full name of a branch, a tag or another reference."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return ref
        raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def find(self, revision: str) -> Commit:
        """Return the commit of a reference or of the beginning of its own name."""
        if len(revision) >= 7:
            for oid, commit in self.commits.items():
                if oid.startswith(revision):
                    return commit
        return self.commits[self.refs[self.ref(revision)]]

    def history(self, revision: str) -> list[Commit]:
        """Return commits, the last one first."""
        commits = [self.find(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def name_ref(self, ref: str, revision: str) -> None:
        """Make a branch or a tag."""
        if ref in self.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        self.refs[ref] = self.find(revision).oid

    def discuss(self, title: str, *, author: str, description: str = "", pull: bool, status: str) -> Discussion:
        """Open a discussion or a pull request from the main branch, which has no changes yet."""
        base = self.refs[MAIN] if pull else None
        discussion = Discussion(len(self.discussions) + 1, title, author, base, status)
        latest = {"raw": description, "html": description, "updatedAt": discussion.created}
        discussion.record("comment", author, {"edited": False, "hidden": False, "latest": latest, "history": []})
        self.discussions.append(discussion)
        if base:
            self.refs[discussion.ref] = base
        return discussion

    def discussion(self, number: str) -> Discussion:
        if not 0 < int(number) <= len(self.discussions):
            raise Refusal(404, f"No discussion {number}")
        return self.discussions[int(number) - 1]

    def merge(self, discussion: Discussion, *, author: str) -> None:
        """Put what a pull request changes onto the main branch, in one commit; nothing counts as a conflict."""
        if discussion.base is None or discussion.status not in ("open", "draft"):
            raise Refusal(400, f"Discussion {discussion.number} cannot be merged: it is {discussion.status}")
        before = self.commits[discussion.base].files
        after = self.find(discussion.ref).files
        changes = {path: after.get(path) for path in {*before, *after} if before.get(path) != after.get(path)}
        present = {path: blob for path, blob in changes.items() if blob or path in self.head.files}
        merged = self.commit(present, title=f"{discussion.title} (#{discussion.number})", author=author)
        discussion.merged = merged.oid
        discussion.turn("merged", author)
