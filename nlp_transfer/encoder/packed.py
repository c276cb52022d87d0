"""The padding-free forward: between the first and the last layer the tokens of a batch lie in one row.

The model code stays the library's. Embeddings and head see the padded batch; hooks take the padding out before the
first layer and put it back after the last, and attention within each text alone comes through transformers' interface.
What cannot be packed this way is found out by trying, and stays padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import Anatomy, disposable, encoder_config, sample_rows, unwrapped
from nlp_transfer.encoder.attention import NAME, register_attention
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.encoder.layout import Layout
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

_TOLERANCE = 1e-5


@dataclass
class _Passing:
    """A batch on its way through the layers.

    Attributes:
        layout: where its tokens lie.
        packed: what was packed already of that which all layers share, such as positions.
        arrived: whether the padding was put back behind the last layer.
    """

    layout: Layout
    packed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    arrived: bool = False

    def without_padding(self, value: Any) -> Any:
        """Return what a layer is given with the padding taken out; masks stay, attention cuts them itself."""
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
    model: Any, anatomy: Anatomy, tokenizer: Any, settings: EncoderSettings, *, device: str, compiled: bool = False
) -> tuple[bool, str]:
    """Take the padding out of a model's layers where the settings want that and it can be.

    Left open, it is done on a CPU, where it was measured.

    Returns:
        Whether the model is packed, and that in words, with the reason if it is not.

    Raises:
        UserError: if it is demanded and cannot be.
    """
    if settings.packed is False:
        return False, "padded, as encoder.packed=false asks for"
    if settings.attention is not None:
        why: str | None = f"encoder.attention={settings.attention} is an attention of its own"
    elif compiled:
        why = "training.compile wants tensors of few shapes"
    elif settings.packed is None and device != "cpu":
        why = f"untried on {device}, encoder.packed=true tries it"
    else:
        why = pack(model, anatomy, tokenizer)
    if why and settings.packed:
        raise UserError(f"encoder.packed=true: {why}; leave it open (null)")
    return why is None, f"padded: {why}" if why else "packed"


def pack(model: Any, anatomy: Anatomy, tokenizer: Any) -> str | None:
    """Take the padding out of the layers of a model for good, if it answers then as before.

    That is tried on a copy, with two texts of unequal length.

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        anatomy: where it keeps what.
        tokenizer: its own.

    Returns:
        Why the model cannot be packed and was left as it is, or None.
    """
    kind = encoder_config(unwrapped(model).config).model_type
    if not anatomy.blocks:
        return f"{kind} has no list of layers"
    rows = unequal_rows(model, tokenizer)
    twin = disposable(model)
    with torch.inference_mode():
        padded = forward(twin, rows)
        try:
            _install(twin, anatomy)
            packed = forward(twin, rows)
        except Exception as error:  # architectures refuse in many ways what they do not know
            return f"the layers of {kind} do not run without padding ({type(error).__name__})"
    for one, other in zip(padded, packed, strict=True):
        if not (one - other).norm() <= _TOLERANCE * one.norm():
            return f"without padding, {kind} answers otherwise"
    _install(model, anatomy)
    return None


def _install(model: Any, anatomy: Anatomy) -> None:
    """Put the hooks on the model; attention is the packed one from now on."""
    register_attention()
    inner = unwrapped(model)
    encoder = inner.get_submodule(anatomy.base)
    layers = [inner.get_submodule(name) for block in anatomy.blocks for name in block]
    for module in inner.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = NAME
        if hasattr(module, "_gradient_checkpointing_func"):
            recomputed: Any = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = partial(recomputed, context_fn=_twice)
    encoder.register_forward_pre_hook(_begin, with_kwargs=True)
    encoder.register_forward_hook(_end, always_call=True)
    for layer in layers:
        layer.register_forward_pre_hook(_pack, with_kwargs=True)
    layers[-1].register_forward_hook(_unpack)


def unequal_rows(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Return two rows of which the second is shorter; it ends as the first does."""
    rows = sample_rows(unwrapped(model), segments="token_type_ids" in tokenizer.model_input_names)
    ids, mask = rows["input_ids"].clone(), rows["attention_mask"]
    left = tokenizer.padding_side == "left"
    padding = slice(0, 3) if left else slice(-3, None)
    ids[1] = ids[1] if left else ids[1].roll(-3)
    ids[1, padding], mask[1, padding] = tokenizer.pad_token_id, 0
    return rows | {"input_ids": ids}


def _begin(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    _PASSING.set(None if mask is None else _Passing(Layout.of(mask)))


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
    tokens = (1, len(passing.layout.places))
    output.hidden_states = tuple(
        passing.layout.unpack(state) if state is not None and state.shape[:2] == tokens else state for state in states
    )


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
