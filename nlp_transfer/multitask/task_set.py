"""The tasks of a multitask training: their settings are checked and their data read before torch is imported.

A task is a file or folder, optionally with words of its own, or one of several label columns of a file.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer import config
from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.checks import check_settings
from nlp_transfer.composing.shipped import locate_recipe
from nlp_transfer.composing.words import from_mapping
from nlp_transfer.data.corpus import Corpus, ReadCorpus, divide_corpus, encode_corpus, read_corpus
from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.sources import check_source
from nlp_transfer.errors import UserError, about
from nlp_transfer.evaluation.decisions import with_rules
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.multitask.checks import check_multitask
from nlp_transfer.multitask.rows import data_of, divided_alike, path_and_words, read_from
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Auto, Finetune
from nlp_transfer.verb_settings import MultitaskSettings

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Screen

_NAME_LENGTH = 60  # characters of the tasks' names in that of the folder


@dataclass(frozen=True)
class Member:
    """A task of a multitask training.

    Attributes:
        name: of the task and its folder.
        settings: of a run of this task alone.
        corpus: its data.
        metric: that decides.
    """

    name: str
    settings: Settings
    corpus: Corpus
    metric: str

    def inside(self, folder: Path, multitask: MultitaskSettings) -> Settings:
        """Return the settings of its run within a multitask training in `folder`."""
        return dataclasses.replace(self.settings, output=str(folder), multitask=multitask)


@dataclass(frozen=True)
class TaskSet:
    """The tasks to train together.

    Attributes:
        settings: shared by all tasks, without `multitask.beside`.
        members: the tasks.
        beside: `multitask.beside`, the trainings to compare with.
    """

    settings: Settings
    members: list[Member]
    beside: str

    def only(self, names: Sequence[str]) -> TaskSet:
        """Return the set of the named tasks only."""
        pairs = zip(self.members, self.settings.multitask.tasks, strict=True)
        selected = [(member, task) for member, task in pairs if member.name in names]
        multitask = dataclasses.replace(self.settings.multitask, tasks=[task for _, task in selected])
        members = [member for member, _ in selected]
        name = "-".join(member.name for member in members)
        return TaskSet(dataclasses.replace(self.settings, name=name, multitask=multitask), members, "none")


def read_tasks(recipe: str | None, words: Sequence[str], screen: Screen, *, tasks: Sequence[str] = ()) -> TaskSet:
    """Compose and check the settings of all tasks, and read their data.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words that all tasks share.
        screen: where progress is shown.
        tasks: see `multitask.tasks`; empty: those of the recipe.

    Raises:
        UserError: for anything in the words or the data that cannot be used.
    """
    settings = _shared(recipe, words)
    entries = _entries(list(tasks) or settings.multitask.tasks, settings)
    strategy, beside = settings.strategy, settings.multitask.beside
    check_multitask(settings)
    if isinstance(strategy, Auto):
        screen.tell("strategy=auto is finetune with several tasks")
        strategy = Finetune()
    multitask = dataclasses.replace(settings.multitask, tasks=list(entries.values()), columns=[], beside="none")
    settings = dataclasses.replace(settings, strategy=strategy, multitask=multitask)
    alone = {
        name: dataclasses.replace(settings, name=name, data=data_of(settings, entry), multitask=MultitaskSettings())
        for name, entry in entries.items()
    }
    for name, each in alone.items():
        with about(f"the task {name!r}"):
            check_source(each.data)
        check_settings(each)
    with screen.busy("reading data"):
        members = _read(alone, screen.tell)
    if len({member.corpus.task.pair for member in members}) > 1:
        pair = next(member.name for member in members if member.corpus.task.pair)
        raise UserError(
            f"the task {pair!r} is of pairs of texts and another one of single texts: one encoder would have to read "
            "both in one way; train them separately"
        )
    if settings.name == config.default_name(settings):
        strategy_name = config.to_plain(settings)["strategy"]["name"]
        settings = dataclasses.replace(settings, name=f"{'-'.join(entries)[:_NAME_LENGTH]}-{strategy_name}")
    return TaskSet(settings, members, beside)


def _shared(recipe: str | None, words: Sequence[str]) -> Settings:
    """Return the settings that all tasks share, without a data source."""
    if named := [word for word in words if word.startswith("data=")]:
        raise UserError(f"{named[0]}: multitask reads files and folders, which are words of their own")
    settings = config.compose(recipe, [*_files(recipe), *words])
    if settings.multitask.tasks and (whole := expanded(settings.output) / "config.yaml").is_file():
        raise UserError(
            f"{recipe} is of one of several tasks, in whose folder {settings.output} another run would lie: name "
            f"{whole}, or set output=..."
        )
    return dataclasses.replace(settings, data=read_from(settings.data, None))


def _files(recipe: str | None) -> list[str]:
    """Return the word that selects files as the data source, unless the recipe is a run's resolved configuration."""
    folder, name = locate_recipe(recipe)
    return [] if config.is_resolved(folder / f"{name}.yaml") else ["data=files"]


