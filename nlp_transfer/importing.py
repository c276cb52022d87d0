"""What importing libraries costs. Knows none of them by name."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Keep what is imported in the block out of the garbage collector's sight, now and until the process ends.

    torch and transformers make a million objects, which all stay. Looking through them while they are made, and again
    when the interpreter ends, took a quarter of a short run. It holds for every object there is by then, which suits
    processes of our own and nobody else's.
    """
    known, enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if enabled:
            gc.enable()
