"""Find the embeddings, layers, pooler, head and output layer of a model of any architecture.

Works from the module tree and one dry run, without a table of architectures. `dissect` must be called before a model is
wrapped by PEFT; `output_layers` works on both.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.errors import UserError


@dataclass(frozen=True)
class Anatomy:
    """The parts of a sequence-classification model.

    Attributes:
        base: Attribute of the model that holds the encoder ("bert", "model", ...).
        layers: Number of layers that can be frozen one by one, in execution order. An encoder-decoder counts the
            encoder's layers, then the decoder's. 0 where layers share their weights (ALBERT).
        head: Names of the model's children outside the encoder that have parameters.
        output: Qualified name of the linear layer that computes the logits.
        depth: Parameter name -> 0: embeddings and modules before the first layer; i + 1: layer i, and modules between
            it and the next; layers + 1: modules after the last layer; layers + 2: the head.
        unused: Parameters that the logits do not depend on, so that they get no gradient.
        linear: Names of the linear layers whose forward is called and returns one tensor. This excludes layers whose
            weights are used directly (Mamba) and routers of experts, which return several tensors.
        blocks: For each layer, the qualified names of its modules: one, or several if the architecture keeps the parts
            of a layer in parallel lists (XLM). With shared layers: the shared ones.
    """

    base: str
    layers: int
    head: tuple[str, ...]
    output: str
    depth: dict[str, int]
    unused: tuple[str, ...]
    linear: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]


def dissect(model: Any, *, fresh: Collection[str] = (), segments: bool = False) -> Anatomy:
    """Find the parts of `model`, which is not changed.

    Args:
        model: A transformers model for sequence classification, not wrapped by PEFT.
        fresh: Names of newly initialised parameters. A newly initialised pooler of the encoder counts as head.
        segments: Whether the model will receive token type ids.

    Raises:
        UserError: the model has no separate encoder or no linear output layer.
    """
    base = model.base_model_prefix
    if not isinstance(getattr(model, base, None), nn.Module):
        raise UserError(f"{type(model).__name__} keeps its encoder in no part of its own; it cannot be adapted")
    outputs = output_layers(model)
    if not outputs:
        raise UserError(
            f"{type(model).__name__} has no linear layer with {model.config.num_labels} outputs outside its encoder"
        )
    run = _dry_run(model, segments)
    blocks = _blocks(getattr(model, base), base, run)
    shared = any(run.calls[name] > 1 for block in blocks for name in block)
    layers = 0 if shared else len(blocks)
    head = tuple(
        name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())
    )
    depth = {name: _depth(name, model, base, blocks, run) for name, _ in model.named_parameters()}
    if shared:  # embeddings 0, the shared layers and what follows 1, head 2
        depth = {name: max(value - len(blocks), min(value, 1)) for name, value in depth.items()}
    for name in fresh:
        if depth.get(name) == layers + 1:
            depth[name] = layers + 2
    unused = tuple(name for name, parameter in model.named_parameters() if id(parameter) not in run.used)
    return Anatomy(
        base=base,
        layers=layers,
        head=head,
        output=next(reversed(outputs)),
        depth=depth,
        unused=unused,
        linear=tuple(run.linear),
        blocks=blocks,
    )


def linear_targets(anatomy: Anatomy) -> list[str]:
    """Return the names of all linear layers inside the encoder's layers: LoRA targets where PEFT has no defaults."""
    inside = tuple(f"{name}." for block in anatomy.blocks for name in block)
    unused = set(anatomy.unused)
    return [name for name in anatomy.linear if f"{name}.".startswith(inside) and f"{name}.weight" not in unused]


def output_layers(model: Any) -> dict[str, nn.Module]:
    """Return name -> output layer of a plain or PEFT-wrapped model; the last one is active.

    There are several only if PEFT has a trainable copy of the head beside the original (``modules_to_save``), or if
    the head has another layer of the same width before the last.
    """
    inner = unwrapped(model)
    layers = {}
    for name, child in inner.named_children():
        if name == inner.base_model_prefix:
            continue
        for path, module in child.named_modules(prefix=name):
            # base_layer: the original layer inside a LoRA layer; the LoRA layer computes the logits.
            is_linear = isinstance(module, nn.Linear) or isinstance(getattr(module, "base_layer", None), nn.Linear)
            inside = ".base_layer" in path or ".lora_" in path
            if is_linear and not inside and getattr(module, "out_features", None) == inner.config.num_labels:
                layers[path] = module
    return layers


def active_output(model: Any) -> Any:
    """Return the layer that computes the logits, see `output_layers`."""
    return next(reversed(output_layers(model).values()))


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside a compiled or PEFT-wrapped one."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if is_adapted(model) else model


def is_adapted(model: Any) -> bool:
    """Return whether a model is wrapped by PEFT, without importing PEFT, which takes half a second."""
    return hasattr(model, "get_base_model")


def word_embeddings(model: Any) -> nn.Embedding | None:
    """Return the word embeddings of a model; None if it has none, like CANINE, which hashes characters."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return table if isinstance(table, nn.Embedding) else None


def is_causal(config: Any) -> bool:
    """Return whether attention is causal, so that only the last token represents the whole text."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    return (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING
        and kind not in MODEL_FOR_MASKED_LM_MAPPING
        and not config.is_encoder_decoder
    )


