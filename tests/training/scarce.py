"""A device with little memory, as far as a training step can tell."""

from __future__ import annotations

import torch


def no_memory() -> RuntimeError:
    """What torch raises where memory does not suffice."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Scarce(torch.nn.Module):
    """A step that has memory for a number of rows; what it lacks shows in the backward pass, when half is done."""

    def __init__(self, step: torch.nn.Module, rows: int) -> None:
        super().__init__()
        self.step, self.rows, self.failed = step, rows, 0
        self.too_many = False
        embeddings = next(p for name, p in step.named_parameters() if "word_embeddings" in name)
        embeddings.register_hook(self._last_gradient)

    def forward(self, batch, progress):
        self.too_many = len(batch["targets"]) > self.rows
        return self.step(batch, progress)

    def _last_gradient(self, gradient: torch.Tensor) -> None:
        if self.too_many:
            self.failed += 1
            raise no_memory()
