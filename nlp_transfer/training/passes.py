"""One rank's forward and backward passes of an optimizer step: how they are cut, and cut again where memory ends."""

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
from nlp_transfer.training.memory import tried
from nlp_transfer.training.pace import Pace

# What a forward and backward pass costs beside its tokens, counted in tokens: launching kernels. A GPU computes
# thousands of tokens in that time; a CPU core about a hundred, so that cutting a step by length beats padding it.
_PASS_COST = {"cpu": 64}
_PRICELESS = 1 << 40  # no saving of tokens is worth another pass
# Tokens of a pass where the settings leave that open. A CPU core computes none faster in a larger pass, and what a pass
# keeps for its backward half is most of the memory of a training; but many cores must have enough each. On a
# GPU a smaller one is computed in less time than its kernels take to be launched.
_MOST_TOKENS, _ON_GPU, _ON_CPU, _A_CORE = 4096, 16384, 1024, 256


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
    """The passes of a run's steps on this rank.

    A pass that memory does not suffice for is halved, and so are all later ones of its size; the step begins again with
    the same random numbers. Neither loss nor gradient depends on how a step is cut unless examples are compared with
    each other, so that nothing else changes; only what dropout draws does, for it draws pass by pass.

    Attributes:
        accelerator: ranks, device and precision.
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch; prepared.
        columns: the training split.
        padding: how rows are made equal.
        most_examples: in one pass, or None.
        most_tokens: padded tokens in one pass, or None: as many as suit the device.
        on_halved: called on every rank with what a pass holds from now on, after the step in which that was found.
        halved_to: padded tokens that a pass may hold since memory did not suffice for twice as many; the same on every
            rank. None: it has sufficed.
        working: the copy that `step` is, where forward and backward run in one.
        pace: counts what is done.
        compares: whether an example's loss hangs on the others of its pass; a step is then cut as little as can be.
        in_step: whether the ranks meet in every pass, in which they gather weights from each other, and not in the last
            one of a step alone. None is tried again then: the others would wait for the rank that does.
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
    in_step: bool = False
    pace: Pace = field(init=False)
    _fitted: tuple[int, int] = (0, 0)  # padded tokens, and pairs of them that meet in attention, of what fitted so far

    def __post_init__(self) -> None:
        self.pace = Pace(self.accelerator, self.step)

    def accumulate(self, examples: np.ndarray, progress: float, *, reseed: Callable[[], None]) -> float:
        """Leave the gradient of a step in the parameters or their copies; return its loss over all ranks.

        Args:
            examples: of the step, those of all ranks.
            progress: in [0, 1], given to the terms.
            reseed: sets the random numbers to those that the step begins with.

        Raises:
            NoMemory: if it does not suffice for a single example.
        """
        before = self.halved_to
        weight = float(self.columns.weights[examples].sum(dtype=np.float64)) or 1.0
        with self.pace.passes():
            own = self._in_step if self.in_step else self._apart
            share = own(examples, weight, progress, reseed)
        return self._loss_of_all(share, before)

    def forget_what_fitted(self) -> None:
        """Take no pass for one that fits because one of its size did: there is less memory left now."""
        self._fitted = (0, 0)

    def cut(self, examples: np.ndarray) -> list[np.ndarray]:
        """Return this rank's share of a step, pass by pass; it may be nothing."""
        return micro_batches(
            self.columns.tokens,
            examples,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            most_examples=self.most_examples,
            most_tokens=min(self._wanted_tokens, self.halved_to or self._wanted_tokens),
            pass_cost=_PRICELESS if self.compares else _PASS_COST.get(self.accelerator.device.type, 8192),
            places_a_token=self.padding.places_a_token,
        )

    @property
    def _wanted_tokens(self) -> int:
        if self.most_tokens is not None:
            return self.most_tokens
        if self.accelerator.device.type != "cpu":
            return _ON_GPU
        # Several ranks sum the gradients of a working copy's passes in bfloat16: the fewer the better.
        summed = self.working is not None and self.accelerator.num_processes > 1
        if self.compares or summed:
            return _MOST_TOKENS
        enough = max(_ON_CPU, _A_CORE * torch.get_num_threads())
        return min(_MOST_TOKENS, enough * (2 if self.working else 1))  # in a working copy tokens have half the bytes

    def _dealt(self, examples: np.ndarray) -> tuple[list[np.ndarray], dict[str, Tensor] | None]:
        """Return the passes that this rank does alone, and the batch of the one in which it meets the others.

        A pass larger than any before is done alone, where it can be tried again. If none is left, the ranks meet over a
        short example that counts nothing: a rank without examples takes part, too.
        """
        with self.pace.part("data"):
            parts = self.cut(examples)
        if self.accelerator.num_processes == 1:
            return parts, None
        if parts and all(size <= fitted for size, fitted in zip(self._size(parts[-1]), self._fitted, strict=True)):
            self._count(parts[-1])
            return parts[:-1], self._batch(parts[-1])
        return parts, self._company(examples)

    def _company(self, examples: np.ndarray) -> dict[str, Tensor]:
        """Return the batch of a short example that counts nothing, for a rank that has none left."""
        shortest = examples[[self.columns.tokens.longest[examples].argmin()]]
        return self._batch(shortest) | {"weights": torch.zeros(1, device=self.accelerator.device)}

    def _apart(self, examples: np.ndarray, weight: float, progress: float, reseed: Callable[[], None]) -> Tensor:
        """Return this rank's loss over its passes, in the last of which it meets the others."""
        share, together = None, None
        while share is None:
            reseed()
            self.pace.begin_again()
            alone, together = self._dealt(examples)
            share = self._alone(alone, weight, progress)
        return share if together is None else share + self._pass(together, weight, progress)

    def _in_step(self, examples: np.ndarray, weight: float, progress: float, reseed: Callable[[], None]) -> Tensor:
        """Return this rank's loss over as many passes as the rank takes that has the most."""
        reseed()
        share = torch.zeros((), device=self.accelerator.device)
        with self.pace.part("data"):
            parts = self.cut(examples)
        every = self.accelerator.gather(torch.tensor([len(parts)], device=self.accelerator.device))
        assert isinstance(every, Tensor)
        for number in range(int(every.max())):
            batch = self._batch(parts[number]) if number < len(parts) else self._company(examples)
            share += self._pass(batch, weight, progress)
            if number < len(parts):
                self._count(parts[number])
        return share

    def _alone(self, parts: list[np.ndarray], weight: float, progress: float) -> Tensor | None:
        """Return this rank's loss over the passes, or None, and no gradient, where memory did not suffice."""
        share = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            with self.accelerator.no_sync(self.step) if self.accelerator.num_processes > 1 else nullcontext():
                loss = tried(partial(self._pass_over, part, weight, progress))
            if loss is None:
                self._halve(part)
                self._forget_gradient()
                return None
            tokens, met = self._size(part)
            self._fitted = max(self._fitted[0], tokens), max(self._fitted[1], met)
            self._count(part)
            share += loss
            if self.working and len(parts) > 1 and self.accelerator.num_processes == 1:
                self.working.hand_over()  # sums in bfloat16 lose much; several ranks need them for their last pass
        return share

    def _pass_over(self, part: np.ndarray, weight: float, progress: float) -> Tensor:
        return self._pass(self._batch(part), weight, progress)

    def _pass(self, batch: dict[str, Tensor], weight: float, progress: float) -> Tensor:
        with self.pace.part("forward"):
            loss = self.step(batch, progress) / weight
        with self.pace.part("backward"):
            # DDP averages gradients over ranks; the sum over examples is wanted.
            self.accelerator.backward(loss * self.accelerator.num_processes)
        return loss.detach().float()

    def _forget_gradient(self) -> None:
        self.step.zero_grad()
        if self.working:
            self.working.forget()

    def _batch(self, part: np.ndarray) -> dict[str, Tensor]:
        with self.pace.part("data"):
            return to_device(collate(self.columns, part, padding=self.padding), self.accelerator.device)

    def _count(self, part: np.ndarray) -> None:
        self.pace.count(int(self.columns.tokens.sizes[part].sum()), self._size(part)[0], len(part))

    def _size(self, part: np.ndarray) -> tuple[int, int]:
        """Return the tokens of a pass, padding included as far as it costs, and the pairs that meet in attention."""
        tokens = self.columns.tokens
        longest = int(tokens.longest[part].max())
        places = longest * tokens.windows[part].sum()
        size = int(pass_size(tokens.sizes[part].sum(), places, self.padding.places_a_token))
        return size, longest * size

    def _halve(self, part: np.ndarray) -> None:
        tokens, _ = self._size(part)
        if len(part) == 1:
            raise NoMemory(part, tokens)
        self.halved_to = tokens // 2

    def _loss_of_all(self, share: Tensor, before: int | None) -> float:
        """Return the loss over all ranks, which from now on take what the one with the least memory can."""
        own = torch.stack([share, share.new_tensor(self.halved_to or math.inf)])
        every = self.accelerator.gather(own.unsqueeze(0))
        assert isinstance(every, Tensor)
        losses, limits = every.unbind(1)
        loss, least = torch.stack([losses.sum(), limits.min()]).tolist()  # in one transfer
        if least < (before or math.inf):
            self.halved_to = int(least)
            self.on_halved(self.halved_to)
        return loss
