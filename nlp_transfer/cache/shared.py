"""A matrix in one file that all ranks of a machine write to and read from, so that none holds all of it in memory.

Ranks on several machines hold the matrix in memory instead: on a network file system each machine caches pages of a
file, so a rank might read zeros where another has written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from nlp_transfer.cache.entries import MatrixWriter
from nlp_transfer.cache.store import Store
from nlp_transfer.machine.launch import on_one_machine
from nlp_transfer.training.inference import InMemory, Matrix


class WriteFailed(Exception):
    """A rank could not write its rows; the matrix has to be computed again in memory."""


class SharedMatrix:
    """A matrix in a file, see `inference.Matrix`; every rank has an instance.

    Args:
        accelerator: of the ranks.
        store: for the file; only the main process accesses it.
    """

    def __init__(self, accelerator: Accelerator, store: Store) -> None:
        self._accelerator, self._store = accelerator, store
        self._file: MatrixWriter | None = None
        self._error: OSError | None = None  # of this rank's writing; after `values`, of any rank's

    def allocate(self, rows: int, width: int) -> Matrix:
        """Allocate the matrix in the store if every rank can write there, else in memory; see `inference.MakeMatrix`.

        The main process has rows to write if any rank has.
        """
        if not on_one_machine():
            return InMemory(self._accelerator, rows, width)
        is_main = self._accelerator.is_main_process
        if is_main:
            self._file = self._store.begin((rows, width), np.dtype(np.float32))
        folder = broadcast_object_list([None if self._file is None else str(self._file.folder)])[0]
        if folder is not None and not is_main:
            try:
                self._file = MatrixWriter(Path(folder))
            except (OSError, ValueError):  # this rank has another disk
                self._file = None
        if is_true_on_all_ranks(self._accelerator, self._file is not None):
            return self
        self.discard()
        return InMemory(self._accelerator, rows, width)

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples; an error is reported by `values`, since other ranks are waiting there."""
        assert self._file is not None
        if self._error is None:
            try:
                self._file.put(examples, values)
            except OSError as error:
                self._error = error

    def values(self) -> np.ndarray:
        """Return all rows, memory-mapped.

        Raises:
            WriteFailed: on all ranks, if one of them could not write.
        """
        assert self._file is not None
        self._error = next((error for error in gather_object([self._error]) if error is not None), None)
        if self._error is not None:
            self.discard()
            raise WriteFailed
        values = self._file.values()
        self._accelerator.wait_for_everyone()  # every rank must have opened the file before `finish` moves it
        return values

    def finish(self, key: str, about: dict[str, Any]) -> bool:
        """Store the matrix for later runs (on the main process); return whether there was one in a file."""
        if self._file is None:
            return False
        self._store.finish(key, self._file, about)
        self._file = None
        return True

    def discard(self) -> None:
        """Delete the file, if there is one; memory maps of it stay valid."""
        if self._file is None:
            return
        if self._accelerator.is_main_process:
            self._store.discard(self._file, self._error)
        else:
            self._file.close()
        self._file = None


def is_true_on_all_ranks(accelerator: Accelerator, condition: bool) -> bool:
    """Return whether a condition holds on every rank."""
    gathered = accelerator.gather(torch.tensor([int(condition)], device=accelerator.device))
    assert isinstance(gathered, torch.Tensor)
    return bool(gathered.all())
