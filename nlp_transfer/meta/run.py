"""A meta-learning run, from settings to a saved and evaluated encoder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlp_transfer.config import default_name, run_path, to_plain
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.streams import Stream
from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_main
from nlp_transfer.meta.checks import LEARNS
from nlp_transfer.meta.episodes import Division, Episodes, rows_of_classes
from nlp_transfer.meta.folder import check_whole, write_encoder
from nlp_transfer.meta.learner import FeatureExtractor, Learner
from nlp_transfer.meta.loop import fit, steps_of
from nlp_transfer.meta.measuring import FewShotGain, MetaOutcome, held_out_episodes, query_accuracy
from nlp_transfer.running import resume
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.measurement import public_source
from nlp_transfer.running.plan import plan_of
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.reuse import check_model, reuse
from nlp_transfer.running.trained import begin_or_resume
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Group
from nlp_transfer.strategies.base import encoder_width
from nlp_transfer.strategies.finetune import usual_rate
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.loop import NotFinite
from nlp_transfer.training.memory import is_lack_of_memory
from nlp_transfer.training.sharding import is_sharding
from nlp_transfer.training.state import Trajectory, preserved_random_state
from nlp_transfer.training.zero import shards_moments

_LR_FACTOR = 0.5  # relative to fine-tuning: episodes repeat no rows, and the result must generalise to other classes
_VALIDATION_EPISODES = 200  # the same in every evaluation, so that differences are not due to sampling


@dataclass(frozen=True)
class MetaRun:
    """A finished run: its folder, whose ``model/`` is the encoder, and the outcome."""

    folder: Path
    outcome: MetaOutcome


@preserved_random_state()
def meta_learn(settings: Settings, corpus: Corpus, division: Division, screen: Screen) -> MetaRun:
    """Meta-learn an encoder in episodes, compare it with the original on held-out classes, and save it.

    Args:
        settings: of the run, see ``config.compose`` and ``checks.check_meta``.
        corpus: its rows, see ``rows.rows_of``.
        division: of their classes.
        screen: where progress is shown.

    Returns:
        The run; a finished run with the same configuration and data is read back and not repeated.

    Raises:
        UserError: for settings or data that cannot be used.
        Stopped: by a signal, after a checkpoint was written.
    """
    settings = learning(settings)
    folder = RunFolder(run_path(settings, meta=dataclasses.asdict(settings.meta)))
    if folder.should_read_back(settings):
        return _read_back(settings, corpus, folder, screen)
    with screen.busy("loading the encoder"):
        prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    if is_sharding(prepared.accelerator):
        raise UserError(
            "meta needs all weights in every pass: launch it without FSDP (`accelerate launch --multi_gpu`)"
        )
    if shards_moments(prepared.accelerator):
        raise UserError("meta does not support DeepSpeed: launch it with `accelerate launch --multi_gpu`")
    if getattr(prepared.classifier.model.encoder.config, "is_encoder_decoder", False):
        raise UserError(f"encoder.name={settings.encoder.name!r} has a decoder; meta supports only encoders")
    screen.console.print(f"{settings.meta.method}: {division.sentence}", style="dim")
    claimed = folder.claim(lambda: folder.should_read_back(settings))
    with claimed as ours, resume.interruptible(folder, screen.tell):
        if not ours:
            return _read_back(settings, corpus, folder, screen)
        return _MetaLearning(prepared, division, folder, screen).run()


def _read_back(settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen) -> MetaRun:
    check_model(folder, check_whole)
    reuse(folder, settings, corpus, screen)
    return MetaRun(folder.path, folder.report_of(MetaOutcome.from_json))


@dataclass
class _MetaLearning:
    """One meta-learning, on every rank."""

    prepared: Prepared
    division: Division
    folder: RunFolder
    screen: Screen

    def run(self) -> MetaRun:
        """Train, evaluate and save."""
        settings, corpus = self.prepared.settings, self.prepared.corpus
        source, labels = self.prepared.classifier.source, corpus.task.labels
        held_out = rows_of_classes(self.prepared.columns["train"], self.division.test)
        with reading(self.screen, "reading classes held out"):
            before = self.prepared.feature_cache.now(held_out)
        started = time.monotonic()
        trajectory = self._learn()
        seconds = round(time.monotonic() - started, 3)
        with reading(self.screen, "reading classes held out"):
            after = self.prepared.feature_cache.uncached(held_out)
        outcome = MetaOutcome(
            settings.meta.method,
            settings.meta.ways,
            settings.meta.measured,
            {part: [labels[each] for each in getattr(self.division, part)] for part in ("train", "validation", "test")},
            [labels[each] for each in self.division.small],
            self._gains(held_out, before, after),
            trajectory.kept_step,
            seconds,
        )
        if is_main():
            with self.screen.busy("saving"):
                write_encoder(
                    self.folder.model,
                    self.prepared.classifier.model,
                    source,
                    settings=dataclasses.asdict(settings.meta),
                    seed=settings.seed,
                    data=public_source(settings.data, corpus),
                    fingerprint=corpus.fingerprint,
                    outcome=outcome.to_json(),
                )
        self.folder.finish(
            outcome,
            data={"source": corpus.source, "fingerprint": corpus.fingerprint},
            encoder={"name": settings.encoder.name, "sha256": source.sha256},
            steps=trajectory.steps,
            skipped=trajectory.skipped,
        )
        self.prepared.accelerator.wait_for_everyone()
        return MetaRun(self.folder.path, outcome)

    def _learn(self) -> Trajectory:
        """Train, resuming from a checkpoint if there is one."""
        prepared, settings, screen = self.prepared, self.prepared.settings, self.screen
        own, rows = settings.meta, prepared.columns["train"]
        extractor = FeatureExtractor(prepared.classifier.model)
        learner = Learner(prepared.accelerator, extractor, rows, prepared.padding, own.distance)
        rate = own.lr or _LR_FACTOR * usual_rate(encoder_width(prepared.classifier))
        plan = plan_of(prepared, self.folder.path)
        plan = dataclasses.replace(
            plan,
            objective=f"{own.method}, {own.ways} ways, {own.shots} shots: {self.division.sentence}",
            groups=[dataclasses.replace(group, lr=rate) for group in plan.groups],
            steps=steps_of(own),
            batch_size=own.batch * own.ways * (own.shots + own.queries),
        )
        checkpointing = begin_or_resume(settings, prepared, plan, self.folder, screen, meta=dataclasses.asdict(own))
        stoppable = resume.stoppable(self.folder.checkpoints, screen.tell)
        with stoppable as on_stop, screen.bar(own.method) as bar, self._training_errors():

            def on_step(done: int, total: int, values: dict[str, float]) -> None:
                bar.show(done, total, loss=f"{values['loss']:.3f}")
                self.folder.log(step=done, **values)

            def on_evaluation(values: dict[str, float]) -> None:
                bar.detail(validation=f"{values['accuracy']:.3f}")
                self.folder.log(split="validation", **values)

            return fit(
                learner,
                [Group("encoder", learner.parameters, rate)],
                self._episodes(rows, self.division.train, Stream.EPISODES, ways=own.ways, shots=own.shots),
                settings=own,
                training=settings.training,
                seed=settings.seed,
                validation=self._validation(),
                callbacks=Callbacks(on_step, on_evaluation, on_stop=on_stop),
                checkpointing=checkpointing,
            )

    def _validation(self) -> Validation | None:
        """Return how weights are evaluated on the validation classes; None where there are none."""
        if not self.division.validation:
            return None
        own = self.prepared.settings.meta
        rows = rows_of_classes(self.prepared.columns["train"], self.division.validation)
        ways = min(own.ways, len(self.division.validation))
        episodes = self._episodes(rows, self.division.validation, Stream.CHOOSING_EPISODES, ways=ways, shots=own.shots)

        def evaluate() -> dict[str, float]:
            features = self.prepared.feature_cache.uncached(rows)
            accuracies = query_accuracy(features, episodes, count=_VALIDATION_EPISODES, distance=own.distance)
            return {"accuracy": float(accuracies.mean())}

        return Validation(evaluate, "accuracy", higher_is_better=True)

    def _gains(self, rows: Columns, before: np.ndarray, after: np.ndarray) -> list[FewShotGain]:
        """Return the gains with one shot, and with as many shots as in training."""
        settings, gains = self.prepared.settings, []
        own, confidence = settings.meta, settings.evaluation.confidence
        for episodes in held_out_episodes(rows, self.division.test, own, seed=settings.seed):
            values = [
                query_accuracy(each, episodes, count=own.measured, distance=own.distance) for each in (before, after)
            ]
            gains.append(FewShotGain.of(episodes, *values, confidence=confidence))
        return gains

    def _episodes(self, rows: Columns, classes: tuple[int, ...], stream: int, *, ways: int, shots: int) -> Episodes:
        queries, seed = self.prepared.settings.meta.queries, self.prepared.settings.seed
        return Episodes(rows.targets, classes, ways=ways, shots=shots, queries=queries, seed=seed, stream=stream)

    @contextmanager
    def _training_errors(self) -> Iterator[None]:
        """Turn errors of the training into messages that say what to do."""
        try:
            yield
        except NotFinite as error:
            raise UserError(
                f"loss or gradient was infinite or not a number {self.prepared.settings.training.max_skipped} steps in "
                f"a row, last at step {error.step}: lower meta.lr or meta.inner_lr, or set training.precision=fp32"
            ) from error
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            raise UserError(
                "memory does not suffice for the forward pass of an episode: lower meta.queries, meta.ways or "
                "tokens.max_length, or set training.gradient_checkpointing=true"
            ) from error


def learning(settings: Settings) -> Settings:
    """Return the settings with which all parameters except the head are trained, and a default name for the run."""
    name = settings.name
    if name == default_name(settings):
        name = f"{name.removesuffix(to_plain(settings)['strategy']['name'])}{settings.meta.method}"
    return dataclasses.replace(
        settings,
        name=name,
        strategy=LEARNS,
        encoder=dataclasses.replace(settings.encoder, head="pooled", layers="last"),
    )
