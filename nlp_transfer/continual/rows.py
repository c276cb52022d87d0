"""The data of a run, and for a continual run the replayed rows, which are appended to its training rows.

If the earlier run was itself continual, its rows include those it replayed, so that rows of the first of several tasks
may be replayed in the last. ``multitask.rows`` reads tasks that are learned at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.continual.base import Base
from nlp_transfer.continual.checks import check_absent
from nlp_transfer.data import corpus
from nlp_transfer.data.corpus import Corpus, ReadCorpus
from nlp_transfer.data.keys import rows_where
from nlp_transfer.data.splits import draw_evenly
from nlp_transfer.data.task import Task, unseen, unseen_message
from nlp_transfer.errors import UserError
from nlp_transfer.multitask.rows import read_member
from nlp_transfer.settings import DATA_FILES, DataSettings, Settings
from nlp_transfer.wording import counted

# Settings that `continual.data` replaces; the order of labels is that of the model.
_SOURCE_KEYS = ("embedded", *DATA_FILES, "hub", "subset", "revision", "hub_rows", "order")
_FORMAT_KEYS = ("columns", "problem", "label_columns", "label_separator", "encoding", "delimiter", "empty")


def load(settings: Settings, *, data: Any = None, tell: Callable[[str], None] = lambda _: None) -> Corpus:
    """Load the data of a run; see ``corpus.load_corpus``.

    Args:
        settings: of the run.
        data: rows from Python instead of the source named in the settings.
        tell: callback for progress messages, see ``store.build_folder``.

    Raises:
        UserError: see `load_corpus`; for a base model that is invalid, was adapted to another problem, or whose rows
            cannot be read.
    """
    loaded = corpus.encode_corpus(read(settings, data=data, tell=tell), settings.data)
    if settings.continual.used:
        check_absent(settings, loaded.absent_labels)
    return loaded


def own_rows(settings: Settings, task: Task, *, data: Any = None) -> Corpus:
    """Load a continual run's own rows, without replayed ones; the earlier run is not needed for that.

    Without `continual.replay` these are all its training rows.

    Args:
        settings: of a finished continual run.
        task: the task it learned, including the labels it kept.
        data: see `load`.

    Raises:
        UserError: see ``corpus.load_corpus``.
    """
    assert settings.continual.used
    known = task.labels if settings.continual.keeps_labels else ()
    # Class weights need a row of every label, and do not matter for rows that are only measured.
    weights = "none" if settings.continual.replay else settings.data.class_weights
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, class_weights=weights))
    return corpus.encode_corpus(_read(settings, data=data, known=known), settings.data)


def read(settings: Settings, *, data: Any = None, tell: Callable[[str], None] = lambda _: None) -> ReadCorpus:
    """Read the rows of a run, not encoded yet; see `load`."""
    if settings.multitask.used and data is None:
        return read_member(settings)
    if not settings.continual.used:
        return _read(settings, data=data, tell=tell)
    base = Base.of(settings)
    known = base.task.labels if settings.continual.keeps_labels else ()
    own = _read(settings, data=data, known=known, tell=tell)
    base.check_task(own.task)
    own = dataclasses.replace(own, notes=[*own.notes, *_unknown_split_notes(settings, base)])
    return _with_replay(own, base, settings) if settings.continual.replay else own


def earlier(settings: Settings, base: Base) -> ReadCorpus:
    """Read the rows of the earlier task, from `continual.data` or as the run that made the model did.

    Raises:
        UserError: if they cannot be read.
    """
    if settings.continual.data is not None:
        return _read_continual_data(settings, base)
    before = base.run_settings
    if not before.data.source:
        raise UserError(
            f"{base.name} was trained on rows passed from Python: name a file or folder that has them with "
            "continual.data=..."
        )
    return read(before)


def _read_continual_data(settings: Settings, base: Base) -> ReadCorpus:
    """Read the rows of `continual.data` with the format and splits of the run that made the model.

    So rows of the same file that were measured then do not become training rows now. If that run is unknown, they are
    read in the format of this run, and split as usual.
    """
    source: dict[str, Any] = dict.fromkeys(_SOURCE_KEYS) | {"path": settings.continual.data}
    base_settings = base.known_run_settings
    if base_settings is not None:
        data, seed = dataclasses.replace(base_settings.data, **source), base_settings.seed
    else:
        formats = {key: getattr(settings.data, key) for key in _FORMAT_KEYS}
        data, seed = DataSettings(path=settings.continual.data, **formats), settings.seed
    return _read(dataclasses.replace(settings, data=data, seed=seed), known=base.task.labels)


def _unknown_split_notes(settings: Settings, base: Base) -> list[str]:
    """Return a note if it is unknown which rows of `continual.data` the model was trained on."""
    if settings.continual.data is None or base.known_run_settings is not None:
        return []
    return [
        f"continual.data={settings.continual.data} is split with the default settings, because {base.name} has no run "
        "folder: its test rows may be replayed, and its training rows may be measured"
    ]


def _read(
    settings: Settings,
    *,
    data: Any = None,
    known: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> ReadCorpus:
    store = store_of_rows(settings.cache, tell)
    return corpus.divide_corpus(  # no variable holds the rows read, so that they can be freed during the split
        corpus.read_corpus(settings.data, data=data, known=known, store=store), settings.data, seed=settings.seed
    )


def _with_replay(own: ReadCorpus, base: Base, settings: Settings) -> ReadCorpus:
    """Append a class-balanced sample of the earlier task's training rows that are not among the run's own rows."""
    before = earlier(settings, base)
    base.check_task(before.task)
    pool = before.rows["train"]
    if foreign := unseen(pool.labels, own.task.labels):
        message = unseen_message(pool.labels, foreign, own.task.labels, pool.where)
        hint = "" if settings.continual.keeps_labels else "; or keep what the model knows with continual.labels=all"
        raise UserError(f"continual.replay: {message}{hint}")
    is_own = np.any([pool.keys.among(part.keys) for part in own.rows.values()], axis=0)
    pool = pool.take(rows_where(~is_own))
    sampled = draw_evenly(pool, settings.continual.replay, seed=settings.seed, problem=own.task.problem)
    if not sampled:
        raise UserError(
            f"continual.replay: all training rows of {before.source} are among the rows of this run already"
        )
    note = f"replayed: {len(sampled):,} of {counted(len(pool), 'row')} of {before.source}, as many of each label"
    train = own.rows["train"].followed_by(pool.take(sampled), "replayed-")
    return dataclasses.replace(own, rows=own.rows | {"train": train}, notes=[*own.notes, note], replayed=len(sampled))
