from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nlp_transfer.cache.store import Store
from nlp_transfer.data import compact
from nlp_transfer.data.compact import CompactCells
from nlp_transfer.data.corpus import Examples, Texts
from nlp_transfer.data.task import Task
from nlp_transfer.evaluation import tfidf
from nlp_transfer.evaluation.baselines import fit_baselines
from nlp_transfer.evaluation.calibration import calibrate
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.evaluation.metrics import HIGHER_IS_BETTER, compute, selection_metric

LABELS = ("cold", "mild", "warm")
NOISE = [f"filler{index}" for index in range(30)]
CELLS = [
    (problem, soft, weighted, pair)
    for problem, soft, weighted, pair in product(
        ("single_label", "multi_label", "ordinal", "regression"), (False, True), (False, True), (False, True)
    )
    if not (problem == "regression" and soft)
]


def examples(texts, targets, *, pairs=None, weights=None):
    weights = np.ones(len(texts), np.float32) if weights is None else np.asarray(weights, np.float32)
    return Examples(list(texts), pairs, np.asarray(targets), weights, [str(row) for row in range(len(texts))], None)


def learnable(problem, *, soft, weighted, pair, rows, seed):
    """Texts of filler words with one or two of three telling words a label; with pairs: some of them in either text."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=rows)
    members = np.eye(3)[classes]
    if problem == "multi_label":
        members = (rng.random((rows, 3)) < 0.4).astype(float)
    words = [
        [*rng.choice(NOISE, 6), *(f"{LABELS[label]}{rng.integers(3)}" for label in np.flatnonzero(row))]
        for row in members
    ]
    if problem == "regression":
        targets = (classes + rng.normal(size=rows) / 4).astype(np.float32)
    elif problem == "multi_label":
        targets = (np.abs(members - 0.2 * soft)).astype(np.float32)
    else:
        targets = (0.8 * members + 0.2 / 3).astype(np.float32) if soft else classes
    texts = [" ".join(row[:7]) for row in words]
    pairs = [" ".join(row[3:]) for row in words] if pair else None
    return examples(texts, targets, pairs=pairs, weights=rng.integers(1, 4, rows) if weighted else None)


@pytest.mark.parametrize(
    "cell",
    # Weights and soft labels are tried together, each alone before a release.
    [pytest.param(cell, marks=[pytest.mark.exhaustive] * (cell[1] != cell[2])) for cell in CELLS],
    ids=lambda cell: "-".join(map(str, cell)),
)
def test_tfidf_beats_the_majority_where_words_predict_labels(cell):
    problem, soft, weighted, pair = cell
    task = Task(problem, () if problem == "regression" else LABELS, pair=pair)
    train, test = (
        learnable(problem, soft=soft, weighted=weighted, pair=pair, rows=rows, seed=seed)
        for rows, seed in ((100, 0), (60, 1))
    )
    majority, tfidf = fit_baselines(task, train, test, seed=0)
    metric = selection_metric(task, "auto")
    scores = {
        baseline.name: compute(task, baseline.logits, test.targets, test.weights)[metric]
        for baseline in (majority, tfidf)
    }
    assert scores["tfidf"] > max(np.nan_to_num(scores["majority"]), 0) + 0.2
    for baseline in (majority, tfidf):
        assert baseline.logits.shape == (60, task.outputs)
        assert np.isfinite(baseline.logits).all()
    if problem in ("single_label", "ordinal"):  # the logits are log-probabilities
        for baseline in (majority, tfidf):
            assert np.exp(baseline.logits).sum(axis=1) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("problem", ["single_label", "ordinal", "multi_label", "regression"])
def test_validation_rows_calibrate_a_baseline_like_a_model(problem, pair, tmp_path):
    """They differ from the training rows; with one label per text the test predictions follow them."""
    task, metric = Task(problem, () if problem == "regression" else LABELS, pair=pair), "log_loss"
    metric = "mean_squared_error" if problem == "regression" else metric
    train, held, test = (
        learnable(problem, soft=False, weighted=False, pair=pair, rows=rows, seed=rows) for rows in (90, 150, 40)
    )
    if problem in ("single_label", "ordinal"):
        kept = np.flatnonzero((held.targets == 0) | (np.arange(150) % 4 == 0))
        pairs = None if held.pairs is None else [held.pairs[row] for row in kept]
        held = examples([held.texts[row] for row in kept], held.targets[kept], pairs=pairs)
    options = {"seed": 0, "metric": metric}
    plain, others = (fit_baselines(task, train, rows, **options) for rows in (test, held))
    for store in (None, Store(tmp_path, 2**30), Store(tmp_path, 2**30)):
        for found, before, rated in zip(
            fit_baselines(task, train, test, validation=held, store=store, **options), plain, others, strict=True
        ):
            assert found.logits.shape == before.logits.shape
            if problem not in ("single_label", "ordinal"):
                assert (found.logits == before.logits).all()
                continue
            calibration = calibrate(task, rated.logits, held.targets, held.weights, metric=metric)
            assert calibration.shifts
            assert found.logits == pytest.approx(calibration.apply(before.logits))


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_baselines_depend_on_the_seed_only(problem):
    task = Task(problem, () if problem == "regression" else LABELS, pair=False)
    train = learnable(problem, soft=False, weighted=True, pair=False, rows=60, seed=0)
    first, second = (fit_baselines(task, train, train, seed=3)[1] for _ in range(2))
    assert (first.logits == second.logits).all()
    assert first.detail == second.detail != ""


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_a_fitted_baseline_is_read_from_the_cache(problem, tmp_path):
    task, store = Task(problem, () if problem == "regression" else LABELS, pair=False), Store(tmp_path, 2**30)
    train, test = (learnable(problem, soft=False, weighted=True, pair=False, rows=rows, seed=rows) for rows in (60, 20))
    fitted, found = (fit_baselines(task, train, test, seed=3, store=store)[1] for _ in range(2))
    assert (found.logits == fitted.logits).all()
    assert (found.logits.shape, found.logits.dtype) == (fitted.logits.shape, fitted.logits.dtype)
    assert (found.detail, found.threshold) == (fitted.detail, fitted.threshold)
    assert (found.threshold is None) == (problem != "multi_label")
    (entry,) = store.entries()
    other = np.array(store.find(entry.key))
    other[-fitted.logits.size :] += 1
    store.remove(entry.key)
    store.keep(entry.key, other, {})
    assert (fit_baselines(task, train, test, seed=3, store=store)[1].logits == fitted.logits + 1).all()


def in_file(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_baselines_of_memory_mapped_rows_equal_those_in_memory(problem, pair, tmp_path, monkeypatch):
    task = Task(problem, () if problem == "regression" else LABELS, pair=pair)
    parts = [learnable(problem, soft=False, weighted=True, pair=pair, rows=rows, seed=rows) for rows in (60, 25, 30)]
    few = fit_baselines(task, *parts[:2], seed=3, validation=parts[2])
    monkeypatch.setattr(compact, "_MANY", 1)  # then cells lie in a file, and so do features
    monkeypatch.setattr(tfidf, "_MOST_IN_MEMORY", 1)
    monkeypatch.setattr(tfidf, "_BLOCK", 7)
    train, test, held = (
        replace(part, texts=CompactCells(part.texts), pairs=part.pairs and CompactCells(part.pairs)) for part in parts
    )
    asked = tfidf.tfidf_features(task, train, test)[1]
    assert all(in_file(part) for part in (asked.data, asked.indices))
    for _ in range(2):  # the second time they are read back
        many = fit_baselines(task, train, test, seed=3, validation=held, store=Store(tmp_path, 2**30))
        assert [baseline.detail for baseline in many] == [baseline.detail for baseline in few]
        for one, other in zip(few, many, strict=True):
            assert (one.logits == other.logits).all()


@pytest.mark.parametrize("pair", [False, True])
def test_the_baseline_samples_rows_of_very_large_data(pair, tmp_path, monkeypatch):
    task, store = Task("single_label", LABELS, pair=pair), Store(tmp_path, 2**30)
    train, test = (
        learnable("single_label", soft=False, weighted=True, pair=pair, rows=rows, seed=rows) for rows in (400, 50)
    )
    both = Texts(train.texts, train.pairs)
    lengths = np.array([sum(map(len, row)) for row in zip(train.texts, train.pairs or [""] * 400, strict=True)])
    monkeypatch.setattr(tfidf, "_MOST_TRAINING_CHARACTERS", lengths.sum())
    assert list(tfidf.rows_to_fit(both, seed=0)) == list(range(400))
    monkeypatch.setattr(tfidf, "_MOST_TRAINING_CHARACTERS", lengths.sum() / 2)
    monkeypatch.setattr(tfidf, "_MIN_SAMPLE", 10)
    rows = tfidf.rows_to_fit(both, seed=0)
    assert list(rows) == sorted(set(rows)) != list(tfidf.rows_to_fit(both, seed=1))
    assert lengths.sum() / 2 - lengths.max() < lengths[rows].sum() <= lengths.sum() / 2
    fitted, found = (fit_baselines(task, train, test, seed=0, store=store) for _ in range(2))
    assert fitted[1].detail == found[1].detail
    assert fitted[1].detail.endswith(f", {len(rows)} of 400 training rows")
    assert compute(task, fitted[1].logits, test.targets)["accuracy"] > 0.8
    monkeypatch.setattr(tfidf, "_MIN_SAMPLE", 300)
    assert len(tfidf.rows_to_fit(both, seed=0)) == 300


def test_the_cache_key_has_everything_the_baseline_depends_on(tmp_path):
    task, store = Task("single_label", LABELS, pair=False), Store(tmp_path, 2**30)
    train, test = (
        learnable("single_label", soft=False, weighted=True, pair=False, rows=rows, seed=rows) for rows in (60, 20)
    )

    def entries(task=task, train=train, test=test, seed=0, metric="auto"):
        fit_baselines(task, train, test, seed=seed, metric=metric, store=store)
        return len(store.entries())

    assert entries() == entries(metric="macro_f1") == 1  # which is what auto means here
    assert entries(test=replace(test, targets=1 - test.targets, weights=test.weights + 1)) == 1  # not looked at
    assert entries(seed=1) == 2
    assert entries(metric="log_loss") == 3
    assert entries(train=replace(train, texts=[*train.texts[:-1], "other"])) == 4
    assert entries(train=replace(train, targets=train.targets[::-1])) == 5
    assert entries(train=replace(train, weights=train.weights[::-1])) == 6
    assert entries(test=replace(test, texts=test.texts[::-1])) == 7
    assert entries(task=Task("ordinal", LABELS, pair=False)) == 8


def test_majority_is_the_weighted_prior():
    texts, test = ["one", "two", "three", "four"], examples(["five", "six"], [0, 0])
    weights = [1, 1, 1, 5]

    def majority(problem, labels, targets):
        task = Task(problem, labels, pair=False)
        baseline = fit_baselines(task, examples(texts, targets, weights=weights), test, seed=0)[0]
        assert (baseline.logits == baseline.logits[0]).all()
        return probabilities(task, baseline.logits)[0]

    assert majority("single_label", LABELS, [0, 0, 1, 2]) == pytest.approx([2 / 8, 1 / 8, 5 / 8])
    soft = np.array([[0.5, 0.5, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    assert majority("ordinal", LABELS, soft) == pytest.approx([1.5 / 8, 1.5 / 8, 5 / 8])
    multi = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0.5]], np.float32)
    assert majority("multi_label", LABELS, multi) == pytest.approx([1, 1 / 8, 2.5 / 8])
    assert majority("regression", (), np.array([1, 2, 3, 4], np.float32)) == pytest.approx([26 / 8])


@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_do_not_change_the_baselines(soft):
    train = learnable("single_label", soft=soft, weighted=True, pair=False, rows=60, seed=0)
    test = learnable("single_label", soft=soft, weighted=False, pair=False, rows=20, seed=1)
    plain = fit_baselines(Task("single_label", LABELS, pair=False), train, test, seed=0)
    task = Task("single_label", LABELS, pair=False, class_weights=(0.5, 1.0, 3.0))
    by_label = np.array(task.class_weights, np.float32)
    train = replace(train, weights=train.weights * (train.targets @ by_label if soft else by_label[train.targets]))
    for first, second in zip(plain, fit_baselines(task, train, test, seed=0), strict=True):
        assert first.logits == pytest.approx(second.logits, rel=1e-4, abs=1e-4)


def test_the_scale_of_weights_does_not_change_the_baselines():
    task = Task("single_label", LABELS, pair=False)
    train = learnable("single_label", soft=False, weighted=True, pair=False, rows=60, seed=0)
    tiny = replace(train, weights=train.weights * np.float32(2**-20))
    for first, second in zip(
        fit_baselines(task, train, train, seed=0), fit_baselines(task, tiny, train, seed=0), strict=True
    ):
        assert (first.logits == second.logits).all()


@pytest.mark.parametrize("rows", [2, 3, 5, 11, 13])
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "ordinal", "regression"])
def test_few_rows(problem, rows):
    # one row of each class, then only the first: most folds lack most classes
    classes = np.minimum(np.arange(rows), rows - 1) % 3 * (np.arange(rows) < 3)
    targets = {
        "single_label": classes,
        "ordinal": classes,
        "multi_label": np.eye(3, dtype=np.float32)[classes],
        "regression": classes.astype(np.float32),
    }[problem]
    task = Task(problem, () if problem == "regression" else LABELS, pair=False)
    train = examples([f"text number {row}" for row in range(rows)], targets)
    for baseline in fit_baselines(task, train, examples(["text", "other words"], targets[:2]), seed=0):
        assert baseline.logits.shape == (2, task.outputs)
        assert np.isfinite(baseline.logits).all()


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize("texts", [["", " "], ["!", "?"], ["!!!", "…"], ["a", "b"]], ids=repr)
@pytest.mark.parametrize("pair", [False, True])
def test_texts_without_words(problem, texts, pair):
    texts = texts * 10
    task = Task(problem, () if problem == "regression" else LABELS, pair=pair)
    classes = np.arange(20) % 2
    targets = {"single_label": classes, "multi_label": np.eye(3)[classes], "regression": classes / 2}[problem]
    train = examples(texts, targets, pairs=texts if pair else None)
    majority, tfidf = fit_baselines(task, train, train, seed=0)
    assert np.isfinite(tfidf.logits).all()
    if texts[0] == "":
        assert (tfidf.logits == majority.logits).all()
        assert tfidf.detail == "no word in the training texts"


def test_labels_of_all_or_no_rows():
    train = learnable("multi_label", soft=False, weighted=False, pair=False, rows=40, seed=0)
    targets = train.targets.copy()
    targets[:, 0], targets[:, 1] = 1, 0
    train = replace(train, targets=targets)
    task = Task("multi_label", LABELS, pair=False)
    for baseline in fit_baselines(task, train, train, seed=0):
        assert (baseline.logits[:, 0] > 0).all()
        assert (baseline.logits[:, 1] < 0).all()


def test_unknown_words_are_ignored():
    train = learnable("single_label", soft=False, weighted=False, pair=False, rows=60, seed=0)
    for baseline in fit_baselines(
        Task("single_label", LABELS, pair=False), train, examples(["ξένος", ""], [0, 0]), seed=0
    ):
        assert np.isfinite(baseline.logits).all()


def test_pairs_are_compared():
    # whether both texts name the same thing: no word tells, only the overlap
    rng = np.random.default_rng(0)
    things = np.array([f"thing{index}x" for index in range(40)])

    def split(rows):
        same = rng.integers(2, size=rows)
        first = rng.integers(40, size=rows)
        second = np.where(same, first, (first + rng.integers(1, 40, rows)) % 40)
        return examples([f"about {thing}" for thing in things[first]], same, pairs=list(things[second]))

    train, test = split(300), split(100)
    tfidf = fit_baselines(Task("single_label", ("no", "yes"), pair=True), train, test, seed=0)[1]
    assert compute(Task("single_label", ("no", "yes"), pair=True), tfidf.logits, test.targets)["accuracy"] > 0.9


def test_shared_words_of_a_pair_are_features():
    # Each text has one word of either group; which group the shared word is of is the label.
    rng = np.random.default_rng(0)
    groups = np.array([[f"{group}{index}x" for index in range(10)] for group in ("hot", "icy")])

    def split(rows):
        label = rng.integers(2, size=rows)
        shared, others = groups[label, rng.integers(10, size=rows)], rng.integers(10, size=rows)
        mine, yours = groups[1 - label, others], groups[1 - label, (others + rng.integers(1, 10, rows)) % 10]
        texts = [[" ".join(pair) for pair in zip(shared, other, strict=True)] for other in (mine, yours)]
        return examples(texts[0], label, pairs=texts[1])

    train, test = split(300), split(100)
    task = Task("single_label", ("hot", "icy"), pair=True)
    assert compute(task, fit_baselines(task, train, test, seed=0)[1].logits, test.targets)["accuracy"] > 0.9


def test_scripts_without_spaces():
    rng = np.random.default_rng(0)
    filler, telling = list("的一是不了人我在有他这中大来上个国"), ["好棒", "糟差", "平常"]

    def split(rows):
        classes = rng.integers(3, size=rows)
        texts = [
            "".join([*rng.choice(filler, 8), rng.choice(list(telling[label])), *rng.choice(filler, 8)])
            for label in classes
        ]
        return examples(texts, classes)

    train, test = split(200), split(100)
    task = Task("single_label", LABELS, pair=False)
    assert compute(task, fit_baselines(task, train, test, seed=0)[1].logits, test.targets)["accuracy"] > 0.9


def test_long_texts_have_no_character_ngrams(monkeypatch):
    train = learnable("single_label", soft=False, weighted=False, pair=False, rows=60, seed=0)
    task = Task("single_label", LABELS, pair=False)
    columns = tfidf.tfidf_features(task, train, train)[0].shape[1]
    monkeypatch.setattr(tfidf, "_MOST_CHARACTER_WORK", 0)
    assert 0 < tfidf.tfidf_features(task, train, train)[0].shape[1] < columns


@pytest.mark.parametrize("metric", ["macro_f1", "log_loss"])
def test_the_baseline_is_tuned_for_the_metric(metric):
    # one class in ten: balancing helps macro_f1 and hurts log_loss
    rng = np.random.default_rng(0)
    task = Task("single_label", ("common", "rare"), pair=False)

    def split(rows):
        rare = (rng.random(rows) < 0.1).astype(np.int64)
        hints = np.where(rng.random(rows) < 0.75, rare, rng.integers(2, size=rows))
        return examples([" ".join([*rng.choice(NOISE, 4), f"hint{hint}"]) for hint in hints], rare)

    train, test = split(600), split(600)
    made = {chosen: fit_baselines(task, train, test, seed=0, metric=chosen)[1] for chosen in ("macro_f1", "log_loss")}
    assert ("balanced" in made[metric].detail) == (metric == "macro_f1")
    values = {chosen: compute(task, baseline.logits, test.targets)[metric] for chosen, baseline in made.items()}
    other = next(name for name in values if name != metric)
    assert (values[metric] > values[other]) if HIGHER_IS_BETTER[metric] else (values[metric] < values[other])
