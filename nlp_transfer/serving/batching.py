"""From requests to passes: what waits while the model computes is answered together in its next pass.

It knows neither HTTP nor the model, only a function from texts to answers that is slow to call, for many not much more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
Answering = Callable[[Sequence[str], Sequence[str] | None], Sequence[Answer]]

_CHARACTERS = 4  # of a token, about: it decides how much is computed together, not what comes out


class Full(Exception):
    """More texts wait than may; nothing of the request was taken."""


class Closed(Exception):
    """No requests are taken any more."""


@dataclass(eq=False)
class _Job(Generic[Answer]):
    """One request: its texts, how many of them went into a pass, and the answers so far."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    future: Future[list[Answer]] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)
    taken: int = 0
    answers: list[Answer] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many texts wait still."""
        return len(self.texts) - self.taken


@dataclass(frozen=True)
class _Share(Generic[Answer]):
    """The texts of one request that go into one pass."""

    job: _Job[Answer]
    start: int
    end: int

    @property
    def texts(self) -> Sequence[str]:
        return self.job.texts[self.start : self.end]

    @property
    def pairs(self) -> Sequence[str]:
        return () if self.job.pairs is None else self.job.pairs[self.start : self.end]


class Batcher(Generic[Answer]):
    """A queue and the one thread that empties it.

    A pass takes what waits, at most about `most_tokens`, and of that the same share for every request: a request of
    many texts takes several passes and does not hold up those that came after it. What a request gets does not depend
    on which others were answered with it; if their pass fails, each is answered alone, and only whoever fails alone is
    told.

    Args:
        answer: gives one answer a text, in order; called by one thread, one call at a time.
        most_tokens: of one pass, estimated from the characters.
        most_of_one: tokens at most of one text, which is cut; None: it is not.
        most_waiting: texts that wait at most.
        wait: seconds that a request waits for others to join it, if the model has nothing else to do.
    """

    def __init__(
        self, answer: Answering[Answer], *, most_tokens: int, most_of_one: int | None, most_waiting: int, wait: float
    ) -> None:
        self._answer, self._most_tokens, self._most_of_one = answer, most_tokens, most_of_one
        self._most_waiting, self._wait = most_waiting, wait
        self._jobs: deque[_Job[Answer]] = deque()
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition(threading.RLock())  # a future that is cancelled under it calls `_forget`
        self._thread = threading.Thread(target=self._work, name="answering", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken and answered."""
        return not self._closed and self._thread.is_alive()

    @property
    def full(self) -> bool:
        """Whether not one text more may wait."""
        return self._waiting >= self._most_waiting

    def submit(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Future[list[Answer]]:
        """Let texts wait for their pass; a future that is cancelled takes those out that still wait.

        Raises:
            Full: if they are too many beside those that wait.
            Closed: after `close`.
        """
        job: _Job[Answer] = _Job(texts, pairs)
        if not texts:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._closed:
                raise Closed
            if self._waiting + len(job) > self._most_waiting:
                raise Full
            self._jobs.append(job)
            self._waiting += len(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job))
        return job.future

    def refuse(self) -> None:
        """Take nothing more; what was taken is answered. It may be called by a handler of signals."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self) -> None:
        """Take nothing more, and return when all that was taken is answered."""
        self.refuse()
        self._thread.join()

    def _forget(self, job: _Job[Answer]) -> None:
        """Take out of the queue what nobody waits for any more."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= len(job)

    def _work(self) -> None:
        while shares := self._next():
            self._answer_together(shares)
            del shares  # or the last texts and answers would live until others come

    def _next(self) -> list[_Share[Answer]]:
        """Wait for texts and take those of the next pass out of the queue; none when there is an end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                left = min(job.came for job in self._jobs) + self._wait - time.monotonic()
                if left <= 0 or self._closed or self._is_enough():
                    return self._take()
                self._changed.wait(left)

    def _is_enough(self) -> bool:
        left = self._most_tokens
        for job in self._jobs:
            for place in range(job.taken, len(job.texts)):
                left -= self._tokens(job, place)
                if left <= 0:
                    return True
        return False

    def _take(self) -> list[_Share[Answer]]:
        shares: list[_Share[Answer]] = []
        left = self._most_tokens
        while self._jobs and left > 0:
            job = self._jobs.popleft()
            fair, start = left // (len(self._jobs) + 1), job.taken
            while job:
                tokens = self._tokens(job, job.taken)
                if tokens > fair and job.taken > start:  # at least one text of everybody
                    break
                fair, left, job.taken = fair - tokens, left - tokens, job.taken + 1
            self._waiting -= job.taken - start
            shares.append(_Share(job, start, job.taken))
            if job:
                self._jobs.append(job)
        return shares

    def _tokens(self, job: _Job[Answer], place: int) -> int:
        """Return about how many tokens a text and its pair have, two special ones included."""
        characters = len(job.texts[place]) + (len(job.pairs[place]) if job.pairs is not None else 0)
        tokens = characters // _CHARACTERS + 2
        return tokens if self._most_of_one is None else min(tokens, self._most_of_one)

    def _answer_together(self, shares: list[_Share[Answer]]) -> None:
        texts = [text for share in shares for text in share.texts]
        pairs = [text for share in shares for text in share.pairs] or None
        try:
            answers = self._answer(texts, pairs)
            assert len(answers) == len(texts), "every text has one answer"
        except Exception as error:
            if len(shares) > 1:
                for share in shares:
                    self._answer_together([share])
            else:
                self._finish(shares[0].job, error)
            return
        start = 0
        for share in shares:
            end = start + share.end - share.start
            share.job.answers += answers[start:end]
            start = end
            if len(share.job.answers) == len(share.job.texts):
                self._finish(share.job)

    def _finish(self, job: _Job[Answer], error: Exception | None = None) -> None:
        if job.future.done() or not job.future.set_running_or_notify_cancel():  # nobody waits for it any more
            return
        if error is None:
            job.future.set_result(job.answers)
        else:
            job.future.set_exception(error)
