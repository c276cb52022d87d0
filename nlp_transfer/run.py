"""One run from settings to a saved, measured model: the order in which the parts meet."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer import artefact, choosing, pages, tracking
from nlp_transfer.checks import check
from nlp_transfer.console import Screen
from nlp_transfer.data.corpus import Corpus, Examples, load_corpus, read_examples
from nlp_transfer.data.sources import read_splits
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.source import asked_code, locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import baselines
from nlp_transfer.evaluation.decisions import settled
from nlp_transfer.evaluation.report import Report, evaluate_predictions
from nlp_transfer.features import store_of
from nlp_transfer.launch import is_main
from nlp_transfer.plan import head_words, render
from nlp_transfer.preparation import Prepared, prepare
from nlp_transfer.publishing import publication, verification
from nlp_transfer.record import Record
from nlp_transfer.rules import needs_features
from nlp_transfer.rules_fit import Fitted, check_corpus
from nlp_transfer.rules_report import said_of
from nlp_transfer.run_folder import PAGES, RunFolder
from nlp_transfer.settings import DataSettings, Settings
from nlp_transfer.store import Store
from nlp_transfer.trained import train
from nlp_transfer.training.state import own_numbers

if TYPE_CHECKING:
    from nlp_transfer.predict import Prediction, Predictor


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
        from nlp_transfer.predict import Predictor

        return Predictor(self.folder)

    def predict(self, texts: list[str], pairs: list[str] | None = None) -> list[Prediction]:
        """Return label and probabilities of every text."""
        return self.predictor.predict(texts, pairs)


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
    assert data is None or corpus is None
    screen = screen or Screen(speaks=False)
    if corpus is None:
        with screen.busy("reading data"):
            corpus = load_corpus(settings.data, seed=settings.seed, data=data)
    corpus = dataclasses.replace(corpus, task=settled(corpus.task, settings.decision))
    check_corpus(corpus)
    settings, why = choosing.chosen(settings, corpus)
    if why:
        screen.tell(why)
    folder = RunFolder.of(settings, corpus)
    if folder.is_finished and not settings.overwrite and folder.model.is_dir():
        try:
            source = locate(settings.encoder)
        except UserError as error:  # the run is there, whatever became of its encoder
            screen.tell(f"not compared with the encoder, which cannot be found now: {error}")
        else:
            folder.check_encoder(source.sha256)
        report = folder.report()
        folder.tidy()
        try:
            _describe(folder)
        except UserError as error:  # the run is there all the same
            screen.tell(f"it has no card: {error}")
        screen.console.print(f"{folder.path} is finished already; overwrite=true does it again")
        return Run(folder.path, report)
    if folder.is_finished and not folder.model.is_dir():
        screen.tell(f"{folder.model} was taken away; the run is done again")
    with screen.busy("loading the encoder"):
        prepared = prepare(settings, corpus, folder.path, tell=screen.tell)
    render(prepared.plan, screen.console)
    with folder.locked():
        return _adapt(settings, prepared, folder, screen)


def _adapt(settings: Settings, prepared: Prepared, folder: RunFolder, screen: Screen) -> Run:
    """Train, save and measure in a folder that nobody else writes to, from where an earlier process was stopped."""
    corpus = prepared.corpus
    trained = train(settings, prepared, folder, screen)
    trajectory = trained.trajectory
    record = _record(prepared, trained.fitted)
    with ExitStack() as meanwhile:
        asked = None
        if is_main():
            with screen.busy("saving"):  # before anything is measured: a figure can be had again, a training not
                written = artefact.save(prepared.classifier, record, folder.model, detector=trained.fitted.detector)
            if record.merged and not written.merged:
                screen.tell("the adapter cannot be merged: model/ holds the adapter alone")
            if settings.verify and asked_code(folder.model):
                screen.tell("not loaded in a fresh process: the encoder runs code of its own")
            elif settings.verify:  # a process of its own, which works while this one measures
                base = prepared.classifier.source.folder
                asked = meanwhile.enter_context(verification.asking(folder.model, written, base=base))
        measured = _measure(prepared, record, trained.fitted, screen)
        if asked is not None:
            with screen.busy("loading the saved model in a fresh process"):
                try:
                    asked.result()
                except verification.Unanswered as error:
                    screen.tell(str(error))
    folder.finish(
        measured.report,
        data={"source": corpus.source, "fingerprint": corpus.fingerprint},
        encoder={"name": record.encoder.name, "sha256": record.encoder.sha256},
        steps=trajectory.steps,
        kept_step=trajectory.kept_step,
        skipped=trajectory.skipped,
        head=head_words(prepared.classifier),
        seconds=round(trained.seconds, 3),
    )
    _describe(folder)
    _report(prepared, measured, pages.Took(trained.seconds, trajectory.steps), folder, screen)
    tracking.finish(prepared.accelerator, measured.report, trajectory.steps)
    prepared.accelerator.wait_for_everyone()
    return Run(folder.path, measured.report)


def _report(prepared: Prepared, measured: pages.Measured, took: pages.Took, folder: RunFolder, screen: Screen) -> None:
    """Write the pages about the figures; the run is finished, whatever becomes of them."""
    if prepared.settings.report.write and is_main():
        with screen.busy("writing the report"):
            source = _public_source(prepared.settings.data, prepared.corpus)
            pages.write_pages(prepared, measured, took, folder.path, source=source, tell=screen.tell)


def _describe(folder: RunFolder) -> None:
    """Write the model's card, from what the run has written."""
    if is_main():
        with folder.reached():
            publication.write_card(folder.path)


