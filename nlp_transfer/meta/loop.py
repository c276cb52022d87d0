"""The training loop over episodes, with evaluation on validation classes.

It is separate from `training.loop` because an episode may need several passes, but shares its handling of signals,
checkpoints and best weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nlp_transfer.meta.episodes import Episodes
from nlp_transfer.meta.learner import Learner
from nlp_transfer.meta.methods import METHODS
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.keeper import Keeper
from nlp_transfer.training.loop import (
    Checkpointing,
    NotFinite,
    agree_on_stop,
    check_gradients,
    evaluate_and_keep,
    step_if_finite,
    stop_if_requested,
)
from nlp_transfer.training.optimizer import build_optimizer, clip, set_rates
from nlp_transfer.training.placement import release_prepared
from nlp_transfer.training.signals import Stopped, catching_signals
from nlp_transfer.training.state import TrainingState, Trajectory, seed_step
from nlp_transfer.verb_settings import MetaSettings

_EVALUATIONS = 10  # on the validation classes, in addition to the one before the first step


def steps_of(settings: MetaSettings) -> int:
    """Return the number of optimizer steps of a training."""
    return -(-settings.episodes // settings.batch)


def fit(
    learner: Learner,
    groups: Sequence[Group],
    episodes: Episodes,
    *,
    settings: MetaSettings,
    training: TrainingSettings,
    seed: int,
    validation: Validation | None,
    callbacks: Callbacks,
    checkpointing: Checkpointing,
) -> Trajectory:
    """Train in episodes, and leave the best or last weights in the encoder; the initial weights may be the best.

    An episode depends only on the seed and its number, not on the rank that computes it.

    Args:
        learner: the encoder, the same on every rank.
        groups: the trainable parameters.
        episodes: of the training classes.
        settings: the `meta` group.
        training: the `training` group, of which optimizer and schedule are used.
        seed: of the run.
        validation: how weights are evaluated, on other classes; None: they are not.
        callbacks: called as training proceeds.
        checkpointing: writes checkpoints, and holds the one to resume from.

    Raises:
        NotFinite: after `training.max_skipped` skipped steps in a row.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after the step was finished and a checkpoint written.
    """
    accelerator, total = learner.accelerator, steps_of(settings)
    optimizer = accelerator.prepare(build_optimizer(groups, training))
    keeps_best = training.keep == "best" and validation is not None
    keeper = Keeper(higher_is_better=True, keep_best=keeps_best, patience=None)
    trajectory = Trajectory()
    state = TrainingState(learner.parameters, optimizer, None, keeper, trajectory, None)
    if checkpointing.resumed:
        state.restore(checkpointing.resumed)
        learner.refresh()
    else:
        evaluate_and_keep(state, validation, callbacks, is_last=False)
    compute_gradient, every = METHODS[settings.method], max(1, total // _EVALUATIONS)
    learner.extractor.train()
    with catching_signals(callbacks.on_stop) as stop_request:
        for index in range(trajectory.steps, total):
            set_rates(optimizer, training, (index + 0.5) / total)
            numbers = range(index * settings.batch, min((index + 1) * settings.batch, settings.episodes))
            loss = 0.0
            for number in numbers[accelerator.process_index :: accelerator.num_processes]:
                seed_step(seed, number, 0)
                loss += compute_gradient(learner, episodes.draw(number), settings)
                if number == 0:
                    check_gradients(learner.extractor)
                learner.collect()
            loss = learner.share(loss, len(numbers))
            norm = clip(accelerator, optimizer, training.max_grad_norm)
            if not step_if_finite(optimizer, is_finite=math.isfinite(loss) and math.isfinite(norm)):
                trajectory.skipped.append(index + 1)
            optimizer.zero_grad()
            learner.refresh()
            trajectory.steps = index + 1
            rate = optimizer.param_groups[0]["lr"]
            callbacks.on_step(index + 1, total, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
            if trajectory.skipped_in_a_row >= training.max_skipped:
                raise NotFinite(index + 1, episodes.draw(numbers[-1]).whole.rows)
            if (index + 1) % every == 0 or index + 1 == total:
                evaluate_and_keep(state, validation, callbacks, is_last=index + 1 == total)
            due, stop = agree_on_stop(accelerator, due=checkpointing.due(), stop=stop_request.number)
            if due or stop:
                checkpointing.commit(state.capture())
            if stop:
                raise Stopped(stop)
        stop_if_requested(accelerator, stop_request)
    keeper.restore(learner.parameters)
    learner.refresh()
    release_prepared(accelerator, optimizer)
    trajectory.kept_step = keeper.step
    return trajectory
