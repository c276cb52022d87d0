"""Load the rows of a meta-learning and divide their classes, without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.meta.episodes import Division, divide

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen


def rows_of(settings: Settings, screen: Screen) -> tuple[Corpus, Division]:
    """Return the training rows, and the division of their classes into training and held-out ones.

    Validation and test rows are not used, so that models adapted from the encoder can be evaluated on them.

    Args:
        settings: of which `data`, `meta`, `cache` and the seed are used.
        screen: where progress is shown.

    Raises:
        UserError: for data that cannot be used, is not single-label, or has too few classes.
    """
    with screen.busy("reading data"):
        store = store_of_rows(settings.cache, screen.tell)
        corpus = load_corpus(settings.data, seed=settings.seed, store=store)
    task, train = corpus.task, corpus.splits["train"]
    if task.problem != "single_label":
        raise UserError(f"{corpus.source}: meta needs texts of one class each, and this is {task.problem}")
    if train.targets.ndim != 1:
        raise UserError(f"{corpus.source}: meta needs texts of one class each, and these have soft labels")
    if task.pair:
        raise UserError(f"{corpus.source}: meta compares single texts, these are pairs; set data.columns.text_pair=''")
    if (train.weights != train.weights[0]).any():
        raise UserError(
            f"{corpus.source}: meta does not support weights of rows: set data.columns.weight='' and "
            "data.class_weights=none"
        )
    corpus.splits = {"train": train}
    return corpus, divide(train.targets, len(task.labels), settings.meta, seed=settings.seed)
