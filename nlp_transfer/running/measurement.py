"""Evaluating a model: the one a run has just trained, on its own rows, or a saved one, on any rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nlp_transfer.artefact.record import Record
from nlp_transfer.cache.store import Store, store_of, store_of_rows
from nlp_transfer.continual.forgetting import Forgetting
from nlp_transfer.continual.rows import load, own_rows
from nlp_transfer.data.columns import find_column, with_columns_of
from nlp_transfer.data.corpus import Corpus, Examples, read_examples
from nlp_transfer.data.sources import read_source, source_of
from nlp_transfer.data.table import Table
from nlp_transfer.data.task import Task
from nlp_transfer.decision.report import decision_notes
from nlp_transfer.decision.rules import needs_features
from nlp_transfer.domains.source_only import SourceOnly
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.baselines import Baseline, fit_baselines
from nlp_transfer.evaluation.divergence import DomainGap
from nlp_transfer.evaluation.report import Report, evaluate_predictions
from nlp_transfer.evaluation.unknown import Detector
from nlp_transfer.machine.launch import is_main
from nlp_transfer.pretraining.planning import outcome_words
from nlp_transfer.reporting.evidence import Evaluation
from nlp_transfer.running import reports
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.settings import DataSettings, Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading


@dataclass(frozen=True)
class Comparisons:
    """What the report sets beside the figures of a trained model; None: not measured.

    Attributes:
        gap: the distance between the unlabelled texts and the training rows, before training.
        source_only: the same run without the texts of another domain.
        forgetting: the scores on earlier tasks of the model from which this one continued, and of this one.
    """

    gap: DomainGap | None = None
    source_only: SourceOnly | None = None
    forgetting: Forgetting | None = None


def measure(
    prepared: Prepared, record: Record, detector: Detector | None, comparisons: Comparisons, screen: Screen
) -> Evaluation:
    """Evaluate a model that was just trained on the reported split, beside its baselines.

    Args:
        prepared: the parts of the run, with the trained model.
        record: of the model.
        detector: its novelty detector.
        comparisons: the source-only run is one of the baselines, the others give sentences of the report.
        screen: where progress is shown.
    """
    settings, corpus, split = prepared.settings, prepared.corpus, prepared.corpus.reported_split
    with reading(screen, f"measuring on {split}"):
        logits, examples = prepared.outputs(split), corpus.splits[split]
        features, foreign = None, corpus.foreign.get(split)
        if needs_features(record):
            features = prepared.current_features(split)
        foreign_outputs = partial(prepared.logits_and_features, foreign) if foreign else None
        confidence = settings.evaluation.confidence
        sentences = decision_notes(
            record,
            detector,
            examples,
            (logits, features),
            foreign_outputs,
            confidence=confidence,
            in_sample=split != "test",
        )
        sentences += comparisons.gap.sentences if comparisons.gap else []
        baselines = (
            _baselines(settings, corpus, corpus.task, examples, prepared.feature_cache.store) if is_main() else []
        )
        if (source_only := comparisons.source_only) is not None:
            baselines.append(source_only.baseline)
            answers, _ = prepared.logits_and_features(source_only.texts)
            sentences += source_only.sentences(corpus.task, answers, settings=settings.evaluation, seed=settings.seed)
        report = evaluate_predictions(
            corpus.task,
            examples,
            logits,
            baselines=baselines,
            settings=settings.evaluation,
            seed=settings.seed,
            split=split,
            decision_notes=sentences,
        )
    first = [f"{outcome_words(record.pretrained)}."] if record.pretrained else []
    first += comparisons.forgetting.sentences if comparisons.forgetting else []
    report = dataclasses.replace(report, notes=[*first, *report.notes])
    return Evaluation(examples, logits, baselines, report, corpus.own_train)


def evaluate(folder: Path, trained: Settings, settings: Settings, *, screen: Screen | None = None) -> Report:
    """Evaluate a saved model, on its own test rows or on others.

    Args:
        folder: of the run, or of an export of its model.
        trained: the settings of the run; the baselines are fitted to its training rows.
        settings: the same with the user's changes. If `data` differs, the model is evaluated on the test split of that
            data, or on all its rows if it has no splits.
        screen: where progress is shown; None: nowhere.

    Raises:
        UserError: for rows that do not fit the model's task.
    """
    from nlp_transfer.predicting.distributed import check_same_input
    from nlp_transfer.predicting.predict import load_predictor

    screen = screen or Screen(quiet=True)
    predictor = load_predictor(folder, settings)
    task = predictor.record.task
    notes: list[str] = []
    is_own = source_of(settings.data) == source_of(trained.data)  # the rows of the run
    with screen.busy("reading data"):
        (corpus, whole), changed = _corpus(trained, settings, task, notes, is_own=is_own), ""
        if corpus is not None and not corpus.task.has_same_targets(task):
            changed = f"{corpus.source} no longer has the labels the model was trained on"
        if is_own and corpus is not None:
            if changed:
                known = ", ".join(task.labels)
                raise UserError(f"{changed}: {known}; measure other rows with data=files data.path=...")
            split = corpus.reported_split
            examples, foreign = corpus.splits[split], corpus.foreign.get(split)
            if whole and corpus.fingerprint != predictor.record.data["fingerprint"]:
                notes.append(
                    "The data is not what the model was trained on; it may have been trained on rows measured here."
                )
        else:
            tables = read_source(settings.data, store=store_of_rows(settings.cache, screen.tell)).splits
            part = next(name for name in ("test", "validation", "train") if name in tables)
            # Rows without splits are read as "train", but they are no training rows.
            split = _source_name(settings.data) if part == "train" else part
            data = _read_as_trained(settings.data, trained.data, predictor.record, tables[part])
            examples, reading_notes, foreign = read_examples(tables[part], task, data, split=split)
            notes += [*reading_notes, *_overlap_note(corpus, examples)]
            if changed:
                notes += [f"{changed}; the baselines are left out."] * settings.evaluation.floors
                corpus = None
    others = (foreign.texts, foreign.pairs) if foreign else ()
    with reading(screen, f"measuring {len(examples):,} rows"):
        check_same_input(predictor, (examples.texts, examples.pairs, *others))
        answers = predictor.answers(examples.texts, examples.pairs)
        foreign_outputs = partial(predictor.answers, *others) if others else None
        confidence = settings.evaluation.confidence
        rules = decision_notes(
            predictor.record,
            predictor.detector,
            examples,
            answers,
            foreign_outputs,
            confidence=confidence,
            in_sample=is_own and split != "test",
        )
        store = store_of(settings.cache, screen.tell)
        train, fixed = corpus.splits["train"] if corpus else None, trained.decision.threshold is not None
        baselines = _baselines(settings, corpus, task, examples, store, fixed=fixed) if corpus and whole else []
        report = evaluate_predictions(
            task,
            examples,
            answers[0],
            baselines=baselines,
            settings=settings.evaluation,
            seed=settings.seed,
            split=split,
            decision_notes=rules,
        )
    report = dataclasses.replace(report, notes=[*notes, *report.notes])
    if settings.report.output and is_main():
        evaluation = Evaluation(examples, answers[0], baselines, report, train)
        with screen.busy("writing the report"):
            reports.write_evaluation_report(folder, task, evaluation, settings, source=named_files(settings.data))
    return report


def _baselines(
    settings: Settings, corpus: Corpus, task: Task, examples: Examples, store: Store | None, *, fixed: bool = False
) -> list[Baseline]:
    """Return the baselines; their thresholds are tuned unless that of the model was set in training, or is now."""
    if not settings.evaluation.floors:
        return []
    metric = settings.evaluation.metric
    # A threshold of 0.5 means that none was tuned for the model.
    tune = settings.decision.threshold is None and not fixed and task.threshold != 0.5
    train, held = corpus.own_train, corpus.splits.get("validation") if settings.decision.calibrate else None
    return fit_baselines(
        task, train, examples, seed=settings.seed, metric=metric, tune_thresholds=tune, validation=held, store=store
    )


def _corpus(
    trained: Settings, settings: Settings, task: Task, notes: list[str], *, is_own: bool
) -> tuple[Corpus | None, bool]:
    """Return the data the model was trained on, and whether it is complete.

    If the data cannot be read, it is None, with a note, provided that only a warning would need it. If replayed rows
    cannot be read, it lacks them.
    """
    if not is_own and not trained.data.source:
        return None, False
    data = settings.data if is_own else trained.data
    labelled = dataclasses.replace(trained, data=dataclasses.replace(data, unlabelled=None))
    try:
        try:
            return load(labelled), True
        except UserError as error:
            if not trained.continual.used:
                raise
            corpus, whole = own_rows(labelled, task), not trained.continual.replay
            if not whole:
                lost = "; the baselines are left out" * settings.evaluation.floors
                notes.append(
                    f"The rows that were replayed cannot be read now ({error}): whether the data is what the model was "
                    f"trained on is not known{lost}."
                )
            return corpus, whole
    except UserError as error:
        if is_own or settings.evaluation.floors:
            raise
        notes.append(f"Whether the model was trained on these rows is not known: {error}")
        return None, False


def _overlap_note(corpus: Corpus | None, examples: Examples) -> list[str]:
    """Return a note on how many rows have a text that the model was trained on."""
    count = int(examples.keys.among(corpus.splits["train"].keys).sum()) if corpus else 0
    have = "has" if count == 1 else "have"
    note = f"{count:,} of {len(examples):,} rows {have} a text the model was trained on: scores on them are too high."
    return [note] if count else []


def _read_as_trained(data: DataSettings, trained: DataSettings, record: Record, table: Table) -> DataSettings:
    """Return how to read other rows: where the user has not said, as the training rows were read."""
    columns = with_columns_of(data.columns, table, record.roles, trained.columns)
    names = trained.label_columns or []
    if names and data.label_columns is None and columns.label is None and table.columns.keys() >= set(names):
        return dataclasses.replace(data, columns=columns, label_columns=names)
    label = find_column(table, "label", columns.label)
    is_text = label is not None and any(isinstance(cell, str) for cell in table.columns[label])
    separator = trained.label_separator if is_text and data.label_separator is None else data.label_separator
    return dataclasses.replace(data, columns=columns, label_separator=separator)


def _source_name(data: DataSettings) -> str:
    return named_files(data) or data.hub or data.embedded or "all rows"


def public_source(data: DataSettings, corpus: Corpus) -> str:
    """Return the source of the rows without private paths."""
    return named_files(data) or corpus.source


def named_files(data: DataSettings) -> str:
    """Return the names of the data files, without their folders."""
    return ", ".join(Path(name).name for name in data.files)
