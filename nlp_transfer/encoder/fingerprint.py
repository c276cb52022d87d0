"""All that an array hangs on which a model made of a split, as one key: the same key, the same bits.

It looks at tensors, not at where they came from, so that it is right whatever a strategy has changed.
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

# Names, and what belongs to the output layer or to training: nothing below the output layer hangs on them.
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
    """Return the key of what a model makes of a split.

    Args:
        what: is asked of the model, such as "features".
        tokens: the split as the model reads it, which covers texts, tokenizer, truncation and windows. The whole split
            and its order, because the bits of a row depend a little on the rows beside it.
        model: see `description`; how the tensors are put to use.
        weights: see `weights_digest`.
        code: the revision of an encoder that runs code of its own, which no library's version covers.
        padding: some architectures read it.
        batch_tokens: decides which rows meet in a forward pass.
        precision: fp32, bf16 or fp16.
        device: its kernels round in their own way; so do the numbers of threads, and the versions of the libraries.
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
        "device": device_words(device),
        "versions": _versions(),
    }
    key.update(_canonical(parts).encode())
    for name in ("ids", "types", "offsets", "first"):
        array = getattr(tokens, name)
        key.update(f"\n{name} {None if array is None else (array.dtype.str, array.shape)}\n".encode())
        if array is not None:
            key.update(array.data)
    return key.hexdigest()


def description(model: Any) -> str:
    """Return a digest of what a model is below its output layer, but for its parameters.

    That is the configuration (head, pooling, layers, attention), every module with its class and its plain attributes,
    and the buffers. A forward pass may change these for good, as BigBird's does: what comes after it is then another
    model.
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


def weights_digest(model: Any, frozen: Collection[str] | None = None) -> str:
    """Return a digest of parameters: what the key takes time for (90 MB: 60 ms).

    Args:
        model: of a classifier, maybe wrapped by PEFT.
        frozen: names of those that matter, in the model before any wrapping; None: all below the output layer.
    """
    digest = hashlib.sha256()
    if frozen is None:
        _add(digest, (item for _, module in _below_output(model) for item in module.named_parameters(recurse=False)))
    else:
        _add(digest, (item for item in unwrapped(model).named_parameters() if item[0] in frozen))
    return digest.hexdigest()


def _below_output(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module but the active output layer, which makes nothing of what is kept."""
    left_out = {id(module) for module in active_output(model).modules()}
    return ((name, module) for name, module in model.named_modules() if id(module) not in left_out)


def _add(digest: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in named:
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _with_config(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(getattr(module, "config", None), "_attn_implementation")]


def _public(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; of what JSON has not, its name, which unlike its text holds no address."""
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


def device_words(device: torch.device) -> list[Any]:
    """Return what decides how a device rounds."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        # "AVX512" is not all there is; not every torch that we accept tells more.
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        kernels = " ".join(key for key, value in sorted(known.items()) if value is True)
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{platform.machine()} {known.get('cpu_name')} {capability} {kernels} {torch.get_num_threads()} threads"
    kind = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    products = getattr(kind, "fp32_precision", None)  # torch before 2.9 has one setting for all
    products = torch.get_float32_matmul_precision() if products is None else products
    return [device.type, name, products, torch.are_deterministic_algorithms_enabled()]


def _versions() -> dict[str, str]:
    """Return the versions of the libraries, and a digest of our own files."""
    return {"nlp_transfer": digest_of_code(), **installed(("torch", "transformers", "peft", "accelerate"))}
