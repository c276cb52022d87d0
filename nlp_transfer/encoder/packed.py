"""The padding-free forward: up to the last layer the tokens of a batch lie in one row.

The model code stays the library's: hooks take the padding out and put it back (`unpadding`), attention within each text
alone comes through transformers' interface (`attention`, `varlen`). What can be done is found out here, by trying.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nlp_transfer.encoder import varlen
from nlp_transfer.encoder.anatomy import Anatomy, disposable, sample_rows, unwrapped
from nlp_transfer.encoder.attention import NAME
from nlp_transfer.encoder.classifier import Outputs, forward
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.unpadding import Positions, install
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

_TOLERANCE, _IN_HALF = 1e-5, 0.05  # of norms; in float32, and in bfloat16 beside that
_WIDEST_TRIED = 1024  # tokens to either side; the padded model's scores of more would take gigabytes
# How many places of padding cost as much memory as a token, in embeddings and head, or in the head alone.
_PLACES_BEFORE_LAYERS, _PLACES_BEFORE_EMBEDDINGS = 8, 32


class NotPacked(Exception):
    """A model that must stay padded; says why."""


def pack_if_wanted(
    model: Any, anatomy: Anatomy, tokenizer: Any, settings: EncoderSettings, *, half: bool, compiled: bool = False
) -> tuple[int, str]:
    """Take the padding out of a model where the settings want that and it can be.

    Left open, it is done where it was measured: on a CPU, and on a CUDA GPU through FlashAttention.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        anatomy: where it keeps what.
        tokenizer: its own.
        settings: of the encoder.
        half: whether it computes in bfloat16 or float16.
        compiled: whether `torch.compile` follows.

    Returns:
        How many places of padding cost as much as a token, 1 where the model stays padded, and that in words, with the
        reason if it does.

    Raises:
        UserError: if it is demanded and cannot be.
    """
    if settings.packed is False:
        return 1, "padded, as encoder.packed=false asks for"
    try:
        if settings.attention is not None:
            raise NotPacked(f"encoder.attention={settings.attention} is an attention of its own")
        if compiled:
            raise NotPacked("training.compile wants tensors of few shapes")
        return pack(model, anatomy, tokenizer, half=half, anywhere=settings.packed is True), "packed"
    except NotPacked as why:
        if settings.packed:
            raise UserError(f"encoder.packed=true: {why}; leave it open (null)") from why
        return 1, f"padded: {why}"


def pack(model: Any, anatomy: Anatomy, tokenizer: Any, *, half: bool = False, anywhere: bool = True) -> int:
    """Take the padding out of a model for good, if it answers then as before.

    That is tried on copies, with two texts of unequal length.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        anatomy: where it keeps what.
        tokenizer: its own.
        half: whether it computes in bfloat16 or float16.
        anywhere: also where it is not known to be faster.

    Returns:
        How many places of padding cost as much as a token from now on.

    Raises:
        NotPacked: where it cannot be; the model was left as it is.
    """
    config = encoder_config(unwrapped(model).config)
    if not anatomy.blocks:
        raise NotPacked(f"{config.model_type} has no list of layers")
    rows = unequal_rows(model, tokenizer)
    with torch.inference_mode():
        padded = forward(disposable(model), rows)
    after_padding = (getattr(config, "pad_token_id", None) or 0) + 1  # where RoBERTa begins to count
    for positions in (Positions(False, 0), Positions(True, after_padding), Positions(True, 0), None):
        why = _why_not(model, anatomy, rows, padded, positions)
        if why is None:
            flash = half and _knows_flash(model, anatomy, tokenizer, positions)
            device = unwrapped(model).device.type
            if device != "cpu" and not flash and not anywhere:
                raise NotPacked(f"faster on {device} through FlashAttention alone; encoder.packed=true tries it")
            install(model, anatomy, positions, varlen.NAME if flash else NAME)
            return _PLACES_BEFORE_EMBEDDINGS if positions else _PLACES_BEFORE_LAYERS
    raise NotPacked(why)


def _knows_flash(model: Any, anatomy: Anatomy, tokenizer: Any, positions: Positions | None) -> bool:
    """Return whether torch's FlashAttention can stand for the attention of a model on a GPU; tried on rows.

    They are longer than what a token sees around it, as far as that is little enough to be tried, and gradients are
    asked for: the kernels are not built for every GPU and head width, and for fewer backwards than forwards.
    """
    inner = unwrapped(model)
    config = encoder_config(inner.config)
    chunked = getattr(config, "attention_chunk_size", None)  # FlashAttention is not told of it
    if inner.device.type != "cuda" or not inner._supports_flash_attn or chunked:
        return False
    window = getattr(config, "sliding_window", None) or 0
    rows = unequal_rows(model, tokenizer, tokens=window + 8 if window <= _WIDEST_TRIED else 8)
    twin = disposable(model)
    try:
        with torch.inference_mode():
            padded = forward(disposable(model), rows)
        install(twin, anatomy, positions, varlen.NAME)
        learning = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        with torch.enable_grad(), torch.autocast("cuda", torch.bfloat16):
            packed = forward(twin, rows)
            if learning:
                dropping = forward(twin.train(), rows).logits.float().sum()
                torch.autograd.grad(dropping, learning, allow_unused=True)
    except Exception:  # kernels and architectures refuse in many ways
        return False
    return all((one - other).norm() <= _IN_HALF * one.norm() for one, other in zip(padded, packed, strict=True))


def _why_not(
    model: Any, anatomy: Anatomy, rows: dict[str, Tensor], padded: Outputs, positions: Positions | None
) -> str | None:
    """Return why a model cannot be packed in this way, or None."""
    kind = encoder_config(unwrapped(model).config).model_type
    twin = disposable(model)
    given: list[bool] = []
    try:
        encoder = install(twin, anatomy, positions, NAME)
        encoder.register_forward_pre_hook(
            lambda *call: given.append(call[2].get("position_ids") is not None), with_kwargs=True
        )
        with torch.inference_mode():
            packed = forward(twin, rows)
    except Exception as error:  # architectures refuse in many ways what they do not know
        return f"the layers of {kind} do not run without padding ({type(error).__name__})"
    alike = all((one - other).norm() <= _TOLERANCE * one.norm() for one, other in zip(padded, packed, strict=True))
    if positions and not any(given):
        return f"the embeddings of {kind} are given no words"
    return None if alike else f"without padding, {kind} answers otherwise"


def unequal_rows(model: Any, tokenizer: Any, *, tokens: int = 8) -> dict[str, Tensor]:
    """Return two rows of at least so many tokens, of which the second is shorter; it ends as the first does."""
    few = sample_rows(unwrapped(model), segments="token_type_ids" in tokenizer.model_input_names)
    rows = {name: values.repeat(1, -(-tokens // values.shape[1])) for name, values in few.items()}
    ids, mask = rows["input_ids"].clone(), rows["attention_mask"]
    left = tokenizer.padding_side == "left"
    padding = slice(0, 3) if left else slice(-3, None)
    ids[1] = ids[1] if left else ids[1].roll(-3)
    ids[1, padding], mask[1, padding] = tokenizer.pad_token_id, 0
    return rows | {"input_ids": ids}
