"""The saved folder: what anybody's transformers loads, and the one small file that holds what a config.json cannot.

Layout: ``config.json`` and ``model.safetensors`` of a whole model at the root (an adapter is merged into it and lies
beside it in ``adapter/``), the tokenizer, and ``nlp_transfer.json``. It knows no training.
"""

from __future__ import annotations

import copy
import dataclasses
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nlp_transfer.artefact.record import Record, write_record
from nlp_transfer.artefact.whole import check_files, check_present, check_unknown, refuse_code, saved_weights
from nlp_transfer.encoder.anatomy import is_adapted
from nlp_transfer.encoder.answers import write_answers
from nlp_transfer.encoder.classifier import Classifier, check_finite, load_classifier, quiet
from nlp_transfer.encoder.merging import NotMerged, merged
from nlp_transfer.encoder.pooled import register_model
from nlp_transfer.encoder.pooled_config import register_config
from nlp_transfer.encoder.sizes import within_weights
from nlp_transfer.encoder.source import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    RECORD,
    UNKNOWN,
    check_layout,
    digest_of,
    read_json,
)
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.unknown import DETECTORS, Detector
from nlp_transfer.machine.disk import appearing
from nlp_transfer.pretraining.made import beside
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies.adapter import ignore_old_names


def save(classifier: Classifier, record: Record, folder: Path, *, detector: Detector | None = None) -> Record:
    """Write the artefact; it appears whole under its name or not at all.

    An adapter is merged into the model if `record` says so and the method can: the merged model must answer as the
    adapted one does, which is tried on two rows, for not every method of PEFT keeps that promise.

    Args:
        classifier: to be saved.
        record: what its configuration cannot hold.
        folder: to write.
        detector: its score of the unknown, if it has one.

    Returns:
        The record that was written: `merged` is false where merging was not possible.

    Raises:
        UserError: if the folder cannot be written, or is something else than a saved model, which would be replaced.
    """
    with appearing(folder, RECORD, "model", refused=(OSError, SafetensorError)) as making:
        with quiet():
            record = dataclasses.replace(record, merged=_save_weights(classifier, making, merge=record.merged))
        if record.merged:  # whoever loads it needs no encoder beside it, and no path of this machine
            encoder = dataclasses.replace(record.encoder, name=classifier.source.public_name)
            record = dataclasses.replace(record, encoder=encoder)
        elif further := classifier.source.pretrained:  # what the name stands for is not what the adapter is put on
            place = classifier.source.place
            encoder = dataclasses.replace(
                record.encoder, name=place, sha256=further.sha256, revision=None, package=None
            )
            record = dataclasses.replace(record, encoder=encoder)
        record = dataclasses.replace(record, sha256=digest_of(saved_weights(making, record)))
        if detector is not None and record.novelty is not None and record.novelty.reads_features:
            save_file(detector.tensors(), making / UNKNOWN)
            record = dataclasses.replace(
                record, novelty=dataclasses.replace(record.novelty, sha256=digest_of([making / UNKNOWN]))
            )
        save_answers(classifier.model, save_tokenizer(classifier.tokenizer, record, making), record, making)
        write_record(record, making)
    return record


def save_answers(model: Any, tokenizer: Any, record: Record, folder: Path) -> None:
    """Write answers.json, by which `verification` tells whether the folder is the model."""
    tokens, pair = record.tokens, record.task.pair
    write_answers(folder, model, tokenizer, limit=tokens.limit, pair=pair, truncation=tokens.pair_truncation)


def save_tokenizer(tokenizer: Any, record: Record, folder: Path) -> Any:
    """Write a tokenizer that cuts where the measured model did, as a pipeline would have it; return that.

    Raises:
        OSError: if it cannot be written.
    """
    tokenizer = copy.copy(tokenizer)
    tokenizer.model_max_length = record.tokens.limit
    tokenizer.truncation_side = record.tokens.truncation_side
    if tokenizer.is_fast:  # how it was asked to cut and pad last would be written, too
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # what is written from Rust has no OSError: a full disk is an Exception that says so
        raise OSError(str(error)) from error
    return tokenizer


def _save_weights(classifier: Classifier, folder: Path, *, merge: bool) -> bool:
    """Write model.safetensors and config.json, or an adapter alone; return whether a whole model lies in the folder."""
    model: Any = classifier.model
    if is_adapted(model):
        try:
            whole = merged(model) if merge else None
        except NotMerged:
            whole = None
        for config in model.peft_config.values():
            # Beside the merged model a name, not a path of this machine; alone, the adapter is loaded by it.
            config.base_model_name_or_path = classifier.source.place if whole is None else classifier.source.public_name
            config.inference_mode = True
        target = folder / ADAPTER if whole is not None else folder
        model.save_pretrained(str(target), save_embedding_layers=False)  # "auto" would ask the Hub
        (target / "README.md").unlink(missing_ok=True)
        if whole is None:
            return False
        model = whole
    name_base(model.config, classifier.source.public_name)
    model.save_pretrained(folder)
    return True


