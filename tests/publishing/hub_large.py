"""Large files of a Hub: uploaded by the LFS protocol, whole or in parts, or by Xet."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from tests.publishing.hub_access import AT, NAME, Answer, HubState, Request, route
from tests.publishing.hub_repository import Blob, Refusal
from tests.publishing.hub_xet import XetStore


class LargeFiles(HubState):
    """What is answered to clients that move large files.

    Args:
        xet: folder of Xet storage; None: a Hub without it.
        lfs_chunk: bytes; larger files are uploaded in parts.
        state: of `HubState`.
    """

    def __init__(self, *, xet: Path | None, lfs_chunk: int | None, **state: Any):
        super().__init__(**state)
        self.xet = XetStore(xet) if xet else None
        self.lfs_chunk = lfs_chunk
        self.large: dict[str, Blob] = {}  # by SHA-256
        self.parts: dict[str, dict[int, bytes]] = {}

    def content(self, blob: Blob) -> bytes:
        if self.xet and blob.xet:
            return self.xet.read(blob.xet, blob.size)
        return blob.content or b""

    def stored(self, sha256: str, size: int | None) -> Blob:
        """Return a large file that a client has uploaded."""
        if sha256 not in self.large:
            name = self.xet.hash_of(sha256) if self.xet else None
            if name is None or size is None:
                raise Refusal(400, f"No such large file: {sha256}")
            self.large[sha256] = Blob(size, sha256=sha256, xet=name)
        return self.large[sha256]

    @route(rf"POST /(?:(datasets|spaces)/)?{NAME}\.git/info/lfs/objects/batch")
    def batch(self, request: Request, kind: str | None, name: str) -> Answer:
        self.proposable(request, kind, name)
        objects = [self.transfer(asked["oid"], asked["size"]) for asked in request.json()["objects"]]
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        return Answer({"transfer": "basic", "objects": objects}, headers=headers)

    def transfer(self, oid: str, size: int) -> dict[str, Any]:
        """Say how a file is to be uploaded; one that is here needs no actions."""
        if oid in self.large:
            return {"oid": oid, "size": size}
        place = f"{self.url}/large/{oid}"
        upload: dict[str, Any] = {"href": place, "header": {}}
        if self.lfs_chunk and size > self.lfs_chunk:
            count = -(-size // self.lfs_chunk)
            parts = {str(number): f"{place}/{number}" for number in range(1, count + 1)}
            upload = {"href": f"{place}/complete", "header": {"chunk_size": str(self.lfs_chunk), **parts}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{place}/verify"}}}

    @route(r"PUT /large/(\w+)")
    def put(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, f"These bytes are not {oid}")
        self.large[oid] = Blob(len(request.body), request.body, oid)
        return Answer()

    @route(r"PUT /large/(\w+)/(\d+)")
    def put_part(self, request: Request, oid: str, number: str) -> Answer:
        self.parts.setdefault(oid, {})[int(number)] = request.body
        return Answer(headers={"ETag": f'"{number}"'})

    @route(r"POST /large/(\w+)/complete")
    def complete(self, request: Request, oid: str) -> Answer:
        parts = self.parts.pop(oid, {})
        request.body = b"".join(parts[number] for number in sorted(parts))
        return self.put(request, oid)

    @route(r"POST /large/(\w+)/verify")
    def verify(self, request: Request, oid: str) -> Answer:
        if oid not in self.large:
            raise Refusal(404, f"No such large file: {oid}")
        return Answer()

    @route(f"GET {AT}/xet-(read|write)-token/([^/]+)")
    def xet_token(self, request: Request, kind: str, name: str, role: str, revision: str) -> Answer:
        if role == "read":
            self.readable(request, kind, name)
        elif "create_pr" in request.query:
            self.proposable(request, kind, name)
        else:
            self.writable(request, kind, name, revision)
        if self.xet is None:
            raise Refusal(404, "This Hub has no Xet storage")
        expiration = int(time.time()) + 3600
        return Answer(
            {"casUrl": self.xet.url, "accessToken": "xet", "exp": expiration},
            headers={
                "X-Xet-Cas-Url": self.xet.url,
                "X-Xet-Access-Token": "xet",
                "X-Xet-Token-Expiration": str(expiration),
            },
        )
