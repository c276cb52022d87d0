"""One training of a comparison; its test predictions are saved instead of its model."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nlp_transfer.config import run_path
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.report import Report, evaluate_predictions
from nlp_transfer.machine.disk import write_whole
from nlp_transfer.pretraining.further import pretrained
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.plan import plan_of
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.reuse import reuse
from nlp_transfer.running.trained import train
from nlp_transfer.training.peak import forget_peak, peak_megabytes
from nlp_transfer.training.state import preserved_random_state

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen

_ANSWERS = "answers.safetensors"


@dataclass(frozen=True)
class TrialOutputs:
    """The outputs of a trial or baseline for the test rows, and what they cost.

    Attributes:
        task: with the thresholds of these outputs.
        logits: (rows, outputs), in the order of the split.
        validation: the metric on the validation rows; None for baselines that are not trained.
        seconds: of loading, training and predicting, without the time of earlier processes.
        learning: the number of trainable parameters.
        parameters: the number of all parameters.
        megabytes: peak memory of the process; None if unknown.
    """

    task: Task
    logits: np.ndarray
    validation: float | None = None
    seconds: float = 0.0
    learning: int = 0
    parameters: int = 0
    megabytes: float | None = None


def is_finished(settings: Settings) -> bool:
    """Return whether a trial with these settings was finished earlier."""
    return not settings.overwrite and RunFolder(run_path(settings)).is_finished


@preserved_random_state()
def run_trial(settings: Settings, corpus: Corpus, screen: Screen) -> TrialOutputs:
    """Train and predict the test rows, or read back a finished trial.

    Args:
        settings: of the run, in whose folder the answers are saved.
        corpus: its data.
        screen: where progress is shown.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
    """
    folder = RunFolder.of(settings, corpus)
    if is_finished(settings):
        return _read_back(settings, corpus, folder, screen)
    forget_peak()
    started = time.monotonic()
    prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    with folder.claim(lambda: is_finished(settings)) as ours:
        if not ours:
            return _read_back(settings, corpus, folder, screen)
        prepared = pretrained(prepared, folder, screen)
        plan = plan_of(prepared, folder.path)
        task = train(settings, prepared, plan, folder, screen).fitted.task
        logits = {name: prepared.outputs(name) for name in ("validation", "test")}
        with folder.os_errors_reported():
            write_whole(folder.path / _ANSWERS, lambda making: making.write_bytes(save(logits)))
        folder.finish(
            _figures(settings, task, corpus, logits["validation"]),
            data={"source": corpus.source, "fingerprint": corpus.fingerprint},
            encoder={"name": prepared.classifier.source.name, "sha256": prepared.classifier.source.sha256},
            lessons={"sha256": prepared.auxiliary.sha256},
            task=task.to_json(),
            seconds=round(time.monotonic() - started, 3),
            learning=plan.trainable,
            parameters=plan.parameters,
            megabytes=peak_megabytes(),
        )
    return _read(folder)


def _read_back(settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen) -> TrialOutputs:
    reuse(folder, settings, corpus, screen)
    return _read(folder)


def _figures(settings: Settings, task: Task, corpus: Corpus, logits: np.ndarray) -> Report:
    """Measure the validation rows, without intervals, since this is only used for selection."""
    plain = dataclasses.replace(settings.evaluation, resamples=0)
    rows = corpus.splits["validation"]
    return evaluate_predictions(
        task, rows, logits, baselines=[], settings=plain, seed=settings.seed, split="validation"
    )


def _read(folder: RunFolder) -> TrialOutputs:
    """Read a finished trial.

    Raises:
        UserError: naming the folder, if a file is damaged.
    """
    result, report = folder.result(), folder.report()
    try:
        logits = load_file(folder.path / _ANSWERS)["test"]
        return TrialOutputs(
            task=Task.from_json(result["task"]),
            logits=logits,
            validation=report.rows[0].intervals[report.metric].value,
            seconds=float(result["seconds"]),
            learning=int(result["learning"]),
            parameters=int(result["parameters"]),
            megabytes=result["megabytes"],
        )
    except (OSError, KeyError, OverflowError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder.path} holds no trial that can be read ({error}); delete the folder to repeat the trial"
        ) from error
