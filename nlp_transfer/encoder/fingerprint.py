"""Cache keys for arrays that a model computes from a split: equal keys imply equal bits.

The keys are computed from the tensors themselves, not from their origin, so they hold whatever a strategy changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import active_output, unwrapped
from nlp_transfer.machine.versions import digest_of_code, installed

if TYPE_CHECKING:
    from nlp_transfer.data.batches import Padding
    from nlp_transfer.data.ragged import Tokens

# Names, and entries for the output layer or for training, which do not affect anything below the output layer.
_WITHOUT_EFFECT = (
    *("_name_or_path", "name_or_path", "base_model_name_or_path", "architectures", "transformers_version"),
    *("num_labels", "id2label", "label2id", "problem_type", "training"),
)


def key_of(
    what: str,
    tokens: Tokens,
    *,
    model: str,
    weights: str,
    code: str | None,
    padding: Padding,
    batch_tokens: int,
    precision: str,
    device: torch.device,
) -> str:
    """Return the key of an array that a model computes from a split.

    Args:
        what: the kind of array, such as "features".
        tokens: the whole split in its order, because the bits of a row depend slightly on the other rows of its batch.
            They cover texts, tokenizer, truncation and windows.
        model: see `model_digest`.
        weights: see `parameters_digest`.
        code: the revision of an encoder with remote code, which no library version covers.
        padding: of the rows; some architectures are affected by it.
        batch_tokens: determines the batches.
        precision: fp32, bf16 or fp16.
        device: determines rounding, with the number of threads and the versions of the libraries.
    """
    key = hashlib.sha256()
    parts = {
        "what": what,
        "model": model,
        "weights": weights,
        "code": code,
        "padding": dataclasses.asdict(padding),
        "batch_tokens": batch_tokens,
        "precision": precision,
        "device": device_description(device),
        "versions": _versions(),
    }
    key.update(_canonical(parts).encode())
    for name in ("ids", "types", "offsets", "first"):
        array = getattr(tokens, name)
        key.update(f"\n{name} {None if array is None else (array.dtype.str, array.shape)}\n".encode())
        if array is not None:
            key.update(array.data)
    return key.hexdigest()


def model_digest(model: Any) -> str:
    """Return a digest of a model below its output layer, without its parameters.

    It covers the configuration (head, pooling, layers, attention), the class and plain attributes of every module, and
    the buffers. A forward pass may change these permanently, as BigBird's does; the digest then changes, too.
    """
    configs = [_plain(config.to_dict()) for config in (model.config, *getattr(model, "peft_config", {}).values())]
    attention = sorted({str(getattr(m.config, "_attn_implementation", None)) for m in _with_config(model)})
    modules = [
        (name, f"{type(module).__module__}.{type(module).__qualname__}", _plain(_public(module)))
        for name, module in _below_output(model)
    ]
    digest = hashlib.sha256(_canonical([configs, attention, modules]).encode())
    _add(digest, (item for _, module in _below_output(model) for item in module.named_buffers(recurse=False)))
    return digest.hexdigest()


def parameters_digest(model: Any, frozen: Collection[str] | None = None) -> str:
    """Return a digest of parameters, the slowest part of a key (90 MB: 60 ms).

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        frozen: names, in the unwrapped model, of the parameters to include; None: all below the output layer.
    """
    digest = hashlib.sha256()
    if frozen is None:
        _add(digest, (item for _, module in _below_output(model) for item in module.named_parameters(recurse=False)))
    else:
        _add(digest, (item for item in unwrapped(model).named_parameters() if item[0] in frozen))
    return digest.hexdigest()


def _below_output(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module except the active output layer, which cached arrays do not depend on."""
    output = {id(module) for module in active_output(model).modules()}
    return ((name, module) for name, module in model.named_modules() if id(module) not in output)


def _add(digest: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in named:
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _with_config(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(getattr(module, "config", None), "_attn_implementation")]


def _public(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    """Return a value as JSON types; other objects become their type's name, as their repr may contain an address."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items() if name not in _WITHOUT_EFFECT}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (str, int, float, type(None))):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def device_description(device: torch.device) -> list[Any]:
    """Return everything that determines the rounding of a device."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        # get_cpu_capability alone ("AVX512") is too coarse; older torch versions lack get_capabilities.
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        kernels = " ".join(key for key, value in sorted(known.items()) if value is True)
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{platform.machine()} {known.get('cpu_name')} {capability} {kernels} {torch.get_num_threads()} threads"
    kind = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    precision = getattr(kind, "fp32_precision", None)  # torch before 2.9 has one setting for all backends
    precision = torch.get_float32_matmul_precision() if precision is None else precision
    return [device.type, name, precision, torch.are_deterministic_algorithms_enabled()]


def _versions() -> dict[str, str]:
    """Return the versions of the libraries, and a digest of this package's files."""
    return {"nlp_transfer": digest_of_code(), **installed(("torch", "transformers", "peft", "accelerate"))}
