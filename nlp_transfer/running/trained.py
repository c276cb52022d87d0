"""A training in a run folder, from where an earlier process was stopped; it knows nothing of what its model is for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.composing.plain import dotted
from nlp_transfer.machine.launch import is_main
from nlp_transfer.running import resume, tracking
from nlp_transfer.running.learning import learn
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.decision.fitting import FittedRules
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.running.preparation import Prepared
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.training.loop import Saving
    from nlp_transfer.training.state import Trajectory

    Learning = Callable[[Prepared, RunFolder, Screen, Saving], tuple[Trajectory, FittedRules]]


@dataclass(frozen=True)
class Trained:
    """What a training came to; the model itself was changed in place.

    Attributes:
        trajectory: its steps.
        fitted: how outputs become labels.
        seconds: that it took, without what an earlier process did.
    """

    trajectory: Trajectory
    fitted: FittedRules
    seconds: float


def train(
    settings: Settings, prepared: Prepared, folder: RunFolder, screen: Screen, *, learn: Learning = learn
) -> Trained:
    """Train what was prepared, in a folder that is locked.

    Args:
        settings: of the run.
        prepared: its parts.
        folder: of the run; begun here, finished by the caller.
        screen: where progress is shown.
        learn: changes the model; as a run of one task does, unless something else is given.

    Raises:
        UserError: for a checkpoint that cannot be gone on from, a disk that is full, or a training that diverges.
        Stopped: by a signal; what was reached is committed.
    """
    saving = begin_or_resume(settings, prepared, folder, screen)
    tracking.start(prepared.accelerator, settings, folder.path)
    started = time.monotonic()
    try:
        trajectory, fitted = learn(prepared, folder, screen, saving)
    except BaseException:
        with suppress(Exception):  # which would hide why the run ends
            tracking.close(prepared.accelerator)  # W&B's own process would say good-bye on standard output
        raise
    seconds = time.monotonic() - started
    if skipped := trajectory.skipped:
        steps = ", ".join(map(str, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
        screen.tell(
            f"{counted(len(skipped), 'step')} taken back, infinite or not a number in loss or gradient: {steps}"
        )
    return Trained(trajectory, fitted, seconds)


def begin_or_resume(settings: Settings, prepared: Prepared, folder: RunFolder, screen: Screen, **more: Any) -> Saving:
    """Begin a training in a folder that is locked, or where an earlier process was stopped; say which.

    Args:
        settings: of the run.
        prepared: its parts.
        folder: of the run.
        screen: where that is said.
        more: groups of settings that are part of this run, though not of every one, as plain values.

    Raises:
        UserError: for a checkpoint that cannot be gone on from, a full disk, or processes that differ in `more`.
    """
    accelerator = prepared.accelerator
    made_from = resume.origin(
        settings,
        prepared.corpus,
        prepared.classifier.source.weights,
        precision=str(accelerator.mixed_precision),
        lessons=prepared.taught.sha256,
    ) | dotted(more)
    resume.check_alike(made_from)
    # A finished run is done again from nothing: what it may have left is of no use.
    found = None if folder.is_finished else resume.find(settings, folder.checkpoints, made_from)
    commits = resume.Commits(accelerator, folder.checkpoints, settings.checkpoint.seconds, made_from)
    if found:
        for sentence in found.damaged:
            screen.tell(f"passed over: {sentence}")
        screen.tell(f"going on from {found.path}")
    if is_main() and (short := resume.check_room(folder.checkpoints, prepared.classifier.model, settings.training)):
        screen.tell(short)
    in_place = found is not None and found.path.resolve().parent == folder.checkpoints.resolve()
    folder.begin(settings, prepared.plan, resumed=found.snapshot.step if found and in_place else None)
    accelerator.wait_for_everyone()
    return commits.saving(found.snapshot if found else None)
