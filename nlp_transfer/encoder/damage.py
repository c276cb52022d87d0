"""Find the file that makes loading an encoder fail, for errors of the library that do not name it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from nlp_transfer.data.textfile import START, refuse_foreign
from nlp_transfer.encoder.source import PATTERNS, read_json, weight_files
from nlp_transfer.errors import UserError

# JSON objects that only the library reads.
_OBJECTS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.vocab", "*.tiktoken")


def blame_file(folder: Path, message: str) -> None:
    """Raise an error that names the missing, foreign, truncated or damaged file of a folder, if one is found.

    Args:
        folder: of the encoder.
        message: of the library's error. Only if it mentions the tokenizer can a vocabulary be missing: tokenizers of
            bytes have none.

    Raises:
        UserError: naming the file, and what to do.
    """
    for path in sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}):
        with path.open("rb") as file:
            refuse_foreign(file.read(START), str(path))
    for name in _OBJECTS:
        read_json(folder / name)
    for path in weight_files(folder):
        try:
            with safe_open(path, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged or truncated ({error}); copy or fetch it again") from error
    if "tokenizer" in message and not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):
        raise UserError(f"{folder} holds no vocabulary (tokenizer.json)")
