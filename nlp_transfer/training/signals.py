"""Stop signals: the current step is finished and a checkpoint written first; a second signal stops at once.

A cluster that ends a job signals launcher and ranks, and the launcher then signals the ranks again: one request.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
_ONE_REQUEST = 5.0  # seconds in which a second SIGTERM is taken for the first one, passed on by the launcher


class _Signalled(KeyboardInterrupt):
    """Raised because of a signal.

    Attributes:
        number: of the signal; the process exits with status 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")


class Stopped(_Signalled):
    """Raised in a run that a signal stopped, after its step was finished and its checkpoint written."""


class Interrupted(_Signalled):
    """Raised where a signal arrives, by work with no step to finish."""


class StopRequest:
    """The number of the signal that was received first; 0: none so far."""

    number = 0


@contextmanager
def catching_signals(on_signal: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Catch the first signal in the block, record it in the yielded request, and call `on_signal`.

    Signals can be caught in the main thread only; in others nothing is recorded.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # What a parent ignores, such as SIGINT for a job in the background, stays ignored.
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)]

    def record(number: int, _: FrameType | None) -> None:
        request.number, first = number, time.monotonic()

        def ignore_repeat(later: int, _: FrameType | None) -> None:
            if time.monotonic() - first > _ONE_REQUEST:
                signal.signal(later, handlers[later])
                signal.raise_signal(later)

        for each in caught:
            signal.signal(each, ignore_repeat if each == number == signal.SIGTERM else handlers[each])
        with suppress(RuntimeError):  # a stream that was being written to when the signal came
            on_signal()

    for number in caught:
        signal.signal(number, record)
    try:
        yield request
    finally:
        for number in caught:
            signal.signal(number, handlers[number])


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise `Interrupted` at the first signal in the block; see `catching_signals`."""

    def interrupt() -> None:
        raise Interrupted(request.number)

    with catching_signals(interrupt) as request:
        yield
