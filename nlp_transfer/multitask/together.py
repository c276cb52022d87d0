"""The multitask run: from settings to a saved and measured model for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from accelerate.utils import broadcast_object_list

from nlp_transfer.encoder.fingerprint import parameters_digest
from nlp_transfer.errors import about
from nlp_transfer.multitask.heads import Heads
from nlp_transfer.multitask.joint import JointTraining
from nlp_transfer.multitask.outcome import MultitaskOutcome, TaskResult
from nlp_transfer.multitask.union import TRAIN, Union, union_of
from nlp_transfer.running import tracking
from nlp_transfer.running.fitting import apply_decision_settings
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.head import refit_head
from nlp_transfer.running.learning import fit_decision, start_head
from nlp_transfer.running.measurement import Comparisons
from nlp_transfer.running.plan import Plan, plan_of, render
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.resume import interruptible
from nlp_transfer.running.reuse import check_model, reuse
from nlp_transfer.running.run import save_and_evaluate
from nlp_transfer.running.trained import Trained, train
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.training.loop import Checkpointing
from nlp_transfer.training.state import preserved_random_state

if TYPE_CHECKING:
    from nlp_transfer.multitask.task_set import Member, TaskSet
    from nlp_transfer.settings import Settings, TrainingSettings
    from nlp_transfer.terminal.console import Screen

_FRESH = Checkpointing(None, lambda: False, lambda _: None)


@dataclass(frozen=True)
class TaskFolders:
    """The folders of a multitask training.

    Attributes:
        union: the tasks, merged.
        folder: of the training.
        folders: of each task's run, within it.
    """

    union: Union
    folder: RunFolder
    folders: list[RunFolder]

    def is_finished(self, settings: Settings) -> bool:
        """Return whether the training and all tasks are finished, so that they can be read back."""
        return not settings.overwrite and self.folder.is_finished and all(each.is_whole for each in self.folders)

    def outcome(self) -> MultitaskOutcome:
        """Return the results of all tasks."""
        results = [_task_result(*each) for each in zip(self.union.members, self.folders, strict=True)]
        return MultitaskOutcome(self.folder.path, results)


def task_folders(task_set: TaskSet) -> TaskFolders:
    """Return the folders of a multitask training, finished or not.

    Raises:
        UserError: for decision rules that do not apply to a task, and for a folder of a training on other data.
    """
    members = []
    for each in task_set.members:
        with about(f"the task {each.name!r}"):
            members.append(
                dataclasses.replace(each, corpus=apply_decision_settings(each.corpus, each.settings.decision))
            )
    union = union_of(members)
    folder = RunFolder.of(task_set.settings, union.corpus)
    folders = [RunFolder.of(each.inside(folder.path, task_set.settings.multitask), each.corpus) for each in members]
    return TaskFolders(union, folder, folders)


@preserved_random_state()
def adapt_together(task_set: TaskSet, screen: Screen) -> MultitaskOutcome:
    """Adapt one encoder to several tasks at once; every task gets a complete run folder.

    Args:
        task_set: see ``task_set.read_tasks``.
        screen: where progress is shown.

    Returns:
        The results of all tasks; those finished earlier with the same configuration and data are read back.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
        Stopped: by a signal; finished work is saved.
    """
    place = task_folders(task_set)
    settings = task_set.settings
    if place.is_finished(settings):
        return _read_back(place, settings, screen)
    with screen.busy("loading the encoder"):
        prepared, plan = _prepare(settings, place)
    render(plan, screen.console)
    claimed = place.folder.claim(lambda: place.is_finished(settings))
    with claimed as ours, interruptible(place.folder, screen.tell):
        if not ours:
            return _read_back(place, settings, screen)
        _adapt(settings, prepared, plan, place, screen)
    return place.outcome()


def _read_back(place: TaskFolders, settings: Settings, screen: Screen) -> MultitaskOutcome:
    """Read back finished tasks, after checking their models, and their data and encoder for changes."""
    for folder in place.folders:
        check_model(folder)
    reuse(place.folder, settings, place.union.corpus, screen)
    return place.outcome()


def as_long_as_alone(settings: TrainingSettings, rows: Sequence[int]) -> TrainingSettings:
    """Return training settings that give each task as many steps as alone, unless `epochs` is set.

    The batch size is that of the largest task.

    Args:
        settings: of the training.
        rows: the number of training rows of each task.
    """
    settings = dataclasses.replace(settings, batch_size=batch_size(max(rows), settings))
    if settings.epochs is not None:
        return settings
    unbounded = dataclasses.replace(settings, min_steps=0, max_steps=None)
    steps = sum(planned_steps(each, unbounded) for each in rows)
    return dataclasses.replace(settings, min_steps=max(settings.min_steps, steps))


def _prepare(settings: Settings, place: TaskFolders) -> tuple[Prepared, Plan]:
    """Prepare a run with the outputs of all tasks; return it with its plan."""
    union = place.union
    evaluation = dataclasses.replace(settings.evaluation, metric="auto")  # each task has its own metric
    training = as_long_as_alone(settings.training, union.rows)
    joint = dataclasses.replace(settings, evaluation=evaluation, training=training)
    prepared = prepare(joint, union.corpus, place.folder.path)
    rows = {
        split: sum(len(each.corpus.splits[split]) for each in union.members if split in each.corpus.splits)
        for split in union.corpus.splits
    }
    multitask, trains = settings.multitask, prepared.strategy.trains
    sampling = multitask.sampling
    if sampling == "temperature":
        sampling = f"temperature {multitask.temperature:g}"
    balance = f", weighed by {multitask.balance}" if multitask.balance != "none" else ""
    plan = dataclasses.replace(
        plan_of(prepared, place.folder.path),
        problem=f"{len(union.members)} tasks",
        examples=rows,
        objective="classify, each task by its own labels" + (f"; sampling: {sampling}{balance}" if trains else ""),
        steps=planned_steps(rows[TRAIN], training) if trains else 0,
    )
    return prepared, plan


def _adapt(settings: Settings, prepared: Prepared, plan: Plan, place: TaskFolders, screen: Screen) -> None:
    """Train, then finish every unfinished task, in a folder that is locked against other processes."""
    union, folder = place.union, place.folder
    restart = settings.overwrite or settings.resume == "never"
    joint = JointTraining(union, Heads(prepared, union))
    trained = train(settings, prepared, plan, folder, screen, learn=joint.learn)
    # Identifies this training: if rows of one task change, finished runs of the others are outdated too.
    weights = parameters_digest(prepared.classifier.model)
    identity = {"fingerprint": union.corpus.fingerprint, "weights": weights}
    # Decided by the first rank, since the others would read while it writes.
    is_done: list[bool] = broadcast_object_list(
        [not restart and each.is_whole and each.result().get("together") == identity for each in place.folders]
    )
    with reading(screen, "reading the texts of all tasks"):
        features = {split: prepared.current_features(split) for split in union.corpus.splits}
    for number, task_folder in enumerate(place.folders):
        if is_done[number]:
            continue
        screen.console.print(f"task {union.members[number].name}", style="bold")
        with task_folder.locked():
            part = _trained_part(joint, trained, number, features, task_folder, screen)
            save_and_evaluate(part, task_folder, screen, Comparisons(), together=identity)
        prepared.accelerator.wait_for_everyone()
    source = prepared.classifier.source
    folder.finish(
        place.outcome(),
        data={"source": union.corpus.source, "fingerprint": union.corpus.fingerprint},
        encoder={"name": source.name, "sha256": source.sha256},
        steps=trained.trajectory.steps,
        kept_step=trained.trajectory.kept_step,
        skipped=trained.trajectory.skipped,
        seconds=round(trained.seconds, 3),
    )
    tracking.close(prepared.accelerator)
    prepared.accelerator.wait_for_everyone()


def _trained_part(
    joint: JointTraining,
    trained: Trained,
    number: int,
    features: dict[str, np.ndarray],
    folder: RunFolder,
    screen: Screen,
) -> Trained:
    """Begin the folder of one task, and return its model with its trained or newly fitted head and decision rules."""
    member, whole = joint.union.members[number], trained.prepared
    joint.heads.put_slice(number)
    part = joint.heads.part(number, features)
    plan = plan_of(part, folder.path)
    plan = dataclasses.replace(plan, steps=trained.plan.steps, batch_size=trained.plan.batch_size)
    folder.begin(member.inside(folder.path.parent, whole.settings.multitask), plan)
    if not whole.strategy.trains:
        start_head(part, screen, _FRESH)
    else:
        joint.units[number].unscale_output(part)
        if whole.strategy.head_last:
            refit_head(part, least=joint.penalties[number])
    fitted = fit_decision(part, screen)
    return dataclasses.replace(trained, prepared=part.with_task(fitted.task), plan=plan, fitted=fitted)


def _task_result(member: Member, folder: RunFolder) -> TaskResult:
    report = folder.report()
    return TaskResult(
        name=member.name,
        folder=folder.path,
        rows=len(member.corpus.splits[TRAIN]),
        split=report.split,
        metric=report.metric,
        together=report.rows[0].intervals[report.metric],
        verdict=report.verdict,
    )
