"""Chunks of rows dealt to the ranks in turn: each answers its own, and all of them get all answers, in the rows' order.

A chunk is answered by one rank as a single process answers it, so that the bits of a row hang on no number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from nlp_transfer.data.table import Table
from nlp_transfer.decision.labelling import Labeller, Prediction
from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_main, rank, world_size


class Chunk(NamedTuple):
    """Rows, and what a model reads of them."""

    table: Table
    texts: Sequence[str]
    pairs: Sequence[str] | None


def answered(model: Labeller, chunks: Iterable[Chunk]) -> Iterator[tuple[Table, list[Prediction]]]:
    """Yield the rows of every chunk and what a model says of them; that to the first rank alone, which writes it down.

    Args:
        model: the same on every rank.
        chunks: the same on every rank.

    Raises:
        UserError: where they are not; what was yielded before is of rows that all ranks have.
    """
    world = world_size()
    if world == 1:
        for chunk in chunks:
            yield chunk.table, model.predict(chunk.texts, chunk.pairs)
        return
    model, waiting = model.alone(), iter(chunks)
    while group := _alike(model, list(islice(waiting, world))):
        own = [model.answers(chunk.texts, chunk.pairs) for chunk in group[rank() : rank() + 1] if chunk.texts]
        rows = [len(chunk.table) for chunk in group]
        outputs = model.record.task.outputs
        for chunk, both in zip(group, _gathered(own, rows), strict=True):
            features = both[:, outputs:] if both.shape[1] > outputs else None
            yield chunk.table, model.decided(both[:, :outputs], features) if chunk.texts and is_main() else []


def check_alike(model: Labeller, columns: Iterable[Sequence[str] | None]) -> None:
    """Refuse to answer together what the ranks were not given alike: one would answer the rows of another.

    Args:
        model: that answers.
        columns: texts that are to be answered; None: there are no pairs.

    Raises:
        UserError: on all ranks.
    """
    if world_size() == 1:
        return
    import torch
    from accelerate.utils import gather

    from nlp_transfer.training.meeting import met

    digest = hashlib.sha256(str(model.record.sha256).encode())
    for column in columns:
        for text in column or ():
            digest.update(text.encode("utf-8", "surrogatepass") + b"\xfe")  # which UTF-8 has nowhere
        digest.update(b"\xff")
    own = int.from_bytes(digest.digest()[:8], "big", signed=True)
    found = gather(torch.tensor([own], device=met().device)).tolist()
    if other := next((number for number, each in enumerate(found) if each != found[0]), None):
        raise UserError(
            f"processes 0 and {other} were given different rows or models; all of them take the same command, files "
            "and model"
        )


def _alike(model: Labeller, group: list[Chunk]) -> list[Chunk]:
    """Return the next chunks, one a rank, which all ranks have read alike; none when all of them have no more."""
    check_alike(model, [column for chunk in group for column in (chunk.texts, chunk.pairs)])
    return group


def _gathered(own: Sequence[tuple[np.ndarray, np.ndarray | None]], rows: Sequence[int]) -> list[np.ndarray]:
    """Return the answers of all ranks, float32 (rows, outputs and width).

    Args:
        own: what this rank has answered: one chunk, or none where there are fewer chunks than ranks.
        rows: of the chunk of each rank that has one.
    """
    import torch
    from accelerate.utils import gather

    from nlp_transfer.training.meeting import met

    device = met().device  # an exported model has made no Accelerator
    both = [np.hstack([part for part in each if part is not None]) for each in own]
    width = int(gather(torch.tensor([both[0].shape[1] if both else 0], device=device)).max())
    if not width:  # no rank has a text; a gather of nothing is refused on GPUs
        return [np.zeros((count, 0), np.float32) for count in rows]
    sent = torch.zeros((max(rows), width))
    for each in both:
        sent[: len(each)] = torch.from_numpy(each)
    found = gather(sent.to(device)).cpu().numpy().reshape(world_size(), max(rows), width)
    return [values[:count] for values, count in zip(found, rows, strict=False)]
