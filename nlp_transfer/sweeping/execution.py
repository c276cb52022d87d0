"""Execute the runs of a sweep, a limited number at once, and end them all with the sweep. Independent of Hydra."""

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

_PAUSE = 0.1  # seconds between two polls
_PREFIX = "nlp-transfer: "  # of the messages of a run

Words = tuple[str, ...]


class Running(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def end(self) -> None:
        """Ask it to finish its step, write a checkpoint and end."""

    def kill(self) -> None:
        """Kill it."""

    def output(self) -> str:
        """Return its standard output, once it has ended."""


class Executor(Protocol):
    """Starts runs.

    Attributes:
        slots: maximum number of runs at once.
    """

    slots: int

    def start(self, words: Sequence[str], log: Path | None) -> Running:
        """Start a run; its messages go to `log`, or to the standard error of the sweep."""


def run_jobs(
    runs: Sequence[Words],
    executor: Executor,
    *,
    recipe: str | None,
    log_of: Callable[[Words], Path | None],
    should_prune: Callable[[Words], bool] = lambda words: False,
    on_end: Callable[[Job, str], None],
) -> dict[Words, Job]:
    """Execute runs, each once; return their outcomes.

    Args:
        runs: the words of each run.
        executor: starts them.
        recipe: of all runs.
        log_of: returns the log file of a run.
        should_prune: returns whether to end a run early; called repeatedly while it runs.
        on_end: called with the outcome and the standard output of every run that has ended.

    Raises:
        Stopped: on a signal, after all runs have written a checkpoint and ended. They do so before any other
            exception too, such as that of a run that cannot be started.
    """
    waiting, running = deque(dict.fromkeys(runs)), dict[Words, Running]()
    jobs, pruned, ending = dict[Words, Job](), set[Words](), set[Words]()

    def end(which: Iterable[Words]) -> None:
        for words in set(which) - ending:  # a second signal would end a run without a checkpoint
            ending.add(words)
            running[words].end()

    with catching_signals() as signalled, _ended_by_exceptions(running, end):
        while waiting or running:
            while waiting and len(running) < executor.slots and not signalled.number:
                words = waiting.popleft()
                running[words] = executor.start([*([recipe] if recipe else []), *words], log_of(words))
            for words, status in _ended(running):
                output = running.pop(words).output()
                outcome = job.ended(words, status, output, said=_last_message(log_of(words)))
                if outcome.state == job.FAILED and (words in pruned or signalled.number):
                    outcome = Job(words, job.PRUNED if words in pruned else job.STOPPED, status)
                jobs[words] = outcome
                on_end(outcome, output)
            for words in running.keys() - pruned:
                if should_prune(words):
                    pruned.add(words)
                    end([words])
            if signalled.number:
                waiting.clear()
                end(running)
            time.sleep(_PAUSE)
    if signalled.number:
        raise Stopped(signalled.number)
    return jobs


@contextmanager
def _ended_by_exceptions(running: dict[Words, Running], end: Callable[[Iterable[Words]], None]) -> Iterator[None]:
    """End all runs if the block raises an exception."""
    try:
        yield
    except Exception:  # for example, a run cannot be started: the others write their checkpoints
        end(running)
        while any(each.poll() is None for each in running.values()):
            time.sleep(_PAUSE)
        running.clear()
        raise
    finally:
        for each in running.values():  # left over after a second signal, which ends everything at once
            each.kill()


def _ended(running: dict[Words, Running]) -> Iterator[tuple[Words, int]]:
    for words, each in list(running.items()):
        if (status := each.poll()) is not None:
            yield words, status


def _last_message(log: Path | None) -> str:
    """Return the last message of a run in its log file, in which messages of launchers may follow."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
        return next((line.removeprefix(_PREFIX) for line in reversed(lines) if line.startswith("nlp-transfer")), "")
    return ""
