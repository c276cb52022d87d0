"""What the headers of weights tell: how many there are, and whether they can fill the model that is asked for.

The numbers of a configuration decide how long loops run and how much memory is taken before any weight is read.
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
_NUMBERED = re.compile(r"\.\d+\.")  # a tensor of one of several layers
MANY = 1000  # of what may be counted without a weight for each: ALBERT's layers share theirs, and a head may be missing
LONGEST = 1 << 24  # tokens; rotary positions have no weights
TIMES, ROOM = 4, 1 << 24  # tied and missing tensors are built as well, and 64 MiB harm nobody


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor of the weights in a folder, by its name; of the files headers are read."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        with safe_open(path, "np") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return shapes


def configuration_of(folder: Path) -> dict[str, Any]:
    """Return the configuration of the encoder in a folder, also under a head of ours or in what reads images too."""
    entries = read_json(folder / "config.json")
    while parts := [entries[name] for name in ("encoder", "text_config") if isinstance(entries.get(name), dict)]:
        entries = parts[0]
    return entries


def weights_multiplied(folder: Path, *, depth: int | None = None) -> int:
    """Return about how many weights a token meets in a model: of a decoder as many as of its encoder.

    Args:
        folder: of the model.
        depth: of the lowest layers that are used; None: all are.
    """
    config = configuration_of(folder)
    words = config.get("vocab_size")  # rows of its tables of words, in which a token meets one alone
    found = {name: shape for name, shape in shapes_of(folder).items() if shape[:1] != [words]}
    if config.get("model_type") == "albert":  # whose layers are one, met again and again
        times = config.get("num_hidden_layers", 1) if depth is None else depth
        return sum(math.prod(shape) * (times if ".albert_layers." in name else 1) for name, shape in found.items())
    if depth is not None:
        numbers = {name: int(number[0].strip(".")) for name in found if (number := _NUMBERED.search(name))}
        found = {name: shape for name, shape in found.items() if numbers.get(name, -1) < depth}
    return sum(map(math.prod, found.values()))


@contextmanager
def within_weights(folder: Path) -> Iterator[None]:
    """Refuse a configuration that asks for far more than the weights beside it hold, then a model built from it.

    The library builds a model without memory first, on the meta device; there it is counted while the block runs.

    Raises:
        UserError: naming the file, and the key or the largest numbers in it.
    """
    from torch.nn.modules import module as building

    shapes = shapes_of(folder)
    file = folder / "config.json"
    entries = list(_entries(read_json(file)))
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    _check(file, entries, tensors=len(shapes), widest=widest, layered=any(map(_NUMBERED.search, shapes)))
    held = sum(map(math.prod, shapes.values()))
    numbers = tensors = 0
    mine = threading.get_ident()

    def count(_: Any, name: str, tensor: Any) -> None:
        nonlocal numbers, tensors
        # The hooks are those of the whole process: another thread may load another model.
        if tensor is None or not tensor.is_meta or threading.get_ident() != mine:
            return
        numbers, tensors = numbers + tensor.numel(), tensors + 1
        if numbers > TIMES * held + ROOM or tensors > TIMES * len(shapes) + MANY:
            largest = heapq.nlargest(3, ((value, key) for key, value in entries if type(value) is int))
            raise UserError(
                f"{file}: asks for a model far larger than the weights beside it, {len(shapes):,} tensors with "
                f"{held:,} numbers; its largest entries are {', '.join(f'{key}={value}' for value, key in largest)}"
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
    """Yield the dotted key and the value of everything in a configuration; the names of labels are one value."""
    if isinstance(node, (dict, list)) and key.rpartition(".")[2] not in LABELS:
        for inner, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _entries(value, f"{key}.{inner}")
    else:
        yield key.removeprefix("."), node


def _check(file: Path, entries: list[tuple[str, Any]], *, tensors: int, widest: int, layered: bool) -> None:
    """Refuse what is no number of layers, outputs or positions, or more than the weights can have."""
    limits = {LAYERS: max(tensors, MANY), SIZES: max(widest, MANY), POSITIONS: max(widest, LONGEST)}
    held = f"the weights beside it hold {tensors:,} tensors of at most {widest:,} rows or columns"
    for key, value in entries:
        last = key.rpartition(".")[2]
        if last in LABELS and isinstance(value, (dict, list)) and len(value) > limits[SIZES]:
            raise UserError(f"{file}: {key} names {len(value):,} labels; {held}")
        for known, most in limits.items():
            bare = known is LAYERS and not layered  # an encoder may be its embeddings alone
            least = 0 if bare or "decoder" in last else 1
            if known.search(last) and value is not None and not (type(value) is int and least <= value <= most):
                raise UserError(
                    f"{file}: {key}={str(value)[:40]} must be a whole number from {least} to {most:,}; {held}"
                )
