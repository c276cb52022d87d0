"""The padding-free forward pass: up to the last layer the tokens of a batch lie in one row.

The model code stays the library's: hooks remove the padding and restore it (`unpadding`), and attention within each
text is plugged in through transformers' attention interface (`attention`, `varlen`). This module finds out, by trying,
whether a model can be packed.
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

# Largest relative difference of norms between packed and padded outputs, in float32 and in bfloat16.
_TOLERANCE, _TOLERANCE_IN_HALF = 1e-5, 0.05
_WIDEST_TRIED = 1024  # tokens of a sliding window; attention scores of a wider padded batch would take gigabytes
# How many padding tokens take as much memory as a real one: in embeddings and head, or in the head alone.
_PLACES_BEFORE_LAYERS, _PLACES_BEFORE_EMBEDDINGS = 8, 32


class NotPacked(Exception):
    """The model must stay padded; the message says why."""


def pack_if_wanted(
    model: Any, anatomy: Anatomy, tokenizer: Any, settings: EncoderSettings, *, half: bool, compiled: bool = False
) -> tuple[int, str]:
    """Pack a model if the settings allow it and it can be packed.

    If the settings leave it open, packing is used where it was measured to be faster: on a CPU, and on a CUDA GPU with
    FlashAttention.

    Args:
        model: the classifier's model, possibly wrapped by PEFT.
        anatomy: where the architecture keeps its parts.
        tokenizer: the model's tokenizer.
        settings: the `encoder` group.
        half: whether the model computes in bfloat16 or float16.
        compiled: whether `torch.compile` follows.

    Returns:
        How many padding tokens cost as much as a real one (1 if the model stays padded), and a phrase for the plan with
        the reason if it does.

    Raises:
        UserError: if `encoder.packed=true` and the model cannot be packed.
    """
    if settings.packed is False:
        return 1, "padded, as encoder.packed=false asks for"
    try:
        if settings.attention is not None:
            raise NotPacked(f"encoder.attention={settings.attention} is chosen explicitly")
        if compiled:
            raise NotPacked("training.compile needs tensors of few shapes")
        return pack(model, anatomy, tokenizer, half=half, anywhere=settings.packed is True), "packed"
    except NotPacked as why:
        if settings.packed:
            raise UserError(f"encoder.packed=true: {why}; set encoder.packed=null") from why
        return 1, f"padded: {why}"


def pack(model: Any, anatomy: Anatomy, tokenizer: Any, *, half: bool = False, anywhere: bool = True) -> int:
    """Pack a model permanently if its outputs stay the same.

    This is tried on copies, with two texts of unequal length.

    Args:
        model: the classifier's model, possibly wrapped by PEFT.
        anatomy: where the architecture keeps its parts.
        tokenizer: the model's tokenizer.
        half: whether the model computes in bfloat16 or float16.
        anywhere: also pack where that is not known to be faster.

    Returns:
        How many padding tokens cost as much as a real one.

    Raises:
        NotPacked: if it cannot be packed; the model is unchanged.
    """
    config = encoder_config(unwrapped(model).config)
    if not anatomy.blocks:
        raise NotPacked(f"{config.model_type} has no list of layers")
    rows = unequal_rows(model, tokenizer)
    with torch.inference_mode():
        padded = forward(disposable(model), rows)
    after_padding = (getattr(config, "pad_token_id", None) or 0) + 1  # the first position of RoBERTa
    for positions in (Positions(False, 0), Positions(True, after_padding), Positions(True, 0), None):
        why = _why_not(model, anatomy, rows, padded, positions)
        if why is None:
            flash = half and _supports_flash(model, anatomy, tokenizer, positions)
            device = unwrapped(model).device.type
            if device != "cpu" and not flash and not anywhere:
                raise NotPacked(f"faster on {device} through FlashAttention alone; encoder.packed=true tries it")
            install(model, anatomy, positions, varlen.NAME if flash else NAME)
            return _PLACES_BEFORE_EMBEDDINGS if positions else _PLACES_BEFORE_LAYERS
    raise NotPacked(why)


def _supports_flash(model: Any, anatomy: Anatomy, tokenizer: Any, positions: Positions | None) -> bool:
    """Return whether torch's FlashAttention can replace the attention of a model on a GPU; found out by trying.

    The texts are longer than the sliding window, if it is not too wide to try, and gradients are computed too: kernels
    do not exist for every GPU and head width, and backward kernels for fewer than forward ones.
    """
    inner = unwrapped(model)
    config = encoder_config(inner.config)
    chunked = getattr(config, "attention_chunk_size", None)  # not passed on to FlashAttention
    if inner.device.type != "cuda" or not inner._supports_flash_attn or chunked:
        return False
    window = getattr(config, "sliding_window", None) or 0
    rows = unequal_rows(model, tokenizer, tokens=window + 8 if window <= _WIDEST_TRIED else 8)
    twin = disposable(model)
    try:
        with torch.inference_mode():
            padded = forward(disposable(model), rows)
        install(twin, anatomy, positions, varlen.NAME)
        trainable = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        with torch.enable_grad(), torch.autocast("cuda", torch.bfloat16):
            packed = forward(twin, rows)
            if trainable:
                dropping = forward(twin.train(), rows).logits.float().sum()
                torch.autograd.grad(dropping, trainable, allow_unused=True)
    except Exception:  # kernels and architectures fail in many ways
        return False
    return all(
        (one - other).norm() <= _TOLERANCE_IN_HALF * one.norm() for one, other in zip(padded, packed, strict=True)
    )


def _why_not(
    model: Any, anatomy: Anatomy, rows: dict[str, Tensor], padded: Outputs, positions: Positions | None
) -> str | None:
    """Return why a model cannot be packed with these positions, or None if it can."""
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
    except Exception as error:  # architectures fail in many ways on inputs that they do not support
        return f"the layers of {kind} do not run without padding ({type(error).__name__})"
    alike = all((one - other).norm() <= _TOLERANCE * one.norm() for one, other in zip(padded, packed, strict=True))
    if positions and not any(given):
        return f"the embeddings of {kind} are given no token ids"
    return None if alike else f"without padding, {kind} gives other outputs"


def unequal_rows(model: Any, tokenizer: Any, *, tokens: int = 8) -> dict[str, Tensor]:
    """Return a padded batch of two rows, at least `tokens` wide; the second is shorter and ends like the first."""
    few = sample_rows(unwrapped(model), segments="token_type_ids" in tokenizer.model_input_names)
    rows = {name: values.repeat(1, -(-tokens // values.shape[1])) for name, values in few.items()}
    ids, mask = rows["input_ids"].clone(), rows["attention_mask"]
    left = tokenizer.padding_side == "left"
    padding = slice(0, 3) if left else slice(-3, None)
    ids[1] = ids[1] if left else ids[1].roll(-3)
    ids[1, padding], mask[1, padding] = tokenizer.pad_token_id, 0
    return rows | {"input_ids": ids}
