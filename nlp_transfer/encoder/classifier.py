"""Load a verified encoder with a classification head, and the single forward pass that the whole package uses.

Independent of losses, strategies and the training loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from nlp_transfer.encoder import pooled
from nlp_transfer.encoder.anatomy import (
    Anatomy,
    active_output,
    disposable,
    dissect,
    is_causal,
    output_layers,
    sample_rows,
    unwrapped,
)
from nlp_transfer.encoder.bag_of_embeddings import forget_positions
from nlp_transfer.encoder.boundary import precomputed_states
from nlp_transfer.encoder.compatibility import align, max_tokens
from nlp_transfer.encoder.damage import blame_file
from nlp_transfer.encoder.heads import native_model, pooled_model
from nlp_transfer.encoder.pooled_config import encoder_config, register_config
from nlp_transfer.encoder.random_init import reinitialise
from nlp_transfer.encoder.sizes import limit_model_size
from nlp_transfer.encoder.source import Source, locate, read_json
from nlp_transfer.errors import UserError, below_one, one_of

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EncoderSettings

HEADS = ("native", "pooled")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Outputs(NamedTuple):
    """Outputs of one forward pass.

    Attributes:
        logits: (examples, outputs).
        features: (examples, width), the input of the output layer.
    """

    logits: Tensor
    features: Tensor


@dataclass
class Classifier:
    """An encoder with a head.

    Attributes:
        model: The transformers model; a strategy may replace it by a PEFT model.
        tokenizer: Its tokenizer, with a padding token.
        anatomy: The parts of the model before any wrapping.
        source: The origin of the weights.
        fresh: Names of the newly initialised parameters.
        head: "native" or "pooled".
        max_tokens: Maximum input length in tokens, special tokens included.
        known: How many of the labels, the first ones, the output layer was trained on before; 0: it is new.
    """

    model: Any
    tokenizer: Any
    anatomy: Anatomy
    source: Source
    fresh: tuple[str, ...]
    head: str
    max_tokens: int
    known: int = 0


def load_classifier(
    settings: EncoderSettings, task: Task, *, head: str, seed: int, source: Source | None = None
) -> Classifier:
    """Load the encoder of `settings` in float32 with a head for `task`.

    The output layer is new, unless the folder has one for exactly the same labels in the same order. A regression head,
    which has no label names, is always new. Without layers, position embeddings are disabled, see `bag_of_embeddings`.

    Args:
        settings: The encoder and its head.
        task: Labels and problem type.
        head: "native", the architecture's own, or "pooled", this package's.
        seed: For the weights of the head, and of an encoder without pretrained weights; the global random state is not
            changed.
        source: The result of `locate` for these settings, if available.

    Raises:
        UserError: the encoder cannot be found, verified or loaded, or does not support such a head.
    """
    from transformers import AutoTokenizer

    one_of(head, HEADS, "encoder.head")
    below_one(settings, "encoder.", "head_dropout")
    source = source or locate(settings)
    _check_attention(settings, source)
    register_config()
    pooled.register_model()
    options = {"trust_remote_code": settings.trust_remote_code}
    with (
        quiet(),
        torch.random.fork_rng(devices=[]),
        _explain_errors(settings, head, source),
        limit_model_size(source.folder),
    ):
        torch.default_generator.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, **options)
        if head == "pooled":
            model, fresh = pooled_model(settings, task, source.folder, tokenizer)
        else:
            model, fresh = native_model(settings, task, source.folder)
        if settings.depth == 0:  # some architectures fail without layers only in the forward pass
            with torch.no_grad():
                disposable(getattr(model, model.base_model_prefix))(**sample_rows(model))
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # the library's result if it finds no vocabulary
        raise UserError(f"encoder.name={settings.name!r}: {source.folder} holds no vocabulary (tokenizer.json)")
    check_finite(model, f"encoder.name={settings.name!r} ({source.folder})")
    align(model, tokenizer, source.folder)
    if not settings.pretrained and not source.pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            base = f"{model.base_model_prefix}."
            reinitialise(model, model.base_model_prefix, lambda name: name.startswith(base))
    forget_positions(model)
    anatomy = dissect(model, fresh=fresh, segments="token_type_ids" in tokenizer.model_input_names)
    inside = [name for name in fresh if name.startswith(f"{anatomy.base}.") and name not in anatomy.unused]
    # A native head may use a newly initialised pooler of the encoder. A pooled head uses none.
    if missing := [name for name in inside if head == "pooled" or "pooler" not in name]:
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
        max_tokens=max_tokens(model, tokenizer, source.folder),
    )


def check_finite(model: Any, place: str) -> None:
    """Refuse weights that are infinite or NaN.

    Raises:
        UserError: naming the place and the first such tensor.
    """
    for name, tensor in model.named_parameters():
        if not tensor.is_floating_point() or tensor.sum().isfinite():  # ten times faster than checking every value
            continue
        if bad := int((~tensor.isfinite()).sum()):  # the sum of finite values may overflow
            raise UserError(
                f"{place}: {bad:,} of {tensor.numel():,} weights of {name} are infinite or not a number; the file is "
                "damaged or holds a training that failed"
            )


def _check_attention(settings: EncoderSettings, source: Source) -> None:
    """Refuse FlashAttention if it is not installed: transformers would fetch a kernel from the Hub and run it."""
    from transformers import utils

    if settings.attention is not None:
        one_of(settings.attention, ATTENTION, "encoder.attention")
    wanted = settings.attention or read_json(source.folder / "config.json").get("attn_implementation")
    kind = re.fullmatch(r"flash_attention_(\d)", wanted) if isinstance(wanted, str) else None
    if kind and not getattr(utils, f"is_flash_attn_{kind[1]}_available", bool)():  # bool: not in this version
        raise UserError(f"{wanted} is not installed for this device; set encoder.attention=sdpa or eager")


def forward(model: Any, batch: Mapping[str, Tensor]) -> Outputs:
    """Run `model`, plain or wrapped by PEFT, on a batch.

    Args:
        model: The `model` of a `Classifier`.
        batch: `input_ids` and `attention_mask` of shape (rows, tokens), optionally `token_type_ids`. With `document`
            (rows,), the example that each row is a window of, logits and features are averaged over the windows of an
            example; examples are numbered from 0 without gaps. With `features` (examples, width) instead of
            `input_ids`, only the output layer runs. With additional `states` (tokens, width), the frozen layers are
            skipped, see `boundary.skip_layers`.

    Returns:
        Logits and features, one row per example; gradients flow through both.
    """
    if "features" in batch:
        features = batch["features"]
        return Outputs(logits=active_output(model)(features), features=features)
    recorded: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        recorded.append((inputs[0], output))

    # PEFT may keep a trained copy of the head beside the original; the hook fires on the active one.
    hooks = [layer.register_forward_hook(record) for layer in output_layers(model).values()]
    try:
        with precomputed_states(batch.get("states")):
            logits = model(**{name: batch[name] for name in INPUTS if name in batch}).logits
    finally:
        for hook in hooks:
            hook.remove()
    features, output = recorded[-1]
    if features.dim() == 3:  # the model applies the output layer to every token and pools the logits
        features = _over_tokens(model, features, batch, chosen=(output == logits.unsqueeze(1)).all(dim=-1))
    if "document" in batch:
        logits, features = (_mean_by(batch["document"], values) for values in (logits, features))
    return Outputs(logits=logits, features=features)


def reads_padding(classifier: Classifier) -> bool:
    """Return whether padding affects the features, so that predictions depend on the other texts of a batch."""
    model, tokenizer = disposable(classifier.model), classifier.tokenizer
    rows = sample_rows(model, segments="token_type_ids" in tokenizer.model_input_names)
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    width = (4, 0) if tokenizer.padding_side == "left" else (0, 4)
    padded = {name: nn.functional.pad(values, width, value=fill[name]) for name, values in rows.items()}
    with torch.inference_mode():
        plain, other = (forward(model, batch).features.float() for batch in (rows, padded))
    return bool((plain - other).norm() > 1e-2 * plain.norm())


def _over_tokens(model: Any, features: Tensor, batch: Mapping[str, Tensor], *, chosen: Tensor) -> Tensor:
    """Pool (rows, tokens, width) as the library pools the logits.

    Decoders use the last token, T5Gemma too, though there the choice depends on padding; EuroBERT uses the mean.

    Args:
        model: see `forward`.
        features: of every token.
        batch: see `forward`.
        chosen: bool (rows, tokens), the tokens whose logits equal those of the row.
    """
    config = unwrapped(model).config
    if is_causal(encoder_config(config)):
        positions = torch.arange(batch["input_ids"].shape[1], device=features.device)
        chosen = ((batch["input_ids"] != config.pad_token_id) * positions).argmax(dim=1)
    elif bool((chosen.sum(dim=1) == 1).all()):
        chosen = chosen.int().argmax(dim=1)
    else:
        return pooled.pool(features, batch["attention_mask"], "mean")
    return features[torch.arange(len(features), device=features.device), chosen]


def _mean_by(document: Tensor, values: Tensor) -> Tensor:
    """Average over the rows of each document: (rows, width) -> (documents, width).

    Uses a matrix product, because scatter additions on a GPU are not deterministic.
    """
    member = nn.functional.one_hot(document).T.to(torch.float32)
    with torch.autocast(values.device.type, enabled=False):
        return (member @ values.float() / member.sum(dim=1, keepdim=True)).to(values.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's progress bars and its report of new weights, which `Classifier.fresh` has."""
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
def _explain_errors(settings: EncoderSettings, head: str, source: Source) -> Iterator[None]:
    """Turn the library's loading errors into a one-sentence UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many types
        blame_file(source.folder, str(error))
        message = str(error).strip().splitlines()
        if settings.depth == 0:
            raise UserError(f"encoder.depth=0: {settings.name} cannot do without layers") from error
        raise UserError(
            f"encoder.name={settings.name!r} cannot be loaded with encoder.head={head}: "
            f"{type(error).__name__}: {message[0] if message else ''}"
        ) from error
