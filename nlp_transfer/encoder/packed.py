"""The padding-free forward: up to the last layer the tokens of a batch lie in one row.

The model code stays the library's. Hooks take the padding out before the embeddings, or before the first layer where an
architecture finds positions in a way of its own, and put it back after the last layer for the head; attention within
each text alone comes through transformers' interface. What can be done is found out by trying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlp_transfer.encoder import varlen
from nlp_transfer.encoder.anatomy import Anatomy, disposable, encoder_config, sample_rows, unwrapped
from nlp_transfer.encoder.attention import NAME, register_attention
from nlp_transfer.encoder.classifier import Outputs, forward
from nlp_transfer.encoder.layout import Layout
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

_TOLERANCE, _IN_HALF = 1e-5, 0.05  # of norms; in float32, and in bfloat16 beside that
# How many places of padding cost as much memory as a token, in embeddings and head, or in the head alone.
_PLACES_BEFORE_LAYERS, _PLACES_BEFORE_EMBEDDINGS = 8, 32
# In bfloat16 a CPU compiles matrix products for every number of tokens it has not seen, and keeps them: of multiples
# there are few.
_ALIKE = 16


class NotPacked(Exception):
    """A model that must stay padded; says why."""


@dataclass(frozen=True)
class _Positions:
    """Which position a token has for an architecture.

    Attributes:
        in_text: counted within the text, else from the first column of the padded batch.
        first: position of the first.
    """

    in_text: bool
    first: int

    def leave_out(self, ids: Tensor, mask: Tensor) -> bool:
        """Return whether a batch has tokens that are not counted: those with the id of padding that are none."""
        return self.first > 0 and bool(((ids == self.first - 1) & mask.bool()).any())

    def of(self, layout: Layout) -> Tensor:
        """Return the position of every packed token, (1, tokens)."""
        return (layout.offsets if self.in_text else layout.columns).add(self.first).unsqueeze(0)


@dataclass(frozen=True)
class _Unpacked(Sequence[Any]):
    """Hidden states that get their padding back when they are read: a head reads few of them."""

    states: Sequence[Any]
    layout: Layout

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(len(self))[index])
        state = self.states[index]
        packed = state is not None and state.shape[:2] == (1, len(self.layout.places))
        return self.layout.unpack(state) if packed else state


@dataclass
class _Passing:
    """A batch on its way through the encoder.

    Attributes:
        layout: where its tokens lie.
        early: whether the padding was taken out before the embeddings.
        packed: what was packed already of that which all layers share, such as positions.
        arrived: whether the padding was put back behind the last layer.
    """

    layout: Layout
    early: bool = False
    packed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    arrived: bool = False

    def without_padding(self, value: Any) -> Any:
        """Return what a layer is given with the padding taken out; masks stay, attention cuts them itself."""
        if self.early:
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self.without_padding(each) for each in value)
        if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[1] != self.layout.shape[1]:
            return value
        if value.shape[0] == self.layout.shape[0]:  # mostly states, which no other layer is given
            return self.layout.pack(value)
        if value.shape[0] != 1:
            return value
        if id(value) not in self.packed:
            self.packed[id(value)] = (value, self.layout.pack(value))  # with the key, so that its id stays taken
        return self.packed[id(value)][1]


# One a thread: several may ask one model for its answers.
_PASSING: ContextVar[_Passing | None] = ContextVar("passing", default=None)


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
    for positions in (_Positions(False, 0), _Positions(True, after_padding), _Positions(True, 0), None):
        why = _why_not(model, anatomy, rows, padded, positions)
        if why is None:
            flash = half and _knows_flash(model, anatomy, rows, padded, positions)
            device = unwrapped(model).device.type
            if device != "cpu" and not flash and not anywhere:
                raise NotPacked(f"faster on {device} through FlashAttention alone; encoder.packed=true tries it")
            _install(model, anatomy, positions, varlen.NAME if flash else NAME)
            return _PLACES_BEFORE_EMBEDDINGS if positions else _PLACES_BEFORE_LAYERS
    raise NotPacked(why)


def _knows_flash(
    model: Any, anatomy: Anatomy, rows: dict[str, Tensor], padded: Outputs, positions: _Positions | None
) -> bool:
    """Return whether torch's FlashAttention can stand for the attention of a model on a GPU; tried on rows."""
    if unwrapped(model).device.type != "cuda" or not unwrapped(model)._supports_flash_attn:
        return False
    twin = disposable(model)
    try:
        _install(twin, anatomy, positions, varlen.NAME)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            packed = forward(twin, rows)
    except Exception:  # the kernels are not built for every GPU and head width
        return False
    return all((one - other).norm() <= _IN_HALF * one.norm() for one, other in zip(padded, packed, strict=True))