def _entries(tasks: Sequence[str], settings: Settings) -> dict[str, str]:
    """Return each task's entry for `multitask.tasks` by the task's name.

    Raises:
        UserError: for fewer than two tasks, and for two with the same name.
    """
    columns = settings.multitask.columns
    if columns and len(tasks) != 1:
        raise UserError(
            f"multitask.columns={list(columns)} are label columns of one file; {len(tasks)} are given: name one file"
        )
    if columns:
        tasks = [f"{shlex.quote(tasks[0])} {shell_word('data.columns.label', column)}" for column in columns]
    if len(tasks) < 2:
        raise UserError(
            "multitask needs two tasks or more: nlp-transfer multitask A.csv B.csv, or one file and "
            "multitask.columns=[emotion,topic]"
        )
    tasks = _self_contained(tasks, settings)
    named: dict[str, str] = {}
    paths = [path_and_words(task)[0] for task in tasks]
    for task, path in zip(tasks, paths, strict=True):
        labels = [word.partition("=")[2] for word in path_and_words(task)[1] if word.startswith("data.columns.label=")]
        is_column = labels and labels[0] != "null" and paths.count(path) > 1
        raw_name = labels[0].strip("\"'") if is_column else _name_of(expanded(path))
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", raw_name)
        if name in named:
            raise UserError(f"two tasks would be called {name!r} ({named[name]}, {task}); rename a file or folder")
        named[name] = task
    return named


def _name_of(path: Path) -> str:
    """Return the name of a file without its ending, or of a folder."""
    path = path if path.name not in ("", "..") else path.resolve()
    return path.name if path.is_dir() else path.stem


def _self_contained(tasks: Sequence[str], settings: Settings) -> list[str]:
    """Let entries of the same file set the same keys, taking missing values from the shared settings.

    Each entry can then be understood without the shared settings.
    """
    parsed, plain, entries = [path_and_words(task) for task in tasks], config.to_plain(settings), []
    for task, (path, words) in zip(tasks, parsed, strict=True):
        own_keys = {word.partition("=")[0] for word in words}
        file_keys = [word.partition("=")[0] for other, theirs in parsed if other == path for word in theirs]
        missing = {}
        for key in (each for each in file_keys if each not in own_keys):
            with suppress(KeyError, TypeError):  # invalid keys are refused when the task that sets them is read
                missing[key] = reduce(getitem, key.split("."), plain)
        entries.append(shlex.join([path, *words, *from_mapping(missing)]) if missing else task)
    return entries


def _read(alone: dict[str, Settings], tell: Callable[[str], None]) -> list[Member]:
    """Read the tasks' data; tasks that are columns of the same file share its splits."""
    members: list[Member] = []
    first: dict[str, ReadCorpus] = {}
    for name, settings in alone.items():
        with about(f"the task {name!r}"):
            data, read = settings.data, read_corpus(settings.data, store=store_of_rows(settings.cache, tell))
            before = first.get(str(data.path))
            rows = (
                divide_corpus(read, data, seed=settings.seed) if before is None else divided_alike(before, read, data)
            )
            first.setdefault(str(data.path), rows)
            corpus = encode_corpus(rows, data)
            corpus = dataclasses.replace(corpus, task=with_rules(corpus.task, settings.decision))
            metric = selection_metric(corpus.task, settings.evaluation.metric)
            members.append(Member(name, settings, corpus, metric))
    return members
