"""The encoder during meta-learning: its embeddings, weights and gradients, independent of method and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Padding, collate
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.meta.episodes import Part
from nlp_transfer.meta.prototypes import embedded
from nlp_transfer.training.bfloat16 import WorkingCopy, working_copy
from nlp_transfer.training.inference import to_device
from nlp_transfer.training.optimizer import load_parameters


class FeatureExtractor(nn.Module):
    """Wraps the model of a classifier to return its features, the input of the output layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor], _progress: float = 0.0) -> Tensor:
        """Return the features of a batch, (examples, width)."""
        return forward(self.model, batch).features


@dataclass
class Learner:
    """The encoder on this rank.

    Attributes:
        accelerator: ranks, device and precision.
        extractor: the encoder, in float32; a copy in bfloat16 runs if that is faster, see `training.bfloat16`.
        columns: the rows of the episodes.
        padding: how rows are padded.
        distance: between vectors.
    """

    accelerator: Accelerator
    extractor: FeatureExtractor
    columns: Columns
    padding: Padding
    distance: str
    parameters: dict[str, nn.Parameter] = field(init=False)
    _working: WorkingCopy | None = field(init=False)
    _summed: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.parameters = {name: p for name, p in self.extractor.named_parameters() if p.requires_grad}
        copied = working_copy(self.accelerator, compiled=False)
        self._working = copied(self.extractor) if copied else None

    def vectors(self, part: Part) -> Tensor:
        """Return the embeddings of rows, float32 (rows, width), with gradients."""
        batch = to_device(collate(self.columns, part.rows, padding=self.padding), self.accelerator.device)
        module: nn.Module = self._working.module if self._working else self.extractor
        with nullcontext() if self._working else self.accelerator.autocast():
            features = module(batch, 0.0)
        return embedded(features.float(), self.distance)

    def answers(self, part: Part) -> Tensor:
        """Return the class of rows within the episode, int64 (rows,), on the device."""
        return torch.from_numpy(part.answers).to(self.accelerator.device)

    def backward(self, loss: Tensor) -> float:
        """Accumulate the gradient of a loss in the parameters; return the loss."""
        loss.backward()
        if self._working:
            self._working.hand_over()
        return float(loss.detach())

    def descend(self, loss: Tensor, rate: float) -> float:
        """Take an SGD step and clear the gradients; return the loss before the step."""
        value = self.backward(loss)
        with torch.no_grad():
            for parameter in self.parameters.values():
                assert parameter.grad is not None, "every trainable parameter must get a gradient"
                parameter.sub_(parameter.grad, alpha=rate)
                parameter.grad = None
        self.refresh()
        return value

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def load(self, weights: dict[str, Tensor], *, difference: float = 0.0) -> None:
        """Restore weights; with `difference`, set the gradients to that multiple of (restored - current) weights."""
        if difference:
            for name, parameter in self.parameters.items():
                parameter.grad = (weights[name] - parameter.detach()) * difference
        load_parameters(self.parameters, weights)
        self.refresh()

    def refresh(self) -> None:
        """Update the bfloat16 copy, if there is one, from the weights."""
        if self._working:
            self._working.refresh()

    def collect(self) -> None:
        """Move the gradient from the parameters to the sum over the episodes of the step."""
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None, "every trainable parameter must get a gradient"
            self._summed[name] = parameter.grad if name not in self._summed else self._summed[name] + parameter.grad
            parameter.grad = None

    def share(self, loss: float, episodes: int) -> float:
        """Set the gradients to the mean over the episodes of a step on all ranks; return the mean loss.

        Args:
            loss: the sum over the episodes of this rank, which may have had none.
            episodes: how many the step has on all ranks.
        """
        own = torch.tensor(loss, dtype=torch.float64).to(self.accelerator.device, torch.float32)
        for name, parameter in self.parameters.items():
            parameter.grad = self._over_ranks(self._summed.pop(name, torch.zeros_like(parameter))) / episodes
        return float(self._over_ranks(own)) / episodes

    def _over_ranks(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes > 1:
            reduced = self.accelerator.reduce(values, "sum")
            assert isinstance(reduced, Tensor)
            return reduced
        return values
