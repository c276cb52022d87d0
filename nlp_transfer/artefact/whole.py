"""Check that a saved folder is complete, unchanged and requires no custom code, without loading it or torch."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from nlp_transfer.artefact.record import Record
from nlp_transfer.encoder.source import ADAPTER_WEIGHTS, RECORD, UNKNOWN, digest_of, requested_code, weight_files
from nlp_transfer.errors import UserError


def check_files(folder: Path, record: Record) -> None:
    """Refuse a saved folder that requires custom code, lacks a file, or whose weights were changed.

    Raises:
        UserError: naming the file.
    """
    refuse_code(folder)
    check_whole(folder, record)


def check_whole(folder: Path, record: Record) -> None:
    """Refuse a saved folder that lacks a file, or whose weights were changed.

    Raises:
        UserError: naming the file.
    """
    _check_weights(folder, record)
    check_unknown(folder, record)
    for name in ("config.json" if record.merged else "adapter_config.json", "tokenizer_config.json"):
        check_present(folder / name)


def refuse_code(folder: Path) -> None:
    """Refuse a saved folder that requires custom code.

    Raises:
        UserError: naming the file.
    """
    if code := requested_code(folder):
        file, entries = next(iter(code.items()))
        raise UserError(
            f"{folder / file} asks to run code ({entries[0]}), which is never run from a saved model; if you trust it, "
            "load the model with transformers itself"
        )


def check_present(path: Path) -> None:
    """Refuse a folder that lacks a file.

    Raises:
        UserError: naming it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; the saved model is not whole")


def check_unknown(folder: Path, record: Record) -> None:
    """Refuse a folder whose detector of unknown texts is missing or was changed.

    Raises:
        UserError: naming the file.
    """
    if record.novelty is None or not record.novelty.reads_features:
        return
    check_present(folder / UNKNOWN)
    if digest_of([folder / UNKNOWN]) != record.novelty.sha256:
        raise UserError(
            f"{folder / UNKNOWN} is not what was saved ({RECORD} has another sha256 under novelty): copy it again"
        )


def saved_weights(folder: Path, record: Record) -> list[Path]:
    """Return the weight files of a saved folder, whether they exist or not."""
    if not record.merged:
        return [folder / ADAPTER_WEIGHTS]
    sharded = (folder / "model.safetensors.index.json").is_file()
    return weight_files(folder) if sharded else [folder / "model.safetensors"]


def _check_weights(folder: Path, record: Record) -> None:
    """Refuse a missing, truncated or changed weight file.

    If the weights of an adapter were missing, PEFT would load an unsafe format instead.
    """
    files = saved_weights(folder, record)
    for path in files:
        check_present(path)
        try:
            with safe_open(path, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged ({error}); the saved model is not whole") from error
    if record.sha256 is not None and digest_of(files) != record.sha256:
        raise UserError(
            f"{folder}: {', '.join(path.name for path in files)} is not what was saved ({RECORD} has another sha256): "
            'copy it again; if it was changed on purpose, set "sha256": null there'
        )
