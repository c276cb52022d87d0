"""One run from settings to a saved, measured model: the order in which the parts meet."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.artefact import folder as artefact
from nlp_transfer.artefact.places import PAGES
from nlp_transfer.artefact.record import Record, read_record
from nlp_transfer.checks import check
from nlp_transfer.continual.memory import Memory
from nlp_transfer.continual.rows import alone, load
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.decision.fitting import Fitted, deciding
from nlp_transfer.domains.distance import Sides, tell_domains_apart
from nlp_transfer.domains.source_only import SourceOnly, asked_of, is_guarded, without_texts
from nlp_transfer.encoder.source import asked_code
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
from nlp_transfer.running.recalling import check_model, recall
from nlp_transfer.running.trained import Trained, train
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.state import own_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nlp_transfer.decision.labelling import Prediction
    from nlp_transfer.predicting.predict import Predictor


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its figures, its model."""

    folder: Path
    report: Report

    @property
    def metrics(self) -> dict[str, float]:
        """The adapted model's figures on the split that was reported."""
        return {name: interval.value for name, interval in self.report.rows[0].intervals.items()}

    @property
    def pages(self) -> list[Path]:
        """The pages about its figures that are there."""
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
    """Refuse the settings of a task that was learned together with others.

    Raises:
        UserError: saying which command is for that.
    """
    if settings.multitask.tasks:
        whole = expanded(settings.output) / "config.yaml"  # of all tasks, where this is the configuration of one
        raise UserError(
            f"multitask.tasks={settings.multitask.tasks} are learned together: nlp-transfer multitask "
            f"{whole if whole.is_file() else 'CONFIG.yaml'} does that; set multitask.tasks=[] to learn this one alone"
        )


@own_numbers()
def adapt(settings: Settings, *, data: Any = None, corpus: Corpus | None = None, screen: Screen | None = None) -> Run:
    """Adapt an encoder to a task, measure it beside floors and save it.

    Args:
        settings: the run, see ``config.compose``.
        data: a DataFrame, a Dataset, or a mapping of splits to them, instead of the source named in the settings.
        corpus: the data of the settings, where it has been read; then without `data`.
        screen: where progress is shown; None: nowhere.

    Returns:
        The run; a finished run of the same configuration and data is read back instead of done again.

    Raises:
        UserError: for anything in the settings or the data that cannot be used.
    """
    check(settings, data=data)
    _refuse_several(settings)
    assert data is None or corpus is None
    screen = screen or Screen(speaks=False)
    if corpus is None:
        try:
            with screen.busy("reading data"):
                corpus = load(settings, data=data, tell=screen.tell)
        except UserError as error:
            return _without_origin(settings, error, screen, data=data)
    return _finished(settings, corpus, screen)


def _without_origin(settings: Settings, error: UserError, screen: Screen, *, data: Any) -> Run:
    """Read a finished run back although the model that it went on from, or what made that, cannot be found now.

    Raises:
        UserError: the one that there was, if there is no such run; for own rows that cannot be read, or are others.
    """
    folder = RunFolder.of(settings)
    if not (settings.continual.used and folder.is_there(settings)):
        raise error
    corpus = alone(settings, read_record(folder.model).task, data=data)
    whole = not settings.continual.replay
    if not whole:
        screen.tell(f"not compared with the rows that were replayed, which cannot be read now: {error}")
    return _read_back(settings, corpus, folder, screen, whole=whole)


