"""Put a classification head on verified weights: the architecture's own ("native") or this package's ("pooled")."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nlp_transfer.encoder import pooled
from nlp_transfer.encoder.anatomy import disposable, is_causal, output_layers, sample_rows
from nlp_transfer.encoder.depth import entries_of
from nlp_transfer.encoder.pooled_config import PooledConfig, encoder_config
from nlp_transfer.encoder.source import POOLED, read_json
from nlp_transfer.encoder.stored_layers import check_layers
from nlp_transfer.errors import UserError, one_of

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EncoderSettings

POOLING = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "mean_tokens": "mean",
    "cls_token": "cls",
    "max_tokens": "max",
}
_FLAG = "pooling_mode_"
# Modules of sentence-transformers that a pooled head replaces or does not need: it learns the scale itself, and dropout
# is inactive in prediction.
_COVERED = {"", "Transformer", "Pooling", "Normalize", "Dropout"}
COMBINE = ("mix", "concat")
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "ordinal": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def has_own_head(folder: Path) -> bool:
    """Return whether the architecture in `folder` has a classification head; of one that is not named, assume so."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    model_type = read_json(folder / "config.json").get("model_type")
    return model_type in (None, POOLED, *MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def native_model(settings: EncoderSettings, task: Task, folder: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the model in `folder` with its architecture's own head, and the names of its new parameters."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not settings.trust_remote_code:
        raise UserError(f"{config.model_type!r} has no classification head of its own; use encoder.head=pooled")
    if getattr(config, "siamese", None) and (settings.pairs == "joint" or not task.pair):
        raise UserError(
            f"{settings.name} compares two texts, each read alone; for anything else use encoder.head=pooled"
        )
    saved_labels = dict(config.id2label or {})
    limit_depth(config, settings, native=True)
    set_labels(config, task)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, config=config, **loading_options(settings))
    check_layers(model, info, folder, all_wanted=settings.depth is None)
    fresh = new_parameters(info)
    output = next(reversed(output_layers(model)), None)
    has_same_labels = task.labels and saved_labels == dict(config.id2label)  # regression heads name no target
    if output is not None and f"{output}.weight" not in fresh and not has_same_labels:
        fresh |= _reinitialise_output(model, output)
    if settings.head_dropout is not None:
        _set_dropout(model, settings.head_dropout)
    return model, tuple(name for name, _ in model.named_parameters() if name in fresh)


def pooled_model(settings: EncoderSettings, task: Task, folder: Path, tokenizer: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the encoder in `folder` with a new pooled head, and the names of its new parameters."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    if settings.trust_remote_code:
        raise UserError("encoder.head=pooled cannot hold an encoder with code of its own; use encoder.head=native")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    limit_depth(config, settings, native=False)
    trained_with = suggested_pooling(folder)
    if isinstance(config, PooledConfig):  # saved by this package: reuse its encoder with a new head
        trained_with = config.pooling
        whole, info = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, **loading_options(settings)
        )
        check_layers(whole, info, folder, all_wanted=settings.depth is None)
        config, encoder = whole.config.encoder, whole.encoder
        prefix = ""
    else:
        pooled.read_once(config)
        encoder, info = AutoModel.from_pretrained(
            folder, config=config, **pooled.encoder_options(config), **loading_options(settings)
        )
        check_layers(encoder, info, folder, all_wanted=settings.depth is None)
        config = encoder.config  # a copy, in float32
        prefix = "" if config.is_encoder_decoder else "encoder."  # of an encoder-decoder, names have it already
        encoder = pooled.without_decoder(encoder)
    siamese = _pair_format(settings, task, tokenizer, folder)
    is_spread = settings.layers == "spread" or (settings.layers == "auto" and siamese is not None)
    layers = _spread(encoder) if is_spread else _chosen_layers(settings, encoder)
    is_concatenated = is_spread or settings.layers == "all"
    pooling = settings.pooling
    if pooling == "auto":
        pooling = trained_with or ("last" if is_causal(config) else "mean")
    description = PooledConfig(
        encoder=copy.deepcopy(config),  # PooledConfig resets the attention implementation in the config it is given
        pooling=one_of(pooling, sorted(set(POOLING.values())), "encoder.pooling"),
        layers=layers,
        combine="concat" if is_concatenated else one_of(settings.combine, COMBINE, "encoder.combine"),
        hidden=settings.hidden,
        head_dropout=0.1 if settings.head_dropout is None else settings.head_dropout,
        siamese=siamese,
        dtype="float32",
    )
    set_labels(description, task)
    model = pooled.PooledForSequenceClassification(description, encoder)
    missing = {f"{prefix}{name}" for name in new_parameters(info)}
    names = [name for name, _ in model.named_parameters()]
    return model, tuple(name for name in names if name in missing or not name.startswith("encoder."))


def limit_depth(config: Any, settings: EncoderSettings, *, native: bool) -> None:
    """Set a configuration to the lowest `encoder.depth` layers, so that only their weights are loaded.

    Other tasks often do not need the upper layers (Sajjad et al. 2023, "On the effect of dropping layers of pre-trained
    transformer models", Computer Speech & Language 77).
    """
    if settings.depth is None:
        return
    text_config = encoder_config(config)
    count = getattr(text_config, "num_hidden_layers", None)
    place = f"encoder.depth={settings.depth}: {settings.name}"
    if count is None:
        raise UserError(f"{place} cannot be shortened")
    if not 0 <= settings.depth <= count:
        raise UserError(f"{place} has {count} layers")
    if native and (config.is_encoder_decoder or text_config is getattr(config, "text_config", None)):
        more = "a decoder" if config.is_encoder_decoder else "an encoder of images"
        raise UserError(f"{place} has {more} too; use encoder.head=pooled")
    try:
        for name, value in entries_of(vars(text_config), settings.depth).items():
            setattr(text_config, name, value)
        type(text_config).from_dict(text_config.to_dict())  # must survive saving and loading
    except Exception:  # Funnel counts its layers in blocks, GPT-Neo in pairs
        raise UserError(f"{place} cannot be shortened") from None


def loading_options(settings: EncoderSettings) -> dict[str, Any]:
    """Return the arguments of every `from_pretrained` call that loads weights."""
    options = {
        "dtype": "float32",  # the library's default is the checkpoint's dtype, also for a new head
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # of a head or unused parameters; `load_classifier` refuses all others
    }
    return options | ({} if settings.attention is None else {"attn_implementation": settings.attention})


def set_labels(config: Any, task: Task) -> None:
    """Write the labels and the problem type into a configuration, as a transformers `pipeline` expects them."""
    names = task.labels or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[task.problem]


def new_parameters(info: Mapping[str, Any]) -> set[str]:
    """Return the names of newly initialised parameters, from the loading info of `from_pretrained`."""
    return set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def _reinitialise_output(model: Any, output: str) -> set[str]:
    """Initialise the output layer again, as the library does; return the names of its parameters.

    Needed for a head trained for other labels whose number happens to be the same.
    """
    names = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] == output}
    for name, parameter in model.named_parameters():
        parameter._is_hf_initialized = name not in names  # the library skips parameters with this mark
    # Some architectures initialise the head as a whole, others each linear layer; the whole comes last and overrides.
    for name, module in reversed(list(model.named_modules())):
        if name and f"{output}.".startswith(f"{name}."):
            model._init_weights(module)
    return names


