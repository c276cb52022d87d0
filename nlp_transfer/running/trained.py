"""Training in a run folder, resumed from a checkpoint if there is one; the same for one task or several."""

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
    from nlp_transfer.running.fitting import FittedRules
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.running.plan import Plan
    from nlp_transfer.running.prepared import Prepared
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.training.loop import Checkpointing
    from nlp_transfer.training.state import Trajectory

    Learning = Callable[[Prepared, RunFolder, Screen, Checkpointing], tuple[Trajectory, FittedRules]]


@dataclass(frozen=True)
class Trained:
    """A trained model, and how it was trained.

    Attributes:
        prepared: the parts of the run; the model was changed in place, the task has the thresholds that were fitted.
        plan: of the run.
        trajectory: the history of the gradient steps.
        fitted: how outputs become labels.
        seconds: of training in this process.
    """

    prepared: Prepared
    plan: Plan
    trajectory: Trajectory
    fitted: FittedRules
    seconds: float


def train(
    settings: Settings, prepared: Prepared, plan: Plan, folder: RunFolder, screen: Screen, *, learn: Learning = learn
) -> Trained:
    """Train a prepared model, in a folder that is locked.

    Args:
        settings: of the run.
        prepared: the parts of the run.
        plan: of the run.
        folder: of the run; begun here, finished by the caller.
        screen: where progress is shown.
        learn: trains the model; by default that of a run with one task.

    Raises:
        UserError: for a checkpoint that cannot be resumed from, a full disk, or a training that diverges.
        Stopped: by a signal, after a checkpoint was written.
    """
    checkpointing = begin_or_resume(settings, prepared, plan, folder, screen)
    tracking.start(prepared.accelerator, settings, folder.path)
    started = time.monotonic()
    try:
        trajectory, fitted = learn(prepared, folder, screen, checkpointing)
    except BaseException:
        with suppress(Exception):  # it must not hide the error above
            tracking.close(prepared.accelerator)  # else W&B's process prints on standard output
        raise
    seconds = time.monotonic() - started
    if skipped := trajectory.skipped:
        steps = ", ".join(map(str, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
        screen.tell(f"{counted(len(skipped), 'step')} skipped, loss or gradient infinite or not a number: {steps}")
    return Trained(prepared.with_task(fitted.task), plan, trajectory, fitted, seconds)


def begin_or_resume(
    settings: Settings, prepared: Prepared, plan: Plan, folder: RunFolder, screen: Screen, **more: Any
) -> Checkpointing:
    """Begin a training in a folder that is locked, or resume it; show which.

    Args:
        settings: of the run.
        prepared: the parts of the run.
        plan: of the run.
        folder: of the run.
        screen: shows what is resumed.
        more: further settings on which the result depends, as plain values.

    Raises:
        UserError: for a checkpoint that cannot be resumed from, a full disk, or ranks that differ in `more`.
    """
    accelerator = prepared.accelerator
    made_from = resume.origin(
        settings,
        prepared.corpus,
        prepared.classifier.source.weights,
        precision=str(accelerator.mixed_precision),
        auxiliary=prepared.auxiliary.sha256,
    ) | dotted(more)
    resume.check_alike(made_from)
    # A finished run is done again from scratch.
    resumed = None if folder.is_finished else resume.find(settings, folder.checkpoints, made_from)
    writer = resume.CheckpointWriter(accelerator, folder.checkpoints, settings.checkpoint.seconds, made_from)
    if resumed:
        for sentence in resumed.damaged:
            screen.tell(f"passed over: {sentence}")
        screen.tell(f"resuming from {resumed.path}")
    if is_main() and (warning := resume.check_room(folder.checkpoints, prepared.classifier.model, settings.training)):
        screen.tell(warning)
    is_own = resumed is not None and resumed.path.resolve().parent == folder.checkpoints.resolve()
    folder.begin(settings, plan, resumed=resumed.snapshot.step if resumed and is_own else None)
    accelerator.wait_for_everyone()
    return writer.checkpointing(resumed.snapshot if resumed else None)
