"""One run from settings to a saved and evaluated model: the order of its parts."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.artefact import folder as artefact
from nlp_transfer.artefact.places import PAGES
from nlp_transfer.artefact.record import Record, read_record
from nlp_transfer.checks import check_settings
from nlp_transfer.continual.memory import Memory
from nlp_transfer.continual.rows import load, own_rows
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.decision.fitting import FittedRules, apply_decision_settings
from nlp_transfer.domains.distance import DomainSample, measure_domain_gap
from nlp_transfer.domains.source_only import SourceOnly, is_guarded, source_only_of, without_texts
from nlp_transfer.encoder.source import requested_code
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.report import Report
from nlp_transfer.machine.launch import is_main
from nlp_transfer.pretraining.further import pretrained
from nlp_transfer.publishing import publication, verification
from nlp_transfer.reporting import pages
from nlp_transfer.reporting.evidence import Measured
from nlp_transfer.running import choosing, tracking
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.measurement import measure, public_source
from nlp_transfer.running.plan import head_words, render
from nlp_transfer.running.preparation import Prepared, prepare
from nlp_transfer.running.reuse import check_model, reuse
from nlp_transfer.running.trained import Trained, train
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.state import preserved_random_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nlp_transfer.decision.labelling import Prediction
    from nlp_transfer.predicting.predict import Predictor


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, report and model."""

    folder: Path
    report: Report

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the adapted model on the reported split."""
        return {name: interval.value for name, interval in self.report.rows[0].intervals.items()}

    @property
    def pages(self) -> list[Path]:
        """The HTML pages of the report that were written."""
        return [self.folder / name for name in PAGES if (self.folder / name).is_file()]

    @cached_property
    def predictor(self) -> Predictor:
        """The saved model, loaded from the folder."""
        from nlp_transfer.predicting.predict import Predictor

        return Predictor(self.folder)

    def predict(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Prediction]:
        """Return label and probabilities of every text, see `Labeller.predict`."""
        return self.predictor.predict(texts, pairs)


def _refuse_several(settings: Settings) -> None:
    """Refuse settings for several tasks.

    Raises:
        UserError: naming the command for several tasks.
    """
    if settings.multitask.tasks:
        whole = expanded(settings.output) / "config.yaml"  # of all tasks, if these are the settings of one of them
        raise UserError(
            f"multitask.tasks={settings.multitask.tasks} are learned together: nlp-transfer multitask "
            f"{whole if whole.is_file() else 'CONFIG.yaml'} does that; set multitask.tasks=[] to learn this one alone"
        )


@preserved_random_state()
def adapt(settings: Settings, *, data: Any = None, corpus: Corpus | None = None, screen: Screen | None = None) -> Run:
    """Adapt an encoder to a task, evaluate it beside floors (baselines), and save it.

    Args:
        settings: the run, see ``config.compose``.
        data: a DataFrame, a Dataset, or a mapping of splits to them, instead of the source named in the settings.
        corpus: the data named in the settings, if it has already been read; then `data` must be None.
        screen: where progress is shown; None: nowhere.

    Returns:
        The run; a finished run of the same configuration and data is read back rather than done again.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
    """
    check_settings(settings, data=data)
    _refuse_several(settings)
    assert data is None or corpus is None
    screen = screen or Screen(speaks=False)
    if corpus is None:
        try:
            with screen.busy("reading data"):
                corpus = load(settings, data=data, tell=screen.tell)
        except UserError as error:
            return _without_origin(settings, error, screen, data=data)
    return _do_or_read_back(settings, corpus, screen)


def _without_origin(settings: Settings, error: UserError, screen: Screen, *, data: Any) -> Run:
    """Read back a finished run whose data cannot be loaded because the model it continued from cannot be found.

    Raises:
        UserError: `error`, if there is no such run; if the run's own rows cannot be read or have changed.
    """
    folder = RunFolder.of(settings)
    if not (settings.continual.used and folder.should_read_back(settings)):
        raise error
    corpus = own_rows(settings, read_record(folder.model).task, data=data)
    whole = not settings.continual.replay
    if not whole:
        screen.tell(f"not compared with the rows that were replayed, which cannot be read now: {error}")
    return _read_back(settings, corpus, folder, screen, whole=whole)


def _do_or_read_back(settings: Settings, corpus: Corpus, screen: Screen) -> Run:
    """Return the run of checked settings, read back if it is finished."""
    corpus = apply_decision_settings(corpus, settings.decision)
    settings, why = choosing.resolve_auto(settings, corpus)
    if why:
        screen.tell(why)
    folder = RunFolder.of(settings, corpus)
    if folder.should_read_back(settings):
        return _read_back(settings, corpus, folder, screen)
    if folder.is_finished and not folder.model.is_dir():
        screen.tell(f"{folder.model} was taken away; the run is done again")
    with screen.busy("evaluating the model that this run continues") if settings.continual.used else nullcontext():
        memory = Memory.of(settings, corpus)
    with screen.busy("loading the encoder"):
        prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    sides = measure_domain_gap(prepared, screen)
    render(prepared.plan, screen.console)
    source_only, plan, domains = None, prepared.plan, prepared.domains
    if sides and is_guarded(settings):
        taught = prepared.taught
        del prepared  # free the memory of its model while the other run is trained
        source_only = _source_only(settings, corpus, folder, screen, sides)
        prepared = prepare(settings, corpus, folder.path, taught=taught)
    with folder.claim(lambda: folder.should_read_back(settings)) as should_run:
        if not should_run:
            return _read_back(settings, corpus, folder, screen)
        prepared = pretrained(prepared, folder, screen)
        prepared.plan, prepared.domains = plan, domains  # as they were shown
        return _adapt(settings, prepared, folder, screen, source_only=source_only, memory=memory)


def _read_back(settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen, *, whole: bool = True) -> Run:
    """Return a finished run after checking its model and origin; for `whole` see ``reuse.reuse``."""
    check_model(folder)
    report = folder.report()
    reuse(folder, settings, corpus, screen, whole=whole)
    try:
        _describe(folder)
    except UserError as error:  # the run can be used without a card
        screen.tell(f"it has no card: {error}")
    return Run(folder.path, report)


def _source_only(
    settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen, sides: DomainSample
) -> SourceOnly:
    """Do the same run without the texts of the other domain, or read it back, and evaluate it on these texts."""
    screen.tell("first without the texts of the other domain; evaluation.source_only=false leaves that out")
    other = without_texts(settings)
    is_resumed = not folder.is_finished and (folder.path / "config.yaml").is_file()
    if is_resumed:  # then the other run was done before
        other = dataclasses.replace(other, overwrite=False)
    without = _do_or_read_back(other, dataclasses.replace(corpus, unlabelled=None), screen)
    with screen.busy("evaluating the model without them"):
        return source_only_of(without.folder, settings, corpus, sides)


def _adapt(settings: Settings, prepared: Prepared, folder: RunFolder, screen: Screen, **others: Any) -> Run:
    """Train, save and evaluate in a folder that is locked, resuming from a checkpoint if there is one."""
    trained = train(settings, prepared, folder, screen)
    measured = conclude(prepared, trained, folder, screen, **others)
    tracking.finish(prepared.accelerator, measured.report, trained.trajectory.steps)
    prepared.accelerator.wait_for_everyone()
    return Run(folder.path, measured.report)


def conclude(
    prepared: Prepared,
    trained: Trained,
    folder: RunFolder,
    screen: Screen,
    *,
    source_only: SourceOnly | None = None,
    memory: Memory | None = None,
    together: dict[str, str] | None = None,
) -> Measured:
    """Save and evaluate the trained model, and write its card and report; this finishes the run.

    Args:
        prepared: the parts of the run, with the trained model.
        trained: the outcome of the training.
        folder: of the run; begun, and locked.
        screen: where progress is shown.
        source_only: the same run without the texts of another domain, to compare with.
        memory: what the model from which this one continued knew.
        together: identifies the multi-task training that this task was part of.
    """
    corpus, trajectory = prepared.corpus, trained.trajectory
    record = _record(prepared, trained.fitted)
    with ExitStack() as meanwhile:
        process = None
        if is_main():
            with screen.busy("saving"):  # first, for an evaluation is cheaper to repeat than a training
                written = artefact.save(prepared.classifier, record, folder.model, detector=trained.fitted.detector)
            if record.merged and not written.merged:
                screen.tell("the adapter cannot be merged: model/ holds the adapter alone")
            verify = prepared.settings.verify
            if verify and requested_code(folder.model):
                screen.tell("not loaded in a fresh process: the encoder runs code of its own")
            elif verify:  # in a process that runs while this one evaluates
                base = prepared.classifier.source.folder
                process = meanwhile.enter_context(verification.fresh_process(folder.model, written, base=base))
        memory = memory and memory.measured(prepared)
        measured = measure(prepared, record, trained.fitted, screen, source_only=source_only, memory=memory)
        if process is not None:
            with screen.busy("loading the saved model in a fresh process"):
                try:
                    process.result()
                except verification.Unanswered as error:
                    screen.tell(str(error))
    # Before the run is finished: one that is read back writes none, and would lack it for good if it were stopped here.
    _report(prepared, measured, trained, folder, screen)
    folder.finish(
        measured.report,
        data={"source": corpus.source, "fingerprint": corpus.fingerprint},
        encoder={"name": record.encoder.name, "sha256": record.encoder.sha256},
        pretrained=record.pretrained and dataclasses.asdict(record.pretrained),
        lessons={"sha256": prepared.taught.sha256},
        domains=prepared.domains and prepared.domains.to_json(),
        continual=memory and memory.to_json(),
        together=together,
        steps=trajectory.steps,
        kept_step=trajectory.kept_step,
        validation=trained.fitted.held,
        skipped=trajectory.skipped,
        head=head_words(prepared.classifier),
        seconds=round(trained.seconds, 3),
    )
    _describe(folder)
    return measured


def _report(prepared: Prepared, measured: Measured, trained: Trained, folder: RunFolder, screen: Screen) -> None:
    """Write the report; the run goes on even if that fails."""
    if prepared.settings.report.write and is_main():
        with screen.busy("writing the report"):
            source = public_source(prepared.settings.data, prepared.corpus)
            pages.write_run_report(prepared, measured, trained, folder.path, source=source, tell=screen.tell)


def _describe(folder: RunFolder) -> None:
    """Write the model card from the files of the run."""
    if is_main():
        with folder.os_errors_reported():
            publication.write_card(folder.path)


def _record(prepared: Prepared, fitted: FittedRules) -> Record:
    source, corpus = prepared.classifier.source, prepared.corpus
    return Record(
        task=corpus.task,
        tokens=prepared.spec,
        roles=corpus.roles,
        encoder=dataclasses.replace(prepared.settings.encoder, revision=source.revision, sha256=source.sha256),
        max_tokens=prepared.classifier.max_tokens,
        merged=prepared.strategy.merge,
        data={"source": public_source(prepared.settings.data, corpus), "fingerprint": corpus.fingerprint},
        calibration=fitted.calibration,
        novelty=fitted.novelty,
        nonconformity=fitted.nonconformity,
        risk_curve=fitted.risk_curve,
        pretrained=source.pretrained,
    )