def _set_dropout(model: Any, probability: float) -> None:
    """Set the dropout of the architecture's own head, whose configuration key differs between architectures."""
    outside = [child for name, child in model.named_children() if name != model.base_model_prefix]
    layers = [module for child in outside for module in child.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise UserError(
            f"encoder.head_dropout: the head of {type(model).__name__} has no dropout; use encoder.head=pooled"
        )
    for layer in layers:
        layer.p = probability


def _chosen_layers(settings: EncoderSettings, encoder: Any) -> list[int]:
    """Return the hidden states to pool for all values of `encoder.layers` except spread."""
    count = getattr(encoder.config, "num_hidden_layers", None)
    if settings.layers in ("auto", "last"):
        return [-1]
    if settings.layers == "all":
        depth = _readable_depth(encoder)
        return list(range(depth + 1)) if depth else [-1]
    layers = settings.layers
    are_ints = isinstance(layers, list) and all(isinstance(layer, int) for layer in layers)
    if not are_ints or not layers or any(count is not None and not -count - 1 <= layer <= count for layer in layers):
        raise UserError(
            f"encoder.layers={layers}: choose last, spread, all, or a list of hidden states from 0 (embeddings) to "
            f"{count}, or from -1 (last layer) to {-count - 1 if count else '...'}"
        )
    return layers


def _spread(encoder: Any) -> list[int]:
    """Return the layers at one half, two thirds and all of the depth.

    The last layer is specialised in the pretraining task; lower ones often transfer better (Liu et al. 2019, arXiv
    1903.08855). For pairs, the last layer mostly represents the topic, which the two texts share.
    """
    depth = _readable_depth(encoder)
    return sorted({max(1, depth // 2), max(1, round(depth * 2 / 3)), depth}) if depth else [-1]


def _readable_depth(encoder: Any) -> int:
    """Return the number of layers; 0 if any does not give one state per token (Funnel halves the sequence)."""
    rows = sample_rows(encoder)
    with torch.inference_mode():
        states = disposable(encoder)(**rows, output_hidden_states=True, return_dict=True).hidden_states or ()
    return len(states) - 1 if all(state.shape[:2] == rows["input_ids"].shape for state in states) and states else 0


def _pair_format(settings: EncoderSettings, task: Task, tokenizer: Any, folder: Path) -> dict[str, int] | None:
    """Return how the tokenizer joins pairs if each text is to be encoded separately (see `joining`), else None.

    With ``encoder.pairs=auto`` that is the case if the encoder was trained on separate texts.
    """
    one_of(settings.pairs, ("auto", "joint", "siamese"), "encoder.pairs")
    if settings.pairs == "joint" or (
        settings.pairs == "auto" and not (task.pair and _is_trained_on_single_texts(folder))
    ):
        return None
    if not task.pair:
        raise UserError("encoder.pairs=siamese compares two texts, and this data has one; name data.columns.text_pair")
    pair_format = joining(tokenizer)
    if pair_format is None and settings.pairs == "siamese":
        raise UserError(
            "encoder.pairs=siamese: two texts that this tokenizer joined cannot be taken apart; use encoder.pairs=joint"
        )
    return pair_format


def _is_trained_on_single_texts(folder: Path) -> bool:
    """Return whether an encoder was trained on separate texts, as sentence encoders are."""
    content = read_json(folder / "config.json")
    if content.get("model_type") == POOLED:  # saved by this package
        return bool(content.get("siamese"))
    return suggested_pooling(folder) is not None


def reads_alone(settings: EncoderSettings, task: Task, folder: Path) -> bool:
    """Return whether a pooled head would encode the texts of a pair separately; only the tokenizer is loaded.

    Raises:
        UserError: for `encoder.pairs=siamese` if joined texts cannot be separated.
    """
    from transformers import AutoTokenizer

    if settings.trust_remote_code:  # a pooled head cannot hold such an encoder
        return False
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception:  # of many types; loading the encoder reports the error
        return False
    return _pair_format(settings, task, tokenizer, folder) is not None


def joining(tokenizer: Any) -> dict[str, int] | None:
    """Return how the tokenizer joins two texts (see `PooledConfig.siamese`); None if they cannot be separated again."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    alone, joined = tokenizer("a")["input_ids"], tokenizer("a", "a")["input_ids"]
    start = next((index for index in range(len(alone)) if alone[index : index + len(text)] == text), 0)
    end = alone[start + len(text) :]
    between = len(joined) - len(alone) - len(text)
    if (
        len(end) != 1
        or end[0] in alone[:start]
        or between < 1
        or joined != alone[: start + len(text)] + end * between + text + end
    ):
        return None
    return {"start": start, "separator": end[0], "between": between}


def suggested_pooling(folder: Path) -> str | None:
    """Return the pooling that sentence-transformers trained the encoder with: mean, cls, max, last, or None."""
    modes = _modes(folder)
    return POOLING.get(modes[0]) if len(modes) == 1 else None


def unused_modules(folder: Path) -> list[str]:
    """Return the modules of a sentence-transformers folder, and the pooling, that a pooled head does not reproduce."""
    modes, kinds = _modes(folder), [str(module.get("type", "")).rpartition(".")[2] for module in _modules(folder)]
    pooling = [f"pooling by {' and '.join(modes)}"] if modes and suggested_pooling(folder) is None else []
    return pooling + sorted({*kinds} - _COVERED)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the module list of a sentence-transformers folder; empty for others."""
    return read_json(folder / "modules.json", kind=list)


def _modes(folder: Path) -> list[str]:
    """Return the pooling modes of a sentence-transformers folder, in its terms; empty for others."""
    paths = [module["path"] for module in _modules(folder) if str(module.get("type", "")).endswith("Pooling")]
    config = read_json(folder / (paths[0] if paths else "1_Pooling") / "config.json")
    if isinstance(mode := config.get("pooling_mode"), str):
        return [mode]
    # before sentence-transformers 6: one flag per mode
    return [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value is True]
