"""The data of one of several tasks; tasks that are label columns of the same file share their splits."""

from __future__ import annotations

import dataclasses
import shlex

from nlp_transfer import config
from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.composing.words import key_and_value
from nlp_transfer.data.corpus import ReadCorpus, divide_corpus, read_corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings, Settings


def read_member(settings: Settings) -> ReadCorpus:
    """Read the data of one task of a multitask training, with the splits that the training used.

    Args:
        settings: of the task's run. Among the `multitask.tasks` from the same file, the first determines the splits.

    Raises:
        UserError: see ``corpus.load_corpus``.
    """
    store = store_of_rows(settings.cache)
    own = read_corpus(settings.data, store=store)
    same_file = [task for task in settings.multitask.tasks if path_and_words(task)[0] == settings.data.path]
    first = data_of(settings, same_file[0]) if same_file else settings.data
    if first == settings.data:
        return divide_corpus(own, first, seed=settings.seed)
    return divided_alike(divide_corpus(read_corpus(first, store=store), first, seed=settings.seed), own, settings.data)


def divided_alike(first: ReadCorpus, read: ReadCorpus, data: DataSettings) -> ReadCorpus:
    """Split rows like those of another task from the same file: no task trains on texts measured for another."""
    rows = {
        split: read.rows[split if split in read.rows else "train"].take(part.numbers)
        for split, part in first.rows.items()
    }
    share = None if "validation" in rows else 0.0
    plain = dataclasses.replace(data, train_limit=None, per_class=None, validation_limit=None, validation_share=share)
    return divide_corpus(dataclasses.replace(read, rows=rows), plain, seed=0)


def path_and_words(task: str) -> tuple[str, list[str]]:
    """Split an entry of `multitask.tasks` into its path and its key=value words.

    Raises:
        UserError: for words outside the `data` group.
    """
    if expanded(task).exists():
        return task, []
    try:
        path, *words = shlex.split(task)
    except ValueError:
        raise UserError(f"multitask.tasks: {task!r} names no file") from None
    for word in words:
        if not word.startswith("data."):
            raise UserError(f"multitask.tasks: {word!r} in {task!r} applies to all tasks: write it outside the list")
        if word.startswith("data.label_texts"):
            raise UserError(f"multitask.tasks: {word!r} in {task!r} is for a run of one task; leave it out")
    return path, words


def data_of(settings: Settings, entry: str) -> DataSettings:
    """Return the `data` group of a task: the shared one with the task's own words."""
    path, words = path_and_words(entry)
    plain = config.to_plain(settings)
    for key, value in map(key_and_value, words):
        *groups, name = key.split(".")
        group = plain
        for each in groups:
            group = group.setdefault(each, {})
        group[name] = value
    return read_from(config.from_plain(plain).data, path)


def read_from(data: DataSettings, path: str | None) -> DataSettings:
    """Return the settings with `path` as the only data source; None: no source yet."""
    return dataclasses.replace(data, path=path, embedded=None, train=None, validation=None, test=None, hub=None)
