"""Distributed prediction: chunks of rows are assigned to the ranks in turn, and the results gathered in order.

One rank predicts a whole chunk, as a single process would, so that results do not depend on the number of ranks.
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
    """Rows, with their texts and pairs."""

    table: Table
    texts: Sequence[str]
    pairs: Sequence[str] | None


def predict_chunks(model: Labeller, chunks: Iterable[Chunk]) -> Iterator[tuple[Table, list[Prediction]]]:
    """Yield the rows of every chunk with their predictions, which are empty on ranks other than the first.

    Args:
        model: the same on every rank.
        chunks: the same on every rank.

    Raises:
        UserError: if they differ; what was yielded before belongs to rows that all ranks have.
    """
    world = world_size()
    if world == 1:
        for chunk in chunks:
            yield chunk.table, model.predict(chunk.texts, chunk.pairs)
        return
    model, remaining = model.alone(), iter(chunks)
    while True:
        group = list(islice(remaining, world))
        check_same_input(model, [column for chunk in group for column in (chunk.texts, chunk.pairs)])
        if not group:  # at the end on all ranks
            return
        own = [model.answers(chunk.texts, chunk.pairs) for chunk in group[rank() : rank() + 1] if chunk.texts]
        rows = [len(chunk.table) for chunk in group]
        outputs = model.record.task.outputs
        for chunk, both in zip(group, _gather(own, rows), strict=True):
            features = both[:, outputs:] if both.shape[1] > outputs else None
            yield chunk.table, model.to_predictions(both[:, :outputs], features) if chunk.texts and is_main() else []


def check_same_input(model: Labeller, columns: Iterable[Sequence[str] | None]) -> None:
    """Check that all ranks have the same rows and model; otherwise a row would get the prediction for another one.

    Args:
        model: the model.
        columns: texts and second texts; None for a column that does not exist.

    Raises:
        UserError: if they differ, on all ranks.
    """
    if world_size() == 1:
        return
    import torch
    from accelerate.utils import gather

    from nlp_transfer.training.meeting import join_ranks

    digest = hashlib.sha256(str(model.record.sha256).encode())
    for column in columns:
        for text in column or ():
            digest.update(text.encode("utf-8", "surrogatepass") + b"\xfe")  # a byte that does not occur in UTF-8
        digest.update(b"\xff")
    own = int.from_bytes(digest.digest()[:8], "big", signed=True)
    digests = gather(torch.tensor([own], device=join_ranks().device)).tolist()
    if other := next((number for number, each in enumerate(digests) if each != digests[0]), None):
        raise UserError(
            f"processes 0 and {other} were given different rows or models; all of them take the same command, files "
            "and model"
        )


def _gather(own: Sequence[tuple[np.ndarray, np.ndarray | None]], rows: Sequence[int]) -> list[np.ndarray]:
    """Return the outputs of all ranks, one array per chunk, float32 (rows, outputs + width of the features).

    Args:
        own: the logits and features of this rank's chunk; empty if there are fewer chunks than ranks.
        rows: number of rows of each chunk.
    """
    import torch
    from accelerate.utils import gather

    from nlp_transfer.training.meeting import join_ranks

    device = join_ranks().device  # an exported model has no Accelerator
    both = [np.hstack([part for part in each if part is not None]) for each in own]
    width = int(gather(torch.tensor([both[0].shape[1] if both else 0], device=device)).max())
    if not width:  # no rank has a text, and GPUs refuse to gather empty tensors
        return [np.zeros((count, 0), np.float32) for count in rows]
    padded = torch.zeros((max(rows), width))
    for each in both:
        padded[: len(each)] = torch.from_numpy(each)
    gathered = gather(padded.to(device)).cpu().numpy().reshape(world_size(), max(rows), width)
    return [values[:count] for values, count in zip(gathered, rows, strict=False)]
