"""What a Hub answers: the part of its HTTP interface that the real client uses to push, pull and talk about models."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.publishing.hub_access import AT, NAME, Answer, Request, address, route
from tests.publishing.hub_large import LargeFiles
from tests.publishing.hub_repository import MAIN, Blob, Commit, Discussion, Refusal, Repository, is_large

_CARD = re.compile(r"---\r?\n(.*?)\r?\n---\s*(?:\n|$)", re.DOTALL)


class HubAPI(LargeFiles):
    """Handlers of requests for accounts, repositories, files, commits and discussions."""

    # Accounts and repositories.

    @route("GET /api/whoami-v2")
    def whoami(self, request: Request) -> Answer:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        mine = [name for name, members in self.organisations.items() if request.user in members]
        orgs = [{"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": "write"} for name in mine]
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": request.role}}
        user = {"type": "user", "id": request.user, "name": request.user, "fullname": request.user}
        return Answer({**user, "orgs": orgs, "auth": token})

    @route("POST /api/repos/create")
    def create(self, request: Request) -> Answer:
        asked = request.json()
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = asked.get("organization") or request.user
        if request.role != "write" or not self.owns(request, owner):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        name, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        where = address(kind, name)
        created = {"url": f"{self.url}/{where}", "name": name, "id": where}
        if where in self.repositories:
            raise Refusal(409, "You already created this repo", **created)
        self.add(name, kind=kind, private=asked.get("visibility") == "private")
        return Answer(created)

    @route("DELETE /api/repos/delete")
    def delete(self, request: Request) -> Answer:
        asked = request.json()
        name, kind = f"{asked.get('organization') or request.user}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        self.writable(request, kind, name)
        del self.repositories[address(kind, name)]
        return Answer()

    @route(f"PUT {AT}/settings")
    def settings(self, request: Request, kind: str, name: str) -> Answer:
        repository, asked = self.writable(request, kind, name), request.json()
        if "visibility" in asked:
            repository.private = asked["visibility"] == "private"
        repository.gated = asked.get("gated", repository.gated)
        return Answer()

    @route("POST /api/validate-yaml")
    def validate(self, request: Request) -> Answer:
        content = request.json()["content"]
        try:
            card = _card(content)
        except yaml.YAMLError as error:
            return Answer({"errors": [{"message": f"Invalid YAML: {error}"}], "warnings": []}, 400)
        warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        return Answer({"errors": [], "warnings": warnings})

    @route(f"GET {AT}/auth-check")
    def check(self, request: Request, kind: str, name: str) -> Answer:
        self.readable(request, kind, name)
        return Answer()

    # What is in them.

    @route(f"POST {AT}/paths-info/([^/]+)")
    def paths_info(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        entries = self.entries(self.visible(request, kind, name).find(revision))
        asked = parse_qs(request.body.decode())["paths"]
        return Answer([entry for entry in entries if entry["path"] in asked])

    @route(f"GET {AT}/tree/([^/]+)(?:/(.*))?")
    def tree(self, request: Request, kind: str, name: str, revision: str, folder: str | None) -> Answer:
        inside = f"{folder.strip('/')}/" if folder else ""
        entries = self.entries(self.visible(request, kind, name).find(revision))
        entries = [entry for entry in entries if entry["path"].startswith(inside)]
        if inside and not entries:
            raise Refusal(404, f"{folder} does not exist", code="EntryNotFound")
        if request.query.get("recursive", "").lower() != "true":
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(inside)]
        return Answer(entries)

    def entries(self, commit: Commit) -> list[dict[str, Any]]:
        """Return all files and folders of a commit."""
        folders = {path.rpartition("/")[0] for path in commit.files}
        folders |= {folder[: end.start()] for folder in folders for end in re.finditer("/", folder)}
        listed = [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders - {""})]
        return listed + [_entry(path, blob) for path, blob in sorted(commit.files.items())]

    @route(f"GET {AT}/refs")
    def refs(self, request: Request, kind: str, name: str) -> Answer:
        refs = self.visible(request, kind, name).refs
        answer: dict[str, list[dict[str, str]]] = {"converts": []}
        for key, start in {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}.items():
            those = {ref: oid for ref, oid in refs.items() if ref.startswith(start)}
            answer[key] = [{"name": ref.removeprefix(start), "ref": ref, "targetCommit": those[ref]} for ref in those]
        return Answer(answer)

    @route(f"(?:POST|DELETE) {AT}/branch/([^/]+)")
    def branch(self, request: Request, kind: str, name: str, branch: str) -> Answer:
        start = request.json().get("startingPoint") or "main"
        return self.change_ref(request, self.writable(request, kind, name), f"refs/heads/{branch}", start)

    @route(f"(?:POST|DELETE) {AT}/tag/([^/]+)")
    def tag(self, request: Request, kind: str, name: str, where: str) -> Answer:
        """Make a tag at a revision, or delete the tag, which comes last in the path either way."""
        tag = request.json().get("tag", where)
        return self.change_ref(request, self.writable(request, kind, name), f"refs/tags/{tag}", where)

    def change_ref(self, request: Request, repository: Repository, ref: str, start: str) -> Answer:
        if request.method == "POST":
            repository.name_ref(ref, start)
        elif repository.refs.pop(ref, None) is None:
            raise Refusal(404, f"Invalid rev id: {ref}", code="RevisionNotFound")
        return Answer()

    @route(f"GET {AT}/commits/([^/]+)")
    def commits(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        history = self.visible(request, kind, name).history(revision)
        return Answer(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.description,
                    "date": commit.date,
                    "authors": [{"user": commit.author}],
                }
                for commit in history
            ]
        )

    @route(rf"(?:GET|HEAD) /(?:(datasets|spaces)/)?{NAME}/resolve/([^/]+)/(.+)")
    def resolve(self, request: Request, kind: str | None, name: str, revision: str, path: str) -> Answer:
        commit = self.readable(request, kind, name).find(revision)
        if path not in commit.files:
            refusal = Refusal(404, "Entry not found", code="EntryNotFound")
            return Answer(refusal.body, 404, {**refusal.headers, "X-Repo-Commit": commit.oid})
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.sha256:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        if blob.xet:
            route = f"{self.url}/api/{kind or 'models'}/{name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet, "Link": f'<{route}>; rel="xet-auth"'}
        if request.method == "HEAD":
            return Answer(b"", 200, headers | {"Content-Length": str(blob.size)})
        return _ranged(self.content(blob), request.headers.get("range"), headers)

    # Commits.

    @route(f"POST {AT}/preupload/([^/]+)")
    def preupload(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        if "create_pr" in request.query:
            repository = self.proposable(request, kind, name)
        else:
            repository = self.writable(request, kind, name, revision)
        files = repository.find(revision).files
        answers = []
        for file in request.json()["files"]:
            path = file["path"]
            mode = "lfs" if is_large(path, file["size"]) else "regular"
            known = {"oid": files[path].etag} if path in files else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return Answer({"files": answers})

    @route(f"POST {AT}/commit/([^/]+)")
    def commit(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        pull = None
        propose = "create_pr" in request.query
        repository = self.proposable(request, kind, name)
        ref = repository.ref(revision)
        if not propose:
            self.writable(request, kind, name, ref)
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        if not repository.refs[ref].startswith(header.get("parentCommit", "")):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        changes = self.changes(lines[1:], repository.commits[repository.refs[ref]].files)
        author, title, description = request.user or "", header["summary"], header.get("description", "")
        if propose:
            pull = repository.discuss(title, author=author, description=description, pull=True, status="open")
            ref = pull.ref
        commit = repository.commit(changes, ref=ref, title=title, description=description, author=author)
        for discussion in repository.discussions:
            if discussion.ref == ref:
                discussion.record("commit", author, {"subject": title, "oid": commit.oid})
        page = f"{self.url}/{address(kind, name)}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}"}
        return Answer(answer | ({"pullRequestUrl": f"{page}/discussions/{pull.number}"} if pull else {}))

    def changes(self, lines: list[dict[str, Any]], files: Mapping[str, Blob]) -> dict[str, Blob | None]:
        """Return what the lines of a commit do to files: path to content, None for what they delete."""
        changes: dict[str, Blob | None] = {}
        for line in lines:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                changes[path] = Blob(len(content), content)
            elif line["key"] == "lfsFile":
                changes[path] = self.stored(value["oid"], value.get("size"))
            elif line["key"] == "deletedFile":
                if path not in files:
                    raise Refusal(404, "A file with this name doesn't exist", code="EntryNotFound")
                changes[path] = None
            elif line["key"] == "deletedFolder":
                changes |= {file: None for file in files if file.startswith(f"{path.rstrip('/')}/")}
            else:
                raise Refusal(400, f"Unknown operation {line['key']!r}")
        return changes

    # Discussions and pull requests.

    @route(f"GET {AT}/discussions")
    def discussions(self, request: Request, kind: str, name: str) -> Answer:
        repository, asked = self.visible(request, kind, name), request.query
        states = {"open": ("open", "draft"), "closed": ("closed", "merged")}.get(asked.get("status", ""))
        found = [
            _discussion(repository, discussion)
            for discussion in repository.discussions
            if (states is None or discussion.status in states)
            and asked.get("author", discussion.author) == discussion.author
            and asked.get("type", "all") in ("all", "pull_request" if discussion.base else "discussion")
        ]
        return Answer({"discussions": found, "count": len(found), "start": 0})

    @route(f"POST {AT}/discussions")
    def discuss(self, request: Request, kind: str, name: str) -> Answer:
        repository, asked = self.proposable(request, kind, name), request.json()
        pull = bool(asked.get("pullRequest"))
        author, text = request.user or "", asked.get("description", "")
        status = "draft" if pull else "open"
        opened = repository.discuss(asked["title"], author=author, description=text, pull=pull, status=status)
        return Answer({"num": opened.number, "pullRequest": pull})

    @route(rf"GET {AT}/discussions/(\d+)")
    def discussion(self, request: Request, kind: str, name: str, number: str) -> Answer:
        repository = self.visible(request, kind, name)
        return Answer(_discussion(repository, repository.discussion(number)))

    @route(rf"POST {AT}/discussions/(\d+)/merge")
    def merge(self, request: Request, kind: str, name: str, number: str) -> Answer:
        repository = self.writable(request, kind, name)
        repository.merge(repository.discussion(number), author=request.user or "")
        return Answer()

    @route(rf"POST {AT}/discussions/(\d+)/status")
    def status(self, request: Request, kind: str, name: str, number: str) -> Answer:
        discussion = self.proposable(request, kind, name).discussion(number)
        self.writable(request, kind, name, discussion.ref)
        return Answer({"newStatus": discussion.turn(request.json()["status"], request.user or "")})

    # Last, because its paths begin as the others'.

    @route(f"GET {AT}(?:/revision/([^/]+))?")
    def info(self, request: Request, kind: str, name: str, revision: str | None) -> Answer:
        repository = self.visible(request, kind, name)
        commit = repository.find(revision or "main")
        readme = commit.files.get("README.md")
        card = _card(self.content(readme).decode()) if readme else {}
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if request.query.get("blobs", "").lower() == "true":
            siblings = [_sibling(path, blob) for path, blob in sorted(commit.files.items())]
        library = card.get("library_name")
        return Answer(
            {
                "_id": name,
                "id": name,
                "author": name.split("/")[0],
                "sha": commit.oid,
                "lastModified": commit.date,
                "createdAt": repository.history("main")[-1].date,
                "private": repository.private,
                "gated": repository.gated and (repository.gated if repository.gated is not True else "manual"),
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [*(card.get("tags") or []), *([library] if library else [])],
                "pipeline_tag": card.get("pipeline_tag"),
                "library_name": library,
                "cardData": card or None,
                "siblings": siblings,
            }
        )


def _card(readme: str) -> dict[str, Any]:
    """Return the metadata at the beginning of a README."""
    match = _CARD.match(readme)
    card = yaml.safe_load(match[1]) if match else {}
    if not isinstance(card, dict | None):
        raise yaml.YAMLError("metadata must be a mapping")
    return json.loads(json.dumps(card or {}, default=str))


def _lfs(blob: Blob) -> dict[str, Any]:
    return {"size": blob.size, "pointerSize": 134}


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    """Return the entry of a file in a folder's listing."""
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    return (
        entry
        | ({"lfs": {"oid": blob.sha256, **_lfs(blob)}} if blob.sha256 else {})
        | ({"xetHash": blob.xet} if blob.xet else {})
    )


def _sibling(path: str, blob: Blob) -> dict[str, Any]:
    """Return the entry of a file in a repository's description."""
    sibling = {"rfilename": path, "size": blob.size, "blobId": blob.oid}
    return sibling | ({"lfs": {"sha256": blob.sha256, **_lfs(blob)}} if blob.sha256 else {})


def _discussion(repository: Repository, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.number,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "createdAt": discussion.created,
        "status": discussion.status,
        "repo": {"name": repository.name, "type": repository.kind.removesuffix("s")},
        "isPullRequest": discussion.base is not None,
        "events": discussion.events,
        "changes": {"base": MAIN, **({"mergeCommitId": discussion.merged} if discussion.merged else {})},
        "filesWithConflicts": [],
        "diff": "",
    }


def _ranged(content: bytes, asked: str | None, headers: Mapping[str, str]) -> Answer:
    """Return the asked range of some content, or all of it."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if match is None:
        return Answer(content, 200, headers)
    first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if first > last:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(content)}"})
    return Answer(content[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})
