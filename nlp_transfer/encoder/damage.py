"""Which file of an encoder's folder keeps it from being loaded, where the library names none."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from nlp_transfer.data.textfile import START, refuse_foreign
from nlp_transfer.encoder.source import PATTERNS, read_json, weight_files
from nlp_transfer.errors import UserError

_OBJECTS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")  # beside those read first
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.vocab", "*.tiktoken")


def blame_file(folder: Path, said: str) -> None:
    """Refuse a folder that cannot be loaded for a file that is absent, something in its place, or a part of it.

    Args:
        folder: of the encoder.
        said: by the library; a vocabulary is missed only where it speaks of the tokenizer, for bytes need none.

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
            raise UserError(f"{path} is damaged, or a part of what it was ({error}); copy or fetch it again") from error
    if "tokenizer" in said and not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):
        raise UserError(f"{folder} holds no vocabulary (tokenizer.json)")
