"""Training in a run: the head is fitted on frozen features, then all trainable parameters by gradient steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from accelerate.utils import broadcast_object_list
from torch import nn

from nlp_transfer.continual.anchoring import set_anchor
from nlp_transfer.continual.new_outputs import start_new_outputs
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import Task
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.decision.rules import unreachable_risk
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import metrics, thresholds
from nlp_transfer.machine.launch import is_main
from nlp_transfer.objectives.objective import Step
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.running import resume, tracking
from nlp_transfer.running.fitting import FittedRules, fit_rules
from nlp_transfer.running.folder import PACE, PROFILE, RunFolder
from nlp_transfer.running.head import TargetScale, cross_validate, fold_calibration, refit_head, solve_head
from nlp_transfer.running.head_choice import solves_head
from nlp_transfer.running.plan import head_words
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Group
from nlp_transfer.terminal.console import Bar, Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.loop import Checkpointing, NotFinite, TrainingData, fit
from nlp_transfer.training.memory import release_free_memory
from nlp_transfer.training.pace import in_words, rounded
from nlp_transfer.training.passes import NoMemory
from nlp_transfer.training.profile import profiling
from nlp_transfer.training.state import Trajectory
from nlp_transfer.wording import counted


@dataclass(frozen=True)
class TrainingInputs:
    """What gradient steps need beside the parts of the run.

    Attributes:
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch.
        groups: the trainable parameters.
        data: the training rows.
        ids: names of the rows, for error messages.
        validation: how weights are evaluated; None: there are no validation rows.
    """

    step: nn.Module
    groups: Sequence[Group]
    data: TrainingData
    ids: Sequence[str]
    validation: Validation | None


def learn(
    prepared: Prepared, folder: RunFolder, screen: Screen, checkpointing: Checkpointing
) -> tuple[Trajectory, FittedRules]:
    """Train the model in place, and choose how outputs become labels; return the history and that choice.

    Without validation rows nothing is calibrated. Otherwise the task may get a new threshold, too.
    """
    with prepared.skipping_frozen_layers(screen) as shortened:
        penalty = start_head(shortened, screen, checkpointing)
        trajectory = _train(shortened, folder, screen, checkpointing)
        if not prepared.strategy.head_last:
            return trajectory, fit_decision(shortened, screen)
    with reading(screen, "fitting the head on the trained encoder's features"):
        refit_head(prepared, least=penalty)
    return trajectory, fit_decision(prepared, screen)


def fit_decision(prepared: Prepared, screen: Screen) -> FittedRules:
    """Choose on the validation rows, if any, how outputs become labels, and show the choice."""
    validation = prepared.corpus.splits.get("validation")
    if validation is None:
        return FittedRules(prepared.corpus.task)
    with reading(screen, "calibrating on validation"):
        logits = prepared.outputs("validation")
        measured = score(prepared.settings, logits, validation, prepared.corpus.task)
        held = {name: value for name, value in measured.items() if math.isfinite(value)}
        task, calibration = fold_calibration(prepared, logits)
        fitted = dataclasses.replace(fit_rules(prepared.with_task(task), calibration), held=held)
        (fitted,) = broadcast_object_list([fitted])  # ranks may differ in the last bits
    _show_decision(fitted, screen)
    return fitted


def _show_decision(fitted: FittedRules, screen: Screen) -> None:
    task = fitted.task
    if curve := fitted.risk_curve:
        if why := unreachable_risk(task, curve):
            screen.tell(f"warning: {why}")
        else:
            place = curve.least.index(task.abstain_below)
            answered = f"{curve.answered[place]:,} of {counted(curve.rows, 'validation row')}"
            wrong = f"{curve.wrong[place]:,} of these wrongly"
            least = f"abstains below a probability of {task.abstain_below:g}"
            screen.console.print(f"{least}: answers {answered}, {wrong}", style="dim")
    if fitted.novelty:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in fitted.novelty.rehearsed.items())
        chosen = f"AUROC with classes hidden: {figures}" if figures else "validation has too few classes to choose by"
        screen.console.print(f"unknown texts are detected by {fitted.novelty.score} ({chosen})", style="dim")


def start_head(prepared: Prepared, screen: Screen, checkpointing: Checkpointing) -> float:
    """Fit the head on frozen features if the run starts so; return its L2 penalty, 0 if none was chosen."""
    strategy, is_solved = prepared.strategy, starts_solved(prepared, checkpointing)
    if prepared.classifier.known and not is_solved and not checkpointing.resumed:
        with reading(screen, "fitting the head for new labels"):
            start_new_outputs(prepared)
    if not (is_solved or strategy.head_last):
        return 0.0
    with reading(screen, "fitting the head on frozen features"):
        head = solve_head(prepared) if is_solved else cross_validate(prepared, prepared.features("train"))
    release_free_memory()
    if strategy.frozen:
        why = "by cross-validation" if len(head.held_out) else "because there are too few rows for cross-validation"
        how = f"L2 penalty {head.penalty:.2g} {why}" if head.penalty else "the means of the labels"
        words = f"{head_words(prepared.classifier)}, {how}"
        screen.console.print(f"fitted: {words}", style="dim")
    return head.penalty


def starts_solved(prepared: Prepared, checkpointing: Checkpointing) -> bool:
    """Return whether the head is fitted on frozen features before the first step; a checkpoint already has a head."""
    return solves_head(prepared.strategy, prepared.classifier, prepared.corpus) and not checkpointing.resumed


def _train(prepared: Prepared, folder: RunFolder, screen: Screen, checkpointing: Checkpointing) -> Trajectory:
    if not prepared.strategy.trains:
        return Trajectory()
    settings, scale = prepared.settings, TargetScale.of(prepared)
    if starts_solved(prepared, checkpointing):
        scale.scale_output(prepared)
    data = TrainingData(
        scale.scale_columns(prepared.training_columns()),
        prepared.padding,
        classes=prepared.classes if terms_that("compares_labels", settings.objective) else None,
        compares=bool(terms_that("compares", settings.objective)),
    )
    step = Step(prepared.classifier.model, prepared.objective)
    ids = prepared.corpus.splits["train"].ids
    inputs = TrainingInputs(step, prepared.groups, data, ids, _validation(prepared, scale))
    trajectory = optimize(prepared, inputs, folder, screen, checkpointing)
    scale.unscale_output(prepared)
    release_free_memory()
    return trajectory


def _validation(prepared: Prepared, scale: TargetScale) -> Validation | None:
    """Return how weights are evaluated on the validation rows, if there are any."""
    settings, task = prepared.settings, prepared.corpus.task
    rows = prepared.corpus.splits.get("validation")
    if rows is None:
        return None

    def evaluate() -> dict[str, float]:
        return score(settings, scale.unscale(prepared.outputs("validation")), rows, task)

    metric = metrics.selection_metric(task, settings.evaluation.metric)
    return Validation(evaluate, metric, metrics.HIGHER_IS_BETTER[metric])


def score(settings: Settings, logits: np.ndarray, validation: Examples, task: Task) -> dict[str, float]:
    """Return the metrics on the validation rows, with thresholds tuned on them if the run will tune them.

    Args:
        settings: of the run.
        logits: (rows, outputs).
        validation: the rows.
        task: of the rows.
    """
    targets, weights = validation.targets, validation.weights
    if task.problem == "multi_label" and settings.decision.threshold is None:
        # After the training, they are tuned again in the same way.
        metric = metrics.selection_metric(task, settings.evaluation.metric)
        scale, rule = thresholds.scale_and_threshold(task, logits, targets, weights, metric=metric)
        task = dataclasses.replace(task, threshold=thresholds.uncalibrated(rule, scale))
    return metrics.compute(task, logits, targets, weights)


def optimize(
    prepared: Prepared, inputs: TrainingInputs, folder: RunFolder, screen: Screen, checkpointing: Checkpointing
) -> Trajectory:
    """Train by gradient steps, showing and logging the progress.

    Raises:
        UserError: naming the rows at which training failed.
        Stopped: by a signal, after a checkpoint was written.
    """
    settings, validation = prepared.settings, inputs.validation
    profile_path = folder.path / PROFILE if settings.tracking.profile and is_main() else None
    with (
        resume.stoppable(folder.checkpoints, screen.tell) as on_stop,
        screen.bar("training") as bar,
        profiling(profile_path, screen.tell) as on_profiled_step,
        _named_rows(inputs.ids, settings),
        occurring_words(prepared.classifier.model, prepared.token_ids),
    ):
        set_anchor(prepared)
        progress = _Progress(prepared, folder, screen, bar, inputs, on_profiled_step)
        if validation:
            validation = dataclasses.replace(validation, evaluate=partial(progress.evaluate, validation.evaluate))
        trajectory = fit(
            prepared.accelerator,
            inputs.step,
            inputs.groups,
            inputs.data,
            settings=settings.training,
            seed=settings.seed,
            frozen=prepared.frozen_modules,
            validation=validation,
            callbacks=Callbacks(
                progress.on_step, progress.on_evaluation, progress.on_pace, progress.on_halved, on_stop
            ),
            checkpointing=checkpointing,
        )
    if progress.last_pace:
        screen.console.print(in_words(progress.last_pace), style="dim")
    return trajectory


@dataclass
class _Progress:
    """Callbacks that show the progress of a training, log it to the run folder, and send it to the trackers."""

    prepared: Prepared
    folder: RunFolder
    screen: Screen
    bar: Bar
    inputs: TrainingInputs
    on_profiled_step: Callable[[], None]
    last_pace: dict[str, float] = field(default_factory=dict)

    def evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        self.bar.detail(now="measuring on validation")
        values = evaluate()
        release_free_memory()
        return values

    def on_step(self, done: int, total: int, values: dict[str, float]) -> None:
        self.on_profiled_step()
        self.bar.show(done, total, loss=f"{values['loss']:.3f}")
        self.folder.log(step=done, **values)
        tracking.log(self.prepared.accelerator, "train", values, done)

    def on_evaluation(self, values: dict[str, float]) -> None:
        assert self.inputs.validation is not None
        metric = self.inputs.validation.metric
        self.bar.detail(**{"now": "", metric: f"{values[metric]:.3f}"})
        self.folder.log(split="validation", **values)
        tracking.log(self.prepared.accelerator, "validation", values, int(values["step"]))

    def on_pace(self, done: int, figures: dict[str, float]) -> None:
        self.last_pace = rounded(figures)
        self.folder.log_into(PACE, {"step": done, **self.last_pace})
        tracking.log(self.prepared.accelerator, "pace", self.last_pace, done)

    def on_halved(self, index: int, tokens: int) -> None:
        effect = "fewer texts are compared" if self.inputs.data.compares else "the step stays as it is"
        self.screen.tell(
            f"memory did not suffice: passes hold at most {tokens:,} tokens from step {index} on, {effect}; a run "
            f"with training.micro_batch_tokens={tokens} starts with that"
        )
        self.folder.log(step=index, micro_batch_tokens=tokens)


@contextmanager
def _named_rows(ids: Sequence[str], settings: Settings) -> Iterator[None]:
    """Turn errors of the training loop into ones that name the rows."""

    def names_of(examples: np.ndarray) -> str:
        labelled = len(ids)
        return ", ".join(ids[row] if row < labelled else f"{NAME}-{row - labelled + 1}" for row in examples)

    try:
        yield
    except NotFinite as error:
        raise UserError(
            f"loss or gradient was infinite or not a number {settings.training.max_skipped} steps in a row, "
            f"last at step {error.step} over the rows {names_of(error.examples)}: look at them, lower strategy.lr, or "
            "set training.precision=fp32; these steps did not change the weights"
        ) from error
    except NoMemory as error:
        raise UserError(
            f"memory does not suffice for row {names_of(error.examples)} alone, which has {error.tokens:,} tokens: set "
            "tokens.max_length=..., training.gradient_checkpointing=true, strategy=lora or a smaller encoder"
        ) from error
