"""A masked-language model, its step for the loop, and its loss on texts held out; it knows no run and no folder of one.

The head is the checkpoint's own where that has one. It runs at the tokens that are to be guessed alone, for it is
often wider than the encoder is deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Padding, collate, evaluation_batches, token_places
from nlp_transfer.encoder.anatomy import leaves, sample_rows
from nlp_transfer.encoder.classifier import INPUTS, check_finite, quiet
from nlp_transfer.encoder.heads import limit_depth, loading_options, new_parameters
from nlp_transfer.encoder.sizes import limit_model_size
from nlp_transfer.encoder.source import Source
from nlp_transfer.errors import UserError, first_line
from nlp_transfer.pretraining.masks import Masks
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.training.inference import to_device


def masked_model(settings: EncoderSettings, source: Source, *, seed: int) -> tuple[Any, bool]:
    """Load an encoder in float32 under a head that guesses words; return it, and whether the head is new.

    A head that the checkpoint lacks is new, and guesses by the word embeddings where these have its width. What nothing
    hangs on does not learn.

    Args:
        settings: the `encoder` group.
        source: where the weights lie.
        seed: of what is new; of everything, where the encoder shall not be pretrained.

    Raises:
        UserError: for an encoder that cannot be loaded so.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    with quiet(), torch.random.fork_rng(devices=[]), limit_model_size(source.folder):
        torch.default_generator.manual_seed(seed)
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        limit_depth(config, settings, native=True)
        options = loading_options(settings)
        try:
            if settings.pretrained:
                model, info = AutoModelForMaskedLM.from_pretrained(source.folder, config=config, **options)
                fresh = new_parameters(info)
                _tie(model, fresh)
                _clear(model, fresh)
            else:
                own = {name: options[name] for name in ("attn_implementation",) if name in options}
                model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32, **own)
                fresh = {name for name, _ in model.named_parameters()}
            _freeze_idle(model)
        except Exception as error:  # they say it in a dozen ways
            said = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"encoder.name={settings.name!r} cannot be pretrained: {said}") from error
    check_finite(model, f"encoder.name={settings.name!r} ({source.folder})")
    return model, any(not name.startswith(f"{model.base_model_prefix}.") for name in fresh)


def _tie(model: Any, fresh: set[str]) -> None:
    """Let a new last layer be the word embeddings, which know something already."""
    words, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    if decoder is None or decoder.weight is words.weight or decoder.weight.shape != words.weight.shape:
        return
    if any(p is decoder.weight and name in fresh for name, p in model.named_parameters(remove_duplicate=False)):
        decoder.weight = words.weight


def _clear(model: Any, fresh: set[str]) -> None:
    """Set new biases to zero: those of some architectures' heads, transformers leaves as memory was."""
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in fresh and name.endswith("bias"):
                parameter.zero_()


def _freeze_idle(model: Any) -> None:
    """Stop what no word's loss reaches from learning, such as the score of whether a sentence follows another."""
    rows = sample_rows(model)
    wanted = torch.ones_like(rows["input_ids"], dtype=torch.bool)
    with torch.enable_grad():
        logits = logits_at(model.eval(), rows, wanted)
    assert logits.shape[0] == wanted.sum(), "one row of logits a token"
    reached = {id(leaf) for leaf in leaves(logits)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in reached)


def logits_at(model: Any, inputs: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    """Return the logits of some tokens, (tokens, vocabulary), in the order of rows.

    Args:
        model: a masked-language model of transformers.
        inputs: of its forward pass.
        wanted: bool (rows, tokens), which tokens.
    """

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[wanted][None]
        return output

    hook = model.base_model.register_forward_hook(keep)
    try:
        return model(**inputs).logits[0]
    finally:
        hook.remove()


def summed_loss(model: Any, batch: Mapping[str, Tensor], masks: Masks, epoch: int) -> Tensor:
    """Return Σ of the cross-entropies, in nats, of the tokens to be guessed in a batch, weighted by the examples.

    Args:
        model: a masked-language model.
        batch: of `collate`, over the columns that `masks` is of, each example weighted by its `counts`, or 0.
        masks: what is to be guessed.
        epoch: in which.
    """
    examples = batch["examples"].cpu().numpy()
    places = token_places(masks.tokens, examples)
    given, wanted = (array[places] for array in masks.of(epoch))
    real = batch["attention_mask"].bool()
    ids, chosen = batch["input_ids"].clone(), torch.zeros_like(real)
    ids[real] = torch.tensor(given, dtype=ids.dtype, device=ids.device)
    chosen[real] = torch.tensor(wanted, device=ids.device)
    inputs = {name: batch[name] for name in INPUTS if name in batch} | {"input_ids": ids}
    logits = logits_at(model, inputs, chosen).float()
    losses = nn.functional.cross_entropy(logits, batch["input_ids"][chosen], reduction="none")
    owner = np.repeat(np.arange(len(examples)), masks.tokens.sizes[examples])[wanted]
    each = batch["weights"] / torch.tensor(np.maximum(1, masks.counts[examples]), device=ids.device)
    return (losses * each[torch.tensor(owner, device=ids.device)]).sum()


class MaskedStep(nn.Module):
    """A masked-language model and its loss in one: what the loop trains.

    Args:
        model: the model.
        masks: of the texts that are learned from.
        steps: of the whole training; with `progress` they tell the epoch.
        in_epoch: of one epoch.
    """

    def __init__(self, model: Any, masks: Masks, *, steps: int, in_epoch: int) -> None:
        super().__init__()
        self.model, self.masks, self.steps, self.in_epoch = model, masks, steps, in_epoch

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return this batch's share of the step's loss, a scalar; the loop divides by the tokens guessed in a step."""
        epoch = int(progress * self.steps) // self.in_epoch
        return summed_loss(self.model, batch, self.masks, epoch)


@torch.inference_mode()
def loss_on(
    accelerator: Accelerator, model: Any, columns: Columns, masks: Masks, *, padding: Padding, most_tokens: int
) -> float:
    """Return the mean cross-entropy of the tokens to be guessed in all texts, nats, computed in float32 on all ranks.

    Args:
        accelerator: of the ranks, which share the work.
        model: a masked-language model, unwrapped.
        columns: the texts.
        masks: of them; those of epoch 0 count, so that the loss of two models can be compared.
        padding: how rows are made equal.
        most_tokens: padded tokens in one forward pass.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    rank, world = accelerator.process_index, accelerator.num_processes
    for examples in evaluation_batches(columns.tokens, most_tokens=most_tokens)[rank::world]:
        batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
        total += summed_loss(model, batch, masks, 0).double().cpu()
    model.train(was_training)
    every = accelerator.reduce(total.to(accelerator.device, torch.float32), "sum")
    assert isinstance(every, Tensor)
    return float(every) / max(1, int(masks.counts.sum()))
