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
from nlp_transfer.continual.forgetting import Forgetting
from nlp_transfer.continual.rows import load, own_rows
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.domains.distance import DomainSample, measure_domain_gap
from nlp_transfer.domains.source_only import SourceOnly, is_guarded, source_only_of, without_texts
from nlp_transfer.encoder.source import requested_code
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.report import Report
from nlp_transfer.machine.launch import is_main
from nlp_transfer.pretraining.further import pretrained
from nlp_transfer.publishing import publication, verification
from nlp_transfer.reporting.evidence import Evaluation
from nlp_transfer.running import choosing, reports, tracking
from nlp_transfer.running.fitting import FittedRules, apply_decision_settings
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.measurement import Comparisons, measure, public_source
from nlp_transfer.running.plan import head_words, plan_of, render
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.resume import interruptible
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
    """Adapt an encoder to a task, evaluate it beside baselines, and save it.

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
    screen = screen or Screen(quiet=True)
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
        screen.tell(f"{folder.model} was removed; the run is repeated")
    with screen.busy("evaluating the model that this run continues") if settings.continual.used else nullcontext():
        forgetting = Forgetting.of(settings, corpus)
    with screen.busy("loading the encoder"):
        prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    plan, sample = plan_of(prepared, folder.path), measure_domain_gap(prepared, screen)
    gap = sample.gap if sample else None
    plan = plan.with_notes(gap.sentences if gap else [])
    render(plan, screen.console)
    source_only = None
    if sample and is_guarded(settings):
        auxiliary = prepared.auxiliary
        del prepared  # free the memory of its model while the other run is trained
        source_only = _source_only(settings, corpus, folder, screen, sample)
        prepared = prepare(settings, corpus, folder.path, auxiliary=auxiliary)
    claimed = folder.claim(lambda: folder.should_read_back(settings))
    with claimed as should_run, interruptible(folder, screen.tell):
        if not should_run:
            return _read_back(settings, corpus, folder, screen)
        prepared = pretrained(prepared, folder, screen)
        trained = train(settings, prepared, plan, folder, screen)
        evaluation = save_and_evaluate(trained, folder, screen, Comparisons(gap, source_only, forgetting))
        tracking.finish(prepared.accelerator, evaluation.report, trained.trajectory.steps)
        prepared.accelerator.wait_for_everyone()
        return Run(folder.path, evaluation.report)


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
    settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen, sample: DomainSample
) -> SourceOnly:
    """Do the same run without the texts of the other domain, or read it back, and evaluate it on these texts."""
    screen.tell("first without the texts of the other domain; evaluation.source_only=false leaves that out")
    other = without_texts(settings)
    is_resumed = not folder.is_finished and (folder.path / "config.yaml").is_file()
    if is_resumed:  # then the other run was done before
        other = dataclasses.replace(other, overwrite=False)
    without = _do_or_read_back(other, dataclasses.replace(corpus, unlabelled=None), screen)
    with screen.busy("evaluating the model without them"):
        return source_only_of(without.folder, settings, corpus, sample)


def save_and_evaluate(
    trained: Trained,
    folder: RunFolder,
    screen: Screen,
    comparisons: Comparisons,
    *,
    together: dict[str, str] | None = None,
) -> Evaluation:
    """Save and evaluate a trained model, and write its card and report; this finishes the run.

    Args:
        trained: the model and its training.
        folder: of the run; begun, and locked.
        screen: where progress is shown.
        comparisons: what the report sets beside the model.
        together: identifies the multi-task training that this task was part of.
    """
    prepared, fitted, trajectory = trained.prepared, trained.fitted, trained.trajectory
    corpus, record = prepared.corpus, _record(prepared, fitted)
    with ExitStack() as meanwhile:
        process = None
        if is_main():
            with screen.busy("saving"):  # first, for an evaluation is cheaper to repeat than a training
                written = artefact.save(prepared.classifier, record, folder.model, detector=fitted.detector)
            if record.merged and not written.merged:
                screen.tell("the adapter cannot be merged: model/ holds the adapter alone")
            verify = prepared.settings.verify
            if verify and requested_code(folder.model):
                screen.tell("not loaded in a fresh process: the encoder runs code of its own")
            elif verify:  # in a process that runs while this one evaluates
                base = prepared.classifier.source.folder
                process = meanwhile.enter_context(verification.fresh_process(folder.model, written, base=base))
        if comparisons.forgetting:
            comparisons = dataclasses.replace(comparisons, forgetting=comparisons.forgetting.measured(prepared))
        evaluation = measure(prepared, record, fitted.detector, comparisons, screen)
        if process is not None:
            with screen.busy("loading the saved model in a fresh process"):
                try:
                    process.result()
                except verification.Unanswered as error:
                    screen.tell(str(error))
    # Before the run is finished: one that is read back writes none, and would lack it for good if it were stopped here.
    _report(trained, evaluation, folder, screen)
    folder.finish(
        evaluation.report,
        data={"source": corpus.source, "fingerprint": corpus.fingerprint},
        encoder={"name": record.encoder.name, "sha256": record.encoder.sha256},
        pretrained=record.pretrained and dataclasses.asdict(record.pretrained),
        lessons={"sha256": prepared.auxiliary.sha256},
        domains=comparisons.gap and comparisons.gap.to_json(),
        continual=comparisons.forgetting and comparisons.forgetting.to_json(),
        together=together,
        steps=trajectory.steps,
        kept_step=trajectory.kept_step,
        validation=fitted.held,
        skipped=trajectory.skipped,
        head=head_words(prepared.classifier),
        seconds=round(trained.seconds, 3),
    )
    _describe(folder)
    return evaluation


def _report(trained: Trained, evaluation: Evaluation, folder: RunFolder, screen: Screen) -> None:
    """Write the report; the run goes on even if that fails."""
    prepared = trained.prepared
    if prepared.settings.report.write and is_main():
        with screen.busy("writing the report"):
            source = public_source(prepared.settings.data, prepared.corpus)
            reports.write_run_report(trained, evaluation, folder.path, source=source, tell=screen.tell)


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
