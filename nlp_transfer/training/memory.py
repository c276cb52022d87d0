"""Passes over a model that memory may not suffice for, told apart from other errors; memory that is freed for good."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache

from nlp_transfer.errors import UserError

Result = TypeVar("Result")

# As torch, CUDA's libraries and the CPU's allocator say it; accelerate's own list lacks some and has one too many.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


def is_lack_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device or the machine has no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def tried(work: Callable[[], Result]) -> Result | None:
    """Return the result of `work`, or None where memory did not suffice; what it held is free again then."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
    # Outside of the handler: the traceback holds every tensor of the pass.
    clear_device_cache(garbage_collection=True)
    return None


def checkpoint_activations(model: Any) -> None:
    """Let a transformers model compute activations again in the backward pass instead of keeping them.

    Raises:
        UserError: for an architecture that cannot.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"training.gradient_checkpointing: {error}") from error
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()


def give_back() -> None:
    """Give what is free of this process' memory back to the system, after a part of a run that used much of it.

    The C library would keep it, in pieces between what is still used, and the next part take more beside them.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # in glibc alone
        trim(0)