def name_base(config: Any, name: str) -> None:
    """Have a configuration say what the model was made of: a name, not a path of this machine."""
    parts = (getattr(config, part, None) for part in config.sub_configs)
    for each in filter(None, (config, *parts)):
        each._name_or_path = name


def load_model(folder: Path, record: Record) -> tuple[Any, Any]:
    """Return the model, in evaluation mode and float32, and the tokenizer of a saved folder.

    Raises:
        UserError: naming the file, where one is missing, damaged or does not fit the others, and for a folder that
            asks for code.
    """
    check_files(folder, record)
    register_model()
    bounded = partial(within_weights, folder) if record.merged else nullcontext  # an adapter's weights say little
    with bounded():
        tokenizer = load_tokenizer(folder)
    with bounded():
        model = _load_whole(folder) if record.merged else _load_adapter(folder, record)
    if model.config.num_labels != record.task.outputs:
        raise UserError(
            f"{folder}: the model has {model.config.num_labels} outputs, the task in {RECORD} {record.task.outputs}; "
            "the files do not belong together"
        )
    check_finite(model, str(folder / ("model.safetensors" if record.merged else ADAPTER_WEIGHTS)))
    return model.eval(), tokenizer


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a saved or exported folder.

    Raises:
        UserError: naming the file, where one is missing or damaged, and for a folder that asks for code.
    """
    from transformers import AutoTokenizer

    refuse_code(folder)
    register_config()  # the library looks into config.json as well
    check_present(folder / "tokenizer_config.json")
    with _damage_named(folder, "tokenizer.json, tokenizer_config.json"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.is_fast:
        check_present(folder / "tokenizer.json")  # without it some classes come with an empty vocabulary
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder / 'tokenizer_config.json'} names no padding token; the saved model is not whole")
    return tokenizer


def _load_whole(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    check_layout(folder)
    with quiet(), _damage_named(folder, "config.json, model.safetensors"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    # The library makes up what is missing, and says so in a warning.
    if odd := sorted([*info["missing_keys"], *info["unexpected_keys"]]):
        raise UserError(
            f"{folder}: model.safetensors and config.json do not fit; {len(odd)} parameters are in one alone, among "
            f"them {odd[0]}"
        )
    return model


def encoder_of(folder: Path, record: Record) -> EncoderSettings:
    """Return the encoder that an adapter is put on; one that was made for it is looked for beside its folder first."""
    made = beside(folder, str(record.encoder.sha256)) if record.pretrained else None
    return record.encoder if made is None else dataclasses.replace(record.encoder, name=str(made))


def _load_adapter(folder: Path, record: Record) -> Any:
    from peft import PeftModel

    check_present(folder / "adapter_config.json")
    read_json(folder / "adapter_config.json")
    if record.encoder.sha256 is None:
        raise UserError(f"{folder / RECORD} does not say which weights the adapter belongs to (encoder.sha256)")
    # A downloaded record is data: it must not decide that code is run.
    encoder = dataclasses.replace(encoder_of(folder, record), trust_remote_code=False)
    classifier = load_classifier(encoder, record.task, head=record.encoder.head, seed=0)
    with _damage_named(folder, "adapter_config.json, adapter_model.safetensors"), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        ignore_old_names()
        return PeftModel.from_pretrained(classifier.model, str(folder))


def load_detector(folder: Path, record: Record) -> Detector | None:
    """Return the score of the unknown that a saved folder holds; None for a model that has none.

    Raises:
        UserError: naming the file, where it is missing, damaged or another than was saved.
    """
    if record.novelty is None:
        return None
    tensors = {}
    if record.novelty.reads_features:
        check_unknown(folder, record)
        tensors = load_file(folder / UNKNOWN)
    try:
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("it holds what is no number")
        return DETECTORS[record.novelty.score].of(tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / UNKNOWN} does not fit {RECORD} ({error}); the saved model is not whole") from error


@contextmanager
def _damage_named(folder: Path, files: str) -> Iterator[None]:
    """Turn what the libraries say of files they cannot use into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they say it in a dozen ways
        said = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise UserError(
            f"{folder} cannot be loaded: something in {files} is damaged ({type(error).__name__}: {said})"
        ) from error
