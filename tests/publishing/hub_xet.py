"""Xet storage in a folder: hf_xet's own `local://` storage, read from the Hub's side."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER = _ENTRY = 48  # bytes
_END = b"\xff" * 32
_VERIFIED = 1 << 31  # the file's entries are followed by as many of their verification
_HASHED = 1 << 30  # ... and by one with the SHA-256 of the file


class XetStore:
    """What clients have put into a folder.

    Args:
        folder: where hf_xet keeps it; made if it is not there.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.url = f"local://{self.folder}"

    def hash_of(self, sha256: str) -> str | None:
        """Return Xet's name of the file with this SHA-256; None where it is not stored."""
        for shard in self.folder.rglob("*.mdb"):
            for digest, name in _files(shard.read_bytes()):
                if digest == sha256:
                    return name
        return None

    def read(self, name: str, size: int) -> bytes:
        """Return a file's content, for clients that do not speak Xet."""
        from hf_xet import XetFileInfo, XetSession

        group = XetSession().new_download_stream_group(endpoint=self.url)
        return b"".join(group.download_stream(XetFileInfo(name, size)))


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    """Yield SHA-256 and Xet hash of the files that a shard's first section lists."""
    at = _HEADER
    while at + _ENTRY <= len(shard) and shard[at : at + 32] != _END:
        name = shard[at : at + 32]
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY * (1 + segments * (2 if flags & _VERIFIED else 1))
        if flags & _HASHED:
            yield _hexadecimal(shard[at : at + 32]), _hexadecimal(name)
            at += _ENTRY


def _hexadecimal(words: bytes) -> str:
    """Xet writes its hashes as four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", words))
