"""Model sizes from the headers of weight files, and a check that a configuration does not exceed them.

An absurd number in a configuration could otherwise exhaust time or memory before any weight is read.
"""

from __future__ import annotations

import heapq
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlp_transfer.encoder.source import read_json, weight_files
from nlp_transfer.errors import UserError

LAYERS = re.compile(r"(?:^n|num|hidden|encoder|decoder)_layers?$")
POSITIONS = re.compile(r"^(?:max_position_embeddings|n_positions)$")
SIZES = re.compile(
    r"^(?:(?:vocab|hidden|embedding|intermediate)_size|d_model|n_embd|(?:emb_|hidden_)?dim|num_labels|"
    r"(?:num|n|num_attention|encoder_attention|decoder_attention)_heads?)$"
)
LABELS = ("id2label", "label2id")
_NUMBERED = re.compile(r"\.\d+\.")  # in the name of a tensor in one of several layers
MANY = 1000  # layers, outputs, ... that are always allowed: ALBERT's layers share weights, and a head may be missing
LONGEST = 1 << 24  # tokens that are always allowed, because rotary positions have no weights
TIMES, ROOM = 4, 1 << 24  # a model may have so many times the stored values (tied, missing tensors), plus 64 MiB


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor of the weights in a folder, by name; only file headers are read."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        with safe_open(path, "np") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return shapes


def configuration_of(folder: Path) -> dict[str, Any]:
    """Return the configuration of the text encoder in a folder, which may be nested as in `encoder_config`."""
    entries = read_json(folder / "config.json")
    while parts := [entries[name] for name in ("encoder", "text_config") if isinstance(entries.get(name), dict)]:
        entries = parts[0]
    return entries


def weights_per_token(folder: Path, *, depth: int | None = None) -> int:
    """Return roughly how many weights are used per token; a decoder's count like an encoder's.

    Args:
        folder: of the model.
        depth: number of the lowest layers that are used; None: all.
    """
    config = configuration_of(folder)
    words = config.get("vocab_size")  # first dimension of embedding tables, of which a token uses one row
    shapes = {name: shape for name, shape in shapes_of(folder).items() if shape[:1] != [words]}
    if config.get("model_type") == "albert":  # its single layer runs several times
        times = config.get("num_hidden_layers", 1) if depth is None else depth
        return sum(math.prod(shape) * (times if ".albert_layers." in name else 1) for name, shape in shapes.items())
    if depth is not None:
        layer_of = {name: int(number[0].strip(".")) for name in shapes if (number := _NUMBERED.search(name))}
        shapes = {name: shape for name, shape in shapes.items() if layer_of.get(name, -1) < depth}
    return sum(map(math.prod, shapes.values()))


@contextmanager
def limit_model_size(folder: Path) -> Iterator[None]:
    """Refuse a configuration, or a model built from it in the block, that is far larger than its weights.

    The library first builds a model on the meta device, without memory; its parameters and buffers are counted there.

    Raises:
        UserError: naming the file, and the key or the largest numbers in it.
    """
    from torch.nn.modules import module as building

    shapes = shapes_of(folder)
    file = folder / "config.json"
    entries = list(_entries(read_json(file)))
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    _check(file, entries, tensors=len(shapes), widest=widest, layered=any(map(_NUMBERED.search, shapes)))
    stored = sum(map(math.prod, shapes.values()))
    values = tensors = 0
    this_thread = threading.get_ident()

    def count(_: Any, name: str, tensor: Any) -> None:
        nonlocal values, tensors
        # The hooks are process-wide, and another thread may load another model.
        if tensor is None or not tensor.is_meta or threading.get_ident() != this_thread:
            return
        values, tensors = values + tensor.numel(), tensors + 1
        if values > TIMES * stored + ROOM or tensors > TIMES * len(shapes) + MANY:
            largest = heapq.nlargest(3, ((value, key) for key, value in entries if type(value) is int))
            raise UserError(
                f"{file}: describes a model far larger than its weights, {len(shapes):,} tensors with "
                f"{stored:,} numbers; its largest entries are {', '.join(f'{key}={value}' for value, key in largest)}"
            )

    hooks = (
        building.register_module_parameter_registration_hook(count),
        building.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _entries(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of every entry in a configuration; label mappings are one value."""
    if isinstance(node, (dict, list)) and key.rpartition(".")[2] not in LABELS:
        for inner, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _entries(value, f"{key}.{inner}")
    else:
        yield key.removeprefix("."), node


def _check(file: Path, entries: list[tuple[str, Any]], *, tensors: int, widest: int, layered: bool) -> None:
    """Refuse numbers of layers, outputs or positions that are invalid, or impossible with these weights."""
    limits = {LAYERS: max(tensors, MANY), SIZES: max(widest, MANY), POSITIONS: max(widest, LONGEST)}
    held = f"the weights beside it hold {tensors:,} tensors of at most {widest:,} rows or columns"
    for key, value in entries:
        last = key.rpartition(".")[2]
        if last in LABELS and isinstance(value, (dict, list)) and len(value) > limits[SIZES]:
            raise UserError(f"{file}: {key} names {len(value):,} labels; {held}")
        for known, most in limits.items():
            may_be_zero = known is LAYERS and not layered  # an encoder may have embeddings only
            least = 0 if may_be_zero or "decoder" in last else 1
            if known.search(last) and value is not None and not (type(value) is int and least <= value <= most):
                raise UserError(
                    f"{file}: {key}={str(value)[:40]} must be a whole number from {least} to {most:,}; {held}"
                )
