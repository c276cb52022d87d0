"""Hooks that take the padding out of a batch on its way into an encoder's layers, and put it back behind them.

Before the embeddings, or before the first layer where an architecture finds positions in a way of its own. Whether a
model answers then as before is not known here.
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

from nlp_transfer.encoder.anatomy import Anatomy, unwrapped
from nlp_transfer.encoder.attention import register_attention
from nlp_transfer.encoder.layout import Layout
from nlp_transfer.encoder.varlen import register_varlen

_ALIKE = 16


@dataclass(frozen=True)
class Positions:
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


def install(model: Any, anatomy: Anatomy, positions: Positions | None, attention: str) -> nn.Module:
    """Put the hooks on the model and return its encoder; attention is a packed one from now on.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        anatomy: where it keeps what.
        positions: what the embeddings are given; None: they see the padded batch.
        attention: its name in transformers' interface.
    """
    register_attention()
    register_varlen()
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


def _begin(
    positions: Positions | None, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    _PASSING.set(None)
    mask = kwargs.get("attention_mask")
    if mask is None:
        return args, kwargs
    half = _in_half(encoder)
    layout = Layout.of(mask, multiple=_alike(mask) if half else 1, half=half)
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


def _alike(mask: Tensor) -> int:
    """Return of what the number of packed tokens is to be a multiple: of such numbers there are few.

    In bfloat16 a CPU compiles matrix products for every number it has not seen, and keeps them. That takes longest, and
    most memory, where weights learn; there a 32nd may be filled up, half of it on average, with no more than a text.
    """
    if not torch.is_grad_enabled():
        return _ALIKE
    alike, most = _ALIKE, min(int(mask.sum()) // 32, mask.shape[1])
    while 2 * alike <= most:
        alike *= 2
    return alike


def _in_half(encoder: nn.Module) -> bool:
    parameter = next(encoder.parameters())
    return parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu"


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
