"""The packed order of a batch's tokens without padding, and the grouping of rows for attention.

Knows lengths and positions only, no model and no attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

VECTOR = 16  # float32 values in a vector register; on widths that are no multiple a softmax is 5 to 15 times slower
_MOST_PAIRS = 1 << 16  # pairs of tokens in a group on a CPU; with many heads, more scores would not fit its cache
WIDEST = 512  # longest row, in tokens, for which matrix products are worth the memory of their scores


@dataclass(frozen=True)
class Costs:
    """Costs of a group of rows in attention, in units of one padded pair of tokens.

    Measured on CPU cores; too many groups cost little more than too few.

    Attributes:
        token: gathering one token of the padded rows.
        group: launching the kernels of one more group.
        multiple: widths are rounded up to multiples of this,
        narrow: if they are below this.
        in_place: whether rows of equal length, whose tokens already lie in order, need no gathering.
    """

    token: int
    group: int
    multiple: int = 1
    narrow: int = 1
    in_place: bool = False

    def width(self, longest: np.ndarray) -> np.ndarray:
        """Return the width to which rows are padded if the longest has this many tokens."""
        return np.where(longest < self.narrow, -(-longest // self.multiple) * self.multiple, longest)


TRAINING = Costs(token=64, group=16_384, multiple=VECTOR, narrow=64)
TRAINING_IN_HALF = Costs(token=64, group=16_384, multiple=VECTOR, narrow=WIDEST)  # kernels are compiled for each width
INFERENCE = Costs(token=100, group=6_600, in_place=True)  # through torch's kernel, without gradients
INFERENCE_IN_HALF = Costs(token=64, group=16_384, multiple=8, narrow=1 << 30)


def _costs(*, inference: bool, half: bool) -> Costs:
    if half:
        return INFERENCE_IN_HALF if inference else TRAINING_IN_HALF
    return INFERENCE if inference else TRAINING


@dataclass(frozen=True)
class PaddedGroup:
    """Rows of similar length, padded to the longest of them or slightly more, within attention only.

    The tokens of a group are adjacent among the packed tokens.

    Attributes:
        rows: (rows,), their indices in the batch.
        start: index of the group's first packed token.
        stop: index after its last packed token.
        width: tokens of a padded row.
        gather: (rows · width,), for every token of the padded rows its index among the packed tokens. Padding is on the
            same side as in the batch and repeats the row's first token. None if no row needs padding.
        real: bool (rows, width), False for padding; None if there is no padding.
        kept: (tokens,), indices of the real tokens among the padded ones; None if there is no padding.
        padding: indices of the others.
    """

    rows: Tensor
    start: int
    stop: int
    width: int
    gather: Tensor | None = None
    real: Tensor | None = None
    kept: Tensor | None = None
    padding: Tensor | None = None


@dataclass(frozen=True)
class ByHead:
    """Indices between a group's padded rows, head by head, and the heads of all packed tokens, (tokens · heads,).

    Attributes:
        taken: (heads · rows · width,), for every head of every padded token its index among the packed ones.
        put: (group's tokens · heads,), for every head of the group's packed tokens its index among the padded ones.
        real: bfloat16 (heads · rows, width, 1), 0 for padding; None if there is no padding, and on a GPU.
    """

    taken: Tensor
    put: Tensor
    real: Tensor | None

    @classmethod
    def of(cls, group: PaddedGroup, heads: int) -> ByHead:
        """Return the indices for a number of heads."""
        device = group.rows.device
        head, tokens = torch.arange(heads, device=device), torch.arange(group.start, group.stop, device=device)
        padded = tokens if group.gather is None else group.gather
        kept = tokens - group.start if group.kept is None else group.kept
        taken = padded * heads + head[:, None]
        real = None if device.type != "cpu" or group.real is None else group.real.bfloat16().repeat(heads, 1)
        return cls(
            taken.flatten(),
            (head * len(padded) + kept[:, None]).flatten(),
            None if real is None else real.unsqueeze(-1),
        )


@dataclass(frozen=True)
class Layout:
    """The packed order of a batch's tokens: rows sorted by decreasing length, one after the other.

    Attributes:
        shape: rows and columns of the padded batch.
        left: whether padding precedes the text.
        costs: of its groups.
        order: (rows,), indices of the rows in packed order.
        lengths: (rows,), their numbers of tokens.
        places: (tokens,), for each packed token its index in the flattened padded batch.
        offsets: (tokens,), for each packed token the number of tokens before it in its text.
        filling: number of packed tokens at the end that do not belong to the batch. They repeat the first tokens as a
            text of its own, and their outputs are discarded.
    """

    shape: tuple[int, int]
    left: bool
    costs: Costs
    order: np.ndarray
    lengths: np.ndarray
    places: Tensor
    offsets: Tensor
    filling: int = 0
    _by_head: dict[tuple[int, int], ByHead] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, mask: Tensor, *, multiple: int = 1, half: bool = False) -> Layout:
        """Return the layout of a padded batch.

        Args:
            mask: (rows, columns), 0 for padding. Padding is on one side, and the longest row has none: further columns
                could not be distinguished from packed tokens.
            multiple: the number of packed tokens is filled up to a multiple of this, by at most the length of the
                longest text; a single row is not filled up.
            half: whether attention is computed in bfloat16.

        Raises:
            ValueError: for any other mask.
        """
        real = mask.detach().cpu().numpy().astype(bool)
        lengths, column = real.sum(axis=1), np.arange(real.shape[1])
        left = bool((~real[:, 0]).any())
        one_sided = column >= len(column) - lengths[:, None] if left else column < lengths[:, None]
        if not lengths.all() or lengths.max() < len(column) or (real != one_sided).any():
            raise ValueError("padding must be on one side, fill no row, and leave the longest row as it is")
        inference = mask.device.type == "cpu" and not torch.is_grad_enabled()
        order = np.argsort(-lengths, kind="stable")
        row, column = np.nonzero(real[order])
        filling = min(-len(row) % multiple, int(lengths.max())) if len(real) > 1 else 0
        places = order[row] * real.shape[1] + column
        offsets = column - (real.shape[1] - lengths[order[row]] if left else 0)
        return cls(
            shape=(int(mask.shape[0]), int(mask.shape[1])),
            left=left,
            costs=_costs(inference=inference, half=half),
            order=order,
            lengths=lengths[order],
            places=_on(mask.device, np.concatenate([places, places[:filling]])),
            offsets=_on(mask.device, np.concatenate([offsets, offsets[:filling]])),
            filling=filling,
        )

    @cached_property
    def groups(self) -> tuple[PaddedGroup, ...]:
        """Groups of rows that share a matrix product, in packed order."""
        device, order, lengths = self.places.device, self.order, self.lengths
        cuts = _cut(lengths, self.costs, cached=device.type == "cpu")
        if self.filling:
            first, end = cuts[-1]
            width = int(self.costs.width(lengths[first]))
            joins = self.filling <= width and width * (width + self.costs.token) <= self.costs.group
            cuts[-1:] = [(first, end + 1)] if joins else [(first, end), (end, end + 1)]
            order, lengths = np.append(order, order[0]), np.append(lengths, self.filling)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return tuple(
            _group(order[first:end], lengths[first:end], starts[first:end], self.left, device, self.costs)
            for first, end in cuts
        )

    def by_head(self, group: PaddedGroup, heads: int) -> ByHead:
        """Return a group's indices by head; computed once for all layers."""
        key = group.start, heads
        if key not in self._by_head:
            self._by_head[key] = ByHead.of(group, heads)
        return self._by_head[key]

    @cached_property
    def bounds(self) -> Tensor:
        """Index of each text's first packed token, and the end of the last text: int32 (texts + 1,)."""
        lengths = [*self.lengths, self.filling] if self.filling else self.lengths
        return _on(self.places.device, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths[0])

    @property
    def columns(self) -> Tensor:
        """For each packed token its column in the padded batch: (tokens,)."""
        return self.places % self.shape[1]

    @property
    def ranks(self) -> Tensor:
        """For each packed token the number of real tokens before it in the flattened batch: (tokens,)."""
        ranks = self.sources.argsort()
        return torch.cat([ranks, ranks[: self.filling]])

    @property
    def sources(self) -> Tensor:
        """For each real token of the flattened batch its packed index: (tokens,) without filling."""
        return self._own(self.places).argsort()

    def pack(self, values: Tensor) -> Tensor:
        """Return values of the padded batch as one row without padding: (rows or 1, columns, ...) -> (1, tokens, ...).

        A single row, as of positions, is broadcast to all rows.
        """
        if self.shape[0] == 1:
            return values
        if values.shape[0] != self.shape[0]:
            return values.index_select(1, self.columns)
        return values.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def unpack(self, values: Tensor) -> Tensor:
        """Return packed values as a padded batch with zeros: (1, tokens, ...) -> (rows, columns, ...)."""
        rows, columns = self.shape
        if rows == 1:
            return values
        padded = values.new_zeros(rows * columns, *values.shape[2:])
        return padded.index_copy_(0, self._own(self.places), self._own(values.squeeze(0))).unflatten(0, (rows, columns))

    def _own(self, values: Tensor) -> Tensor:
        """Return values without those of filling tokens: (tokens, ...)."""
        return values[: len(values) - self.filling]


def _group(
    rows: np.ndarray, lengths: np.ndarray, starts: np.ndarray, left: bool, device: torch.device, costs: Costs
) -> PaddedGroup:
    width, start, stop = int(costs.width(lengths[0])), int(starts[0]), int(starts[-1] + lengths[-1])
    places = _on(device, rows)
    if lengths.min() == width:  # the last row may be filling, which is not sorted by length
        return PaddedGroup(places, start, stop, width)
    column = np.arange(width) - (width - lengths[:, None] if left else 0)  # within the text
    real = (column >= 0) & (column < lengths[:, None])
    gather = (starts[:, None] + np.where(real, column, 0)).ravel()
    parts = (gather, real, np.flatnonzero(real), np.flatnonzero(~real))
    return PaddedGroup(places, start, stop, width, *(_on(device, part) for part in parts))


def _on(device: torch.device, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=device.type == "cuda")  # MPS would read it too late


def _cut(lengths: np.ndarray, costs: Costs, *, cached: bool = False) -> list[tuple[int, int]]:
    """Divide rows, sorted by decreasing length, into groups of least total cost; return (start, stop) of each.

    Dynamic programming over the places where the length changes.

    Args:
        lengths: of the rows.
        costs: of groups.
        cached: whether to divide groups further whose scores would not fit the processor's cache.
    """
    ends = np.flatnonzero(np.diff(lengths, append=-1)) + 1  # separating rows of equal length saves nothing
    widths = costs.width(lengths[ends - 1]).astype(np.float64)
    starts = np.concatenate([[0], ends])
    best, cut = np.zeros(len(starts)), np.zeros(len(starts), dtype=np.int64)
    for last in range(1, len(starts)):
        rows = starts[last] - starts[:last]
        a_token = widths[:last] + costs.token
        if costs.in_place:
            a_token[-1] -= costs.token
        whole = best[:last] + rows * widths[:last] * a_token + costs.group
        cut[last] = whole.argmin()
        best[last] = whole[cut[last]]
    groups: list[tuple[int, int]] = []
    last = len(starts) - 1
    while last:
        first, stop = int(starts[cut[last]]), int(starts[last])
        width = int(costs.width(lengths[first]))
        rows = max(1, _MOST_PAIRS // width**2) if cached and width <= WIDEST else stop - first
        groups += [(start, min(start + rows, stop)) for start in range(first, stop, rows)][::-1]
        last = int(cut[last])
    return groups[::-1]