def _finished(settings: Settings, corpus: Corpus, screen: Screen) -> Run:
    """Return the run of settings that were checked: read back where it is finished, else done."""
    corpus = deciding(corpus, settings.decision)
    settings, why = choosing.resolve_auto(settings, corpus)
    if why:
        screen.tell(why)
    folder = RunFolder.of(settings, corpus)
    if folder.is_there(settings):
        return _read_back(settings, corpus, folder, screen)
    if folder.is_finished and not folder.model.is_dir():
        screen.tell(f"{folder.model} was taken away; the run is done again")
    with screen.busy("asking the model that is gone on from"):
        memory = Memory.of(settings, corpus)
    with screen.busy("loading the encoder"):
        prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    sides = tell_domains_apart(prepared, screen)
    render(prepared.plan, screen.console)
    beside, plan, domains = None, prepared.plan, prepared.domains
    if sides and is_guarded(settings):
        taught = prepared.taught
        del prepared  # or its model took memory while the other one is trained
        beside = _source_only(settings, corpus, folder, screen, sides)
        prepared = prepare(settings, corpus, folder.path, taught=taught)
    with folder.turn(lambda: folder.is_there(settings)) as ours:
        if not ours:
            return _read_back(settings, corpus, folder, screen)
        after = pretrained(prepared, folder, screen)
        after.plan, after.domains = plan, domains  # as they were told
        return _adapt(settings, after, folder, screen, beside=beside, memory=memory)


def _read_back(settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen, *, whole: bool = True) -> Run:
    """Return a finished run, whose model is whole; for `whole` see ``recalling.recall``."""
    check_model(folder)
    report = folder.report()
    recall(folder, settings, corpus, screen, whole=whole)
    try:
        _describe(folder)
    except UserError as error:  # the run is there all the same
        screen.tell(f"it has no card: {error}")
    return Run(folder.path, report)


def _source_only(settings: Settings, corpus: Corpus, folder: RunFolder, screen: Screen, sides: Sides) -> SourceOnly:
    """Do the same run without the texts of the other domain first, or read it back."""
    screen.tell("first without the texts of the other domain; evaluation.source_only=false leaves that out")
    other = without_texts(settings)
    if not folder.is_finished and (folder.path / "config.yaml").is_file():  # begun, and the other was done for that
        other = dataclasses.replace(other, overwrite=False)
    alone = _finished(other, dataclasses.replace(corpus, unlabelled=None), screen)
    with screen.busy("asking the model without them"):
        return asked_of(alone.folder, settings, corpus, sides)


def _adapt(settings: Settings, prepared: Prepared, folder: RunFolder, screen: Screen, **others: Any) -> Run:
    """Train, save and measure in a folder that nobody else writes to, from where an earlier process was stopped."""
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
    beside: SourceOnly | None = None,
    memory: Memory | None = None,
    together: dict[str, str] | None = None,
) -> Measured:
    """Save and measure what was trained, and write card and report; the run is finished then.

    Args:
        prepared: the parts of the run, the model trained.
        trained: how that went.
        folder: of the run; begun, and locked.
        screen: where progress is shown.
        beside: the same run without the texts of another domain, to be told of.
        memory: what a model that is gone on from knew.
        together: what identifies the training of all tasks that this one was learned together with.
    """
    corpus, trajectory = prepared.corpus, trained.trajectory
    record = _record(prepared, trained.fitted)
    with ExitStack() as meanwhile:
        process = None
        if is_main():
            with screen.busy("saving"):  # before anything is measured: a figure can be had again, a training not
                written = artefact.save(prepared.classifier, record, folder.model, detector=trained.fitted.detector)
            if record.merged and not written.merged:
                screen.tell("the adapter cannot be merged: model/ holds the adapter alone")
            verify = prepared.settings.verify
            if verify and asked_code(folder.model):
                screen.tell("not loaded in a fresh process: the encoder runs code of its own")
            elif verify:  # a process of its own, which works while this one measures
                base = prepared.classifier.source.folder
                process = meanwhile.enter_context(verification.fresh_process(folder.model, written, base=base))
        memory = memory and memory.measured(prepared)
        measured = measure(prepared, record, trained.fitted, screen, beside=beside, memory=memory)
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
    """Write the pages about the figures; the run goes on, whatever becomes of them."""
    if prepared.settings.report.write and is_main():
        with screen.busy("writing the report"):
            source = public_source(prepared.settings.data, prepared.corpus)
            pages.write_run_report(prepared, measured, trained, folder.path, source=source, tell=screen.tell)


def _describe(folder: RunFolder) -> None:
    """Write the model's card, from what the run has written."""
    if is_main():
        with folder.reached():
            publication.write_card(folder.path)


def _record(prepared: Prepared, fitted: Fitted) -> Record:
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