def evaluate(folder: Path, trained: Settings, settings: Settings, *, screen: Screen | None = None) -> Report:
    """Measure a saved model, on its own test rows or on others.

    Args:
        folder: of the run, or of an export of its model.
        trained: the settings the run was made with; its training rows fit the floors.
        settings: the same with the user's changes. Where `data` differs, the test split of that data is measured on,
            or all of its rows where it has no splits.
        screen: where progress is shown; None: nowhere.

    Raises:
        UserError: for rows that do not fit the model's task.
    """
    from nlp_transfer.predict import opened

    screen = screen or Screen(speaks=False)
    predictor = opened(folder, settings)
    task = predictor.record.task
    notes: list[str] = []
    floors_wanted = settings.evaluation.floors and any(_source_of(trained.data))
    own = _source_of(settings.data) == _source_of(trained.data)
    with screen.busy("reading data"):
        corpus = (
            load_corpus(settings.data if own else trained.data, seed=trained.seed) if own or floors_wanted else None
        )
        if corpus is not None and not corpus.task.asks_as(task):
            changed = f"{corpus.source} no longer has the labels the model was trained on"
            if own:
                known = ", ".join(task.labels)
                raise UserError(f"{changed}: {known}; measure other rows with data=files data.path=...")
            notes.append(f"{changed}; the floors are left out.")
            corpus = None
        if own and corpus is not None:
            split = "test" if "test" in corpus.splits else "validation"
            examples, foreign = corpus.splits[split], corpus.foreign.get(split)
            if corpus.fingerprint != predictor.record.data["fingerprint"]:
                notes.append("The data is not what the model was trained on; rows measured here may have trained it.")
        else:
            tables = read_splits(settings.data)
            split = next(name for name in ("test", "validation", "train") if name in tables)
            examples, found, foreign = read_examples(tables[split], task, settings.data, split=split)
            notes += found
    with screen.busy(f"measuring {len(examples):,} rows"):
        answers = predictor.answers(examples.texts, examples.pairs)
        strangers = partial(predictor.answers, foreign.texts, foreign.pairs) if foreign else None
        confidence = settings.evaluation.confidence
        rules = said_of(
            predictor.record,
            predictor.detector,
            examples,
            answers,
            strangers,
            confidence=confidence,
            in_sample=own and split != "test",
        )
        store = store_of(settings.cache, screen.tell)
        train, fixed = corpus.splits["train"] if corpus else None, trained.decision.threshold is not None
        floors = _floors(settings, corpus, task, examples, store, fixed=fixed) if corpus else []
        report = evaluate_predictions(
            task,
            examples,
            answers[0],
            floors=floors,
            settings=settings.evaluation,
            seed=settings.seed,
            split=split,
            said=rules,
        )
    report = dataclasses.replace(report, notes=[*notes, *report.notes])
    if settings.report.output and is_main():
        measured = pages.Measured(examples, answers[0], floors, report, train)
        with screen.busy("writing the report"):
            pages.write_page(folder, task, measured, settings, source=_named(settings.data))
    return report


