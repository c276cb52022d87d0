"""Where the tokens of a batch lie when no padding is between them, and which rows meet in one matrix product.

Knows lengths and positions; it knows no model and no attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

VECTOR = 16  # numbers of float32 in the processor's; on anything but whole ones a softmax is 5 to 15 times slower
_MOST_PAIRS = 1 << 16  # of tokens in a group on a CPU: with many heads, more scores would leave its cache
WIDEST = 512  # tokens of a row up to which matrix products are worth the memory of their scores


@dataclass(frozen=True)
class Costs:
    """What a group of rows costs in attention beside its padded pairs of tokens, in pairs.

    Measured on CPU cores; too many groups cost little more than too few.

    Attributes:
        token: gathering each token of the padded rows.
        group: starting the kernels of one more group.
        alike: widths are multiples of this.
        narrow: only those below this.
        lying: whether tokens that lie as they are needed, because all rows are equally long, need no gathering.
    """

    token: int
    group: int
    alike: int = 1
    narrow: int = 1
    lying: bool = False

    def width(self, longest: np.ndarray) -> np.ndarray:
        """Return how wide rows are padded of which the longest has so many tokens."""
        return np.where(longest < self.narrow, -(-longest // self.alike) * self.alike, longest)


LEARNING = Costs(token=64, group=16_384, alike=VECTOR, narrow=64)
LEARNING_IN_HALF = Costs(token=64, group=16_384, alike=VECTOR, narrow=WIDEST)  # few widths: each one is compiled for
ANSWERING = Costs(token=100, group=6_600, lying=True)  # through torch's kernel, without gradients
ANSWERING_IN_HALF = Costs(token=64, group=16_384, alike=8, narrow=1 << 30)


def _costs(*, answering: bool, half: bool) -> Costs:
    if half:
        return ANSWERING_IN_HALF if answering else LEARNING_IN_HALF
    return ANSWERING if answering else LEARNING


@dataclass(frozen=True)
class Group:
    """Rows of similar length, which are padded to the longest of them, or a little more, within attention alone.

    Attributes:
        rows: (rows,), their places in the batch.
        start: of their first token among the packed tokens; the tokens of a group lie together.
        stop: behind their last token.
        width: tokens of the padded rows.
        gather: (rows · width,), place among the packed tokens of every token of the padded rows, which are padded on
            the side of the batch; padding repeats the row's first token. None where all rows are as long as that:
            the tokens lie as they are needed.
        real: bool (rows, width), which of those are no padding; None where all are.
        kept: (tokens,), places of the real ones among the padded; None where all are.
        padding: places of the others.
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
    """Where the heads of a group's tokens lie among those of all packed tokens, (tokens · heads,).

    Attributes:
        taken: (heads · rows · width,), place of every head of every token of the padded rows, head by head.
        put: (own tokens · heads,), for every head of the group's own tokens its place among those.
        real: bfloat16 (heads · rows, width, 1), 1 where a token is no padding; None where all are, and on a GPU.
    """

    taken: Tensor
    put: Tensor
    real: Tensor | None

    @classmethod
    def of(cls, group: Group, heads: int) -> ByHead:
        """Return it for so many heads."""
        device = group.rows.device
        head, own = torch.arange(heads, device=device), torch.arange(group.start, group.stop, device=device)
        padded = own if group.gather is None else group.gather
        kept = own - group.start if group.kept is None else group.kept
        taken = padded * heads + head[:, None]
        real = None if device.type != "cpu" or group.real is None else group.real.bfloat16().repeat(heads, 1)
        return cls(
            taken.flatten(),
            (head * len(padded) + kept[:, None]).flatten(),
            None if real is None else real.unsqueeze(-1),
        )


@dataclass(frozen=True)
class Layout:
    """The packed order of a batch's tokens: rows sorted by length, one behind the other.

    Attributes:
        shape: rows and columns of the padded batch.
        left: whether padding stands before the text.
        costs: of its groups.
        order: (rows,), the rows by falling length, as they are packed.
        lengths: (rows,), of those, in tokens.
        places: (tokens,), for each packed token its place among the padded batch's tokens, row by row.
        offsets: (tokens,), how many tokens of its text stand before each packed token.
        filling: how many of the packed tokens, the last ones, are none of the batch: they repeat the first ones, as a
            text of their own, and nothing is made of them.
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
            mask: (rows, columns), 1 where a token is no padding. Padding stands on one side, and the longest row has
                none: more columns could not be told from packed tokens.
            multiple: so many tokens, or a multiple of that, are packed, as far as a part of the longest text fills the
                rest; a single row stays as it is.
            half: whether attention is computed in bfloat16.

        Raises:
            ValueError: for any other mask.
        """
        real = mask.detach().cpu().numpy().astype(bool)
        lengths, column = real.sum(axis=1), np.arange(real.shape[1])
        left = bool((~real[:, 0]).any())
        one_sided = column >= len(column) - lengths[:, None] if left else column < lengths[:, None]
        if not lengths.all() or lengths.max() < len(column) or (real != one_sided).any():
            raise ValueError("padding stands on one side, fills no row, and leaves the longest row as it is")
        answering = mask.device.type == "cpu" and not torch.is_grad_enabled()
        order = np.argsort(-lengths, kind="stable")
        row, column = np.nonzero(real[order])
        filling = min(-len(row) % multiple, int(lengths.max())) if len(real) > 1 else 0
        places = order[row] * real.shape[1] + column
        offsets = column - (real.shape[1] - lengths[order[row]] if left else 0)
        return cls(
            shape=(int(mask.shape[0]), int(mask.shape[1])),
            left=left,
            costs=_costs(answering=answering, half=half),
            order=order,
            lengths=lengths[order],
            places=_on(mask.device, np.concatenate([places, places[:filling]])),
            offsets=_on(mask.device, np.concatenate([offsets, offsets[:filling]])),
            filling=filling,
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Rows that meet in one matrix product, in packed order."""
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

    def by_head(self, group: Group, heads: int) -> ByHead:
        """Return where the heads of a group's tokens lie; worked out once for all layers."""
        key = group.start, heads
        if key not in self._by_head:
            self._by_head[key] = ByHead.of(group, heads)
        return self._by_head[key]

    @cached_property
    def bounds(self) -> Tensor:
        """Where each text begins among the packed tokens, and where the last one ends: int32 (texts + 1,)."""
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
        """For each packed token how many tokens stand before it in the batch, row by row: (tokens,)."""
        ranks = self.sources.argsort()
        return torch.cat([ranks, ranks[: self.filling]])

    @property
    def sources(self) -> Tensor:
        """For each token of the batch, row by row, where it is packed: (tokens,) without filling."""
        return self._own(self.places).argsort()

    def pack(self, values: Tensor) -> Tensor:
        """Return values of the padded batch as one row without padding: (rows or 1, columns, ...) -> (1, tokens, ...).

        A single row stands for all rows, as with positions.
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
        """Return what belongs to tokens of the batch: (tokens, ...) without filling."""
        return values[: len(values) - self.filling]


def _group(
    rows: np.ndarray, lengths: np.ndarray, starts: np.ndarray, left: bool, device: torch.device, costs: Costs
) -> Group:
    width, start, stop = int(costs.width(lengths[0])), int(starts[0]), int(starts[-1] + lengths[-1])
    places = _on(device, rows)
    if lengths.min() == width:  # the last row may be filling, which is not sorted by length
        return Group(places, start, stop, width)
    column = np.arange(width) - (width - lengths[:, None] if left else 0)  # within the text
    real = (column >= 0) & (column < lengths[:, None])
    gather = (starts[:, None] + np.where(real, column, 0)).ravel()
    parts = (gather, real, np.flatnonzero(real), np.flatnonzero(~real))
    return Group(places, start, stop, width, *(_on(device, part) for part in parts))


def _on(device: torch.device, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=device.type == "cuda")  # MPS would read it too late


def _cut(lengths: np.ndarray, costs: Costs, *, cached: bool = False) -> list[tuple[int, int]]:
    """Cut rows that are sorted by falling length into groups of least cost; return where each starts and stops.

    Args:
        lengths: of the rows.
        costs: of groups.
        cached: whether groups are cut again whose scores would leave the processor's cache.
    """
    ends = np.flatnonzero(np.diff(lengths, append=-1)) + 1  # to part rows of one length saves nothing
    widths = costs.width(lengths[ends - 1]).astype(np.float64)
    starts = np.concatenate([[0], ends])
    best, cut = np.zeros(len(starts)), np.zeros(len(starts), dtype=np.int64)
    for last in range(1, len(starts)):
        rows = starts[last] - starts[:last]
        a_token = widths[:last] + costs.token
        if costs.lying:
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
