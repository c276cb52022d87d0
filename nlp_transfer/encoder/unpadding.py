"""Hooks that remove the padding of a batch before an encoder's layers and restore it after them.

Padding is removed before the embeddings, or before the first layer where an architecture computes positions in a way of
its own. Whether the model's outputs stay the same is checked elsewhere (`packed`).
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

_MULTIPLE = 16  # of packed tokens, in bfloat16 on a CPU


@dataclass(frozen=True)
class Positions:
    """How an architecture counts positions.

    Attributes:
        in_text: from the start of the text; otherwise from the first column of the padded batch.
        first: the position of the first token.
    """

    in_text: bool
    first: int

    def skip_a_token(self, ids: Tensor, mask: Tensor) -> bool:
        """Return whether a real token of the batch has the id of padding, which such an architecture does not count."""
        return self.first > 0 and bool(((ids == self.first - 1) & mask.bool()).any())

    def of(self, layout: Layout) -> Tensor:
        """Return the position of every packed token, (1, tokens)."""
        return (layout.offsets if self.in_text else layout.columns).add(self.first).unsqueeze(0)


@dataclass(frozen=True)
class _Unpacked(Sequence[Any]):
    """Hidden states whose padding is restored on access, because a head reads only few of them."""

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
class _Forward:
    """State of one forward pass through the encoder.

    Attributes:
        layout: where the batch's tokens lie.
        early: whether the padding was removed before the embeddings.
        shared: by id, arguments that all layers share, such as positions, each with its packed form.
        finished: whether the last layer has run and the padding was restored.
    """

    layout: Layout
    early: bool = False
    shared: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    finished: bool = False

    def without_padding(self, value: Any) -> Any:
        """Return a layer's argument without padding; masks stay as they are, because attention cuts them itself."""
        if self.early:
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self.without_padding(each) for each in value)
        if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[1] != self.layout.shape[1]:
            return value
        if value.shape[0] == self.layout.shape[0]:  # mostly hidden states, which differ between layers
            return self.layout.pack(value)
        if value.shape[0] != 1:
            return value
        if id(value) not in self.shared:
            self.shared[id(value)] = (value, self.layout.pack(value))  # keeps the value alive, so that its id is unique
        return self.shared[id(value)][1]


_FORWARD: ContextVar[_Forward | None] = ContextVar("forward", default=None)  # several threads may share a model


def install(model: Any, anatomy: Anatomy, positions: Positions | None, attention: str) -> nn.Module:
    """Install the hooks and the packed attention in a model; return its encoder.

    Args:
        model: the classifier's model, possibly wrapped by PEFT.
        anatomy: where the architecture keeps its parts.
        positions: the positions passed to the embeddings; None: embeddings see the padded batch.
        attention: name of the attention in transformers' interface.
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
            module._gradient_checkpointing_func = partial(recomputed, context_fn=_recomputing)
    encoder.register_forward_pre_hook(partial(_begin, positions), with_kwargs=True)
    encoder.register_forward_hook(_end, always_call=True)
    for layer in layers:
        layer.register_forward_pre_hook(_pack, with_kwargs=True)
    layers[-1].register_forward_hook(_unpack)
    return encoder


def _begin(
    positions: Positions | None, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    _FORWARD.set(None)
    mask = kwargs.get("attention_mask")
    if mask is None:
        return args, kwargs
    half = _in_half(encoder)
    layout = Layout.of(mask, multiple=_token_multiple(mask) if half else 1, half=half)
    ids = args[0] if args else kwargs.get("input_ids")  # None if a soft prompt precedes the text
    early = positions is not None and ids is not None and not positions.skip_a_token(ids, mask)
    _FORWARD.set(_Forward(layout, early))
    if positions is None or not early:
        return args, kwargs
    inputs = {name: kwargs[name] for name in ("input_ids", "token_type_ids") if kwargs.get(name) is not None}
    packed = {name: layout.pack(values) for name, values in inputs.items()} | {"position_ids": positions.of(layout)}
    return tuple(map(layout.pack, args)), kwargs | packed


def _pack(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    current = _FORWARD.get()
    if current is None:
        raise RuntimeError("a packed encoder needs an attention mask")
    given = {name: current.without_padding(value) for name, value in kwargs.items()}
    return tuple(map(current.without_padding, args)), given | {"packing": current.layout}


def _unpack(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    current = _FORWARD.get()
    assert current is not None
    current.finished = True
    if isinstance(output, Tensor):
        return current.layout.unpack(output)
    return (current.layout.unpack(output[0]), *output[1:])


def _end(encoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Restore the padding of the hidden states that are returned."""
    current = _FORWARD.get()
    _FORWARD.set(None)
    if current is None or output is None:  # the forward pass failed
        return
    if not current.finished:
        raise RuntimeError("the layers are not called as modules: no padding was taken out")
    states = getattr(output, "hidden_states", None)
    if states is None:
        return
    output.hidden_states = _Unpacked(states, current.layout)


def _token_multiple(mask: Tensor) -> int:
    """Return the number of which the number of packed tokens is made a multiple, so that few different sizes occur.

    In bfloat16 a CPU compiles and keeps matrix products for every new size. This costs most time and memory in
    training, where up to a 32nd of the tokens is added, at most as many as the longest text has.
    """
    if not torch.is_grad_enabled():
        return _MULTIPLE
    multiple, most = _MULTIPLE, min(int(mask.sum()) // 32, mask.shape[1])
    while 2 * multiple <= most:
        multiple *= 2
    return multiple


def _in_half(encoder: nn.Module) -> bool:
    parameter = next(encoder.parameters())
    return parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu"


def _recomputing() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for a layer's first run and its recomputation by gradient checkpointing, on the same batch."""
    return nullcontext(), _restored(_FORWARD.get())


@contextmanager
def _restored(current: _Forward | None) -> Iterator[None]:
    token = _FORWARD.set(current)
    try:
        yield
    finally:
        _FORWARD.reset(token)
