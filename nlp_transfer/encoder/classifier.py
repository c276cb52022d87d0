"""A verified encoder with a head for a task, and the ONE forward pass that every part of the package uses.

Knows how a head is put on and what a batch looks like; it must not know losses, strategies or the training loop.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nlp_transfer.encoder import pooled
from nlp_transfer.encoder.anatomy import Anatomy, dissect, output_layers, takes_segments, unwrapped
from nlp_transfer.encoder.pooled_config import PooledConfig, register_config
from nlp_transfer.encoder.source import Source, locate, read_json
from nlp_transfer.errors import UserError, one_of

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EncoderSettings

HEADS = ("native", "pooled")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
POOLING = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "mean_tokens": "mean",
    "cls_token": "cls",
    "max_tokens": "max",
}
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "ordinal": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
UNLIMITED = 1 << 30  # tokens; relative positions have no end


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (examples, outputs).
        features: (examples, width), the vectors that enter the output layer.
    """

    logits: Tensor
    features: Tensor


@dataclass
class Classifier:
    """An encoder with a head.

    Attributes:
        model: The transformers model; a strategy may replace it by a PEFT model.
        tokenizer: Its tokenizer, with a padding token.
        anatomy: Where the model, before any wrapping, keeps what.
        source: Where the weights came from.
        fresh: Names of the parameters that were newly initialised.
        head: "native" or "pooled".
        max_tokens: Longest input in tokens, special tokens included.
    """

    model: Any
    tokenizer: Any
    anatomy: Anatomy
    source: Source
    fresh: tuple[str, ...]
    head: str
    max_tokens: int


def load_classifier(settings: EncoderSettings, task: Task, *, head: str, seed: int) -> Classifier:
    """Load the encoder of `settings` in float32 and put a head for `task` on it.

    The output layer is new, unless the folder holds one for exactly the same labels in the same order, which is kept.

    Args:
        settings: Which encoder, which head.
        task: Labels and kind of problem.
        head: "native", the architecture's own, or "pooled", ours.
        seed: Decides the weights of the head; the global random state is left alone.

    Raises:
        UserError: the encoder cannot be found, verified or loaded, or it cannot carry such a head.
    """
    from transformers import AutoTokenizer

    one_of(head, HEADS, "encoder.head")
    if settings.attention is not None:
        one_of(settings.attention, ATTENTION, "encoder.attention")
    source = locate(settings)
    register_config()
    pooled.register_model()
    options = {"trust_remote_code": settings.trust_remote_code}
    make = _pooled_model if head == "pooled" else _native_model
    with _quiet(), torch.random.fork_rng(devices=[]), _named(settings, head):
        torch.default_generator.manual_seed(seed)
        model, fresh = make(settings, task, source.folder)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, **options)
    _agree(model, tokenizer)
    anatomy = dissect(model, fresh=fresh, segments="token_type_ids" in tokenizer.model_input_names)
    missing = [name for name in fresh if anatomy.depth[name] <= anatomy.layers and name not in anatomy.unused]
    if missing:
        raise UserError(
            f"encoder.name={settings.name!r}: the checkpoint has no fitting weights for {len(missing)} parameters of "
            f"{type(model).__name__}, among them {missing[0]!r}; it is damaged or holds another architecture"
        )
    return Classifier(
        model=model.eval(),
        tokenizer=tokenizer,
        anatomy=anatomy,
        source=source,
        fresh=fresh,
        head=head,
        max_tokens=_max_tokens(model, tokenizer),
    )


