"""Strict decoding of text files into lines, with exact line numbers in errors."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import reason

# surrogateescape turns an undecodable byte into one of these characters, which no decoder returns for valid bytes. So
# the line of a bad byte is known without decoding line by line, which UTF-16 would not allow.
_UNDECODED = re.compile("[\udc80-\udcff]")
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which cannot be encoded
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack or export it first",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"BZh91AY&SY": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ\x00": "xz-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
    b"PAR1\x15": "a Parquet file; give it the ending .parquet",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a spreadsheet or document of an old Office; export it first",
    b"version https://git-lfs": "what Git LFS puts in the place of a file; fetch that with `git lfs pull`",
}
_PAGES = {  # in lower case
    b"<!doctype html": "a page of the web; download the file itself",
    b"<html": "a page of the web, or a table saved as one; download or export the file itself",
}
START = max(map(len, _FOREIGN | _PAGES))  # bytes that identify a file type
_MARKED = (  # byte order mark, the encoding that it indicates, other encodings for which the same bytes are valid
    (codecs.BOM_UTF8, "utf-8", ("utf-8-sig",)),
    (codecs.BOM_UTF16_LE, "utf-16", ("utf-32",)),
    (codecs.BOM_UTF16_BE, "utf-16", ()),
)


def decoded_lines(binary: BinaryIO, *, encoding: str, origin: str, is_text: bool = False) -> Iterator[str]:
    r"""Yield the lines of a file with their ends (\\n, \\r\\n or \\r), never changing a character.

    A UTF-8 byte order mark is not part of the text.

    Args:
        binary: the file.
        encoding: of the file.
        origin: its name in messages.
        is_text: whether the content is plain text, which may look like a web page, and not rows.

    Raises:
        UserError: with file, line and a hint, for bytes that cannot be decoded, NUL bytes, compressed files and
            read errors.
    """
    codec = _codec(encoding)
    buffered: Any = binary if hasattr(binary, "peek") else io.BufferedReader(cast(io.RawIOBase, binary))
    text = io.TextIOWrapper(buffered, "utf-8-sig" if codec == "utf-8" else codec, errors="surrogateescape", newline="")
    number = 0
    try:
        _check_start(buffered.peek(START)[:START], codec, origin, is_text=is_text)
        for number, line in enumerate(text, 1):
            if not line.isascii() and (bad := _UNDECODED.search(line)):
                raise UserError(_undecodable(f"{origin}:{number}", ord(bad.group()) - 0xDC00, bad.start() + 1, codec))
            if "\0" in line:
                raise UserError(
                    f"{origin}:{number}: character {line.index(chr(0)) + 1} is a NUL byte, so this is not {codec} "
                    "text; if the file is UTF-16 set data.encoding=utf-16"
                )
            yield line
    except UnicodeError as error:  # UTF-16 and UTF-32 have errors that surrogateescape does not cover
        raise UserError(f"{origin}:{number + 1}: this line or a later one is not {codec} text ({error})") from error
    except OSError as error:
        raise UserError(f"{origin} cannot be read beyond line {number}: {reason(error)}") from error
    finally:
        if not buffered.closed:  # the caller closes the file
            text.detach()
            if buffered is not binary:
                buffered.detach()


def _codec(encoding: str) -> str:
    """Return Python's name of a text encoding."""
    try:
        codec = codecs.lookup(encoding).name
        io.TextIOWrapper(io.BytesIO(), codec)
    except LookupError:
        raise UserError(
            f"data.encoding={encoding!r} is not a text encoding Python knows; common ones: utf-8, utf-16, cp1252, "
            "latin-1"
        ) from None
    return codec


def refuse_foreign(start: bytes, origin: str, *, is_text: bool = False) -> None:
    """Refuse files whose first bytes identify another file type; see `decoded_lines`.

    Raises:
        UserError: naming the type, and what to do.
    """
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            raise UserError(f"{origin} is {kind}")
    for mark, kind in () if is_text else _PAGES.items():
        if start.lower().startswith(mark):
            raise UserError(f"{origin} is {kind}")


def _check_start(start: bytes, codec: str, origin: str, *, is_text: bool) -> None:
    """Refuse files whose first bytes say that they are something else, or of another encoding."""
    refuse_foreign(start, origin, is_text=is_text)
    for mark, meant, others in _MARKED:
        if start.startswith(mark) and codec != meant and codec not in others:
            raise UserError(f"{origin} starts with the byte order mark of {meant}: set data.encoding={meant}")


def _undecodable(place: str, byte: int, character: int, codec: str) -> str:
    """Return the message for an undecodable byte."""
    hint = (
        "set data.encoding to what the file was written in, for example data.encoding=cp1252 (Windows) or latin-1"
        if codec == "utf-8"
        else "check data.encoding"
    )
    return f"{place}: character {character} is not {codec} text (byte 0x{byte:02X}); {hint}"
