"""Merge an adapter that was saved alone into its encoder, and write a plain model folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from safetensors import SafetensorError

from nlp_transfer.artefact.folder import encoder_of, load_model, name_base, save_answers, save_tokenizer
from nlp_transfer.artefact.places import FIGURES, model_folder
from nlp_transfer.artefact.record import read_record, write_record
from nlp_transfer.encoder.classifier import quiet
from nlp_transfer.encoder.merging import NotMerged, merged
from nlp_transfer.encoder.source import ADAPTER, RECORD, UNKNOWN, digest_of, locate, weight_files
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import atomic_folder


def merge(folder: Path, target: Path) -> Path:
    """Write the model of a run as a plain model, without an adapter, that transformers loads.

    A model that was saved merged is copied; an adapter alone is merged into its encoder.

    Args:
        folder: of a run, or its ``model/`` folder.
        target: the folder to write; a saved model there is replaced.

    Returns:
        The target.

    Raises:
        UserError: for an adapter that cannot be merged, a folder without a saved model or whose encoder cannot be
            found, and for a target that contains something else or is the model itself.
    """
    folder = model_folder(folder)
    record = read_record(folder)
    if target.exists() and target.samefile(folder):
        raise UserError(f"{target} is the model itself; name another folder to write")
    if (target / FIGURES).is_file():
        raise UserError(f"{target} holds an exported model; it is not overwritten")
    model, tokenizer = load_model(folder, record)
    if record.merged:
        with atomic_folder(target, RECORD, "model") as making:
            shutil.copytree(folder, making, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ADAPTER))
        return target
    try:
        whole = merged(model)
    except NotMerged as error:
        raise UserError(
            f"the adapter in {folder} ({model.active_peft_config.peft_type.value}) cannot be merged: {error}; "
            "nlp_transfer.load and `nlp-transfer predict` can use it as it is"
        ) from error
    public = locate(dataclasses.replace(encoder_of(folder, record), trust_remote_code=False)).public_name
    record = dataclasses.replace(record, merged=True, encoder=dataclasses.replace(record.encoder, name=public))
    name_base(whole.config, public)
    with atomic_folder(target, RECORD, "model", refused=(OSError, SafetensorError)) as making:
        with quiet():
            whole.save_pretrained(making)
        record = dataclasses.replace(record, sha256=digest_of(weight_files(making)))
        if (folder / UNKNOWN).is_file():
            shutil.copyfile(folder / UNKNOWN, making / UNKNOWN)
        save_answers(whole, save_tokenizer(tokenizer, record, making), record, making)
        write_record(record, making)
    return target
