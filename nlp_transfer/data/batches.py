"""Which examples meet at which optimizer step, and the arrays a forward pass takes.

The order is a function of (seed, epoch) alone and never draws from a global random state. An optimizer step is defined
over all ranks: `batch_size` examples, however many processes share them and however many forward passes they take. This
file knows no model and no loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.ragged import Tokens, ranges
from nlp_transfer.data.streams import Stream, generator

Batch = dict[str, np.ndarray]
_AT_ONCE = 1 << 14  # examples
TAUGHT = ("teacher", "teacher_features")  # columns that a teacher fills


@dataclass(frozen=True)
class Padding:
    """How the encoder wants rows of unequal length made equal.

    Attributes:
        token: id of the padding token.
        type: its token type id.
        left: whether it stands before the text.
        places_a_token: how many places of it cost as much as a token: more than 1 where it is mostly left out.
        least: how many places a row has, however short the texts are.
    """

    token: int
    type: int
    left: bool
    places_a_token: int = 1
    least: int = 1

    @classmethod
    def of(cls, tokenizer: Any, *, places_a_token: int, least: int = 1) -> Padding:
        """Return what a tokenizer says of it."""
        left = tokenizer.padding_side == "left"
        return cls(tokenizer.pad_token_id, tokenizer.pad_token_type_id, left, places_a_token, least)


@dataclass(frozen=True)
class Drawn:
    """Columns, and which of their examples were drawn, int64."""

    columns: Columns
    chosen: np.ndarray


@dataclass(frozen=True)
class Columns:
    """The columns of a split that a step may need, by example.

    Attributes:
        tokens: the encoded texts.
        targets: (examples,) or (examples, labels); see ``data.corpus.Examples``.
        weights: float32 (examples,).
        features: float32 (examples, width) where the encoder is frozen and was run once, else None.
        states: (tokens, width), hidden states of every token of `tokens`, float32 or the bits of bfloat16 as uint16,
            where the layers below are frozen and were run once, else None.
        pool: the columns of which these are some, where what is computed of all of them serves several draws.
        labelled: float32 (examples,), how much the label of an example counts, 0 where `targets` holds none: such
            examples stand behind all others. None: all count once.
        teacher: float32 (examples, outputs), the logits of a teacher, or None.
        teacher_features: float32 (examples, width), what enters its output layer, or None.
        task: int64 (examples,), which of several tasks the targets of an example are of, or None.
    """

    tokens: Tokens
    targets: np.ndarray
    weights: np.ndarray
    features: np.ndarray | None = None
    states: np.ndarray | None = None
    pool: Drawn | None = None
    labelled: np.ndarray | None = None
    teacher: np.ndarray | None = None
    teacher_features: np.ndarray | None = None
    task: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def labelled_rows(self) -> int:
        """How many examples, the first ones, have a label."""
        return len(self) if self.labelled is None else int(np.count_nonzero(self.labelled))

    def take(self, examples: np.ndarray) -> Columns:
        """Return some of the examples, in the order given, maybe some of them several times."""
        places = None if self.states is None else token_places(self.tokens, examples)
        columns = {name: getattr(self, name) for name in ("features", "labelled", *TAUGHT, "task")}
        return Columns(
            self.tokens.take(examples),
            self.targets[examples],
            self.weights[examples],
            states=None if self.states is None else self.states[places],
            **{name: None if column is None else column[examples] for name, column in columns.items()},
        )

    def with_unlabelled(self, others: Columns) -> Columns:
        """Return these examples and behind them others without labels.

        A step has as many of either, see `Order`; so that a label counts in the mean of a step as it does without the
        others (where rows have weights: on average), it counts twice.
        """
        count = len(others)
        parts = {name: (getattr(self, name), getattr(others, name)) for name in ("features", "states", *TAUGHT)}
        joined: dict[str, Any] = {name: np.concatenate(both) for name, both in parts.items() if both[0] is not None}
        weights = np.full(count, self.weights.mean(dtype=np.float64), np.float32)
        return Columns(
            self.tokens.followed_by(others.tokens),
            np.concatenate([self.targets, np.zeros((count, *self.targets.shape[1:]), self.targets.dtype)]),
            np.concatenate([self.weights, weights]),
            labelled=np.repeat(np.array([2, 0], np.float32), [len(self), count]),
            **joined,
        )


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the optimizer steps of one epoch; the last one may hold fewer examples."""
    return -(-examples // batch_size)


class Order:
    """Which examples meet at which optimizer step of a run: a permutation for each epoch, fixed by the seed.

    Args:
        examples: how many there are.
        batch_size: examples of a step over all ranks.
        seed: of the run.
        kinds: (examples,) integers, where a step should hold several examples of a kind. Where chance will not see to
            that, for there are many kinds, examples of one follow each other in fours, or as far as a step allows.
        beside: how many other examples stand behind these; a step has as many of them as of these, and they have
            epochs of their own, one after the other.
    """

    def __init__(
        self,
        examples: int,
        *,
        batch_size: int,
        seed: int,
        kinds: np.ndarray | None = None,
        beside: int = 0,
        _stream: int = Stream.ROWS,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.kinds = examples, batch_size, seed, kinds
        self._stream = _stream
        self._beside = Order(beside, batch_size=batch_size, seed=seed, _stream=Stream.UNLABELLED) if beside else None
        self._epoch, self._order = -1, np.empty(0, np.int64)
        several = kinds is not None and 2 * len(np.unique(kinds)) > batch_size
        self._together = max(1, min(4, batch_size // 2)) if several else 1

    def step(self, step: int) -> np.ndarray:
        """Return the examples of a step over all ranks, counted from the first of the run."""
        epoch, position = divmod(step, steps_per_epoch(self.examples, self.batch_size))
        first = position * self.batch_size
        chosen = self._in(epoch)[first : first + self.batch_size]
        if self._beside is None:
            return chosen
        others = self._beside.drawn(epoch * self.examples + first, len(chosen))
        return np.concatenate([chosen, self.examples + others])

    def drawn(self, first: int, count: int) -> np.ndarray:
        """Return so many examples of all epochs, one after the other, from a place on."""
        epochs, places = np.divmod(np.arange(first, first + count), self.examples)
        return np.concatenate([self._in(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _in(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:  # or a step would take time for all examples
            self._epoch, self._order = epoch, self.epoch(epoch)
        return self._order

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch, counted from 0."""
        random = generator(self.seed, epoch, self._stream)
        order = random.permutation(self.examples)
        if self.kinds is None or self._together == 1:
            return order
        order = order[np.argsort(self.kinds[order], kind="stable")]
        ordered = self.kinds[order]
        place = np.arange(self.examples) - np.searchsorted(ordered, ordered)  # among its kind
        group = np.cumsum(place % self._together == 0) - 1
        return order[np.argsort(random.permutation(self.examples)[group], kind="stable")]


def micro_batches(
    tokens: Tokens,
    examples: np.ndarray,
    *,
    rank: int,
    world: int,
    most_examples: int | None,
    most_tokens: int,
    pass_cost: int = 0,
    places_a_token: int = 1,
) -> list[np.ndarray]:
    """Split a step's examples into one rank's forward passes.

    Examples are sorted by length and dealt to the ranks in turn, so that ranks work equally long. A rank's share is cut
    where that saves most: the sum over passes of tokens, padding included, plus `pass_cost` is minimal, where
    `places_a_token` places of padding count as one. A pass holds at most `most_tokens` (a single example may exceed
    that) and at most `most_examples` examples. A rank that gets no example returns an empty list.
    """
    ordered = examples[np.argsort(-tokens.longest[examples], kind="stable")][rank::world]
    widths, rows = tokens.longest[ordered], np.concatenate([[0], np.cumsum(tokens.windows[ordered])])
    total = np.concatenate([[0], np.cumsum(tokens.sizes[ordered])])
    if len(ordered) and len(ordered) <= (most_examples or len(ordered)):
        whole = pass_size(total[-1], widths[0] * rows[-1], places_a_token)
        if whole <= most_tokens and whole - total[-1] <= pass_cost:  # no cut saves more than it costs
            return [ordered]
    best = np.zeros(len(ordered) + 1)
    cut = np.zeros(len(ordered) + 1, dtype=np.int64)
    for end in range(1, len(ordered) + 1):
        starts = np.arange(0 if most_examples is None else max(0, end - most_examples), end)
        size = pass_size(total[end] - total[starts], widths[starts] * (rows[end] - rows[starts]), places_a_token)
        costs = np.where((size <= most_tokens) | (starts == end - 1), best[starts] + size + pass_cost, np.inf)
        cut[end] = starts[costs.argmin()]
        best[end] = costs.min()
    ends = [len(ordered)] if len(ordered) else []
    while ends and cut[ends[-1]]:
        ends.append(int(cut[ends[-1]]))
    return [ordered[cut[end] : end] for end in reversed(ends)]


def evaluation_batches(tokens: Tokens, *, most_tokens: int, places_a_token: int = 1) -> list[np.ndarray]:
    """Split all examples into length-sorted forward passes, the same whatever the number of ranks.

    A pass holds at most `most_tokens`, padding included, of which `places_a_token` places count as one; a single
    example may exceed that. Where no token is kept for a backward pass, eight places weigh as much at least.
    """
    places_a_token = min(places_a_token, 8)
    ordered = np.argsort(-tokens.longest, kind="stable")
    batches, start, widest, places, real = [], 0, 0, 0, 0
    for position, (width, rows, size) in enumerate(_shapes(tokens, ordered)):
        widest = widest or width  # rows are sorted: the first is the longest
        places, real = places + widest * rows, real + size
        if position > start and pass_size(real, places, places_a_token) > most_tokens:
            batches.append(ordered[start:position])
            start, widest, places, real = position, width, width * rows, size
    if len(ordered):
        batches.append(ordered[start:])
    return batches


def _shapes(tokens: Tokens, examples: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield of each example its longest sequence, its sequences and its tokens; not as many objects at once."""
    for start in range(0, len(examples), _AT_ONCE):
        part = examples[start : start + _AT_ONCE]
        yield from zip(*(of[part].tolist() for of in (tokens.longest, tokens.windows, tokens.sizes)), strict=True)


def pass_size(real: Any, places: Any, places_a_token: int) -> Any:
    """Return what passes of so many tokens count, which fill so many places with their padding."""
    return real + (places - real) // places_a_token


def collate(columns: Columns, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Gather the arrays of a forward pass.

    Returns:
        `input_ids`, `attention_mask` and, where the encoder takes it, `token_type_ids`, int64 (sequences, longest),
        with `document` int64 (sequences,) where an example has several windows and `states` (tokens, width) where those
        were computed once; or `features` (examples, width) alone where these were. Always `targets` (examples, ...),
        `weights` (examples,), `examples` int64 (examples,); `labelled`, `teacher`, `teacher_features` and `task` where
        the columns have them.
    """
    batch: Batch = {
        "targets": columns.targets[examples],
        "weights": columns.weights[examples],
        "examples": np.asarray(examples, dtype=np.int64),
    }
    for name in ("labelled", *TAUGHT, "task"):
        if (column := getattr(columns, name)) is not None:
            batch[name] = column[examples]
    if columns.features is not None:
        return batch | {"features": np.asarray(columns.features[examples])}
    places = token_places(columns.tokens, examples)
    if columns.states is not None:
        batch["states"] = columns.states[places]
    return batch | _padded(columns.tokens, examples, places, padding)


def token_places(tokens: Tokens, examples: np.ndarray) -> np.ndarray:
    """Return where the tokens of examples lie among all of a split, in the order of `collate`'s rows."""
    return ranges(tokens.ends, examples)


def pad(tokens: Tokens, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Lay the sequences of the examples out as rows of equal length (the model inputs of `collate`)."""
    return _padded(tokens, examples, token_places(tokens, examples), padding)


def _padded(tokens: Tokens, examples: np.ndarray, places: np.ndarray, padding: Padding) -> Batch:
    """Return what `pad` does, from where the tokens lie."""
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
