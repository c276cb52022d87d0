"""A head for a task on verified weights: the architecture's own ("native") or ours ("pooled").

Knows configurations, new parameters and how a tokenizer joins two texts; it must not know where the weights come from,
batches or training.
"""

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
_DONE = {"", "Transformer", "Pooling", "Normalize", "Dropout"}  # a length, which the head learns, and what is off
COMBINE = ("mix", "concat")
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "ordinal": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def native_model(settings: EncoderSettings, task: Task, folder: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the model in `folder` under its architecture's own head, and the names of its new parameters."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not settings.trust_remote_code:
        raise UserError(f"{config.model_type!r} has no classification head of its own; use encoder.head=pooled")
    if getattr(config, "siamese", None) and (settings.pairs == "joint" or not task.pair):
        raise UserError(
            f"{settings.name} compares two texts, each read alone; for anything else use encoder.head=pooled"
        )
    tuned_for = dict(config.id2label or {})
    shorten(config, settings, native=True)
    describe(config, task)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, config=config, **loading(settings))
    fresh = fresh_of(info)
    output = next(reversed(output_layers(model)), None)
    same = task.labels and tuned_for == dict(config.id2label)  # a regression head does not say what it was tuned for
    if output is not None and f"{output}.weight" not in fresh and not same:
        fresh |= _renew(model, output)
    if settings.head_dropout is not None:
        _set_dropout(model, settings.head_dropout)
    return model, tuple(name for name, _ in model.named_parameters() if name in fresh)


