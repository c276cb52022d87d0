"""What learns in a run: the head solved on frozen features, then everything by gradient steps, watched and logged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from accelerate.utils import broadcast_object_list
from torch import nn

from nlp_transfer.continual.anchoring import set_anchor
from nlp_transfer.continual.new_outputs import start_new_outputs
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import Task
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.decision.fitting import FittedRules, fit_rules
from nlp_transfer.decision.rules import unreachable_risk, with_risk_threshold
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import metrics, thresholds
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.machine.launch import is_main
from nlp_transfer.objectives.objective import Step
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.running import resume, tracking
from nlp_transfer.running.folder import PACE, PROFILE, RunFolder
from nlp_transfer.running.head import TargetScale, fold_calibration, refit_head, solve_head, validate
from nlp_transfer.running.head_choice import solves_head
from nlp_transfer.running.plan import head_words
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Group
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.bfloat16 import working_copy
from nlp_transfer.training.loop import NotFinite, Saving, Watch, fit
from nlp_transfer.training.memory import give_back
from nlp_transfer.training.pace import in_words, rounded
from nlp_transfer.training.passes import NoMemory
from nlp_transfer.training.profile import profiling
from nlp_transfer.training.state import Trajectory
from nlp_transfer.wording import counted


@dataclass(frozen=True)
class Descent:
    """What gradient steps change, what they learn from, and which weights are the better ones.

    Attributes:
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch.
        groups: what learns.
        columns: what is learned from.
        ids: names of the rows of `columns`, for errors.
        metric: name of the one, of what `evaluate` returns, by which weights are better than others.
        higher_is_better: whether more of it is better.
        evaluate: returns the metrics of the weights as they are then; None: there are no rows for that.
        kinds, drawn: see ``training.loop.fit``.
    """

    step: nn.Module
    groups: Sequence[Group]
    columns: Columns
    ids: Sequence[str]
    metric: str
    higher_is_better: bool
    evaluate: Callable[[], dict[str, float]] | None
    kinds: np.ndarray | None = None
    drawn: Callable[[int], np.ndarray] | None = None


def learn(prepared: Prepared, folder: RunFolder, screen: Screen, saving: Saving) -> tuple[Trajectory, FittedRules]:
    """Fit the head, then everything that learns, then how outputs become labels; return how it went, and those rules.

    The model is changed, and so is the threshold of the task where it is free. Without validation rows outputs stay as
    they were trained.
    """
    with prepared.frozen_layers_skipped(screen):
        penalty = start_head(prepared, screen, saving)
        trajectory = _learn(prepared, folder, screen, saving)
        if not prepared.strategy.head_last:
            return trajectory, fit_decision(prepared, screen)
    with reading(screen, "fitting the head on the trained encoder's features"):
        refit_head(prepared, least=penalty)
    return trajectory, fit_decision(prepared, screen)


def fit_decision(prepared: Prepared, screen: Screen) -> FittedRules:
    """Measure the validation rows, if any, choose on them how outputs become labels, and say so."""
    validation = prepared.corpus.splits.get("validation")
    if validation is None:
        return FittedRules(Calibration())
    with reading(screen, "calibrating on validation"):
        logits = prepared.outputs("validation")
        measured = score(prepared.settings, logits, validation, prepared.corpus.task)
        held = {name: value for name, value in measured.items() if math.isfinite(value)}
        # What is chosen by figures that are nearly the same must be the same on every rank.
        fitted = dataclasses.replace(fit_rules(prepared, fold_calibration(prepared, logits)), held=held)
        (fitted,) = broadcast_object_list([fitted])
    if curve := fitted.risk_curve:
        task = with_risk_threshold(prepared.corpus.task, curve)
        prepared.corpus = dataclasses.replace(prepared.corpus, task=task)
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
        screen.console.print(f"unknown texts are told by {fitted.novelty.score} ({chosen})", style="dim")
    return fitted


def start_head(prepared: Prepared, screen: Screen, saving: Saving) -> float:
    """Fit the head where the run starts so; return the L2 penalty that suits frozen features, 0 if none was sought."""
    strategy, starts = prepared.strategy, starts_solved(prepared, saving)
    if prepared.classifier.known and not starts and not saving.resumed:
        with reading(screen, "fitting the head for new labels"):
            start_new_outputs(prepared)
    if not (starts or strategy.head_last):
        return 0.0
    with reading(screen, "fitting the head on frozen features"):
        found = solve_head(prepared) if starts else validate(prepared, prepared.features("train"))
    give_back()
    if strategy.frozen:
        how = f"L2 penalty {found.penalty:.2g} by cross-validation" if found.penalty else "the means of the labels"
        words = f"{head_words(prepared.classifier)}, {how}"
        screen.console.print(f"fitted: {words}", style="dim")
    return found.penalty


def starts_solved(prepared: Prepared, saving: Saving) -> bool:
    """Return whether the head is solved before the first step."""
    solved = solves_head(prepared.strategy, prepared.classifier, prepared.corpus)
    return solved and not saving.resumed  # a checkpoint holds a head


def _learn(prepared: Prepared, folder: RunFolder, screen: Screen, saving: Saving) -> Trajectory:
    settings = prepared.settings
    if not prepared.strategy.trains:
        return Trajectory()
    task, units = prepared.corpus.task, TargetScale.of(prepared)
    if starts_solved(prepared, saving):
        units.enter(prepared)
    metric = metrics.selection_metric(task, settings.evaluation.metric)
    validation = prepared.corpus.splits.get("validation")

    def evaluate_now() -> dict[str, float]:
        assert validation is not None
        return score(settings, units.logits(prepared.outputs("validation")), validation, task)

    descent = Descent(
        Step(prepared.classifier.model, prepared.objective),
        prepared.groups,
        units.targets(prepared.training_columns()),
        prepared.corpus.splits["train"].ids,
        metric,
        metrics.HIGHER_IS_BETTER[metric],
        None if validation is None else evaluate_now,
        kinds=prepared.kinds if terms_that("compares_labels", settings.objective) else None,
    )
    trajectory = descend(prepared, descent, folder, screen, saving)
    units.leave(prepared)
    give_back()
    return trajectory


def score(settings: Settings, logits: np.ndarray, held: Examples, task: Task) -> dict[str, float]:
    """Return the metrics of outputs for validation rows, thresholds chosen on them where they will be.

    Args:
        settings: of the run.
        logits: (rows, outputs).
        held: the rows.
        task: theirs.
    """
    if task.problem == "multi_label" and settings.decision.threshold is None:
        # Chosen in the same way once more when all is learned.
        metric = metrics.selection_metric(task, settings.evaluation.metric)
        scale, rule = thresholds.scale_and_threshold(task, logits, held.targets, held.weights, metric=metric)
        task = dataclasses.replace(task, threshold=thresholds.uncalibrated(rule, scale))
    return metrics.compute(task, logits, held.targets, held.weights)


def descend(prepared: Prepared, descent: Descent, folder: RunFolder, screen: Screen, saving: Saving) -> Trajectory:
    """Take gradient steps, watched and logged.

    Raises:
        UserError: naming the rows at which it could not go on.
        Stopped: by a signal; what was reached is committed.
    """
    settings, accelerator, metric = prepared.settings, prepared.accelerator, descent.metric
    step, measure = descent.step, descent.evaluate
    if settings.training.compile:
        step.compile()

    paces: list[dict[str, float]] = []
    with resume.stoppable(folder.checkpoints, screen.tell) as on_stop, screen.bar("training") as bar:

        def evaluate_now() -> dict[str, float]:
            assert measure is not None
            bar.detail(now="measuring on validation")
            values = measure()
            give_back()
            return values

        def on_step(done: int, total: int, values: dict[str, float]) -> None:
            step_recorded()
            bar.show(done, total, loss=f"{values['loss']:.3f}")
            folder.log(step=done, **values)
            tracking.log(accelerator, "train", values, done)

        def on_pace(done: int, figures: dict[str, float]) -> None:
            told = rounded(figures)
            folder.log_into(PACE, {"step": done, **told})
            paces.append(told)
            tracking.log(accelerator, "pace", told, done)

        def on_halved(index: int, tokens: int) -> None:
            kept = (
                "fewer texts are compared" if terms_that("compares", settings.objective) else "the step stays as it is"
            )
            screen.tell(
                f"memory did not suffice: passes hold at most {tokens:,} tokens from step {index} on, {kept}; a run "
                f"with training.micro_batch_tokens={tokens} starts with that"
            )
            folder.log(step=index, micro_batch_tokens=tokens)

        def on_evaluation(values: dict[str, float]) -> None:
            bar.detail(**{"now": "", metric: f"{values[metric]:.3f}"})
            folder.log(split="validation", **values)
            tracking.log(accelerator, "validation", values, int(values["step"]))

        recorded = folder.path / PROFILE if settings.tracking.profile and is_main() else None
        with (
            profiling(recorded, screen.tell) as step_recorded,
            _named_rows(descent.ids, settings),
            occurring_words(prepared.classifier.model, prepared.words),
        ):
            set_anchor(prepared)
            trajectory = fit(
                accelerator,
                step,
                descent.groups,
                descent.columns,
                padding=prepared.padding,
                settings=settings.training,
                seed=settings.seed,
                frozen=prepared.frozen_modules,
                watch=Watch(
                    None if measure is None else evaluate_now,
                    metric,
                    descent.higher_is_better,
                    on_step,
                    on_evaluation,
                    on_pace,
                    on_halved,
                    on_stop,
                ),
                saving=saving,
                copied=working_copy(accelerator, compiled=settings.training.compile),
                compares=bool(terms_that("compares", settings.objective)),
                kinds=descent.kinds,
                drawn=descent.drawn,
            )
    if paces:
        screen.console.print(in_words(paces[-1]), style="dim")
    return trajectory


@contextmanager
def _named_rows(ids: Sequence[str], settings: Settings) -> Iterator[None]:
    """Name the rows at which a training could not go on."""

    def named(examples: np.ndarray) -> str:
        beyond = len(ids)
        return ", ".join(ids[row] if row < beyond else f"{NAME}-{row - beyond + 1}" for row in examples)

    try:
        yield
    except NotFinite as error:
        rows = named(error.examples)
        raise UserError(
            f"loss or gradient was infinite or not a number {settings.training.max_skipped} steps in a row, "
            f"last at step {error.step} over the rows {rows}: look at them, lower strategy.lr, or set "
            "training.precision=fp32; nothing of it went into the weights"
        ) from error
    except NoMemory as error:
        raise UserError(
            f"memory does not suffice for row {named(error.examples)} alone, which has {error.tokens:,} tokens: set "
            "tokens.max_length=..., training.gradient_checkpointing=true, strategy=lora or a smaller encoder"
        ) from error
