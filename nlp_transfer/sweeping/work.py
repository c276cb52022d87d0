"""Runs at work: so many at once, watched, all of them ended and waited for where the sweep ends. Knows no Hydra."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from nlp_transfer.sweeping import job
from nlp_transfer.sweeping.job import Job
from nlp_transfer.training.signals import Stopped, catching_signals

_PAUSE = 0.1  # seconds between two looks
_TELLING = "nlp-transfer: "

Words = tuple[str, ...]


class Running(Protocol):
    """A run that goes on."""

    def poll(self) -> int | None:
        """Return the exit status, or None as long as it runs."""

    def end(self) -> None:
        """Ask it to finish its step, commit it and end."""

    def kill(self) -> None:
        """End it at once."""

    def output(self) -> str:
        """Return what it wrote to standard output, once it has ended."""


class Place(Protocol):
    """Where runs go on.

    Attributes:
        slots: how many at once.
    """

    slots: int

    def start(self, words: Sequence[str], log: Path | None) -> Running:
        """Start a run; what it says goes into `log`, or where the sweep speaks."""


def work(
    runs: Sequence[Words],
    place: Place,
    *,
    recipe: str | None,
    log_of: Callable[[Words], Path | None],
    lags: Callable[[Words], bool] = lambda words: False,
    on_end: Callable[[Job, str], None],
) -> dict[Words, Job]:
    """Do runs, each once; return what became of them.

    Args:
        runs: their words.
        place: where.
        recipe: of all of them.
        log_of: returns the file for what a run says.
        lags: returns whether a run is to be ended early; asked again and again while it goes on.
        on_end: is told of every run that ended, and its standard output.

    Raises:
        Stopped: on a signal, after the runs have ended; each has committed its state. So it has before any other
            exception, such as that of a run that cannot be started.
    """
    waiting, running = deque(dict.fromkeys(runs)), dict[Words, Running]()
    done, early, told = dict[Words, Job](), set[Words](), set[Words]()

    def end(which: Iterable[Words]) -> None:
        for words in set(which) - told:  # a run that is asked twice ends at once
            told.add(words)
            running[words].end()

    with catching_signals() as asked, _ended_by_exceptions(running, end):
        while waiting or running:
            while waiting and len(running) < place.slots and not asked.number:
                words = waiting.popleft()
                running[words] = place.start([*([recipe] if recipe else []), *words], log_of(words))
            for words, status in _ended(running):
                found = job.ended(words, status, output := running.pop(words).output(), said=_last(log_of(words)))
                if found.state == job.FAILED and (words in early or asked.number):
                    found = Job(words, job.PRUNED if words in early else job.STOPPED, status)
                done[words] = found
                on_end(found, output)
            for words in running.keys() - early:
                if lags(words):
                    early.add(words)
                    end([words])
            if asked.number:
                waiting.clear()
                end(running)
            time.sleep(_PAUSE)
    if asked.number:
        raise Stopped(asked.number)
    return done


@contextmanager
def _ended_by_exceptions(running: dict[Words, Running], end: Callable[[Iterable[Words]], None]) -> Iterator[None]:
    """Leave no run behind where the block ends by an exception."""
    try:
        yield
    except Exception:  # no run can be started, say: those that go on commit what they have
        end(running)
        while any(each.poll() is None for each in running.values()):
            time.sleep(_PAUSE)
        running.clear()
        raise
    finally:
        for each in running.values():  # a second signal: nothing waits for anything
            each.kill()


def _ended(running: dict[Words, Running]) -> Iterator[tuple[Words, int]]:
    for words, each in list(running.items()):
        if (status := each.poll()) is not None:
            yield words, status


def _last(log: Path | None) -> str:
    """Return the last sentence that a run said into its file; launchers say more, after it."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
        return next((line.removeprefix(_TELLING) for line in reversed(lines) if line.startswith("nlp-transfer")), "")
    return ""
