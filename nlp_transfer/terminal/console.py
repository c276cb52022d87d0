"""What a person at a terminal sees while a run goes on; piped, warnings alone, and nothing on ranks but the first."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

# Control characters but tabs and line ends, and what turns the direction of writing round.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Terminal(Console):
    """A console on which no label, text or file name can steer the terminal: such characters are left out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of what is shown, as rich does."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_STEERING.sub("", segment.text), segment.style)


class Screen:
    """The terminal, or nothing.

    Args:
        speaks: whether anything is shown.
        says: takes what `tell` is told instead, from a part of a larger work that has its own bar.

    Everything a person reads goes to standard error, so that standard output carries one machine-readable result.
    """

    def __init__(self, *, speaks: bool, says: Callable[[str], None] | None = None) -> None:
        self._says = says
        self.console = Terminal(stderr=True, highlight=False, markup=False, emoji=False)
        self.speaks, self.shows = speaks, speaks and self.console.is_terminal
        self.console.quiet = not self.shows

    def tell(self, sentence: str) -> None:
        """Say what one must know, also where nobody looks at a terminal: then it is a line in a log."""
        if self._says is not None:
            self._says(sentence)
        elif self.shows:
            self.console.print(sentence, style="yellow", soft_wrap=True)
        elif self.speaks:
            with suppress(OSError):  # no work ends because its log lies on a full disk
                print(_STEERING.sub("", f"nlp-transfer: {sentence}"), file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show that something takes a while."""
        with self.console.status(what) if self.shows else nullcontext():
            yield

    @contextmanager
    def bar(self, what: str) -> Iterator[Bar]:
        """Show one progress bar for the time of the block."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=self.console, disable=not self.shows, transient=True) as progress:
            yield Bar(progress, what)


class Bar:
    """One progress bar whose length is known at its first step."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None, detail="")
        self._detail: dict[str, str] = {}

    def show(self, done: int, total: int | None, **detail: str) -> None:
        """Move to `done` of `total`, None where that is not known, and update the words beside the bar."""
        self.detail(**detail)
        self._progress.update(self._task, completed=done, total=total)

    def detail(self, **detail: str) -> None:
        """Update the words beside the bar."""
        self._detail |= detail
        text = "  ".join(f"{name} {value}" for name, value in self._detail.items() if value)
        self._progress.update(self._task, detail=text)
