"""The figures of a model: those of a run on its own rows, and those of a saved model on any."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from nlp_transfer.artefact.record import Record
from nlp_transfer.cache.store import Store, store_of, store_of_rows
from nlp_transfer.continual.memory import Memory
from nlp_transfer.continual.rows import alone, load
from nlp_transfer.data.corpus import Corpus, Examples, read_examples
from nlp_transfer.data.sources import read_source, source_of
from nlp_transfer.data.task import Task
from nlp_transfer.decision.fitting import Fitted
from nlp_transfer.decision.report import said_of
from nlp_transfer.decision.rules import needs_features
from nlp_transfer.domains.source_only import SourceOnly
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import baselines
from nlp_transfer.evaluation.report import Report, evaluate_predictions
from nlp_transfer.machine.launch import is_main
from nlp_transfer.pretraining.planning import outcome_words
from nlp_transfer.reporting import pages
from nlp_transfer.reporting.evidence import Measured
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.settings import DataSettings, Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading


def measure(
    prepared: Prepared,
    record: Record,
    fitted: Fitted,
    screen: Screen,
    *,
    beside: SourceOnly | None = None,
    memory: Memory | None = None,
) -> Measured:
    """Return the figures of a model that was just trained, on the reported split, floors beside them.

    One of these is the run without the texts of another domain, where there was one; `memory` tells what was forgotten.
    """
    settings, corpus, split = prepared.settings, prepared.corpus, prepared.corpus.reported_split
    with reading(screen, f"measuring on {split}"):
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
        said += prepared.domains.sentences if prepared.domains else []
        floors = _floors(settings, corpus, corpus.task, examples, prepared.below_output.store) if is_main() else []
        if beside is not None:
            floors.append(beside.floor)
            answers, _ = prepared.answers_to(beside.asked)
            said += beside.sentences(corpus.task, answers, settings=settings.evaluation, seed=settings.seed)
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
    first = [f"{outcome_words(record.pretrained)}."] if record.pretrained else []
    first += memory.sentences if memory else []
    report = dataclasses.replace(report, notes=[*first, *report.notes])
    return Measured(examples, logits, floors, report, corpus.own_train)


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
    from nlp_transfer.predicting.predict import opened
    from nlp_transfer.predicting.turns import check_alike

    screen = screen or Screen(speaks=False)
    predictor = opened(folder, settings)
    task = predictor.record.task
    notes: list[str] = []
    own = source_of(settings.data) == source_of(trained.data)
    with screen.busy("reading data"):
        (corpus, whole), changed = _corpus(trained, settings, task, notes, own=own), ""
        if corpus is not None and not corpus.task.asks_as(task):
            changed = f"{corpus.source} no longer has the labels the model was trained on"
        if own and corpus is not None:
            if changed:
                known = ", ".join(task.labels)
                raise UserError(f"{changed}: {known}; measure other rows with data=files data.path=...")
            split = corpus.reported_split
            examples, foreign = corpus.splits[split], corpus.foreign.get(split)
            if whole and corpus.fingerprint != predictor.record.data["fingerprint"]:
                notes.append("The data is not what the model was trained on; rows measured here may have trained it.")
        else:
            tables = read_source(settings.data, store=store_of_rows(settings.cache, screen.tell)).splits
            part = next(name for name in ("test", "validation", "train") if name in tables)
            # Rows that are not divided are read as "train", but they are no training rows.
            split = _named(settings.data) if part == "train" else part
            examples, found, foreign = read_examples(tables[part], task, settings.data, split=split)
            notes += [*found, *_learned(corpus, examples)]
            if changed:
                notes += [f"{changed}; the floors are left out."] * settings.evaluation.floors
                corpus = None
    others = (foreign.texts, foreign.pairs) if foreign else ()
    with reading(screen, f"measuring {len(examples):,} rows"):
        check_alike(predictor, (examples.texts, examples.pairs, *others))
        answers = predictor.answers(examples.texts, examples.pairs)
        strangers = partial(predictor.answers, *others) if others else None
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
        floors = _floors(settings, corpus, task, examples, store, fixed=fixed) if corpus and whole else []
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
        measured = Measured(examples, answers[0], floors, report, train)
        with screen.busy("writing the report"):
            pages.write_evaluation_report(folder, task, measured, settings, source=named_files(settings.data))
    return report


def _floors(
    settings: Settings, corpus: Corpus, task: Task, examples: Examples, store: Store | None, *, fixed: bool = False
) -> list[baselines.Floor]:
    """Return the floors, with thresholds of their own unless the model's was fixed when it was made or is now."""
    if not settings.evaluation.floors:
        return []
    metric = settings.evaluation.metric
    # One half is the threshold of a model for which none was chosen.
    free = settings.decision.threshold is None and not fixed and task.threshold != 0.5
    train, held = corpus.own_train, corpus.splits.get("validation") if settings.decision.calibrate else None
    return baselines.floors(task, train, examples, seed=settings.seed, metric=metric, free=free, held=held, store=store)


def _corpus(
    trained: Settings, settings: Settings, task: Task, notes: list[str], *, own: bool
) -> tuple[Corpus | None, bool]:
    """Return the data that taught the model, and whether it is all of it.

    It is None, with a note, where nothing but a warning needs it; and lacks replayed rows that cannot be read now.
    """
    if not own and not trained.data.source:
        return None, False
    data = settings.data if own else trained.data
    asked = dataclasses.replace(trained, data=dataclasses.replace(data, unlabelled=None))  # of which nothing is asked
    try:
        try:
            return load(asked), True
        except UserError as error:
            if not trained.continual.used:
                raise
            corpus, whole = alone(asked, task), not trained.continual.replay
            if not whole:
                lost = "; the floors are left out" * settings.evaluation.floors
                notes.append(
                    f"The rows that were replayed cannot be read now ({error}): whether the data is what the model was "
                    f"trained on is not known{lost}."
                )
            return corpus, whole
    except UserError as error:
        if own or settings.evaluation.floors:
            raise
        notes.append(f"Whether these rows trained the model is not known: {error}")
        return None, False


def _learned(corpus: Corpus | None, examples: Examples) -> list[str]:
    """Say how many rows have a text that the model was trained on."""
    count = int(examples.keys.among(corpus.splits["train"].keys).sum()) if corpus else 0
    have = "has" if count == 1 else "have"
    said = f"{count:,} of {len(examples):,} rows {have} a text the model was trained on: figures on them flatter."
    return [said] if count else []


def _named(data: DataSettings) -> str:
    return named_files(data) or data.hub or data.embedded or "all rows"


def public_source(data: DataSettings, corpus: Corpus) -> str:
    """Return where the rows came from as others may read it."""
    return named_files(data) or corpus.source


def named_files(data: DataSettings) -> str:
    """Return the names of the files that rows come from, without their folders."""
    return ", ".join(Path(name).name for name in data.files)