def _source_of(data: DataSettings) -> tuple[str | None, ...]:
    return data.embedded, data.path, data.train, data.validation, data.test, data.hub, data.subset, data.revision


def _measure(prepared: Prepared, record: Record, fitted: Fitted, screen: Screen) -> pages.Measured:
    """Return the figures on the reported split, floors beside them."""
    settings, corpus, split = prepared.settings, prepared.corpus, prepared.reported_split
    with screen.busy(f"measuring on {split}"):
        logits, examples = prepared.outputs(split), corpus.splits[split]
        features, foreign = None, corpus.foreign.get(split)
        if needs_features(record):
            features = prepared.features_now(split)
        strangers = partial(prepared.answers_to, foreign) if foreign else None
        confidence = settings.evaluation.confidence
        said = said_of(
            record,
            fitted.detector,
            examples,
            (logits, features),
            strangers,
            confidence=confidence,
            in_sample=split != "test",
        )
        floors = _floors(settings, corpus, corpus.task, examples, prepared.below_output.store) if is_main() else []
        report = evaluate_predictions(
            corpus.task,
            examples,
            logits,
            floors=floors,
            settings=settings.evaluation,
            seed=settings.seed,
            split=split,
            said=said,
        )
    return pages.Measured(examples, logits, floors, report, corpus.splits["train"])


def _floors(
    settings: Settings, corpus: Corpus, task: Task, examples: Examples, store: Store | None, *, fixed: bool = False
) -> list[baselines.Floor]:
    """Return the floors, with thresholds of their own unless the model's was fixed when it was made or is now."""
    if not settings.evaluation.floors:
        return []
    metric = settings.evaluation.metric
    # One half is the threshold of a model for which none was chosen.
    free = settings.decision.threshold is None and not fixed and task.threshold != 0.5
    train, held = corpus.splits["train"], corpus.splits["validation"] if settings.decision.calibrate else None
    return baselines.floors(task, train, examples, seed=settings.seed, metric=metric, free=free, held=held, store=store)


def _record(prepared: Prepared, fitted: Fitted) -> Record:
    source, corpus = prepared.classifier.source, prepared.corpus
    return Record(
        task=corpus.task,
        tokens=prepared.spec,
        roles=corpus.roles,
        encoder=dataclasses.replace(prepared.settings.encoder, revision=source.revision, sha256=source.sha256),
        max_tokens=prepared.classifier.max_tokens,
        merged=getattr(prepared.strategy, "merge", True),
        data={"source": _public_source(prepared.settings.data, corpus), "fingerprint": corpus.fingerprint},
        calibration=fitted.calibration,
        novelty=fitted.novelty,
        nonconformity=fitted.nonconformity,
    )


def _public_source(data: DataSettings, corpus: Corpus) -> str:
    """Return where the rows came from as others may read it."""
    return _named(data) or corpus.source


def _named(data: DataSettings) -> str:
    """Return the names of the files that rows come from, without their folders."""
    files = [name for name in (data.path, data.train, data.validation, data.test) if name is not None]
    return ", ".join(Path(name).name for name in files)
