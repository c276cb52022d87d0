"""The rows that encoders are ranked on; their errors are reported before torch is imported."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.data.needs import with_validation
from nlp_transfer.errors import UserError, at_least

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen


def rows_of(settings: Settings, screen: Screen, *, data: Any = None) -> Corpus:
    """Return a random sample of `rank.rows` training rows, or as many as `data` limits them to.

    Args:
        settings: used are the groups `data` and `rank`, and the seed.
        screen: where progress is shown.
        data: rows from Python, see ``corpus.load_corpus``.

    Raises:
        UserError: for too few rows, and data that cannot be used.
    """
    at_least(settings.rank, "rank.", 10, "rows")
    if settings.data.label_texts is not None:
        raise UserError(
            "data.label_texts: rank asks about the rows of the data alone, and would not read it; leave it out"
        )
    settings = with_validation(settings)
    limited = settings.data
    if limited.train_limit is None and limited.per_class is None:
        limited = dataclasses.replace(limited, train_limit=settings.rank.rows)
    with screen.busy("reading data"):
        corpus = load_corpus(limited, seed=settings.seed, data=data, store=store_of_rows(settings.cache, screen.tell))
    corpus.splits = {"train": corpus.splits["train"]}  # other splits are not used
    return corpus
