"""What tasks gain from learning together: each beside its own training alone, and beside every other one by one."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nlp_transfer.comparing.contest import Contest, Duel, holm, outcome
from nlp_transfer.comparing.grid import Trial
from nlp_transfer.comparing.trial import Answers
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import remove, write_json, write_whole
from nlp_transfer.machine.launch import is_main
from nlp_transfer.multitask.outcome import TOGETHER, Gain, Outcome
from nlp_transfer.multitask.together import adapt_together, task_folders
from nlp_transfer.predicting.predict import opened
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.reuse import check_encoder
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import Settings, TrackingSettings

if TYPE_CHECKING:
    from nlp_transfer.multitask.task_set import Member, TaskSet
    from nlp_transfer.terminal.console import Screen

ALONE = "no other task"
_ANSWERS = "answers.safetensors"
_ALL = "all"  # the rows that each of them has


def compared(task_set: TaskSet, found: Outcome, screen: Screen) -> Outcome:
    """Return the outcome with what was asked for beside it; nothing where that is nothing.

    Every training beside it lies in the folder of the whole and is not done again where it is finished. Of these the
    answers to measured rows are kept, and not the models.

    Args:
        task_set: what was learned together.
        found: how that went.
        screen: where progress is shown.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
        Stopped: by a signal; what was reached is committed.
    """
    if task_set.beside == "none":
        return found
    answers = {}
    for member, task in zip(task_set.members, found.tasks, strict=True):
        answers[member.name] = {TOGETHER: _answers(member, task.folder), ALONE: _alone(member, found.folder, screen)}
    for one, other in itertools.combinations(task_set.members, 2) if task_set.beside == "pairs" else ():
        if len(task_set.members) == 2:
            both = [answers[each.name][TOGETHER] for each in (one, other)]
        else:
            both = _pair(task_set, (one, other), found.folder, screen)
        answers[one.name][other.name], answers[other.name][one.name] = both
    found = dataclasses.replace(found, gains=_gains(task_set, answers))
    with RunFolder(found.folder).os_errors_reported():
        write_whole(found.folder / "beside.json", lambda making: write_json(making, found.to_json()))
    return found


def _alone(member: Member, folder: Path, screen: Screen) -> Answers:
    settings = _quiet(dataclasses.replace(member.settings, output=str(folder / "alone")))
    place = RunFolder.of(settings, member.corpus)
    if not _is_kept(place, settings, screen.tell):
        screen.console.print(f"task {member.name} alone", style="bold")
        adapt(settings, corpus=member.corpus, screen=screen)
    found = _answers(member, place.path, keep=True)
    _put_away(place.path)
    return found


def _pair(task_set: TaskSet, pair: tuple[Member, Member], folder: Path, screen: Screen) -> list[Answers]:
    """Return what each of two tasks answers that have learned together, and nothing else with them."""
    own = task_set.only([each.name for each in pair])
    own = dataclasses.replace(
        own,
        settings=_quiet(dataclasses.replace(own.settings, output=str(folder / "pairs"))),
        members=[dataclasses.replace(each, settings=_quiet(each.settings)) for each in own.members],
    )
    place = task_folders(own)
    if not all(_is_kept(each, own.settings, screen.tell) for each in place.folders):
        screen.console.print(f"tasks {' and '.join(each.name for each in pair)}", style="bold")
        adapt_together(own, screen)
    folders = [each.path for each in place.folders]
    found = [_answers(*each, keep=True) for each in zip(pair, folders, strict=True)]
    _put_away(*folders)  # of both the answers are there now: one of them alone would be learned again
    return found


def _quiet(settings: Settings) -> Settings:
    """Return settings under which the same is learned, and nothing made that nobody asks for."""
    return dataclasses.replace(
        settings,
        verify=False,
        tracking=TrackingSettings(),
        evaluation=dataclasses.replace(settings.evaluation, floors=False),
        report=dataclasses.replace(settings.report, write=False),
    )


def _is_kept(folder: RunFolder, settings: Settings, tell: Callable[[str], None]) -> bool:
    """Return whether the answers of a training need not be had again."""
    if settings.overwrite or not folder.is_finished or not (folder.path / _ANSWERS).is_file():
        return False
    check_encoder(folder, settings.encoder, tell)
    return True


def _answers(member: Member, folder: Path, *, keep: bool = False) -> Answers:
    """Return what the saved model of a task answers to the rows that the task is measured on.

    Args:
        member: the task.
        folder: of a run.
        keep: whether the answers are written down, to stay when the model is put away.

    Raises:
        UserError: naming the file, for answers that are damaged, and where the disk does not take them.
    """
    path, rows = folder / _ANSWERS, member.corpus.splits[member.corpus.reported_split]
    if not (folder / "model").is_dir() and path.is_file():
        try:
            with safe_open(path, "np") as kept:
                task = Task.from_json(json.loads(kept.metadata()["task"]))
                return Answers(task, kept.get_tensor("logits"))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); take {folder} away, and it is done again") from error
    predictor = opened(folder, member.settings)
    found = Answers(predictor.record.task, predictor.logits(rows.texts, rows.pairs))
    if keep and is_main():
        content = save({"logits": found.logits}, {"task": json.dumps(found.task.to_json())})
        with RunFolder(folder).os_errors_reported():
            write_whole(path, lambda making: making.write_bytes(content))
    return found


def _put_away(*folders: Path) -> None:
    """Remove models of which the answers are kept."""
    for folder in folders if is_main() else ():
        remove(folder / "model")


def _gains(task_set: TaskSet, answers: Mapping[str, Mapping[str, Answers]]) -> list[Gain]:
    """Return how each training of a task differs from that alone, the tests of one kind corrected together (Holm)."""
    kinds: dict[bool, list[tuple[str, str, int, Duel]]] = {True: [], False: []}
    for member in task_set.members:
        settings, theirs = member.settings, answers[member.name]
        contest = Contest(
            examples=member.corpus.splits[member.corpus.reported_split],
            metric=member.metric,
            answers={Trial(name, _ALL, settings.seed): each for name, each in theirs.items()},
            resamples=settings.evaluation.resamples,
            confidence=settings.evaluation.confidence,
            seed=settings.seed,
        )
        for name in theirs:
            if name != ALONE:
                (duel,) = contest.duels([(name, ALONE, _ALL)])
                kinds[name == TOGETHER].append((member.name, name, contest.sign, duel))
    gains = []
    for of in kinds.values():
        adjusted = holm([duel.p for *_, duel in of])
        for (task, teacher, sign, duel), p in zip(of, adjusted, strict=True):
            clear = p < 1 - task_set.settings.evaluation.confidence
            said = outcome(duel.difference, sign) if clear else "no evidence"
            gains.append(Gain(task, teacher, duel.difference, p, said))
    return gains
