"""What importing libraries costs, and what waits for it. Knows none of them by name."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


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


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Do something right after a module has been imported; at once where it was.

    ``wrapt.when_imported`` does the same, but to import it takes a tenth of a second, more than all of ours does.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Notice(name, action))


class _Notice:
    """An entry of ``sys.meta_path`` that has the others find a module, and tells once when its code has run."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action, self._asks = name, action, False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name or self._asks:
            return None
        self._asks = True  # the others, in whose turn this one has nothing to say
        try:
            found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
            spec = next((each for each in found if each is not None), None)
        finally:
            self._asks = False
        if spec is not None and spec.loader is not None:  # which somebody may merely look at
            run = spec.loader.exec_module

            def run_and_tell(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._action()

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec
