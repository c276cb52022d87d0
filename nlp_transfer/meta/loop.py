"""The loop of episodes: draw, learn, agree, clip, step, and now and then look whether other classes gain by it.

It stands beside `training.loop`, for an episode may need several passes; signals, commits and kept weights are its own
parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nlp_transfer.meta.episodes import Episodes
from nlp_transfer.meta.learner import Learner
from nlp_transfer.meta.methods import METHODS
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.keeper import Keeper
from nlp_transfer.training.loop import NotFinite, Saving, Watch, agreed, check_gradients, look, stop_if_asked, take
from nlp_transfer.training.optimizer import build_optimizer, clip, set_rates
from nlp_transfer.training.placement import let_go
from nlp_transfer.training.signals import Stopped, listening
from nlp_transfer.training.state import TrainingState, Trajectory, seed_step
from nlp_transfer.verb_settings import MetaSettings

_LOOKS = 10  # at the validation classes, beside the one before the first step


def steps_of(settings: MetaSettings) -> int:
    """Return the optimizer steps of a training."""
    return -(-settings.episodes // settings.batch)


def fit(
    learner: Learner,
    groups: Sequence[Group],
    episodes: Episodes,
    *,
    settings: MetaSettings,
    training: TrainingSettings,
    seed: int,
    watch: Watch,
    saving: Saving,
) -> Trajectory:
    """Learn in episodes, and leave the kept weights in the encoder; those before the first step may be the best.

    What an episode draws is a function of (seed, its number), whichever rank it falls to.

    Args:
        learner: the encoder, the same on every rank.
        groups: what learns.
        episodes: of the classes to learn of.
        settings: the `meta` group.
        training: the `training` group, of which optimizer and schedule are read.
        seed: of the run.
        watch: the outside.
        saving: where the run is committed and resumed.

    Raises:
        NotFinite: when `training.max_skipped` steps in a row could not be taken.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after the step was finished and committed.
    """
    accelerator, total = learner.accelerator, steps_of(settings)
    optimizer = accelerator.prepare(build_optimizer(groups, training))
    keeps_best = training.keep == "best" and watch.evaluate is not None
    keeper = Keeper(watch.metric, higher_is_better=watch.higher_is_better, keep_best=keeps_best, patience=None)
    trajectory = Trajectory()
    state = TrainingState(learner.parameters, optimizer, None, keeper, trajectory, None)
    if saving.resumed:
        state.restore(saving.resumed)
        learner.refresh()
    else:
        look(state, watch, last=False)
    learn, every = METHODS[settings.method], max(1, total // _LOOKS)
    learner.reader.train()
    with listening(watch.on_stop) as asked:
        for index in range(trajectory.steps, total):
            set_rates(optimizer, training, (index + 0.5) / total)
            numbers = range(index * settings.batch, min((index + 1) * settings.batch, settings.episodes))
            loss = 0.0
            for number in numbers[accelerator.process_index :: accelerator.num_processes]:
                seed_step(seed, number, 0)
                loss += learn(learner, episodes.draw(number), settings)
                if number == 0:
                    check_gradients(learner.reader)
                learner.collect()
            loss = learner.share(loss, len(numbers))
            norm = clip(accelerator, optimizer, training.max_grad_norm)
            if not take(optimizer, finite=math.isfinite(loss) and math.isfinite(norm)):
                trajectory.skipped.append(index + 1)
            optimizer.zero_grad()
            learner.refresh()
            trajectory.steps = index + 1
            rate = optimizer.param_groups[0]["lr"]
            watch.on_step(index + 1, total, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
            if trajectory.skipped_in_a_row >= training.max_skipped:
                raise NotFinite(index + 1, episodes.draw(numbers[-1]).whole.rows)
            if (index + 1) % every == 0 or index + 1 == total:
                look(state, watch, last=index + 1 == total)
            due, stop = agreed(accelerator, due=saving.due(), stop=asked.number)
            if due or stop:
                saving.commit(state.capture())
            if stop:
                raise Stopped(stop)
        stop_if_asked(accelerator, asked)
    keeper.restore(learner.parameters)
    learner.refresh()
    let_go(accelerator, optimizer)
    trajectory.kept_step = keeper.step
    return trajectory