def _why_not(
    model: Any, anatomy: Anatomy, rows: dict[str, Tensor], padded: Outputs, positions: _Positions | None
) -> str | None:
    """Return why a model cannot be packed in this way, or None."""
    kind = encoder_config(unwrapped(model).config).model_type
    twin = disposable(model)
    given: list[bool] = []
    try:
        encoder = _install(twin, anatomy, positions)
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


def _install(model: Any, anatomy: Anatomy, positions: _Positions | None, attention: str = NAME) -> nn.Module:
    """Put the hooks on the model and return its encoder; attention is a packed one from now on.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        anatomy: where it keeps what.
        positions: what the embeddings are given; None: they see the padded batch.
        attention: its name in transformers' interface.
    """
    register_attention()
    varlen.register_varlen()
    inner = unwrapped(model)
    encoder = inner.get_submodule(anatomy.base)
    layers = [inner.get_submodule(name) for block in anatomy.blocks for name in block]
    for module in inner.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = attention
        if hasattr(module, "_gradient_checkpointing_func"):
            recomputed: Any = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = partial(recomputed, context_fn=_twice)
    encoder.register_forward_pre_hook(partial(_begin, positions), with_kwargs=True)
    encoder.register_forward_hook(_end, always_call=True)
    for layer in layers:
        layer.register_forward_pre_hook(_pack, with_kwargs=True)
    layers[-1].register_forward_hook(_unpack)
    return encoder


def unequal_rows(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Return two rows of which the second is shorter; it ends as the first does."""
    rows = sample_rows(unwrapped(model), segments="token_type_ids" in tokenizer.model_input_names)
    ids, mask = rows["input_ids"].clone(), rows["attention_mask"]
    left = tokenizer.padding_side == "left"
    padding = slice(0, 3) if left else slice(-3, None)
    ids[1] = ids[1] if left else ids[1].roll(-3)
    ids[1, padding], mask[1, padding] = tokenizer.pad_token_id, 0
    return rows | {"input_ids": ids}


def _begin(
    positions: _Positions | None, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    _PASSING.set(None)
    mask = kwargs.get("attention_mask")
    if mask is None:
        return args, kwargs
    layout = Layout.of(mask, multiple=_multiple(encoder))
    ids = args[0] if args else kwargs.get("input_ids")  # None where a soft prompt was put before the text
    early = positions is not None and ids is not None and not positions.leave_out(ids, mask)
    _PASSING.set(_Passing(layout, early))
    if positions is None or not early:
        return args, kwargs
    inputs = {name: kwargs[name] for name in ("input_ids", "token_type_ids") if kwargs.get(name) is not None}
    packed = {name: layout.pack(values) for name, values in inputs.items()} | {"position_ids": positions.of(layout)}
    return tuple(map(layout.pack, args)), kwargs | packed


def _pack(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    passing = _PASSING.get()
    if passing is None:
        raise RuntimeError("a packed encoder needs an attention mask")
    given = {name: passing.without_padding(value) for name, value in kwargs.items()}
    return tuple(map(passing.without_padding, args)), given | {"packing": passing.layout}


def _unpack(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    passing = _PASSING.get()
    assert passing is not None
    passing.arrived = True
    if isinstance(output, Tensor):
        return passing.layout.unpack(output)
    return (passing.layout.unpack(output[0]), *output[1:])


def _end(encoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Put the padding back between the tokens of every hidden state that is asked for."""
    passing = _PASSING.get()
    _PASSING.set(None)
    if passing is None or output is None:  # where the forward failed
        return
    if not passing.arrived:
        raise RuntimeError("the layers are not called as modules: no padding was taken out")
    states = getattr(output, "hidden_states", None)
    if states is None:
        return
    output.hidden_states = _Unpacked(states, passing.layout)


def _multiple(encoder: nn.Module) -> int:
    parameter = next(encoder.parameters())
    return _ALIKE if parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu" else 1


def _twice() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer runs in at first and where gradient checkpointing runs it again: the same batch."""
    return nullcontext(), _during(_PASSING.get())


@contextmanager
def _during(passing: _Passing | None) -> Iterator[None]:
    token = _PASSING.set(passing)
    try:
        yield
    finally:
        _PASSING.reset(token)
