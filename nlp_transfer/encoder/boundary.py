"""Where the layers begin that learn: hidden states that came out of the frozen ones below are taken up there again.

The model runs with stand-ins for its frozen layers, so that masks, positions and heads stay the library's own. It knows
one batch at a time and neither files nor splits.
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

# States of the batch that goes through the model, in this thread.
_ENTERING: ContextVar[Tensor | None] = ContextVar("entering", default=None)


class _Left(Exception):
    """A forward pass that reached the boundary and went no further."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


@contextmanager
def entering(states: Tensor | None) -> Iterator[None]:
    """Let the forward pass in the block begin above the boundary, with these states.

    Args:
        states: (tokens, width), of the batch's texts one behind the other in its own order; None: it begins below.
    """
    token = _ENTERING.set(states)
    try:
        yield
    finally:
        _ENTERING.reset(token)


@contextmanager
def standing_in(below: list[nn.Module], layer: nn.Module) -> Iterator[None]:
    """Skip layers in every forward pass of the block; `entering` gives what would have come out of them.

    Args:
        below: packed layers, all of those that are frozen.
        layer: the one after them.
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


def can_stand_in(model: Any, anatomy: Anatomy, depth: int, rows: dict[str, Tensor]) -> bool:
    """Return whether a packed model answers as before when its bottom layers are skipped; tried on rows.

    It does not where layers hand on more than hidden states, as T5's do, or where the head reads the skipped ones.
    """
    twin = disposable(model)
    below, layer = layers_around(twin, anatomy, depth)
    try:
        with torch.inference_mode():
            wanted = twin(**rows).logits
            states = states_at(layer, partial(twin, **rows))
            with standing_in(below, layer), entering(states):
                found = twin(**rows).logits
    except Exception:  # architectures refuse in many ways what they do not know
        return False
    return bool((wanted - found).norm() <= _TOLERANCE * wanted.norm())


def layers_around(model: Any, anatomy: Anatomy, depth: int) -> tuple[list[nn.Module], nn.Module]:
    """Return the bottom layers of a model, as many as `depth`, and the one after them."""
    inner = unwrapped(model)
    below = [inner.get_submodule(name) for block in anatomy.blocks[:depth] for name in block]
    return below, inner.get_submodule(anatomy.blocks[depth][0])


def states_at(layer: nn.Module, run: Any) -> Tensor:
    """Return what enters a packed layer, (tokens, width) in the order of the batch.

    Args:
        layer: the forward pass ends there.
        run: does the forward pass.
    """
    hook = layer.register_forward_pre_hook(_leave, with_kwargs=True)
    try:
        run()
    except _Left as left:
        return left.states
    finally:
        hook.remove()
    raise RuntimeError("the forward pass never came to the layer")


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _leave(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    packing: Layout = kwargs["packing"]
    raise _Left(args[0][0].index_select(0, packing.sources))


def _enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states, packing = _ENTERING.get(), kwargs["packing"]
    if states is None:
        raise RuntimeError("the frozen layers are not run; the batch must bring their states")
    return (states.index_select(0, packing.ranks).unsqueeze(0), *args[1:]), kwargs
