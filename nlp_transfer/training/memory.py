"""Out-of-memory errors, activation checkpointing, and giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache

from nlp_transfer.errors import UserError

Result = TypeVar("Result")

# Messages of torch, CUDA's libraries and the CPU's allocator; accelerate's own list lacks some and has one too many.
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


def is_lack_of_memory(error: Exception) -> bool:
    """Return whether an error says that the device or the machine is out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)


def none_if_out_of_memory(work: Callable[[], Result]) -> Result | None:
    """Return the result of `work`, or None if it ran out of memory, with all it held freed."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
    # Outside the handler, for the traceback holds every tensor of the pass.
    clear_device_cache(garbage_collection=True)
    return None


def checkpoint_activations(model: Any) -> None:
    """Have a transformers model recompute activations in the backward pass instead of keeping them.

    Raises:
        UserError: for an architecture that does not support it.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"training.gradient_checkpointing: {error}") from error
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()


def release_free_memory() -> None:
    """Give freed memory back to the system, after a part of a run that used much of it.

    The C library would keep it in fragments, and the next part would take more.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc only
        trim(0)
