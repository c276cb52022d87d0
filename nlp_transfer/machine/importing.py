"""Making imports of large libraries cheaper, and running code after an import."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Exclude what is imported in the block from garbage collection, for the life of the process.

    torch and transformers create a million permanent objects. Traversing them during import and at interpreter exit
    took a quarter of the time of a short run. All objects existing by then are excluded, so this is only for processes
    of our own, not for use as a library.
    """
    modules_before, was_enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules_before:
            gc.freeze()
        if was_enabled:
            gc.enable()


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Run an action right after a module is imported, or at once if it already is.

    ``wrapt.when_imported`` does the same, but importing wrapt takes a tenth of a second.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _ImportHook(name, action))


class _ImportHook:
    """A finder in ``sys.meta_path`` that delegates to the others, and runs an action once a module was executed."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action, self._is_delegating = name, action, False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name or self._is_delegating:
            return None
        self._is_delegating = True  # skips this finder below
        try:
            specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self._is_delegating = False
        if spec is not None and spec.loader is not None:  # wrapped, for a caller may only look at the spec
            exec_module = spec.loader.exec_module

            def exec_and_act(module: ModuleType) -> None:
                exec_module(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._action()

            spec.loader.exec_module = exec_and_act  # type: ignore[method-assign]
        return spec
