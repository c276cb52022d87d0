"""The examples of each optimizer step, their micro-batches, and the padded arrays of a forward pass.

The order is a function of (seed, epoch) alone and never draws from a global random state. An optimizer step is defined
over all ranks: `batch_size` examples, however many processes share them and however many micro-batches they take. This
module is independent of models and losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.ragged import Tokens, ranges
from nlp_transfer.data.streams import Stream, generator

Batch = dict[str, np.ndarray]
_CHUNK = 1 << 14  # examples
TEACHER_COLUMNS = ("teacher", "teacher_features")


@dataclass(frozen=True)
class Padding:
    """How sequences are padded to equal length.

    Attributes:
        token: id of the padding token.
        type: its token type id.
        left: whether padding precedes the text.
        positions_per_token: how many padding positions cost as much as one token: more than 1 where padding is mostly
            skipped.
        least: minimum length of a padded row.
    """

    token: int
    type: int
    left: bool
    positions_per_token: int = 1
    least: int = 1

    @classmethod
    def of(cls, tokenizer: Any, *, positions_per_token: int, least: int = 1) -> Padding:
        """Return the padding that a tokenizer uses."""
        left = tokenizer.padding_side == "left"
        return cls(tokenizer.pad_token_id, tokenizer.pad_token_type_id, left, positions_per_token, least)


@dataclass(frozen=True)
class ColumnPool:
    """A larger set of columns, and the indices, int64, of the examples that were drawn from it."""

    columns: Columns
    chosen: np.ndarray


@dataclass(frozen=True)
class Columns:
    """Everything a training step may need of a split, one array per column, indexed by example.

    Attributes:
        tokens: the encoded texts.
        targets: (examples,) or (examples, labels); see ``data.corpus.Examples``.
        weights: float32 (examples,).
        features: float32 (examples, width), precomputed where the encoder is frozen, else None.
        states: (tokens, width), precomputed hidden states of every token of `tokens`, where the layers below are
            frozen, else None; float32, or the bits of bfloat16 as uint16.
        pool: the columns that these were drawn from, whose cached computations several draws share, or None.
        labelled: float32 (examples,), the weight of an example's label: 0 for unlabelled examples, which come last.
            None: all are 1.
        teacher: float32 (examples, outputs), the logits of a teacher, or None.
        teacher_features: float32 (examples, width), the input of the teacher's output layer, or None.
        task: int64 (examples,), which of several tasks an example belongs to, or None.
    """

    tokens: Tokens
    targets: np.ndarray
    weights: np.ndarray
    features: np.ndarray | None = None
    states: np.ndarray | None = None
    pool: ColumnPool | None = None
    labelled: np.ndarray | None = None
    teacher: np.ndarray | None = None
    teacher_features: np.ndarray | None = None
    task: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def labelled_rows(self) -> int:
        """Number of labelled examples; they precede the unlabelled ones."""
        return len(self) if self.labelled is None else int(np.count_nonzero(self.labelled))

    def take(self, examples: np.ndarray) -> Columns:
        """Return the examples at these indices, which may repeat."""
        places = None if self.states is None else token_places(self.tokens, examples)
        columns = {name: getattr(self, name) for name in ("features", "labelled", *TEACHER_COLUMNS, "task")}
        return Columns(
            self.tokens.take(examples),
            self.targets[examples],
            self.weights[examples],
            states=None if self.states is None else self.states[places],
            **{name: None if column is None else column[examples] for name, column in columns.items()},
        )

    def with_unlabelled(self, others: Columns) -> Columns:
        """Return these examples followed by unlabelled ones.

        A step has as many unlabelled as labelled examples, see `Order`. Labels therefore count twice, so that their
        share in the mean loss of a step stays the same (where rows have weights: on average).
        """
        count = len(others)
        names = ("features", "states", *TEACHER_COLUMNS)
        pairs = {name: (getattr(self, name), getattr(others, name)) for name in names}
        joined: dict[str, Any] = {name: np.concatenate(pair) for name, pair in pairs.items() if pair[0] is not None}
        weights = np.full(count, self.weights.mean(dtype=np.float64), np.float32)
        return Columns(
            self.tokens.followed_by(others.tokens),
            np.concatenate([self.targets, np.zeros((count, *self.targets.shape[1:]), self.targets.dtype)]),
            np.concatenate([self.weights, weights]),
            labelled=np.repeat(np.array([2, 0], np.float32), [len(self), count]),
            **joined,
        )


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of optimizer steps of one epoch; the last step may hold fewer examples."""
    return -(-examples // batch_size)


class Order:
    """The examples of each optimizer step of a run: one permutation per epoch, fixed by the seed.

    Args:
        examples: their number.
        batch_size: examples of a step over all ranks.
        seed: of the run.
        groups: (examples,) integers, where a step should hold several examples of the same group. If there are too many
            groups for chance to ensure that, examples of a group are placed in runs of four (fewer in small steps).
        unlabelled: number of unlabelled examples, which follow these. Each step has as many of them as of these; they
            are shuffled in epochs of their own.
    """

    def __init__(
        self,
        examples: int,
        *,
        batch_size: int,
        seed: int,
        groups: np.ndarray | None = None,
        unlabelled: int = 0,
        _stream: int = Stream.ROWS,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.groups = examples, batch_size, seed, groups
        self._stream = _stream
        self._unlabelled = (
            Order(unlabelled, batch_size=batch_size, seed=seed, _stream=Stream.UNLABELLED) if unlabelled else None
        )
        self._epoch, self._order = -1, np.empty(0, np.int64)
        has_many_groups = groups is not None and 2 * len(np.unique(groups)) > batch_size
        self._run_length = max(1, min(4, batch_size // 2)) if has_many_groups else 1

    def step(self, step: int) -> np.ndarray:
        """Return the examples of a step over all ranks; steps are counted from the start of the run."""
        epoch, position = divmod(step, steps_per_epoch(self.examples, self.batch_size))
        first = position * self.batch_size
        chosen = self._cached_epoch(epoch)[first : first + self.batch_size]
        if self._unlabelled is None:
            return chosen
        others = self._unlabelled.window(epoch * self.examples + first, len(chosen))
        return np.concatenate([chosen, self.examples + others])

    def window(self, first: int, count: int) -> np.ndarray:
        """Return `count` examples from position `first` of all epochs laid end to end."""
        epochs, positions = np.divmod(np.arange(first, first + count), self.examples)
        return np.concatenate(
            [self._cached_epoch(int(epoch))[positions[epochs == epoch]] for epoch in np.unique(epochs)]
        )

    def _cached_epoch(self, epoch: int) -> np.ndarray:
        """Return `epoch(epoch)`; shuffling once per epoch keeps the cost of a step independent of the corpus."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return self._order

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch, counted from 0."""
        random = generator(self.seed, epoch, self._stream)
        order = random.permutation(self.examples)
        if self.groups is None or self._run_length == 1:
            return order
        order = order[np.argsort(self.groups[order], kind="stable")]
        sorted_groups = self.groups[order]
        position_in_group = np.arange(self.examples) - np.searchsorted(sorted_groups, sorted_groups)
        run = np.cumsum(position_in_group % self._run_length == 0) - 1
        return order[np.argsort(random.permutation(self.examples)[run], kind="stable")]


def micro_batches(
    tokens: Tokens,
    examples: np.ndarray,
    *,
    rank: int,
    world: int,
    most_examples: int | None,
    most_tokens: int,
    pass_cost: int = 0,
    positions_per_token: int = 1,
) -> list[np.ndarray]:
    """Split a step's examples into one rank's micro-batches.

    Examples are sorted by length and dealt to the ranks in turn, so that ranks do equal work. Dynamic programming cuts
    a rank's share where the total cost is minimal: the sum over micro-batches of `pass_size` plus `pass_cost`. A
    micro-batch holds at most `most_tokens` (a single example may exceed that) and at most `most_examples` examples. A
    rank without examples returns an empty list.
    """
    ordered = examples[np.argsort(-tokens.longest[examples], kind="stable")][rank::world]
    widths, rows = tokens.longest[ordered], np.concatenate([[0], np.cumsum(tokens.windows[ordered])])
    total = np.concatenate([[0], np.cumsum(tokens.sizes[ordered])])
    if len(ordered) and len(ordered) <= (most_examples or len(ordered)):
        whole = pass_size(total[-1], widths[0] * rows[-1], positions_per_token)
        if whole <= most_tokens and whole - total[-1] <= pass_cost:  # no cut saves more than it costs
            return [ordered]
    best = np.zeros(len(ordered) + 1)  # the lowest cost of the examples before each
    cut = np.zeros(len(ordered) + 1, dtype=np.int64)  # where its last micro-batch begins
    for end in range(1, len(ordered) + 1):
        starts = np.arange(0 if most_examples is None else max(0, end - most_examples), end)
        size = pass_size(total[end] - total[starts], widths[starts] * (rows[end] - rows[starts]), positions_per_token)
        costs = np.where((size <= most_tokens) | (starts == end - 1), best[starts] + size + pass_cost, np.inf)
        cut[end] = starts[costs.argmin()]
        best[end] = costs.min()
    ends = [len(ordered)] if len(ordered) else []
    while ends and cut[ends[-1]]:
        ends.append(int(cut[ends[-1]]))
    return [ordered[cut[end] : end] for end in reversed(ends)]


def evaluation_batches(tokens: Tokens, *, most_tokens: int, positions_per_token: int = 1) -> list[np.ndarray]:
    """Split all examples into length-sorted forward passes, the same whatever the number of ranks.

    A pass holds at most `most_tokens` by `pass_size`; a single example may exceed that. Without a backward pass,
    activations are not kept, so at most eight padding positions count as one token.
    """
    positions_per_token = min(positions_per_token, 8)
    ordered = np.argsort(-tokens.longest, kind="stable")
    batches, start, widest, padded, real = [], 0, 0, 0, 0
    for position, (width, rows, size) in enumerate(_shapes(tokens, ordered)):
        widest = widest or width  # rows are sorted: the first is the longest
        padded, real = padded + widest * rows, real + size
        if position > start and pass_size(real, padded, positions_per_token) > most_tokens:
            batches.append(ordered[start:position])
            start, widest, padded, real = position, width, width * rows, size
    if len(ordered):
        batches.append(ordered[start:])
    return batches


def _shapes(tokens: Tokens, examples: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (length of the longest sequence, sequences, tokens) of each example; chunks bound the Python objects."""
    columns = (tokens.longest, tokens.windows, tokens.sizes)
    for start in range(0, len(examples), _CHUNK):
        part = examples[start : start + _CHUNK]
        yield from zip(*(column[part].tolist() for column in columns), strict=True)


def pass_size(real: Any, padded: Any, positions_per_token: int) -> Any:
    """Return the cost in tokens of a forward pass with `real` tokens, `padded` with padding, see `Padding`."""
    return real + (padded - real) // positions_per_token


def collate(columns: Columns, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Gather the arrays of a forward pass.

    Returns:
        `input_ids`, `attention_mask` and, where the encoder takes it, `token_type_ids`, int64 (sequences, longest);
        `document` int64 (sequences,) where an example has several windows; `states` (tokens, width) where the columns
        have them. Where they have `features`, these (examples, width) replace all of the above. Always `targets`
        (examples, ...), `weights` (examples,), `examples` int64 (examples,); `labelled`, `teacher`, `teacher_features`
        and `task` where the columns have them.
    """
    batch: Batch = {
        "targets": columns.targets[examples],
        "weights": columns.weights[examples],
        "examples": np.asarray(examples, dtype=np.int64),
    }
    for name in ("labelled", *TEACHER_COLUMNS, "task"):
        if (column := getattr(columns, name)) is not None:
            batch[name] = column[examples]
    if columns.features is not None:
        return batch | {"features": np.asarray(columns.features[examples])}
    places = token_places(columns.tokens, examples)
    if columns.states is not None:
        batch["states"] = columns.states[places]
    return batch | _padded(columns.tokens, examples, places, padding)


def token_places(tokens: Tokens, examples: np.ndarray) -> np.ndarray:
    """Return the indices into ``tokens.ids`` of the tokens of examples, in the order of `collate`'s rows."""
    return ranges(tokens.ends, examples)


def pad(tokens: Tokens, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Return the sequences of the examples as padded rows (the model inputs of `collate`)."""
    return _padded(tokens, examples, token_places(tokens, examples), padding)


def _padded(tokens: Tokens, examples: np.ndarray, places: np.ndarray, padding: Padding) -> Batch:
    """Return the result of `pad`, given the examples' `token_places`."""
    sequences = ranges(tokens.first, examples)
    lengths = tokens.sequence_lengths[sequences]
    width = max(padding.least, int(lengths.max()))
    column = np.arange(width)
    real = column >= (width - lengths)[:, None] if padding.left else column < lengths[:, None]
    ids = np.full((len(sequences), width), padding.token, dtype=np.int64)
    ids[real] = tokens.ids[places]
    batch: Batch = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
    if tokens.types is not None:
        types = np.full_like(ids, padding.type)
        types[real] = tokens.types[places]
        batch["token_type_ids"] = types
    if len(sequences) != len(examples):
        batch["document"] = np.repeat(np.arange(len(examples)), tokens.windows[examples])
    return batch
