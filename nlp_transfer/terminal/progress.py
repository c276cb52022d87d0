"""How far an encoder is in the texts, for whoever waits at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import inference


@contextmanager
def reading(screen: Screen, what: str) -> Iterator[None]:
    """Show one bar for the time of the block, which moves as the encoder reads rows."""
    with screen.bar(what) as bar, inference.reporting_progress(bar.show):
        yield
