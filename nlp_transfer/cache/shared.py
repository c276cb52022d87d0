"""One file of the store that all ranks of a machine write their rows of a matrix into, and read: none holds all of it.

Ranks on several machines hold the matrix in memory: where these see one disk through a network, each keeps pages of a
file to itself, and one rank may read zeros where another has written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from nlp_transfer.cache.entries import Unfinished
from nlp_transfer.cache.store import Store
from nlp_transfer.machine.launch import on_one_machine
from nlp_transfer.training.inference import InMemory, Matrix


class Unwritten(Exception):
    """A rank could not write its rows; the matrix has to be computed again elsewhere."""


class Shared:
    """A matrix in a file, see `inference.Matrix`; every rank has one.

    Args:
        accelerator: of the ranks.
        store: where the file lies; the first rank alone looks and decides.
    """

    def __init__(self, accelerator: Accelerator, store: Store) -> None:
        self._accelerator, self._store = accelerator, store
        self._file: Unfinished | None = None
        self._error: OSError | None = None  # that kept a rank from writing: this one, or another after `values`

    def room(self, rows: int, width: int) -> Matrix:
        """Take room in the store if every rank is here and can write there, else in memory; see `inference.MakeMatrix`.

        The first rank has rows to write if any has.
        """
        if not on_one_machine():
            return InMemory(self._accelerator, rows, width)
        first = self._accelerator.is_main_process
        if first:
            self._file = self._store.begin((rows, width), np.dtype(np.float32))
        told = broadcast_object_list([None if self._file is None else str(self._file.folder)])[0]
        if told is not None and not first:
            try:
                self._file = Unfinished(Path(told))
            except (OSError, ValueError):  # it has another disk
                self._file = None
        if everywhere(self._accelerator, self._file is not None):
            return self
        self.discard()
        return InMemory(self._accelerator, rows, width)

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples; a disk that takes them no more is told of at the end, as others wait."""
        assert self._file is not None
        if self._error is None:
            try:
                self._file.put(examples, values)
            except OSError as error:
                self._error = error

    def values(self) -> np.ndarray:
        """Return all rows, mapped from the disk.

        Raises:
            Unwritten: on all ranks, if one of them could not write.
        """
        assert self._file is not None
        self._error = next((error for error in gather_object([self._error]) if error is not None), None)
        if self._error is not None:
            self.discard()
            raise Unwritten
        values = self._file.values()
        self._accelerator.wait_for_everyone()  # until all have it open, before it moves
        return values

    def finish(self, key: str, about: dict[str, Any]) -> bool:
        """Let later runs find the matrix, on the first rank; return whether there is one in a file."""
        if self._file is None:
            return False
        self._store.finish(key, self._file, about)
        self._file = None
        return True

    def discard(self) -> None:
        """Take the file away, if there is one; whoever has it open can read it still."""
        if self._file is None:
            return
        if self._accelerator.is_main_process:
            self._store.discard(self._file, self._error)
        else:
            self._file.close()
        self._file = None


def everywhere(accelerator: Accelerator, is_so: bool) -> bool:
    """Return whether something is so on every rank."""
    told = accelerator.gather(torch.tensor([int(is_so)], device=accelerator.device))
    assert isinstance(told, torch.Tensor)
    return bool(told.all())
