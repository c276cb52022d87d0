"""Signals that ask a run to stop: the step is finished and committed first. A second one stops at once.

A cluster that ends a job tells launcher and ranks, and the launcher tells the ranks once more: that is one request.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


_ONE_REQUEST = 5.0  # seconds in which a second SIGTERM is the first one, passed on


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, after its step was finished and committed.

    Attributes:
        number: of the signal; a process that ends for it has the exit status 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Asked:
    """Which signal asked to stop; 0: none so far."""

    number = 0


@contextmanager
def listening(on_signal: Callable[[], None] = lambda: None) -> Iterator[Asked]:
    """Note the first signal instead of dying of it, for the time of the block, and call `on_signal` then.

    Only the main thread can; elsewhere nothing is noted.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    # What a parent ignores, such as SIGINT for a job in the background, stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]

    def note(number: int, _: FrameType | None) -> None:
        asked.number, first = number, time.monotonic()

        def passed_on(later: int, _: FrameType | None) -> None:
            if time.monotonic() - first > _ONE_REQUEST:
                signal.signal(later, before[later])
                signal.raise_signal(later)

        for each in heard:
            signal.signal(each, passed_on if each == number == signal.SIGTERM else before[each])
        with suppress(RuntimeError):  # a stream that was being written to when the signal came
            on_signal()

    for number in heard:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in heard:
            signal.signal(number, before[number])