def takes_segments(config: Any) -> bool:
    """Return whether the model uses token type ids as segment ids.

    Some models accept them without having segments (GPT-2 and XLM would look them up as words), so the size of the
    segment vocabulary decides; XLNet and Funnel have segments but no such field.
    """
    return getattr(config, "type_vocab_size", 0) > 1 or config.model_type in ("xlnet", "funnel")


@dataclass
class _Run:
    """Observations of a dry run.

    Attributes:
        first: module name -> rank of its first call.
        calls: module name -> number of calls.
        linear: names of linear layers that were called and returned one tensor.
        used: ids of the parameters that the logits depend on.
    """

    first: dict[str, int]
    calls: Counter[str]
    linear: list[str]
    used: set[int]


def _dry_run(model: Any, segments: bool) -> _Run:
    """Run the model on two short rows with hooks, and walk the autograd graph instead of running a backward pass."""
    twin = disposable(model)
    run, linear = _Run(first={}, calls=Counter(), linear=[], used=set()), set()

    def record_call(name: str, *_: Any) -> None:
        run.first.setdefault(name, len(run.first))
        run.calls[name] += 1

    def record_linear(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            linear.add(module)

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(partial(record_call, name))
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_hook(record_linear)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            logits = twin(**sample_rows(model, segments=segments)).logits
    except Exception as error:  # architectures raise many types, also for sizes that do not fit
        message = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{type(model).__name__} cannot read a text ({type(error).__name__}: {message[0]}): it is not a model of "
            "texts alone, or its config.json does not fit its weights"
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    run.linear = [name for name, module in twin.named_modules() if module in linear]
    run.used = {id(leaf) for leaf in leaves(logits)}
    # A module whose `forward` is called directly fires no hook (SqueezeBERT's layers): it ran when its first child ran.
    for name in list(run.first):
        parent = name.rpartition(".")[0]
        while parent and parent not in run.calls:
            run.first[parent] = min(run.first.get(parent, run.first[name]), run.first[name])
            parent = parent.rpartition(".")[0]
    return run


def disposable(model: Any) -> Any:
    """Return a copy of the modules that shares the tensors, in evaluation mode.

    A forward pass may change modules permanently: BigBird switches to full attention at the first short row, and
    RecurrentGemma keeps its last states as plain attributes, which cannot be copied.
    """
    kept = chain.from_iterable(vars(module).values() for module in model.modules())
    tensors = [*model.parameters(), *model.buffers(), *(value for value in kept if isinstance(value, Tensor))]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()


def sample_rows(model: Any, *, segments: bool = False) -> dict[str, Tensor]:
    """Return two rows of eight ordinary tokens that end in the end-of-sequence token, which T5 and BART require."""
    described = encoder_config(model.config)
    special = [getattr(described, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep", "mask")]
    end = getattr(described, "eos_token_id", None)
    end = end[0] if isinstance(end, list) else end
    size = getattr(described, "vocab_size", 64)
    ordinary = [token for token in range(min(size, 64)) if token not in special]
    ids = torch.tensor(ordinary[-8:], device=model.device).repeat(2, 1)
    if end is not None and end < size:
        ids[:, -1] = end
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return rows | ({"token_type_ids": torch.zeros_like(ids)} if segments else {})


def leaves(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the leaf tensors (parameters) that `tensor` was computed from."""
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo.extend(parent for parent, _ in node.next_functions)


def _blocks(base: nn.Module, prefix: str, run: _Run) -> tuple[tuple[str, ...], ...]:
    """Return the encoder's layers in execution order, each as the names of its modules."""
    stacks: dict[tuple[str, int], list[list[tuple[str, nn.Module]]]] = {}
    for parent, elements in _lists(base, prefix):
        stacks.setdefault((parent, len(elements)), []).append(elements)
    executed = []
    for parallel in stacks.values():
        # A list of plain norms or embeddings is no stack of layers, unless it is parallel to one (XLM's layer norms).
        if any(any(True for _ in module.children()) for elements in parallel for _, module in elements):
            layers = [tuple(name for name, _ in layer if name in run.first) for layer in zip(*parallel, strict=True)]
            executed.append([layer for layer in layers if layer])
    executed = [stack for stack in executed if stack]
    executed.sort(key=lambda stack: min(run.first[name] for name in stack[0]))
    return tuple(layer for stack in executed for layer in stack)


def _lists(module: nn.Module, path: str) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    """Yield (name of the parent, named elements) of the outermost module lists; lists of lists are flattened."""
    for name, child in module.named_children():
        inner = f"{path}.{name}"
        if isinstance(child, nn.ModuleList):
            elements = list(_elements(child, inner))
            if elements:
                yield path, elements
        else:
            yield from _lists(child, inner)


def _elements(modules: nn.ModuleList, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in modules.named_children():
        if isinstance(child, nn.ModuleList):
            yield from _elements(child, f"{path}.{name}")
        else:
            yield f"{path}.{name}", child


def _depth(name: str, model: Any, base: str, blocks: tuple[tuple[str, ...], ...], run: _Run) -> int:
    if not name.startswith(f"{base}."):
        return len(blocks) + 2
    for index, block in enumerate(blocks):
        if name.startswith(tuple(f"{member}." for member in block)):
            return index + 1
    owner = name.rpartition(".")[0]
    # Embeddings of any kind (words, positions, relative distances) count as depth 0, wherever they are used.
    if isinstance(model.get_submodule(owner), nn.Embedding) or owner not in run.first:
        return 0
    blocks_before = sum(run.first[block[0]] < run.first[owner] for block in blocks)
    return blocks_before + 1 if blocks_before == len(blocks) else blocks_before
