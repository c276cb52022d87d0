"""Which examples meet at which optimizer step, and the arrays a forward pass takes.

The order is a function of (seed, epoch) alone and never draws from a global random state. An optimizer step is defined
over all ranks: `batch_size` examples, however many processes share them and however many forward passes they take. This
file knows no model and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.tokens import Tokens

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Padding:
    """How the encoder wants rows of unequal length made equal."""

    token: int
    type: int
    left: bool


@dataclass(frozen=True)
class Columns:
    """The columns of a split that a step may need, by example.

    Attributes:
        tokens: the encoded texts.
        targets: (examples,) or (examples, labels); see ``data.corpus.Examples``.
        weights: float32 (examples,).
        features: float32 (examples, width) where the encoder is frozen and was run once, else None.
    """

    tokens: Tokens
    targets: np.ndarray
    weights: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weights)


def epoch_order(examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the examples in an epoch: a permutation fixed by (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the optimizer steps of one epoch; the last one may hold fewer examples."""
    return -(-examples // batch_size)


def step_examples(examples: int, *, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the examples of one optimizer step over all ranks, counted from the first step of the run."""
    epoch, position = divmod(step, steps_per_epoch(examples, batch_size))
    order = epoch_order(examples, seed=seed, epoch=epoch)
    return order[position * batch_size : (position + 1) * batch_size]


def micro_batches(
    tokens: Tokens,
    examples: np.ndarray,
    *,
    rank: int,
    world: int,
    most_examples: int | None,
    most_tokens: int,
    pass_cost: int = 0,
) -> list[np.ndarray]:
    """Split a step's examples into one rank's forward passes.

    Examples are sorted by length and dealt to the ranks in turn, so that ranks work equally long. A rank's share is cut
    where that saves most: the sum over passes of padded tokens plus `pass_cost` is minimal. A pass holds at most
    `most_tokens` padded tokens (a single example may exceed that) and at most `most_examples` examples. A rank that
    gets no example returns an empty list.
    """
    ordered = examples[np.argsort(-tokens.longest[examples], kind="stable")][rank::world]
    widths, rows = tokens.longest[ordered], np.concatenate([[0], np.cumsum(tokens.windows[ordered])])
    best = np.zeros(len(ordered) + 1)
    cut = np.zeros(len(ordered) + 1, dtype=np.int64)
    for end in range(1, len(ordered) + 1):
        starts = np.arange(0 if most_examples is None else max(0, end - most_examples), end)
        padded = widths[starts] * (rows[end] - rows[starts])
        costs = np.where((padded <= most_tokens) | (starts == end - 1), best[starts] + padded + pass_cost, np.inf)
        cut[end] = starts[costs.argmin()]
        best[end] = costs.min()
    ends = [len(ordered)] if len(ordered) else []
    while ends and cut[ends[-1]]:
        ends.append(int(cut[ends[-1]]))
    return [ordered[cut[end] : end] for end in reversed(ends)]


def evaluation_batches(tokens: Tokens, *, most_tokens: int) -> list[np.ndarray]:
    """Split all examples into length-sorted forward passes, the same whatever the number of ranks."""
    ordered = np.argsort(-tokens.longest, kind="stable")
    longest, windows = tokens.longest, tokens.windows
    batches, start, width, rows = [], 0, 0, 0
    for position, example in enumerate(ordered):
        width, rows = max(width, int(longest[example])), rows + int(windows[example])
        if position > start and width * rows > most_tokens:
            batches.append(ordered[start:position])
            start, width, rows = position, int(longest[example]), int(windows[example])
    if len(ordered):
        batches.append(ordered[start:])
    return batches


def collate(columns: Columns, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Gather the arrays of a forward pass.

    Returns:
        `input_ids`, `attention_mask` and, where the encoder takes it, `token_type_ids`, int64 (sequences, longest),
        with `document` int64 (sequences,) where an example has several windows; or `features` (examples, width) alone
        where they were computed once. Always `targets` (examples, ...), `weights` (examples,), `examples` int64
        (examples,).
    """
    batch: Batch = {
        "targets": columns.targets[examples],
        "weights": columns.weights[examples],
        "examples": np.asarray(examples, dtype=np.int64),
    }
    if columns.features is not None:
        return batch | {"features": np.asarray(columns.features[examples])}
    return batch | pad(columns.tokens, examples, padding=padding)


def pad(tokens: Tokens, examples: np.ndarray, *, padding: Padding) -> Batch:
    """Lay the sequences of the examples out as rows of equal length (the model inputs of `collate`)."""
    sequences = np.concatenate([np.arange(tokens.first[e], tokens.first[e + 1]) for e in examples])
    lengths = tokens.sequence_lengths[sequences]
    width = int(lengths.max())
    column = np.arange(width)
    real = column >= (width - lengths)[:, None] if padding.left else column < lengths[:, None]
    source = np.concatenate([np.arange(tokens.offsets[s], tokens.offsets[s + 1]) for s in sequences])
    ids = np.full((len(sequences), width), padding.token, dtype=np.int64)
    ids[real] = tokens.ids[source]
    batch: Batch = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
    if tokens.types is not None:
        types = np.full_like(ids, padding.type)
        types[real] = tokens.types[source]
        batch["token_type_ids"] = types
    if len(sequences) != len(examples):
        batch["document"] = np.repeat(np.arange(len(examples)), tokens.windows[examples])
    return batch
