"""Several tasks from settings to a saved, measured model for each: the order in which the parts meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from accelerate.utils import broadcast_object_list

from nlp_transfer.decision.fitting import deciding
from nlp_transfer.encoder.fingerprint import weights_digest
from nlp_transfer.errors import about
from nlp_transfer.multitask.heads import Heads
from nlp_transfer.multitask.joint import Joint
from nlp_transfer.multitask.outcome import Learned, Outcome
from nlp_transfer.multitask.union import TRAIN, Union, union_of
from nlp_transfer.running import tracking
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.head import refit_head
from nlp_transfer.running.learning import fit_decision, start_head
from nlp_transfer.running.plan import render
from nlp_transfer.running.preparation import Prepared, prepare
from nlp_transfer.running.reuse import check_model, reuse
from nlp_transfer.running.run import conclude
from nlp_transfer.running.trained import train
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.training.loop import Saving
from nlp_transfer.training.state import preserved_random_state

if TYPE_CHECKING:
    from nlp_transfer.multitask.task_set import Member, TaskSet
    from nlp_transfer.settings import Settings, TrainingSettings
    from nlp_transfer.terminal.console import Screen

_FRESH = Saving(None, lambda: False, lambda _: None)


@dataclass(frozen=True)
class TaskFolders:
    """Where tasks that learn together lie.

    Attributes:
        union: the tasks as one.
        folder: of the training.
        folders: of the run of each task, in it.
    """

    union: Union
    folder: RunFolder
    folders: list[RunFolder]

    def is_there(self, settings: Settings) -> bool:
        """Return whether nothing is left to be done, so that the tasks are read back instead of learned."""
        return not settings.overwrite and self.folder.is_finished and all(each.is_whole for each in self.folders)

    def outcome(self) -> Outcome:
        """Return how the tasks fare."""
        return Outcome(
            self.folder.path, [_learned(*each) for each in zip(self.union.members, self.folders, strict=True)]
        )


def task_folders(task_set: TaskSet) -> TaskFolders:
    """Return where tasks lie, whether they have learned already or not.

    Raises:
        UserError: for rules of decision that do not suit a task, and where other data was learned from there.
    """
    members = []
    for each in task_set.members:
        with about(f"the task {each.name!r}"):
            members.append(dataclasses.replace(each, corpus=deciding(each.corpus, each.settings.decision)))
    union = union_of(members)
    folder = RunFolder.of(task_set.settings, union.corpus)
    own = [each.inside(folder.path, task_set.settings.multitask) for each in members]
    folders = [RunFolder.of(settings, each.corpus) for settings, each in zip(own, members, strict=True)]
    return TaskFolders(union, folder, folders)


@preserved_random_state()
def adapt_together(task_set: TaskSet, screen: Screen) -> Outcome:
    """Adapt one encoder to several tasks at once; every task gets a run folder, saved, measured and described.

    Args:
        task_set: see ``task_set.read_tasks``.
        screen: where progress is shown.

    Returns:
        How each fares; what is finished of the same configuration and data is read back instead of done again.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
        Stopped: by a signal; what was reached is committed.
    """
    place = task_folders(task_set)
    settings = task_set.settings
    if place.is_there(settings):
        return _read_back(place, settings, screen)
    with screen.busy("loading the encoder"):
        prepared = _prepared(settings, place)
    render(prepared.plan, screen.console)
    with place.folder.claim(lambda: place.is_there(settings)) as ours:
        if not ours:
            return _read_back(place, settings, screen)
        _adapt(settings, prepared, place, screen)
    return place.outcome()


def _read_back(place: TaskFolders, settings: Settings, screen: Screen) -> Outcome:
    """Return how the tasks fare, whose models are whole, compared with what there is now of what they learned from."""
    for own in place.folders:
        check_model(own)
    reuse(place.folder, settings, place.union.corpus, screen)
    return place.outcome()


def as_long_as_alone(settings: TrainingSettings, rows: Sequence[int]) -> TrainingSettings:
    """Return the training in which each task has the steps that it would have alone, where nobody says how many.

    A step has as many examples as one of the largest task would have.

    Args:
        settings: of the training.
        rows: of each task.
    """
    settings = dataclasses.replace(settings, batch_size=batch_size(max(rows), settings))
    if settings.epochs is not None:
        return settings
    free = dataclasses.replace(settings, min_steps=0, max_steps=None)
    alone = sum(planned_steps(each, free) for each in rows)
    return dataclasses.replace(settings, min_steps=max(settings.min_steps, alone))


def _prepared(settings: Settings, place: TaskFolders) -> Prepared:
    """Put together a run that has the outputs of all tasks, and say in its plan what it is."""
    union = place.union
    # Which metric decides is a matter of each task.
    any_metric = dataclasses.replace(settings.evaluation, metric="auto")
    training = as_long_as_alone(settings.training, union.rows)
    joint = dataclasses.replace(settings, evaluation=any_metric, training=training)
    prepared = prepare(joint, union.corpus, place.folder.path)
    rows = {
        split: sum(len(each.corpus.splits[split]) for each in union.members if split in each.corpus.splits)
        for split in union.corpus.splits
    }
    own, trains = settings.multitask, prepared.strategy.trains
    drawn = f"temperature {own.temperature:g}" if own.sampling == "temperature" else own.sampling
    weighed = f", weighed by {own.balance}" if own.balance != "none" else ""
    prepared.plan = dataclasses.replace(
        prepared.plan,
        problem=f"{len(union.members)} tasks",
        examples=rows,
        objective="classify, each task by its own labels" + (f"; sampling: {drawn}{weighed}" if trains else ""),
        steps=planned_steps(rows[TRAIN], training) if trains else 0,
    )
    return prepared


def _adapt(settings: Settings, prepared: Prepared, place: TaskFolders, screen: Screen) -> None:
    """Train, then finish task by task what is not finished yet, in a folder that nobody else writes to."""
    union, folder = place.union, place.folder
    anew = settings.overwrite or settings.resume == "never"
    joint = Joint(prepared, union, Heads(prepared, union))
    trained = train(settings, prepared, folder, screen, learn=joint.learn)
    # A task that was finished before rows of another one changed is of a training that is no more.
    weights = weights_digest(prepared.classifier.model)
    learned = {"fingerprint": union.corpus.fingerprint, "weights": weights}
    # As the first rank sees it: the others would look while it writes.
    whole: list[bool] = broadcast_object_list(
        [not anew and each.is_whole and each.result().get("together") == learned for each in place.folders]
    )
    with reading(screen, "reading the texts of all tasks"):
        features = {split: prepared.current_features(split) for split in union.corpus.splits}
    for number, own in enumerate(place.folders):
        if whole[number]:
            continue
        screen.console.print(f"task {union.members[number].name}", style="bold")
        with own.locked():
            part = _part(joint, number, features, own, screen)
            fitted = dataclasses.replace(trained, fitted=fit_decision(part, screen))
            conclude(part, fitted, own, screen, together=learned)
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


def _part(joint: Joint, number: int, features: dict[str, np.ndarray], folder: RunFolder, screen: Screen) -> Prepared:
    """Return one task as a run of its own, with the head that was learned or is solved now, and begin its folder."""
    member, strategy = joint.union.members[number], joint.prepared.strategy
    joint.heads.put_slice(number)
    part = joint.heads.part(number, features, folder.path)
    folder.begin(member.inside(folder.path.parent, joint.prepared.settings.multitask), part.plan)
    if not strategy.trains:
        start_head(part, screen, _FRESH)
    else:
        joint.units[number].unscale_output(part)
        if strategy.head_last:
            refit_head(part, least=joint.penalties[number])
    return part


def _learned(member: Member, folder: RunFolder) -> Learned:
    report = folder.report()
    return Learned(
        name=member.name,
        folder=folder.path,
        rows=len(member.corpus.splits[TRAIN]),
        split=report.split,
        metric=report.metric,
        together=report.rows[0].intervals[report.metric],
        verdict=report.verdict,
    )
