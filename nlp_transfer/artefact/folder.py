"""Write and load the folder of a saved model.

Layout: ``config.json`` and ``model.safetensors`` of a whole model at the root, which transformers loads (an adapter is
merged into it and also saved in ``adapter/``), the tokenizer, and ``nlp_transfer.json`` with what config.json cannot
hold. Independent of training.
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
from nlp_transfer.encoder.sizes import limit_model_size
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
from nlp_transfer.machine.disk import atomic_folder
from nlp_transfer.pretraining.folder import beside
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies.adapter import ignore_old_names


def save(classifier: Classifier, record: Record, folder: Path, *, detector: Detector | None = None) -> Record:
    """Save a model; its folder appears completely or not at all.

    An adapter is merged into the model if `record` says so and its method supports it. The outputs of the merged model
    are compared on two rows, because not every method of PEFT merges correctly.

    Args:
        classifier: the model to save.
        record: what its configuration cannot hold.
        folder: to write; a saved model there is replaced.
        detector: its detector of unknown texts, if it has one.

    Returns:
        The record that was written; `merged` is false if merging was not possible.

    Raises:
        UserError: if the folder cannot be written, or contains something other than a saved model.
    """
    with atomic_folder(folder, RECORD, "model", refused=(OSError, SafetensorError)) as making:
        with quiet():
            record = dataclasses.replace(record, merged=_save_weights(classifier, making, merge=record.merged))
        if record.merged:  # loading it needs no encoder, so no path of this machine is recorded
            encoder = dataclasses.replace(record.encoder, name=classifier.source.public_name)
            record = dataclasses.replace(record, encoder=encoder)
        elif pretrained := classifier.source.pretrained:  # the adapter belongs to the further pretrained encoder
            encoder = dataclasses.replace(
                record.encoder,
                name=classifier.source.place,
                sha256=pretrained.sha256,
                revision=None,
                package=None,
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
    """Write answers.json, reference outputs with which `verification` checks the folder."""
    tokens, pair = record.tokens, record.task.pair
    write_answers(folder, model, tokenizer, limit=tokens.limit, pair=pair, truncation=tokens.pair_truncation)


def save_tokenizer(tokenizer: Any, record: Record, folder: Path) -> Any:
    """Write and return a tokenizer that truncates like the model, so that a pipeline does so by default.

    Raises:
        OSError: if it cannot be written.
    """
    tokenizer = copy.copy(tokenizer)
    tokenizer.model_max_length = record.tokens.limit
    tokenizer.truncation_side = record.tokens.truncation_side
    if tokenizer.is_fast:  # otherwise truncation and padding of its last call would be saved too
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the Rust code raises a plain Exception for a full disk, not an OSError
        raise OSError(str(error)) from error
    return tokenizer


def _save_weights(classifier: Classifier, folder: Path, *, merge: bool) -> bool:
    """Write model.safetensors and config.json, or an adapter alone; return whether a whole model was written."""
    model: Any = classifier.model
    if is_adapted(model):
        try:
            whole = merged(model) if merge else None
        except NotMerged:
            whole = None
        for config in model.peft_config.values():
            # A public name with a merged model; an adapter alone needs the path, from which its encoder is loaded.
            config.base_model_name_or_path = classifier.source.place if whole is None else classifier.source.public_name
            config.inference_mode = True
        target = folder / ADAPTER if whole is not None else folder
        model.save_pretrained(str(target), save_embedding_layers=False)  # "auto" would contact the Hub
        (target / "README.md").unlink(missing_ok=True)
        if whole is None:
            return False
        model = whole
    name_base(model.config, classifier.source.public_name)
    model.save_pretrained(folder)
    return True


def name_base(config: Any, name: str) -> None:
    """Set the name of the original model in a configuration, in place of a local path."""
    parts = (getattr(config, part, None) for part in config.sub_configs)
    for each in filter(None, (config, *parts)):
        each._name_or_path = name


def load_model(folder: Path, record: Record) -> tuple[Any, Any]:
    """Load the model, in evaluation mode and float32, and the tokenizer of a saved folder.

    Raises:
        UserError: naming the file that is missing, damaged or inconsistent with others, and for a folder that requires
            custom code.
    """
    check_files(folder, record)
    register_model()
    bounded = partial(limit_model_size, folder) if record.merged else nullcontext  # an adapter sets no useful bound
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
    """Load the tokenizer of a saved or exported folder.

    Raises:
        UserError: naming the file that is missing or damaged, and for a folder that requires custom code.
    """
    from transformers import AutoTokenizer

    refuse_code(folder)
    register_config()  # AutoTokenizer also reads config.json
    check_present(folder / "tokenizer_config.json")
    with _load_errors(folder, "tokenizer.json, tokenizer_config.json"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.is_fast:
        check_present(folder / "tokenizer.json")  # without it some classes have an empty vocabulary
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder / 'tokenizer_config.json'} names no padding token; the saved model is not whole")
    return tokenizer


def _load_whole(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    check_layout(folder)
    with quiet(), _load_errors(folder, "config.json, model.safetensors"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    # transformers initialises missing parameters randomly, with only a warning.
    if odd := sorted([*info["missing_keys"], *info["unexpected_keys"]]):
        raise UserError(
            f"{folder}: model.safetensors and config.json do not match; {len(odd)} parameters are in only one of them, "
            f"such as {odd[0]}"
        )
    return model


def encoder_of(folder: Path, record: Record) -> EncoderSettings:
    """Return the encoder of an adapter; a further pretrained one is first looked for beside the adapter's folder."""
    made = beside(folder, str(record.encoder.sha256)) if record.pretrained else None
    return record.encoder if made is None else dataclasses.replace(record.encoder, name=str(made))


def _load_adapter(folder: Path, record: Record) -> Any:
    from peft import PeftModel

    check_present(folder / "adapter_config.json")
    read_json(folder / "adapter_config.json")
    if record.encoder.sha256 is None:
        raise UserError(f"{folder / RECORD} does not say which weights the adapter belongs to (encoder.sha256)")
    # The record may be downloaded, so it must not allow code to run.
    encoder = dataclasses.replace(encoder_of(folder, record), trust_remote_code=False)
    classifier = load_classifier(encoder, record.task, head=record.encoder.head, seed=0)
    with _load_errors(folder, "adapter_config.json, adapter_model.safetensors"), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        ignore_old_names()
        return PeftModel.from_pretrained(classifier.model, str(folder))


def load_detector(folder: Path, record: Record) -> Detector | None:
    """Load the detector of unknown texts of a saved folder; None for a model without one.

    Raises:
        UserError: naming the file that is missing, damaged or was changed.
    """
    if record.novelty is None:
        return None
    tensors = {}
    if record.novelty.reads_features:
        check_unknown(folder, record)
        tensors = load_file(folder / UNKNOWN)
    try:
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("it contains values that are not finite")
        return DETECTORS[record.novelty.score].of(tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / UNKNOWN} does not fit {RECORD} ({error}); the saved model is not whole") from error


@contextmanager
def _load_errors(folder: Path, files: str) -> Iterator[None]:
    """Turn errors of the libraries about files that they cannot load into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds of exceptions
        message = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise UserError(
            f"{folder} cannot be loaded: something in {files} is damaged ({type(error).__name__}: {message})"
        ) from error
