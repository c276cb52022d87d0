"""Gradient accumulation on one rank: a step is cut into micro-batches, and into smaller ones when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Padding, collate, micro_batches, pass_size
from nlp_transfer.training.bfloat16 import WorkingCopy
from nlp_transfer.training.inference import to_device
from nlp_transfer.training.memory import none_if_out_of_memory
from nlp_transfer.training.pace import Pace

# The fixed cost of a forward and backward pass (launching kernels), counted in tokens. A GPU computes thousands of
# tokens in that time, a CPU core about a hundred, so that on a CPU more, shorter passes beat padding.
_PASS_COST = {"cpu": 64}
_FEWEST_PASSES = 1 << 40  # a cost that no saving of padding outweighs
# Tokens of a pass where the settings do not say. On a CPU larger passes are no faster, and their activations are most
# of the memory of training; but many cores must have enough work each. On a GPU launching the kernels of a smaller
# pass takes longer than computing it.
_MOST_TOKENS, _ON_GPU, _ON_CPU, _PER_CORE = 4096, 16384, 1024, 256


class NoMemory(Exception):
    """Memory does not suffice for a single example.

    Attributes:
        examples: the example, as an index of the training split.
        tokens: how long it is.
    """

    def __init__(self, examples: np.ndarray, tokens: int) -> None:
        self.examples, self.tokens = examples, tokens
        super().__init__(f"no memory for an example of {tokens} tokens")


@dataclass
class Passes:
    """The forward and backward passes of this rank.

    A pass that runs out of memory is halved, as are all later ones of its size, and the step is repeated with the same
    random seed. Unless examples are compared with each other, how a step is cut changes neither loss nor gradient,
    apart from the dropout masks, which are drawn pass by pass.

    Attributes:
        accelerator: ranks, device and precision.
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch; prepared.
        columns: the training split.
        padding: how the rows of a pass are padded.
        most_examples: in one pass; None: no limit.
        most_tokens: padded tokens in one pass; None: as many as suit the device.
        on_halved: called on every rank, after a step that ran out of memory, with the new limit of tokens.
        halved_to: limit of padded tokens since a pass of twice as many ran out of memory; the same on every rank. None:
            none did.
        working: the bfloat16 copy that `step` is, or None.
        pace: measures throughput.
        compares: whether the loss compares the examples of a pass; a step is then cut into as few passes as fit.
        collective: whether every pass is collective (FSDP gathers weights in it), not only the last one of a step.
            Then no pass is retried: the other ranks would wait for ever.
    """

    accelerator: Accelerator
    step: nn.Module
    columns: Columns
    padding: Padding
    most_examples: int | None
    most_tokens: int | None
    on_halved: Callable[[int], None] = lambda _: None
    halved_to: int | None = None
    working: WorkingCopy | None = None
    compares: bool = False
    collective: bool = False
    pace: Pace = field(init=False)
    _fitted: tuple[int, int] = (0, 0)  # most padded tokens, and pairs in attention, of a pass so far

    def __post_init__(self) -> None:
        self.pace = Pace(self.accelerator, self.step)

    def accumulate(self, examples: np.ndarray, progress: float, *, reseed: Callable[[], None]) -> float:
        """Accumulate the gradient of a step in the parameters or their copies; return its loss over all ranks.

        Args:
            examples: of the step, on all ranks.
            progress: of the training, in [0, 1]; passed on to the loss terms.
            reseed: seeds the random generators as at the start of the step.

        Raises:
            NoMemory: if it does not suffice for a single example.
        """
        limit_before = self.halved_to
        weight = float(self.columns.weights[examples].sum(dtype=np.float64)) or 1.0
        with self.pace.passes():
            run_passes = self._collective_passes if self.collective else self._independent_passes
            rank_loss = run_passes(examples, weight, progress, reseed)
        return self._reduce_loss(rank_loss, limit_before)

    def forget_what_fitted(self) -> None:
        """Forget which size of a pass is known to fit: there is less memory now."""
        self._fitted = (0, 0)

    def cut(self, examples: np.ndarray) -> list[np.ndarray]:
        """Return the micro-batches of a step on this rank, maybe none."""
        return micro_batches(
            self.columns.tokens,
            examples,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            most_examples=self.most_examples,
            most_tokens=min(self._wanted_tokens, self.halved_to or self._wanted_tokens),
            pass_cost=_FEWEST_PASSES if self.compares else _PASS_COST.get(self.accelerator.device.type, 8192),
            positions_per_token=self.padding.positions_per_token,
        )

    @property
    def _wanted_tokens(self) -> int:
        if self.most_tokens is not None:
            return self.most_tokens
        if self.accelerator.device.type != "cpu":
            return _ON_GPU
        # With several ranks a working copy accumulates its gradients in bfloat16: the fewer passes the better.
        sums_in_bfloat16 = self.working is not None and self.accelerator.num_processes > 1
        if self.compares or sums_in_bfloat16:
            return _MOST_TOKENS
        enough = max(_ON_CPU, _PER_CORE * torch.get_num_threads())
        return min(_MOST_TOKENS, enough * (2 if self.working else 1))  # a working copy takes half the bytes a token

    def _plan(self, examples: np.ndarray) -> tuple[list[np.ndarray], dict[str, Tensor] | None]:
        """Return the passes that this rank does alone, and the batch of the last one, in which gradients are reduced.

        A pass larger than any before is done alone, where it can be retried. If none is left for the last pass, a short
        example of weight 0 stands in: a rank without examples has to take part, too.
        """
        with self.pace.part("data"):
            parts = self.cut(examples)
        if self.accelerator.num_processes == 1:
            return parts, None
        if parts and all(size <= fitted for size, fitted in zip(self._size(parts[-1]), self._fitted, strict=True)):
            self._count(parts[-1])
            return parts[:-1], self._batch(parts[-1])
        return parts, self._dummy_batch(examples)

    def _dummy_batch(self, examples: np.ndarray) -> dict[str, Tensor]:
        """Return a batch of one short example of weight 0, for a rank that has no other left."""
        shortest = examples[[self.columns.tokens.longest[examples].argmin()]]
        return self._batch(shortest) | {"weights": torch.zeros(1, device=self.accelerator.device)}

    def _independent_passes(
        self, examples: np.ndarray, weight: float, progress: float, reseed: Callable[[], None]
    ) -> Tensor:
        """Return this rank's loss; only the last pass is collective, the others are retried when memory runs out."""
        loss, last_batch = None, None
        while loss is None:
            reseed()
            self.pace.discard_step()
            alone, last_batch = self._plan(examples)
            loss = self._try_passes(alone, weight, progress)
        return loss if last_batch is None else loss + self._pass(last_batch, weight, progress)

    def _collective_passes(
        self, examples: np.ndarray, weight: float, progress: float, reseed: Callable[[], None]
    ) -> Tensor:
        """Return this rank's loss; every rank does as many passes as the one that has the most."""
        reseed()
        loss = torch.zeros((), device=self.accelerator.device)
        with self.pace.part("data"):
            parts = self.cut(examples)
        counts = self.accelerator.gather(torch.tensor([len(parts)], device=self.accelerator.device))
        assert isinstance(counts, Tensor)
        for number in range(int(counts.max())):
            batch = self._batch(parts[number]) if number < len(parts) else self._dummy_batch(examples)
            loss += self._pass(batch, weight, progress)
            if number < len(parts):
                self._count(parts[number])
        return loss

    def _try_passes(self, parts: list[np.ndarray], weight: float, progress: float) -> Tensor | None:
        """Return this rank's loss over the passes; where memory ran out, None, and the gradient is cleared."""
        total = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            with self.accelerator.no_sync(self.step) if self.accelerator.num_processes > 1 else nullcontext():
                loss = none_if_out_of_memory(partial(self._pass_over, part, weight, progress))
            if loss is None:
                self._halve_limit(part)
                self._clear_gradient()
                return None
            tokens, pairs = self._size(part)
            self._fitted = max(self._fitted[0], tokens), max(self._fitted[1], pairs)
            self._count(part)
            total += loss
            if self.working and len(parts) > 1 and self.accelerator.num_processes == 1:
                self.working.hand_over()  # bfloat16 sums lose precision; but several ranks reduce them in the last pass
        return total

    def _pass_over(self, part: np.ndarray, weight: float, progress: float) -> Tensor:
        return self._pass(self._batch(part), weight, progress)

    def _pass(self, batch: dict[str, Tensor], weight: float, progress: float) -> Tensor:
        with self.pace.part("forward"):
            loss = self.step(batch, progress) / weight
        with self.pace.part("backward"):
            # DDP averages gradients over ranks; the sum over examples is wanted.
            self.accelerator.backward(loss * self.accelerator.num_processes)
        return loss.detach().float()

    def _clear_gradient(self) -> None:
        self.step.zero_grad()
        if self.working:
            self.working.forget()

    def _batch(self, part: np.ndarray) -> dict[str, Tensor]:
        with self.pace.part("data"):
            return to_device(collate(self.columns, part, padding=self.padding), self.accelerator.device)

    def _count(self, part: np.ndarray) -> None:
        self.pace.count(int(self.columns.tokens.sizes[part].sum()), self._size(part)[0], len(part))

    def _size(self, part: np.ndarray) -> tuple[int, int]:
        """Return the tokens of a pass, with the padding that is computed, and the token pairs in its attention."""
        tokens = self.columns.tokens
        longest = int(tokens.longest[part].max())
        places = longest * tokens.windows[part].sum()
        size = int(pass_size(tokens.sizes[part].sum(), places, self.padding.positions_per_token))
        return size, longest * size

    def _halve_limit(self, part: np.ndarray) -> None:
        tokens, _ = self._size(part)
        if len(part) == 1:
            raise NoMemory(part, tokens)
        self.halved_to = tokens // 2

    def _reduce_loss(self, rank_loss: Tensor, limit_before: int | None) -> float:
        """Return the loss summed over all ranks; they take on the smallest limit of tokens that one has reached."""
        values = torch.stack([rank_loss, rank_loss.new_tensor(self.halved_to or math.inf)])
        gathered = self.accelerator.gather(values.unsqueeze(0))
        assert isinstance(gathered, Tensor)
        losses, limits = gathered.unbind(1)
        loss, limit = torch.stack([losses.sum(), limits.min()]).tolist()  # in one transfer
        if limit < (limit_before or math.inf):
            self.halved_to = int(limit)
            self.on_halved(self.halved_to)
        return loss
