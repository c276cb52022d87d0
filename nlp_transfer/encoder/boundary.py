"""Skip frozen bottom layers in forward passes: the first trainable layer receives precomputed hidden states instead.

The whole model still runs, with pass-through frozen layers, so that masks, positions and heads stay the library's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import Anatomy, disposable, unwrapped
from nlp_transfer.encoder.layout import Layout

_TOLERANCE = 1e-5

# Precomputed states of the current batch, per thread.
_STATES: ContextVar[Tensor | None] = ContextVar("states", default=None)


class _Stopped(Exception):
    """Ends a forward pass at the boundary, with the hidden states there."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


@contextmanager
def precomputed_states(states: Tensor | None) -> Iterator[None]:
    """Let the forward pass in the block begin at the boundary, with these states.

    Args:
        states: (tokens, width), concatenated over the texts of the batch in order; None: it begins at the input.
    """
    token = _STATES.set(states)
    try:
        yield
    finally:
        _STATES.reset(token)


@contextmanager
def skip_layers(below: list[nn.Module], layer: nn.Module) -> Iterator[None]:
    """Skip layers in every forward pass of the block; `precomputed_states` supplies their output.

    Args:
        below: all frozen layers, packed.
        layer: the layer after them.
    """
    for module in below:
        module.forward = _pass_through
    hook = layer.register_forward_pre_hook(_enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        for module in below:
            del module.forward


def can_skip_layers(model: Any, anatomy: Anatomy, depth: int, rows: dict[str, Tensor]) -> bool:
    """Return whether a packed model gives the same logits if its bottom layers are skipped; tested on `rows`.

    It does not if layers pass on more than hidden states, as in T5, or if the head reads the skipped layers.
    """
    twin = disposable(model)
    below, layer = layers_around(twin, anatomy, depth)
    try:
        with torch.inference_mode():
            wanted = twin(**rows).logits
            states = states_before(layer, partial(twin, **rows))
            with skip_layers(below, layer), precomputed_states(states):
                skipped = twin(**rows).logits
    except Exception:  # architectures raise many types of errors for unexpected inputs
        return False
    return bool((wanted - skipped).norm() <= _TOLERANCE * wanted.norm())


def layers_around(model: Any, anatomy: Anatomy, depth: int) -> tuple[list[nn.Module], nn.Module]:
    """Return the modules of the lowest `depth` layers of a model, and the first module of the layer after them."""
    inner = unwrapped(model)
    below = [inner.get_submodule(name) for block in anatomy.blocks[:depth] for name in block]
    return below, inner.get_submodule(anatomy.blocks[depth][0])


def states_before(layer: nn.Module, run: Any) -> Tensor:
    """Return the hidden states that enter a packed layer, (tokens, width) in the order of the batch.

    Args:
        layer: the forward pass is stopped there.
        run: performs the forward pass.
    """
    hook = layer.register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        run()
    except _Stopped as stopped:
        return stopped.states
    finally:
        hook.remove()
    raise RuntimeError("the forward pass never reached the layer")


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _stop(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    packing: Layout = kwargs["packing"]
    raise _Stopped(args[0][0].index_select(0, packing.sources))


def _enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states, packing = _STATES.get(), kwargs["packing"]
    if states is None:
        raise RuntimeError("the frozen layers are skipped, so the batch needs their states")
    return (states.index_select(0, packing.ranks).unsqueeze(0), *args[1:]), kwargs