def forward(model: Any, batch: Mapping[str, Tensor]) -> Outputs:
    """Run `model`, plain or wrapped by PEFT, on a batch.

    Args:
        model: The `model` of a `Classifier`.
        batch: `input_ids` and `attention_mask` of shape (rows, tokens), maybe `token_type_ids`. With `document`
            (rows,), the index of the example that each row is a window of, logits and features are averaged over the
            windows of an example; examples are numbered from 0 without gaps. With `features` (examples, width)
            instead of `input_ids`, only the output layer runs.

    Returns:
        Logits and features, one row an example; gradients flow through both.
    """
    layers = output_layers(model)
    if "features" in batch:
        features = batch["features"]
        active = next(reversed(layers.values()))
        return Outputs(logits=active(features), features=features)
    entered: list[Tensor] = []
    # Where PEFT keeps a trained copy of the head beside the original, whichever is active reports.
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])) for layer in layers.values()]
    try:
        logits = model(**{name: batch[name] for name in INPUTS if name in batch}).logits
    finally:
        for hook in hooks:
            hook.remove()
    features = entered[-1]
    if features.dim() == 3:  # the output layer was applied to every token, and the logits pooled
        features = _over_tokens(model, features, batch)
    if "document" in batch:
        logits, features = (_mean_by(batch["document"], values) for values in (logits, features))
    return Outputs(logits=logits, features=features)


def suggested_pooling(folder: Path) -> str | None:
    """Return the pooling that sentence-transformers trained the encoder with: mean, cls, max, last, or None."""
    modules = read_json(folder / "modules.json", kind=list)
    places = [module["path"] for module in modules if str(module.get("type", "")).endswith("Pooling")]
    config = read_json(folder / (places[0] if places else "1_Pooling") / "config.json")
    mode = config.get("pooling_mode")
    if mode is None:  # before sentence-transformers 6: one flag a mode
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        mode = on[0].removeprefix("pooling_mode_") if len(on) == 1 else None
    return POOLING.get(mode) if isinstance(mode, str) else None


def _native_model(settings: EncoderSettings, task: Task, folder: Path) -> tuple[Any, tuple[str, ...]]:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not settings.trust_remote_code:
        raise UserError(f"{config.model_type!r} has no classification head of its own; use encoder.head=pooled")
    tuned_for = dict(config.id2label or {})
    _describe(config, task)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, ignore_mismatched_sizes=True, **_loading(settings)
    )
    fresh = _fresh(info)
    output = next(reversed(output_layers(model)), None)
    if output is not None and f"{output}.weight" not in fresh and tuned_for != dict(config.id2label):
        fresh |= _renew(model, output)
    if settings.head_dropout is not None:
        _set_dropout(model, settings.head_dropout)
    return model, tuple(name for name, _ in model.named_parameters() if name in fresh)


def _pooled_model(settings: EncoderSettings, task: Task, folder: Path) -> tuple[Any, tuple[str, ...]]:
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    if settings.trust_remote_code:
        raise UserError("encoder.head=pooled cannot hold an encoder with code of its own; use encoder.head=native")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if isinstance(config, PooledConfig):  # a model of ours: its encoder under a new head
        whole, info = AutoModelForSequenceClassification.from_pretrained(folder, **_loading(settings))
        config, encoder = whole.config.encoder, whole.encoder
        prefix = ""
    else:
        if getattr(config, "use_cache", False):
            config.use_cache = False
        encoder, info = AutoModel.from_pretrained(
            folder, config=config, **pooled.encoder_options(config), **_loading(settings)
        )
        config = encoder.config  # a copy, in float32
        config._name_or_path = settings.name  # not a path of this machine
        encoder = pooled.without_decoder(encoder)
        prefix = "encoder."
    _check_layers(settings, config)
    pooling = settings.pooling
    if pooling == "auto":
        pooling = suggested_pooling(folder) or ("last" if _is_causal(config) else "mean")
    description = PooledConfig(
        encoder=copy.deepcopy(config),  # making it forgets how attention is computed, also in its part
        pooling=one_of(pooling, sorted(set(POOLING.values())), "encoder.pooling"),
        layers=settings.layers,
        combine=one_of(settings.combine, ("mix", "concat"), "encoder.combine"),
        hidden=settings.hidden,
        head_dropout=0.1 if settings.head_dropout is None else settings.head_dropout,
        dtype="float32",
    )
    _describe(description, task)
    model = pooled.PooledForSequenceClassification(description, encoder)
    missing = {f"{prefix}{name}" for name in _fresh(info)}
    names = [name for name, _ in model.named_parameters()]
    return model, tuple(name for name in names if name in missing or not name.startswith("encoder."))