def pooled_model(settings: EncoderSettings, task: Task, folder: Path, tokenizer: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the encoder in `folder` under a new head of ours, and the names of its new parameters."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    if settings.trust_remote_code:
        raise UserError("encoder.head=pooled cannot hold an encoder with code of its own; use encoder.head=native")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    shorten(config, settings, native=False)
    trained_with = suggested_pooling(folder)
    if isinstance(config, PooledConfig):  # a model of ours: its encoder under a new head
        trained_with = config.pooling
        whole, info = AutoModelForSequenceClassification.from_pretrained(folder, config=config, **loading(settings))
        config, encoder = whole.config.encoder, whole.encoder
        prefix = ""
    else:
        pooled.read_once(config)
        encoder, info = AutoModel.from_pretrained(
            folder, config=config, **pooled.encoder_options(config), **loading(settings)
        )
        config = encoder.config  # a copy, in float32
        prefix = "" if config.is_encoder_decoder else "encoder."  # whose encoder is called so already
        encoder = pooled.without_decoder(encoder)
    siamese = _chosen_pairs(settings, task, tokenizer, folder)
    spread = settings.layers == "spread" or (settings.layers == "auto" and siamese is not None)
    layers = _spread(encoder) if spread else _chosen_layers(settings, encoder)
    together = spread or settings.layers == "all"
    pooling = settings.pooling
    if pooling == "auto":
        pooling = trained_with or ("last" if is_causal(config) else "mean")
    description = PooledConfig(
        encoder=copy.deepcopy(config),  # making it forgets how attention is computed, also in its part
        pooling=one_of(pooling, sorted(set(POOLING.values())), "encoder.pooling"),
        layers=layers,
        combine="concat" if together else one_of(settings.combine, COMBINE, "encoder.combine"),
        hidden=settings.hidden,
        head_dropout=0.1 if settings.head_dropout is None else settings.head_dropout,
        siamese=siamese,
        dtype="float32",
    )
    describe(description, task)
    model = pooled.PooledForSequenceClassification(description, encoder)
    missing = {f"{prefix}{name}" for name in fresh_of(info)}
    names = [name for name, _ in model.named_parameters()]
    return model, tuple(name for name in names if name in missing or not name.startswith("encoder."))


def shorten(config: Any, settings: EncoderSettings, *, native: bool) -> None:
    """Leave an encoder the lowest of its layers, whose weights alone are then loaded.

    What pretraining needs the upper ones for, another task often does not (Sajjad et al. 2023, "On the effect of
    dropping layers of pre-trained transformer models", Computer Speech & Language 77).
    """
    if settings.depth is None:
        return
    own = encoder_config(config)
    count = getattr(own, "num_hidden_layers", None)
    asked = f"encoder.depth={settings.depth}: {settings.name}"
    if count is None:
        raise UserError(f"{asked} cannot be shortened")
    if not 0 <= settings.depth <= count:
        raise UserError(f"{asked} has {count} layers")
    if native and (config.is_encoder_decoder or own is getattr(config, "text_config", None)):
        more = "a decoder" if config.is_encoder_decoder else "an encoder of images"
        raise UserError(f"{asked} has {more} too; use encoder.head=pooled")
    try:
        for name, value in entries_of(vars(own), settings.depth).items():
            setattr(own, name, value)
        type(own).from_dict(own.to_dict())  # what is saved must be read again
    except Exception:  # Funnel counts its layers in blocks, GPT-Neo in pairs
        raise UserError(f"{asked} cannot be shortened") from None


def loading(settings: EncoderSettings) -> dict[str, Any]:
    """Return the options of every `from_pretrained` of weights."""
    options = {
        "dtype": "float32",  # the library's default is the checkpoint's, and a new head would be half precision too
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # of a head, or of what nobody reads; all else is refused when it is known
    }
    return options | ({} if settings.attention is None else {"attn_implementation": settings.attention})


def describe(config: Any, task: Task) -> None:
    """Write the task into a configuration: what anybody's `pipeline` needs to name the labels."""
    names = task.labels or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[task.problem]


def fresh_of(info: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that a checkpoint did not hold, from what `from_pretrained` says of it."""
    return set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def _renew(model: Any, output: str) -> set[str]:
    """Initialise the output layer again, as the library does; return the names of its parameters.

    A head tuned for other labels has the right size only by chance.
    """
    names = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] == output}
    for name, parameter in model.named_parameters():
        parameter._is_hf_initialized = name not in names  # the library's mark of weights to be left alone
    # Some families initialise the head as a whole, some each of its linear layers; the whole comes last and wins.
    for name, module in reversed(list(model.named_modules())):
        if name and f"{output}.".startswith(f"{name}."):
            model._init_weights(module)
    return names


def _set_dropout(model: Any, probability: float) -> None:
    """Set the dropout of the architecture's own head, whatever its configuration calls it."""
    outside = [child for name, child in model.named_children() if name != model.base_model_prefix]
    layers = [module for child in outside for module in child.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise UserError(
            f"encoder.head_dropout: the head of {type(model).__name__} has no dropout; use encoder.head=pooled"
        )
    for layer in layers:
        layer.p = probability


def _chosen_layers(settings: EncoderSettings, encoder: Any) -> list[int]:
    """Return the hidden states that are pooled, where they are not spread."""
    count = getattr(encoder.config, "num_hidden_layers", None)
    if settings.layers in ("auto", "last"):
        return [-1]
    if settings.layers == "all":
        depth = _readable_depth(encoder)
        return list(range(depth + 1)) if depth else [-1]
    layers = settings.layers
    whole = isinstance(layers, list) and all(isinstance(layer, int) for layer in layers)
    if not whole or not layers or any(count is not None and not -count - 1 <= layer <= count for layer in layers):
        raise UserError(
            f"encoder.layers={layers}: choose last, spread, all, or a list of hidden states from 0 (embeddings) to "
            f"{count}, or from -1 (last layer) to {-count - 1 if count else '...'}"
        )
    return layers


def _spread(encoder: Any) -> list[int]:
    """Return the layers at a half, two thirds and all of the depth.

    The last layer serves the pretraining task, and those below it often tell more about another one (Liu et al. 2019,
    arXiv 1903.08855). In a pair, what it is about most, the topic, is what the two texts share.
    """
    depth = _readable_depth(encoder)
    return sorted({max(1, depth // 2), max(1, round(depth * 2 / 3)), depth}) if depth else [-1]


def _readable_depth(encoder: Any) -> int:
    """Return how many layers give one state a token; 0 where any gives another number (Funnel halves the sequence)."""
    rows = sample_rows(encoder)
    with torch.inference_mode():
        states = disposable(encoder)(**rows, output_hidden_states=True, return_dict=True).hidden_states or ()
    return len(states) - 1 if all(state.shape[:2] == rows["input_ids"].shape for state in states) and states else 0


def _chosen_pairs(settings: EncoderSettings, task: Task, tokenizer: Any, folder: Path) -> dict[str, int] | None:
    """Return how the two texts of a pair are found, if each is to be read alone, as in training so far or as asked."""
    one_of(settings.pairs, ("auto", "joint", "siamese"), "encoder.pairs")
    if settings.pairs == "joint" or (settings.pairs == "auto" and not (task.pair and _read_alone(folder))):
        return None
    if not task.pair:
        raise UserError("encoder.pairs=siamese compares two texts, and this data has one; name data.columns.text_pair")
    found = joining(tokenizer)
    if found is None and settings.pairs == "siamese":
        raise UserError(
            "encoder.pairs=siamese: two texts that this tokenizer joined cannot be taken apart; use encoder.pairs=joint"
        )
    return found


def _read_alone(folder: Path) -> bool:
    """Return whether an encoder has read each text alone: a sentence encoder never saw two joined."""
    content = read_json(folder / "config.json")
    if content.get("model_type") == POOLED:  # a model of ours
        return bool(content.get("siamese"))
    return suggested_pooling(folder) is not None


def reads_alone(settings: EncoderSettings, task: Task, folder: Path) -> bool:
    """Return whether a pooled head would have each text of a pair read alone; nothing but the tokenizer is loaded.

    Raises:
        UserError: for `encoder.pairs=siamese` where two texts cannot be taken apart.
    """
    from transformers import AutoTokenizer

    if settings.trust_remote_code:  # a pooled head cannot hold such an encoder
        return False
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception:  # in as many ways as there are tokenizers; what is wrong is said where the encoder is loaded
        return False
    return _chosen_pairs(settings, task, tokenizer, folder) is not None


def joining(tokenizer: Any) -> dict[str, int] | None:
    """Return how the tokenizer joins two texts, or None where they could not be taken apart again."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    alone, joined = tokenizer("a")["input_ids"], tokenizer("a", "a")["input_ids"]
    start = next((place for place in range(len(alone)) if alone[place : place + len(text)] == text), 0)
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


def left_out(folder: Path) -> list[str]:
    """Return what sentence-transformers makes of the encoder's states and a pooled head does not: pooling, layers."""
    modes, kinds = _modes(folder), [str(module.get("type", "")).rpartition(".")[2] for module in _modules(folder)]
    pooling = [f"pooling by {' and '.join(modes)}"] if modes and suggested_pooling(folder) is None else []
    return pooling + sorted({*kinds} - _DONE)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return what sentence-transformers has of an encoder and behind it, as its folder says."""
    return read_json(folder / "modules.json", kind=list)


def _modes(folder: Path) -> list[str]:
    """Return how sentence-transformers pools the encoder's states, in its words; nothing where that is not said."""
    places = [module["path"] for module in _modules(folder) if str(module.get("type", "")).endswith("Pooling")]
    config = read_json(folder / (places[0] if places else "1_Pooling") / "config.json")
    if isinstance(mode := config.get("pooling_mode"), str):
        return [mode]
    # before sentence-transformers 6: one flag a mode
    return [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value is True]
