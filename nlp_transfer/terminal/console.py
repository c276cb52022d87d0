"""Terminal output during a run: everything at a terminal, warnings alone in a log, and nothing on other ranks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

# Control characters except tabs and line feeds, and characters that override the writing direction.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Terminal(Console):
    """A console that drops control characters, so that no label, text or file name can control the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, as rich does."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_CONTROLS.sub("", segment.text), segment.style)


class Screen:
    """The output of a process for people: tables, progress and warnings at a terminal, warnings alone in a log.

    Args:
        quiet: whether nothing is written.
        on_message: receives the messages of `tell` instead, for a part of a larger job that shows progress itself.

    It writes to standard error, so that standard output carries only the machine-readable result.
    """

    def __init__(self, *, quiet: bool, on_message: Callable[[str], None] | None = None) -> None:
        self._on_message = on_message
        self.console = Terminal(stderr=True, highlight=False, markup=False, emoji=False)
        self.quiet, self.is_interactive = quiet, not quiet and self.console.is_terminal
        self.console.quiet = not self.is_interactive

    def tell(self, sentence: str) -> None:
        """Show a message that matters even without a terminal, where it becomes a line in the log."""
        if self._on_message is not None:
            self._on_message(sentence)
        elif self.is_interactive:
            self.console.print(sentence, style="yellow", soft_wrap=True)
        elif not self.quiet:
            with suppress(OSError):  # a log on a full disk must not end the run
                print(_CONTROLS.sub("", f"nlp-transfer: {sentence}"), file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def busy(self, activity: str) -> Iterator[None]:
        """Show a spinner with the name of the activity during the block."""
        with self.console.status(activity) if self.is_interactive else nullcontext():
            yield

    @contextmanager
    def bar(self, activity: str) -> Iterator[Bar]:
        """Show a progress bar with the name of the activity during the block."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=self.console, disable=not self.is_interactive, transient=True) as progress:
            yield Bar(progress, activity)


class Bar:
    """A progress bar whose length is given at its first step."""

    def __init__(self, progress: Progress, activity: str) -> None:
        self._progress = progress
        self._task = progress.add_task(activity, total=None, detail="")
        self._detail: dict[str, str] = {}

    def show(self, done: int, total: int | None, **detail: str) -> None:
        """Move to `done` of `total` (None: unknown) and update the details beside the bar."""
        self.detail(**detail)
        self._progress.update(self._task, completed=done, total=total)

    def detail(self, **detail: str) -> None:
        """Update the details beside the bar."""
        self._detail |= detail
        text = "  ".join(f"{name} {value}" for name, value in self._detail.items() if value)
        self._progress.update(self._task, detail=text)
