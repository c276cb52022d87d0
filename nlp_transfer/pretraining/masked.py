"""A masked-language model, its training step, and its loss on held-out texts. Independent of runs and their folders.

The head is that of the checkpoint, if it has one. It is computed only for the tokens to predict, because its output is
as wide as the vocabulary.
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
    """Load an encoder in float32 with a masked-language modelling head; return the model, and whether the head is new.

    A head that the checkpoint lacks is initialised randomly, and its last layer is tied to the word embeddings if their
    widths are equal. Parameters that do not affect the loss are frozen.

    Args:
        settings: the `encoder` group.
        source: of the weights.
        seed: for new parameters; for all parameters if `encoder.pretrained` is false.

    Raises:
        UserError: for an encoder that cannot be loaded in this way.
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
                attention = {name: options[name] for name in ("attn_implementation",) if name in options}
                model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32, **attention)
                fresh = {name for name, _ in model.named_parameters()}
            _freeze_unused(model)
        except Exception as error:  # transformers raises many kinds of exceptions
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"encoder.name={settings.name!r} cannot be pretrained: {cause}") from error
    check_finite(model, f"encoder.name={settings.name!r} ({source.folder})")
    return model, any(not name.startswith(f"{model.base_model_prefix}.") for name in fresh)


def _tie(model: Any, fresh: set[str]) -> None:
    """Tie a new output layer to the word embeddings, which are pretrained."""
    words, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    if decoder is None or decoder.weight is words.weight or decoder.weight.shape != words.weight.shape:
        return
    if any(p is decoder.weight and name in fresh for name, p in model.named_parameters(remove_duplicate=False)):
        decoder.weight = words.weight


def _clear(model: Any, fresh: set[str]) -> None:
    """Set new biases to zero, because transformers leaves those of some heads uninitialised."""
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in fresh and name.endswith("bias"):
                parameter.zero_()


def _freeze_unused(model: Any) -> None:
    """Freeze parameters that do not affect the loss, such as a head for next-sentence prediction."""
    rows = sample_rows(model)
    wanted = torch.ones_like(rows["input_ids"], dtype=torch.bool)
    with torch.enable_grad():
        logits = logits_at(model.eval(), rows, wanted)
    assert logits.shape[0] == wanted.sum(), "one row of logits per token"
    used = {id(leaf) for leaf in leaves(logits)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in used)


def logits_at(model: Any, inputs: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    """Return the logits of some tokens, (tokens, vocabulary), in the order of rows.

    Args:
        model: a masked-language model of transformers.
        inputs: of its forward pass.
        wanted: bool (rows, tokens), the tokens to predict.
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
    """Return the weighted sum of the cross-entropies, in nats, of the tokens to predict in a batch.

    Args:
        model: a masked-language model.
        batch: from `collate`, over the columns of `masks`; each example is weighted by its `counts`, or 0.
        masks: of the texts.
        epoch: number of the epoch.
    """
    examples = batch["examples"].cpu().numpy()
    positions = token_places(masks.tokens, examples)
    masked_ids, is_predicted = (array[positions] for array in masks.of(epoch))
    is_token = batch["attention_mask"].bool()
    ids, wanted = batch["input_ids"].clone(), torch.zeros_like(is_token)
    ids[is_token] = torch.tensor(masked_ids, dtype=ids.dtype, device=ids.device)
    wanted[is_token] = torch.tensor(is_predicted, device=ids.device)
    inputs = {name: batch[name] for name in INPUTS if name in batch} | {"input_ids": ids}
    logits = logits_at(model, inputs, wanted).float()
    losses = nn.functional.cross_entropy(logits, batch["input_ids"][wanted], reduction="none")
    owner = np.repeat(np.arange(len(examples)), masks.tokens.sizes[examples])[is_predicted]
    token_weights = batch["weights"] / torch.tensor(np.maximum(1, masks.counts[examples]), device=ids.device)
    return (losses * token_weights[torch.tensor(owner, device=ids.device)]).sum()


class MaskedStep(nn.Module):
    """A masked-language model with its loss, as the training loop expects it.

    Args:
        model: the model.
        masks: of the training texts.
        steps: of the whole training, to derive the epoch from the progress.
        in_epoch: steps per epoch.
    """

    def __init__(self, model: Any, masks: Masks, *, steps: int, in_epoch: int) -> None:
        super().__init__()
        self.model, self.masks, self.steps, self.in_epoch = model, masks, steps, in_epoch

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the summed loss of this micro-batch, a scalar; the loop divides by the predicted tokens of a step."""
        epoch = int(progress * self.steps) // self.in_epoch
        return summed_loss(self.model, batch, self.masks, epoch)


@torch.inference_mode()
def loss_on(
    accelerator: Accelerator, model: Any, columns: Columns, masks: Masks, *, padding: Padding, most_tokens: int
) -> float:
    """Return the mean cross-entropy of the tokens to predict in all texts, in nats, computed in float32 on all ranks.

    Args:
        accelerator: of the ranks, which divide the batches.
        model: a masked-language model, unwrapped.
        columns: the texts.
        masks: of the texts; those of epoch 0 are used, so that losses of two models are comparable.
        padding: how rows are padded.
        most_tokens: maximum tokens of one forward pass, including padding.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    rank, world = accelerator.process_index, accelerator.num_processes
    for examples in evaluation_batches(columns.tokens, most_tokens=most_tokens)[rank::world]:
        batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
        total += summed_loss(model, batch, masks, 0).double().cpu()
    model.train(was_training)
    over_ranks = accelerator.reduce(total.to(accelerator.device, torch.float32), "sum")
    assert isinstance(over_ranks, Tensor)
    return float(over_ranks) / max(1, int(masks.counts.sum()))
