"""Dynamic batching: requests that arrive during a forward pass are answered together in the next one.

This module knows neither HTTP nor the model, only a function from texts to answers.
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
AnswerTexts = Callable[[Sequence[str], Sequence[str] | None], Sequence[Answer]]

_CHARACTERS_PER_TOKEN = 4  # a rough estimate, which affects the size of batches but not the answers


class Full(Exception):
    """The queue has no room for the request, none of which was accepted."""


class Closed(Exception):
    """Requests are no longer accepted."""


@dataclass(eq=False)
class _Job(Generic[Answer]):
    """One request: its texts, how many of them have left the queue, and the answers so far."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    future: Future[list[Answer]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    answers: list[Answer] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many texts are still waiting."""
        return len(self.texts) - self.taken


@dataclass(frozen=True)
class _Share(Generic[Answer]):
    """The texts of one request that go into one batch."""

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
    """A queue of requests, and a thread that answers them batch by batch.

    A batch has at most about `max_tokens`, divided equally among the waiting requests: a request with many texts takes
    several batches and does not delay those that arrive after it. The other requests of a batch do not affect a
    request: if a batch fails, its requests are answered one by one, and only those that fail alone get the exception.

    Args:
        answer: returns one answer per text, in order; called by one thread, one call at a time.
        max_tokens: of one batch, estimated from the characters.
        max_text_tokens: tokens to which one text is truncated; None: not truncated.
        max_waiting: maximum number of waiting texts.
        wait: seconds that an idle thread waits for more requests before it starts a batch.
    """

    def __init__(
        self,
        answer: AnswerTexts[Answer],
        *,
        max_tokens: int,
        max_text_tokens: int | None,
        max_waiting: int,
        wait: float,
    ) -> None:
        self._answer, self._max_tokens, self._max_text_tokens = answer, max_tokens, max_text_tokens
        self._max_waiting, self._wait = max_waiting, wait
        self._jobs: deque[_Job[Answer]] = deque()
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition(threading.RLock())  # reentrant: cancelling a future calls `_forget`
        self._thread = threading.Thread(target=self._work, name="answering", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and answered."""
        return not self._closed and self._thread.is_alive()

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return self._waiting >= self._max_waiting

    def submit(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Future[list[Answer]]:
        """Add a request to the queue; cancelling its future removes the texts that are still waiting.

        Raises:
            Full: if the queue has no room for it.
            Closed: after `refuse` or `close`.
        """
        job: _Job[Answer] = _Job(texts, pairs)
        if not texts:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._closed:
                raise Closed
            if self._waiting + len(job) > self._max_waiting:
                raise Full
            self._jobs.append(job)
            self._waiting += len(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job))
        return job.future

    def refuse(self) -> None:
        """Accept no more requests; those accepted are answered. Safe to call in a signal handler."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self) -> None:
        """Accept no more requests, and return when all accepted ones are answered."""
        self.refuse()
        self._thread.join()

    def _forget(self, job: _Job[Answer]) -> None:
        """Remove a finished or cancelled request from the queue."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= len(job)

    def _work(self) -> None:
        while shares := self._next():
            self._answer_together(shares)
            del shares  # otherwise the last texts and answers would stay in memory until the next batch

    def _next(self) -> list[_Share[Answer]]:
        """Wait for requests and return the next batch, taken from the queue; empty when closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                seconds = min(job.arrived for job in self._jobs) + self._wait - time.monotonic()
                if seconds <= 0 or self._closed or self._fills_batch():
                    return self._take_batch()
                self._changed.wait(seconds)

    def _fills_batch(self) -> bool:
        """Return whether the waiting texts fill a batch."""
        remaining = self._max_tokens
        for job in self._jobs:
            for index in range(job.taken, len(job.texts)):
                remaining -= self._tokens(job, index)
                if remaining <= 0:
                    return True
        return False

    def _take_batch(self) -> list[_Share[Answer]]:
        """Take a batch from the queue, with an equal share of its tokens for every request."""
        shares: list[_Share[Answer]] = []
        remaining = self._max_tokens
        while self._jobs and remaining > 0:
            job = self._jobs.popleft()
            share, start = remaining // (len(self._jobs) + 1), job.taken
            while job:
                tokens = self._tokens(job, job.taken)
                if tokens > share and job.taken > start:  # at least one text of each request
                    break
                share, remaining, job.taken = share - tokens, remaining - tokens, job.taken + 1
            self._waiting -= job.taken - start
            shares.append(_Share(job, start, job.taken))
            if job:
                self._jobs.append(job)
        return shares

    def _tokens(self, job: _Job[Answer], index: int) -> int:
        """Estimate the number of tokens of a text and its pair, including two special tokens."""
        characters = len(job.texts[index]) + (len(job.pairs[index]) if job.pairs is not None else 0)
        tokens = characters // _CHARACTERS_PER_TOKEN + 2
        return tokens if self._max_text_tokens is None else min(tokens, self._max_text_tokens)

    def _answer_together(self, shares: list[_Share[Answer]]) -> None:
        """Answer a batch; if it fails, answer its requests one by one."""
        texts = [text for share in shares for text in share.texts]
        pairs = [text for share in shares for text in share.pairs] or None
        try:
            answers = self._answer(texts, pairs)
            assert len(answers) == len(texts), "every text must have one answer"
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
        if job.future.done() or not job.future.set_running_or_notify_cancel():  # cancelled
            return
        if error is None:
            job.future.set_result(job.answers)
        else:
            job.future.set_exception(error)
