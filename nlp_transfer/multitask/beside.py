"""Measurement of the gain from multitask training: against training each task alone, and in pairs of tasks."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.comparing.scores import PairedTest, TrialScores, holm
from nlp_transfer.comparing.trial import TrialOutputs
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import intervals
from nlp_transfer.machine.disk import remove, write_json, write_whole
from nlp_transfer.machine.launch import is_main
from nlp_transfer.multitask.outcome import TOGETHER, MultitaskGain, MultitaskOutcome
from nlp_transfer.multitask.together import adapt_together, task_folders
from nlp_transfer.predicting.predict import load_predictor
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.reuse import check_encoder
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import Settings, TrackingSettings

if TYPE_CHECKING:
    from nlp_transfer.multitask.task_set import Member, TaskSet
    from nlp_transfer.terminal.console import Screen

ALONE = "no other task"
_ANSWERS = "answers.safetensors"
_ALL = "all"  # the number of labels: every training uses all rows


def compare_with_alone(task_set: TaskSet, outcome: MultitaskOutcome, screen: Screen) -> MultitaskOutcome:
    """Run the trainings that `multitask.beside` asks for, and return the outcome with the gains over single tasks.

    These trainings lie in the folder of the multitask run, and finished ones are not repeated. Their predictions for
    the measured rows are saved, but not their models.

    Args:
        task_set: the tasks.
        outcome: of the multitask training.
        screen: where progress is shown.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
        Stopped: by a signal; finished work is saved.
    """
    if task_set.beside == "none":
        return outcome
    answers = {}
    for member, task in zip(task_set.members, outcome.tasks, strict=True):
        alone = _train_alone(member, outcome.folder, screen)
        answers[member.name] = {TOGETHER: _answers(member, task.folder), ALONE: alone}
    for one, other in itertools.combinations(task_set.members, 2) if task_set.beside == "pairs" else ():
        if len(task_set.members) == 2:
            both = [answers[each.name][TOGETHER] for each in (one, other)]
        else:
            both = _train_pair(task_set, (one, other), outcome.folder, screen)
        answers[one.name][other.name], answers[other.name][one.name] = both
    outcome = dataclasses.replace(outcome, gains=_gains(task_set, answers))
    with RunFolder(outcome.folder).os_errors_reported():
        write_whole(outcome.folder / "beside.json", lambda making: write_json(making, outcome.to_json()))
    return outcome


def _train_alone(member: Member, folder: Path, screen: Screen) -> TrialOutputs:
    settings = _quiet(dataclasses.replace(member.settings, output=str(folder / "alone")))
    run_folder = RunFolder.of(settings, member.corpus)
    if not _has_answers(run_folder, settings, screen.tell):
        screen.console.print(f"task {member.name} alone", style="bold")
        adapt(settings, corpus=member.corpus, screen=screen)
    answers = _answers(member, run_folder.path, save_answers=True)
    _remove_models(run_folder.path)
    return answers


def _train_pair(task_set: TaskSet, pair: tuple[Member, Member], folder: Path, screen: Screen) -> list[TrialOutputs]:
    """Train two tasks together, without the others, and return the answers of each."""
    pair_set = task_set.only([each.name for each in pair])
    pair_set = dataclasses.replace(
        pair_set,
        settings=_quiet(dataclasses.replace(pair_set.settings, output=str(folder / "pairs"))),
        members=[dataclasses.replace(each, settings=_quiet(each.settings)) for each in pair_set.members],
    )
    place = task_folders(pair_set)
    if not all(_has_answers(each, pair_set.settings, screen.tell) for each in place.folders):
        screen.console.print(f"tasks {' and '.join(each.name for each in pair)}", style="bold")
        adapt_together(pair_set, screen)
    folders = [each.path for each in place.folders]
    answers = [_answers(*each, save_answers=True) for each in zip(pair, folders, strict=True)]
    _remove_models(*folders)  # only now that both answers are saved, or the pair would have to be trained again
    return answers


def _quiet(settings: Settings) -> Settings:
    """Return settings for the same training without verification, tracking, baselines and report."""
    return dataclasses.replace(
        settings,
        verify=False,
        tracking=TrackingSettings(),
        evaluation=dataclasses.replace(settings.evaluation, floors=False),
        report=dataclasses.replace(settings.report, write=False),
    )


def _has_answers(folder: RunFolder, settings: Settings, tell: Callable[[str], None]) -> bool:
    """Return whether a finished training has saved its answers."""
    if settings.overwrite or not folder.is_finished or not (folder.path / _ANSWERS).is_file():
        return False
    check_encoder(folder, settings.encoder, tell)
    return True


def _answers(member: Member, folder: Path, *, save_answers: bool = False) -> TrialOutputs:
    """Return the outputs of a task's saved model for its measured rows, or read saved ones if the model was removed.

    Args:
        member: the task.
        folder: of a run.
        save_answers: whether to save the outputs, so that the model can be removed.

    Raises:
        UserError: naming the file, if it is damaged or cannot be written.
    """
    path, rows = folder / _ANSWERS, member.corpus.splits[member.corpus.reported_split]
    if not (folder / "model").is_dir() and path.is_file():
        try:
            with safe_open(path, "np") as saved:
                task = Task.from_json(json.loads(saved.metadata()["task"]))
                return TrialOutputs(task, saved.get_tensor("logits"))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete {folder} to repeat it") from error
    predictor = load_predictor(folder, member.settings)
    answers = TrialOutputs(predictor.record.task, predictor.logits(rows.texts, rows.pairs))
    if save_answers and is_main():
        content = save({"logits": answers.logits}, {"task": json.dumps(answers.task.to_json())})
        with RunFolder(folder).os_errors_reported():
            write_whole(path, lambda making: making.write_bytes(content))
    return answers


def _remove_models(*folders: Path) -> None:
    """Remove models whose answers are saved."""
    for folder in folders if is_main() else ():
        remove(folder / "model")


def _gains(task_set: TaskSet, answers: Mapping[str, Mapping[str, TrialOutputs]]) -> list[MultitaskGain]:
    """Compare each training of a task with the task alone; tests of all tasks, and of all pairs, are Holm-corrected."""
    families: dict[bool, list[tuple[str, str, int, PairedTest]]] = {True: [], False: []}
    for member in task_set.members:
        settings, theirs = member.settings, answers[member.name]
        scores = TrialScores(
            examples=member.corpus.splits[member.corpus.reported_split],
            metric=member.metric,
            answers={Trial(name, _ALL, settings.seed): each for name, each in theirs.items()},
            bootstrap=intervals.Bootstrap.of(settings.evaluation, seed=settings.seed),
        )
        for name in theirs:
            if name != ALONE:
                (test,) = scores.paired_tests([(name, ALONE, _ALL)])
                families[name == TOGETHER].append((member.name, name, scores.sign, test))
    gains = []
    for family in families.values():
        adjusted = holm([test.p for *_, test in family])
        for (task, teacher, sign, test), p in zip(family, adjusted, strict=True):
            is_significant = p < 1 - task_set.settings.evaluation.confidence
            result = intervals.outcome(test.difference, sign) if is_significant else "no evidence"
            gains.append(MultitaskGain(task, teacher, test.difference, p, result))
    return gains
