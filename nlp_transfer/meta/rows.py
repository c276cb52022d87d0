"""The rows of a meta-learning and how their classes are divided; what is wrong there is said without torch."""

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
    """Return the training rows, and which classes are learned of and which are held out.

    Rows of validation and test are not read, so that whoever adapts the encoder to these data can be measured on them.

    Args:
        settings: the groups `data` and `meta`, and the seed, count.
        screen: where progress is shown.

    Raises:
        UserError: for data that cannot be used, of another kind than one class a text, or of too few classes.
    """
    with screen.busy("reading data"):
        store = store_of_rows(settings.cache, screen.tell)
        corpus = load_corpus(settings.data, seed=settings.seed, store=store)
    task, train = corpus.task, corpus.splits["train"]
    if task.problem != "single_label":
        raise UserError(f"{corpus.source}: meta needs texts of one class each, and this is {task.problem}")
    if train.targets.ndim != 1:
        raise UserError(f"{corpus.source}: meta needs texts of one class each, and these have several with shares")
    if task.pair:
        raise UserError(f"{corpus.source}: meta compares single texts, these are pairs; set data.columns.text_pair=''")
    if (train.weights != train.weights[0]).any():
        raise UserError(
            f"{corpus.source}: episodes draw rows, they weigh none: set data.columns.weight='' and "
            "data.class_weights=none"
        )
    corpus.splits = {"train": train}
    return corpus, divide(train.targets, len(task.labels), settings.meta, seed=settings.seed)
