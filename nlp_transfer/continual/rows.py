"""The rows of a run that goes on from another one: its own, and behind the training rows some of those of the other.

The rows of a run that itself went on are what it learned from, those that it had replayed among them. So a row of the
first of several tasks may be learned again in the last. Tasks that are learned at once are read in ``multitask.rows``.
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

# What another source of the same kind of rows has of its own; the order of labels is that of the model.
_PLACE = ("embedded", *DATA_FILES, "hub", "subset", "revision", "hub_rows", "order")
_READING = ("columns", "problem", "label_separator", "encoding", "delimiter", "empty")


def load(settings: Settings, *, data: Any = None, tell: Callable[[str], None] = lambda _: None) -> Corpus:
    """Return what a run learns from and is measured on; see ``corpus.load_corpus``.

    Args:
        settings: of the run.
        data: rows from Python instead of the source named in the settings.
        tell: is told what one waits for, see ``store.build_folder``.

    Raises:
        UserError: see `load_corpus`; for a model to go on from that is none, was adapted to another problem, or whose
            rows cannot be had.
    """
    found = corpus.encode_corpus(read(settings, data=data, tell=tell), settings.data)
    if settings.continual.used:
        check_absent(settings, found.absent_labels)
    return found


def alone(settings: Settings, task: Task, *, data: Any = None) -> Corpus:
    """Return the rows of a run that are its own, for which nothing of the run before is needed.

    Without `continual.replay` these are all that it learned from.

    Args:
        settings: of a finished run that went on from another one.
        task: that it learned, with the labels that it was to keep.
        data: see `load`.

    Raises:
        UserError: see ``corpus.load_corpus``.
    """
    assert settings.continual.used
    known = task.labels if settings.continual.keeps_labels else ()
    # Weights that need a row of every label say nothing of rows that are only measured.
    weights = "none" if settings.continual.replay else settings.data.class_weights
    own = dataclasses.replace(settings.data, class_weights=weights)
    return corpus.encode_corpus(_read(dataclasses.replace(settings, data=own), data=data, known=known), own)


def read(settings: Settings, *, data: Any = None, tell: Callable[[str], None] = lambda _: None) -> ReadCorpus:
    """Return the same as rows."""
    if settings.multitask.used and data is None:
        return read_member(settings)
    if not settings.continual.used:
        return _read(settings, data=data, tell=tell)
    base = Base.of(settings)
    known = base.task.labels if settings.continual.keeps_labels else ()
    own = _read(settings, data=data, known=known, tell=tell)
    base.check_task(own.task)
    own = dataclasses.replace(own, notes=[*own.notes, *_divided_anew(settings, base)])
    return _replaying(own, base, settings) if settings.continual.replay else own


def earlier(settings: Settings, base: Base) -> ReadCorpus:
    """Return the rows of the task before: of `continual.data`, or those of the run that made the model.

    Raises:
        UserError: if they cannot be had.
    """
    if settings.continual.data is not None:
        return _given(settings, base)
    before = base.made_by
    if not before.data.source:
        raise UserError(
            f"{base.name} was made from rows that Python gave: name the file or folder that holds them with "
            "continual.data=..."
        )
    return read(before)


def _given(settings: Settings, base: Base) -> ReadCorpus:
    """Return the rows of `continual.data`, read and divided as those were that the model was made from.

    So rows of the same file that were measured then are no training rows now. Where no run says how that was, they are
    read as the rows of this one are, and divided in the usual way.
    """
    place: dict[str, Any] = dict.fromkeys(_PLACE) | {"path": settings.continual.data}
    if base.run is not None:
        data, seed = dataclasses.replace(base.run.data, **place), base.run.seed
    else:
        own = {key: getattr(settings.data, key) for key in _READING}
        data, seed = DataSettings(path=settings.continual.data, **own), settings.seed
    return _read(dataclasses.replace(settings, data=data, seed=seed), known=base.task.labels)


def _divided_anew(settings: Settings, base: Base) -> list[str]:
    """Say where nobody knows which of the given rows the model learned from."""
    if settings.continual.data is None or base.run is not None:
        return []
    return [
        f"continual.data={settings.continual.data} is divided in the usual way, for no run says how {base.name} was "
        "made: rows that it was measured on may be replayed, and rows that it learned from may be measured"
    ]


def _read(
    settings: Settings,
    *,
    data: Any = None,
    known: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> ReadCorpus:
    store = store_of_rows(settings.cache, tell)
    return corpus.divide_corpus(  # with no name for what was read, which goes while it is divided
        corpus.read_corpus(settings.data, data=data, known=known, store=store), settings.data, seed=settings.seed
    )


def _replaying(own: ReadCorpus, base: Base, settings: Settings) -> ReadCorpus:
    """Return rows with some of the task before behind the training rows, none of them one of the others."""
    theirs = earlier(settings, base)
    base.check_task(theirs.task)
    pool = theirs.rows["train"]
    if foreign := unseen(pool.labels, own.task.labels):
        kept = "" if settings.continual.keeps_labels else "; or keep what the model knows with continual.labels=all"
        said = unseen_message(pool.labels, foreign, own.task.labels, pool.where)
        raise UserError(f"continual.replay: {said}{kept}")
    known = np.any([pool.keys.among(part.keys) for part in own.rows.values()], axis=0)
    pool = pool.take(rows_where(~known))
    chosen = draw_evenly(pool, settings.continual.replay, seed=settings.seed, problem=own.task.problem)
    if not chosen:
        raise UserError(
            f"continual.replay: all training rows of {theirs.source} are among the rows of this run already"
        )
    note = f"replayed: {len(chosen):,} of {counted(len(pool), 'row')} of {theirs.source}, as many of each label"
    train = own.rows["train"].followed_by(pool.take(chosen), "replayed-")
    return dataclasses.replace(own, rows=own.rows | {"train": train}, notes=[*own.notes, note], replayed=len(chosen))
