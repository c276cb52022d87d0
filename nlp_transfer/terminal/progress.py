"""A progress bar for reading texts with an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import inference


@contextmanager
def reading(screen: Screen, activity: str) -> Iterator[None]:
    """Show a progress bar during the block, which advances as the encoder reads rows."""
    with screen.bar(activity) as bar, inference.reporting_progress(bar.show):
        yield