def _loading(settings: EncoderSettings) -> dict[str, Any]:
    """Return the options of every `from_pretrained` of weights."""
    options = {
        "dtype": "float32",  # the library's default is the checkpoint's, and a new head would be half precision too
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        "output_loading_info": True,
    }
    return options | ({} if settings.attention is None else {"attn_implementation": settings.attention})


def _describe(config: Any, task: Task) -> None:
    """Write the task into a configuration: what anybody's `pipeline` needs to name the labels."""
    names = task.labels or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[task.problem]


def _fresh(info: Mapping[str, Any]) -> set[str]:
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


def _check_layers(settings: EncoderSettings, config: Any) -> None:
    count = getattr(config, "num_hidden_layers", None)
    wrong = [layer for layer in settings.layers if count is not None and not -count - 1 <= layer <= count]
    if wrong or not settings.layers:
        raise UserError(
            f"encoder.layers={list(settings.layers)}: choose hidden states from 0 (embeddings) to {count}, or from -1 "
            f"(last layer) to {-count - 1 if count else '...'}"
        )


def _agree(model: Any, tokenizer: Any) -> None:
    """Make model and tokenizer agree on padding and on what the model takes."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {type(model).__name__} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    described = getattr(model.config, "encoder", model.config)
    # A decoder finds the last token of a text by this id; elsewhere it belongs to the embeddings and stays.
    if getattr(model.config, "pad_token_id", None) is None or _is_causal(described):
        model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # a classifier reads each text once
    accepted = inspect.signature(type(getattr(model, model.base_model_prefix)).forward).parameters
    if "token_type_ids" not in accepted or not takes_segments(described):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]


def _is_causal(config: Any) -> bool:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    return (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING
        and kind not in MODEL_FOR_MASKED_LM_MAPPING
        and not config.is_encoder_decoder
    )


def _max_tokens(model: Any, tokenizer: Any) -> int:
    described = getattr(model.config, "encoder", model.config)
    limits = [tokenizer.model_max_length]
    positions = getattr(described, "max_position_embeddings", None)
    if positions is not None and positions > 0:  # XLNet says -1
        limits.append(positions)
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from the padding index on.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return int(min(*limits, UNLIMITED))


def _over_tokens(model: Any, features: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Pool (rows, tokens, width) as the library pools the logits: a decoder takes the last token, EuroBERT the mean."""
    config = unwrapped(model).config
    if not _is_causal(config):
        return pooled.pool(features, batch["attention_mask"], "mean")
    places = torch.arange(batch["input_ids"].shape[1], device=features.device)
    last = ((batch["input_ids"] != config.pad_token_id) * places).argmax(dim=1)
    return features[torch.arange(len(features), device=features.device), last]


def _mean_by(document: Tensor, values: Tensor) -> Tensor:
    """Average over the rows of each document: (rows, width) -> (documents, width).

    A matrix product, because scattered additions on a GPU come in another order in every run.
    """
    member = nn.functional.one_hot(document).T.to(torch.float32)
    with torch.autocast(values.device.type, enabled=False):
        return (member @ values.float() / member.sum(dim=1, keepdim=True)).to(values.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's progress bars and its report of new weights: `Classifier.fresh` says it."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def _named(settings: EncoderSettings, head: str) -> Iterator[None]:
    """Turn what the library says of a model it cannot load into one sentence."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, ImportError, OSError, RuntimeError, SafetensorError) as error:
        said = str(error).strip().splitlines()
        raise UserError(
            f"encoder.name={settings.name!r} cannot be loaded with encoder.head={head}: "
            f"{type(error).__name__}: {said[0] if said else ''}"
        ) from error
