"""Several tasks from settings to a saved, measured model for each: the order in which the parts meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from accelerate.utils import broadcast_object_list

from nlp_transfer import tracking
from nlp_transfer.decision.fitting import deciding
from nlp_transfer.encoder.fingerprint import weights_digest
from nlp_transfer.evaluation.report import Report
from nlp_transfer.head import solve_head_again
from nlp_transfer.learning import fit_decision, start_head
from nlp_transfer.multitask.asked import named
from nlp_transfer.multitask.heads import Heads
from nlp_transfer.multitask.joint import Joint
from nlp_transfer.multitask.outcome import Learned, Outcome
from nlp_transfer.multitask.union import TRAIN, Union, union_of
from nlp_transfer.plan import Plan, render
from nlp_transfer.preparation import Prepared, prepare
from nlp_transfer.run import conclude
from nlp_transfer.run_folder import RunFolder
from nlp_transfer.terminal.progress import reading
from nlp_transfer.trained import Trained, train
from nlp_transfer.training.length import planned_steps
from nlp_transfer.training.loop import Saving
from nlp_transfer.training.state import own_numbers

if TYPE_CHECKING:
    from nlp_transfer.multitask.asked import Asked, Member
    from nlp_transfer.settings import Settings, TrainingSettings
    from nlp_transfer.terminal.console import Screen

_FRESH = Saving(None, lambda: False, lambda _: None)


@dataclass(frozen=True)
class Place:
    """Where tasks that learn together lie.

    Attributes:
        union: the tasks as one.
        folder: of the training.
        folders: of the run of each task, in it.
    """

    union: Union
    folder: RunFolder
    folders: list[RunFolder]

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.folder.is_finished and all(map(_is_whole, self.folders))


def located(asked: Asked) -> Place:
    """Return where tasks lie, whether they have learned already or not.

    Raises:
        UserError: for rules of decision that do not suit a task, and where other data was learned from there.
    """
    members = []
    for each in asked.members:
        with named(each.name):
            members.append(dataclasses.replace(each, corpus=deciding(each.corpus, each.settings.decision)))
    union = union_of(members)
    folder = RunFolder.of(asked.settings, union.corpus)
    own = [each.inside(folder.path, asked.settings.multitask) for each in members]
    folders = [RunFolder.of(settings, each.corpus) for settings, each in zip(own, members, strict=True)]
    return Place(union, folder, folders)


@own_numbers()
def adapt_together(asked: Asked, screen: Screen) -> Outcome:
    """Adapt one encoder to several tasks at once; every task gets a run folder, saved, measured and described.

    Args:
        asked: see ``asked.ask``.
        screen: where progress is shown.

    Returns:
        How each fares; what is finished of the same configuration and data is read back instead of done again.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
        Stopped: by a signal; what was reached is committed.
    """
    place = located(asked)
    union, settings, folder, folders = place.union, asked.settings, place.folder, place.folders
    if place.is_finished and not settings.overwrite:
        return _read_back(place, settings, screen)
    with screen.busy("loading the encoder"):
        joint = _prepared(settings, union, folder)
    render(joint.plan, screen.console)
    with folder.locked():
        (there,) = broadcast_object_list([place.is_finished and not settings.overwrite])  # by another process meanwhile
        if there:
            return _read_back(place, settings, screen)
        _adapt(settings, joint, union, folder, folders, screen)
    return _outcome(folder, folders, union.members)


def _read_back(place: Place, settings: Settings, screen: Screen) -> Outcome:
    """Return how the tasks fare, whose models are whole, compared with what there is now of what they learned from."""
    for own in place.folders:
        own.check_model()
    place.folder.check_data(place.union.corpus)
    place.folder.check_encoder(settings.encoder, screen.tell)
    place.folder.tidy()
    screen.console.print(f"{place.folder.path} is finished already; overwrite=true does it again")
    return _outcome(place.folder, place.folders, place.union.members)


def as_long_as_alone(settings: TrainingSettings, rows: Sequence[int]) -> TrainingSettings:
    """Return the training in which each task has the steps that it would have alone, where nobody says how many.

    Args:
        settings: of the training.
        rows: of each task.
    """
    if settings.epochs is not None:
        return settings
    free = dataclasses.replace(settings, min_steps=0, max_steps=None)
    alone = sum(planned_steps(each, free) for each in rows)
    return dataclasses.replace(settings, min_steps=max(settings.min_steps, alone))


def _prepared(settings: Settings, union: Union, folder: RunFolder) -> Prepared:
    """Put together a run that has the outputs of all tasks, and say in its plan what it is."""
    # Which metric decides is a matter of each task.
    any_metric = dataclasses.replace(settings.evaluation, metric="auto")
    training = as_long_as_alone(settings.training, union.rows)
    joint = dataclasses.replace(settings, evaluation=any_metric, training=training)
    prepared = prepare(joint, union.corpus, folder.path)
    rows = {
        split: sum(len(each.corpus.splits[split]) for each in union.members if split in each.corpus.splits)
        for split in union.corpus.splits
    }
    own, trains = settings.multitask, prepared.strategy.trains
    drawn = f"temperature {own.temperature:g}" if own.sampling == "temperature" else own.sampling
    weighed = f", weighed by {own.balance}" if own.balance != "none" else ""
    plan: Plan = dataclasses.replace(
        prepared.plan,
        problem=f"{len(union.members)} tasks",
        examples=rows,
        objective="classify, each task by its own labels" + (f"; sampling: {drawn}{weighed}" if trains else ""),
        steps=planned_steps(rows[TRAIN], training) if trains else 0,
    )
    prepared.plan = plan
    return prepared


def _adapt(
    settings: Settings, prepared: Prepared, union: Union, folder: RunFolder, folders: list[RunFolder], screen: Screen
) -> None:
    """Train, then finish task by task what is not finished yet, in a folder that nobody else writes to."""
    anew = settings.overwrite or settings.resume == "never"
    joint = Joint(prepared, union, Heads(prepared, union))
    trained = train(settings, prepared, folder, screen, learn=joint.learn)
    # A task that was finished before rows of another one changed is of a training that is no more.
    weights = weights_digest(prepared.classifier.model)
    learned = {"fingerprint": union.corpus.fingerprint, "weights": weights}
    # As the first rank sees it: the others would look while it writes.
    whole: list[bool] = broadcast_object_list(
        [not anew and _is_whole(each) and each.result().get("together") == learned for each in folders]
    )
    with reading(screen, "reading the texts of all tasks"):
        features = {split: prepared.features_now(split) for split in union.corpus.splits}
    for number, own in enumerate(folders):
        if whole[number]:
            continue
        screen.console.print(f"task {union.members[number].name}", style="bold")
        with own.locked():
            _finish(joint, number, features, trained, own, settings, screen, learned)
        prepared.accelerator.wait_for_everyone()
    source = prepared.classifier.source
    folder.finish(
        _outcome(folder, folders, union.members),
        data={"source": union.corpus.source, "fingerprint": union.corpus.fingerprint},
        encoder={"name": source.name, "sha256": source.sha256},
        steps=trained.trajectory.steps,
        kept_step=trained.trajectory.kept_step,
        skipped=trained.trajectory.skipped,
        seconds=round(trained.seconds, 3),
    )
    tracking.close(prepared.accelerator)
    prepared.accelerator.wait_for_everyone()


def _finish(
    joint: Joint,
    number: int,
    features: dict[str, np.ndarray],
    trained: Trained,
    folder: RunFolder,
    settings: Settings,
    screen: Screen,
    learned: dict[str, str],
) -> None:
    """Make one task's own run of what was learned: its head, its calibration, its figures, its folder."""
    member, strategy = joint.union.members[number], joint.prepared.strategy
    joint.heads.put_slice(number)
    part = joint.heads.part(number, features, folder.path)
    folder.begin(member.inside(folder.path.parent, settings.multitask), part.plan)
    if not strategy.trains:
        start_head(part, screen, _FRESH)
    else:
        joint.units[number].leave(part)
        if strategy.head_last:
            solve_head_again(part, least=joint.penalties[number])
    own = dataclasses.replace(trained, fitted=fit_decision(part, screen))
    conclude(part.settings, part, own, folder, screen, together=learned)


def _is_whole(folder: RunFolder) -> bool:
    return folder.is_finished and folder.model.is_dir()


def _outcome(folder: RunFolder, folders: list[RunFolder], members: list[Member]) -> Outcome:
    return Outcome(folder.path, [_learned(*each) for each in zip(members, folders, strict=True)])


def _learned(member: Member, folder: RunFolder) -> Learned:
    report: Report = folder.report()
    return Learned(
        name=member.name,
        folder=folder.path,
        rows=len(member.corpus.splits[TRAIN]),
        split=report.split,
        metric=report.metric,
        together=report.rows[0].intervals[report.metric],
        verdict=report.verdict,
    )
