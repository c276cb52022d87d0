"""Problem types, label sets, targets and class weights."""

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.data.task import Task, dense, likeliest
from nlp_transfer.errors import UserError
from nlp_transfer.settings import ColumnSettings, DataSettings


def load(
    labels: list[Any],
    *,
    columns: ColumnSettings | None = None,
    extra: list[dict[str, Any]] | None = None,
    seed: int = 0,
    **options: Any,
) -> Corpus:
    """A corpus of these labels; validation holds the same rows, so that nothing is carved."""
    rows = [{"text": f"text {n}", "label": label} | (extra[n] if extra else {}) for n, label in enumerate(labels)]
    settings = DataSettings(columns=columns or ColumnSettings(), **options)
    return load_corpus(settings, seed=seed, data={"train": rows, "validation": rows})


FRACTIONS = [n + 0.5 for n in range(30)]
PROBLEMS: list[tuple[list[Any], dict[str, Any], str, tuple[str, ...], tuple[int, ...]]] = [
    (["x", "y"], {}, "single_label", ("x", "y"), (2,)),
    ([10, 9, 10], {}, "single_label", ("9", "10"), (3,)),
    ([0.5, 1.0, 1.5], {}, "single_label", ("0.5", "1.0", "1.5"), (3,)),
    ([str(n) for n in range(40)], {}, "single_label", tuple(str(n) for n in range(40)), (40,)),
    (FRACTIONS, {}, "regression", (), (30,)),
    ([str(value) for value in FRACTIONS], {}, "regression", (), (30,)),
    ([*FRACTIONS, 7], {}, "regression", (), (31,)),
    (FRACTIONS, {"problem": "single_label"}, "single_label", tuple(map(str, FRACTIONS)), (30,)),
    ([1, 2], {"problem": "regression"}, "regression", (), (2,)),
    ([-1e9 - 1e6, -1e9, 1e-30], {"problem": "regression"}, "regression", (), (3,)),
    ([1e-30, 0.0], {"problem": "regression"}, "regression", (), (2,)),
    ([1e6 + 1, 1e6], {"problem": "regression"}, "regression", (), (2,)),
    ([["x"], [], ["y", "x"]], {}, "multi_label", ("x", "y"), (3, 2)),
    (["x|y", "", "x"], {"label_separator": "|"}, "multi_label", ("x", "y"), (3, 2)),
    ([{"x": 0.25, "y": 0.75}, {"x": 1}], {}, "single_label", ("x", "y"), (2, 2)),
    ([{"x": 0.9, "y": 0.9}, {"y": 0.1}], {"problem": "multi_label"}, "multi_label", ("x", "y"), (2, 2)),
    (["3", "1", "20"], {"problem": "ordinal"}, "ordinal", ("1", "3", "20"), (3,)),
    (
        ["mid", "low", "high"],
        {"problem": "ordinal", "order": ["low", "mid", "high"]},
        "ordinal",
        ("low", "mid", "high"),
        (3,),
    ),
]


@pytest.mark.parametrize(("labels", "options", "problem", "names", "shape"), PROBLEMS)
def test_problem_type_labels_and_targets(
    labels: list[Any], options: dict[str, Any], problem: str, names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    corpus = load(labels, **options)
    targets = corpus.splits["train"].targets
    assert (corpus.task.problem, corpus.task.labels, targets.shape) == (problem, names, shape)
    hard = problem in ("single_label", "ordinal") and len(shape) == 1
    assert targets.dtype == (np.int64 if hard else np.float32)
    assert corpus.task.outputs == (len(names) or 1)
    for row, label in zip(targets, labels, strict=True):
        if hard:
            assert names[row] == str(label)
        elif problem == "regression":
            assert row == np.float32(label)
        elif isinstance(label, dict):
            assert row.tolist() == [np.float32(label.get(name, 0)) for name in names]
        else:
            held = label.split("|") if isinstance(label, str) else label
            assert row.tolist() == [float(name in held) for name in names]


def test_detected_regression_is_reported() -> None:
    assert any(note.startswith("problem type regression, because") for note in load(FRACTIONS).notes)
    assert not any("problem type" in note for note in load(FRACTIONS, problem="regression").notes)


@pytest.mark.parametrize("first", [0, 1, 7])
def test_whole_numbers_with_gaps_may_be_measurements(first: int) -> None:
    numbered, scores = list(range(first, first + 30)), [first + 3 * n for n in range(30)]
    assert any(re.match("problem type single_label, .*data.problem=regression", note) for note in load(scores).notes)
    for labels, options in ((numbered, {}), (scores[:20], {}), (scores, {"problem": "single_label"})):
        assert not any("problem type" in note for note in load(labels, **options).notes)


@pytest.mark.parametrize(("labels", "hint"), [(["1", "2.5"], True), (["1", "x"], False)])
def test_numbers_that_training_lacks_may_be_measurements(labels: list[str], hint: bool) -> None:
    parts = {"train": labels, "test": ["7"]}
    with pytest.raises(UserError, match=r"training rows do not have: '7'") as output:
        load_corpus(
            DataSettings(), data={name: [{"text": x, "label": x} for x in part] for name, part in parts.items()}
        )
    assert ("data.problem=regression" in str(output.value)) == hint


@pytest.mark.parametrize(
    ("labels", "options", "error"),
    [
        ([{"x": 0.5, "y": 0.4}, {"x": 1}], {}, r"train\]:1, .* sum to 0\.9, not to 1; .*data\.problem=multi_label"),
        ([{"x": 1.5}, {"y": 1}], {}, "'x': 1.5 is not a label with a probability"),
        ([{"x": "a"}, {"y": 1}], {}, "'x': 'a' is not a label with a probability"),
        ([float("nan"), 1.0], {}, r"train\]:1, column 'label': the label is missing"),
        (
            [1.5, float("inf")],
            {"problem": "regression"},
            r"train\]:2, column 'label': 'inf' is not a number up to 3\.4e",
        ),
        ([1.5, -3e38], {"problem": "regression"}, r"train\]:2, column 'label': -3e\+38 is too large .* beyond 1e\+15"),
        (
            [1.5, 1e39],
            {"problem": "regression"},
            r"train\]:2, column 'label': '1e\+39' is not a number up to 3\.4e\+38",
        ),
        ([*FRACTIONS, -1e39], {}, r"train\]:31, column 'label': '-1e\+39' is not a number up to"),
        *[
            (["1.5", text], {"problem": "regression"}, rf"train\]:2, column 'label': '{text}' is not a number up to")
            for text in ("nan", "NaN", "inf", "-inf", "infinity", "1e39", "0x1p3", "1_000", "1,5")
        ],
        ([True, False], {"problem": "regression"}, "'True' is not a number up to"),
        ([2, 2], {"problem": "regression"}, "the same target"),
        *[
            (targets, {"problem": "regression"}, r"too close together .* differences from .*, or in another unit")
            for targets in ([1.7e9 + 0.5 * n for n in range(40)], [5.0, 5.0000001], [-9e9, -9e9 - 1], [0.0, 1e-60])
        ],
        (["x", "y"], {"problem": "multilabel"}, "did you mean 'multi_label'"),
        (["x", "y"], {"problem": "ordinal"}, "'x' is not a number: set data.order"),
        (["x", "y"], {"order": ["x", "y"]}, "data.order is for data.problem=ordinal"),
        (["x", "y"], {"problem": "ordinal", "order": ["x", "z"]}, "data.order: 'z' is not a label"),
        (["x", "y"], {"problem": "ordinal", "order": ["x"]}, "data.order lacks 'y'"),
        (["x", "y"], {"problem": "ordinal", "order": ["x", "y", "x"]}, "lists a label twice"),
        ([["x"], ["x", "x"]], {}, "a label appears twice"),
        ([["x"], ["y", None]], {}, "an empty name"),
        ([["x"], [["y"]]], {}, "the label is a list here but text"),
        ([[], []], {}, "no label at all"),
        (["x", "y"], {"label_separator": ",", "problem": "single_label"}, "is for several labels per row"),
        (["x", "y"], {"label_separator": ""}, "cannot be empty"),
        ([["x"], ["y"]], {"label_separator": ","}, "a list cannot be split"),
        ([b"x", b"y"], {}, r"a bytes .* cannot be a label; write it as text"),
    ],
)
def test_invalid_labels(labels: list[Any], options: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load(labels, **options)


def test_a_label_in_another_case_is_suggested() -> None:
    parts = {"train": ["pos", "neg"], "test": ["POS"]}
    with pytest.raises(UserError, match=r"do not have: 'POS' \(did you mean 'pos'\?\): 1 row"):
        load_corpus(
            DataSettings(), data={name: [{"text": x, "label": x} for x in part] for name, part in parts.items()}
        )


def test_a_probability_of_zero_is_not_having_the_label() -> None:
    train = [{"text": "p", "label": {"x": 0.5, "y": 0.5}}]
    fine = [{"text": "q", "label": {"x": 1.0, "z": 0.0}}]
    corpus = load_corpus(DataSettings(), data={"train": train, "validation": fine})
    assert corpus.splits["validation"].targets.tolist() == [[1, 0]]
    with pytest.raises(UserError, match=r"validation: 1 label the training rows do not have: 'z'"):
        load_corpus(DataSettings(), data={"train": train, "validation": [{"text": "q", "label": {"z": 1.0}}]})


COUNTS = {"x": 60, "y": 30, "z": 10}
HARD = [name for name, count in COUNTS.items() for _ in range(count)]


@pytest.mark.parametrize("setting", ["balanced", "effective", {"x": 1, "y": 2, "z": 4}])
@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_have_mean_one_over_training_rows(setting: Any, soft: bool) -> None:
    corpus = load([{name: 1.0} if soft else name for name in HARD], class_weights=setting)
    train, weights = corpus.splits["train"], np.asarray(corpus.task.class_weights)
    assert train.weights.mean() == pytest.approx(1)
    assert corpus.splits["validation"].weights.tolist() == [1.0] * len(HARD)
    expected = {
        "balanced": [100 / (3 * count) for count in COUNTS.values()],
        "effective": [(1 - 0.999) / (1 - 0.999**count) for count in COUNTS.values()],
    }.get(setting if isinstance(setting, str) else "", [1, 2, 4])
    assert weights / weights[0] == pytest.approx(np.asarray(expected) / expected[0])
    per_row = dict(zip(corpus.task.labels, weights, strict=True))
    assert train.weights == pytest.approx([per_row[name] for name in HARD])


def test_balanced_weights_give_every_class_the_same_total() -> None:
    corpus = load(HARD, class_weights="balanced")
    totals = np.bincount(corpus.splits["train"].targets, weights=corpus.splits["train"].weights)
    assert totals == pytest.approx(np.full(3, 100 / 3))


def test_class_weights_multiply_row_weights_and_expect_over_soft_labels() -> None:
    labels = [{"x": 1.0}, {"x": 0.5, "y": 0.5}, {"y": 1.0}]
    corpus = load(labels, class_weights={"x": 1, "y": 3}, extra=[{"weight": w} for w in (2, 2, 0)])
    low, high = corpus.task.class_weights or ()
    assert corpus.splits["train"].weights == pytest.approx([2 * low, low + high, 0])
    assert corpus.splits["validation"].weights.tolist() == [2, 2, 0]


def test_multi_label_weights_are_of_the_positives_and_not_of_rows() -> None:
    corpus = load([["x"]] * 2 + [["x", "y"]] + [[]] * 5, class_weights="balanced")
    assert corpus.task.class_weights == pytest.approx((5 / 3, 7 / 1))
    assert corpus.splits["train"].weights.tolist() == [1.0] * 8


@pytest.mark.parametrize(
    ("setting", "labels", "error"),
    [
        ("ballanced", ["x", "y"], "did you mean 'balanced'"),
        ({"x": 1, "yy": 2}, ["x", "y"], r"'yy' is not a label \(did you mean 'y'\?\)"),
        ({"x": 1}, ["x", "y"], "data.class_weights lacks 'y'"),
        ({"x": 1, "y": 0}, ["x", "y"], "'y' needs a positive number, not 0"),
        ("balanced", FRACTIONS, "has no meaning for regression"),
        ("balanced", [["x"], ["x", "y"]], "every training row has the label 'x'"),
    ],
)
def test_invalid_class_weights(setting: Any, labels: list[Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load(labels, class_weights=setting)


@pytest.mark.parametrize("weight", [-1, "x", None, float("inf"), True, 1e39, "1e39", "nan", "inf"])
def test_invalid_row_weights(weight: Any) -> None:
    with pytest.raises(UserError, match=r"train\]:2, column 'weight'"):
        load(["x", "y"], extra=[{"weight": 1}, {"weight": weight}])


def test_rows_that_all_have_weight_zero() -> None:
    with pytest.raises(UserError, match="every row has the weight 0"):
        load(["x", "y"], extra=[{"weight": 0}] * 2)


@pytest.mark.parametrize(
    ("weights", "options", "error"),
    [
        ([3e38] * 20, {}, r"sum to inf"),
        ([2e38] + [0] * 19, {"class_weights": {"x": 2, "y": 1e-3}}, r"train: the weights of its 20 rows sum to inf"),
        ([1e-46] * 20, {}, r"train: the weights of its 20 rows sum to 0"),
    ],
)
def test_weights_with_a_zero_or_infinite_sum(weights: list[float], options: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load(["x", "y"] * 10, extra=[{"weight": weight} for weight in weights], **options)


def test_a_split_with_zero_total_weight() -> None:
    rows = [{"text": f"text {n}", "label": "xy"[n % 2], "weight": 0} for n in range(40)]
    for id_ in load_corpus(DataSettings(), data=[row | {"weight": 1} for row in rows]).splits["train"].ids:
        rows[int(id_.removeprefix("train-")) - 1]["weight"] = 1
    with pytest.raises(UserError, match=r"(test|validation): the weights of its \d rows sum to 0"):
        load_corpus(DataSettings(), data=rows)


def test_task_survives_json() -> None:
    for labels, options, *_ in PROBLEMS:
        task = load(labels, **options).task
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    weighted = load(HARD, class_weights="balanced").task
    assert Task.from_json(json.loads(json.dumps(weighted.to_json()))) == weighted


def test_roles_are_found_and_shown() -> None:
    rows = [
        {"Sentence1": f"p{n}", "sentence2": f"q{n}", "Category": "xy"[n % 2], "idx": n, "domain": n % 2, "note": ""}
        for n in range(4)
    ]
    corpus = load_corpus(DataSettings(), data={"train": rows, "validation": rows})
    assert corpus.roles == {
        "text": "Sentence1",
        "text_pair": "sentence2",
        "label": "Category",
        "id": "idx",
        "domain": "domain",
    }
    train = corpus.splits["train"]
    assert corpus.task.pair
    assert (train.texts[1], (train.pairs or [])[1], train.ids[1], (train.domains or [])[1]) == ("p1", "q1", "1", "1")
    off = load_corpus(
        DataSettings(columns=ColumnSettings(text_pair="", id="", domain="")), data={"train": rows, "validation": rows}
    )
    assert not off.task.pair
    assert off.splits["train"].pairs is None
    assert off.splits["train"].domains is None
    assert off.splits["train"].ids[1] == "train-2"


def test_ids_that_repeat() -> None:
    repeated = [{"id": 7}, {"id": 7}]
    assert load(["x", "y"], extra=repeated).splits["train"].ids == ["train-1", "train-2"]
    assert any("column 'id' is not an id" in note for note in load(["x", "y"], extra=repeated).notes)
    with pytest.raises(UserError, match=r"train\]:2, column 'id': the id '7' of .*train\]:1 again"):
        load(["x", "y"], extra=repeated, columns=ColumnSettings(id="id"))


def test_a_split_without_the_columns_of_train() -> None:
    train = [{"text": "p", "label": "x"}, {"text": "q", "label": "y"}]
    with pytest.raises(UserError, match=r"validation\] has no column 'label', which is the label of the training rows"):
        load_corpus(DataSettings(), data={"train": train, "validation": [{"text": "p", "target": "x"}]})


@pytest.mark.parametrize(
    "labels", [HARD, FRACTIONS, [["x"], ["y"], ["x", "y"], []] * 10, [{"x": 0.3, "y": 0.7}, {"x": 1.0}] * 10]
)
@pytest.mark.parametrize("limit", [None, 6])
def test_every_problem_type_can_be_carved_and_limited(labels: list[Any], limit: int | None) -> None:
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    corpus = load_corpus(DataSettings(train_limit=limit, validation_share=0.1), data=rows)
    sizes = Counter({split: len(examples) for split, examples in corpus.splits.items()})
    assert sizes["test"] == round(0.2 * len(rows))
    assert sizes["validation"] == round(0.1 * (len(rows) - sizes["test"]))
    assert sizes["train"] == (limit or len(rows) - sizes["test"] - sizes["validation"])
    ids = [name for examples in corpus.splits.values() for name in examples.ids]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"train_limit": 2}, "leaves some of the 3 classes without a row; give 3 or more"),
        ({"train_limit": 0}, "must be at least 1"),
        ({"train_limit": 9, "per_class": 3}, "both set"),
        ({"validation_limit": 2}, r"data\.validation_limit=2 leaves some of the 3 classes without a row"),
        ({"validation_share": 1.0}, r"data\.validation_share=1\.0 must lie in \[0, 1\)"),
        ({"validation_share": -0.1}, r"data\.validation_share=-0\.1 must lie in \[0, 1\)"),
        ({"test_share": 1.0}, "data.test_share=1.0 must lie in"),
    ],
)
def test_invalid_limits_and_shares(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load(HARD, **options)


@pytest.mark.parametrize("labels", [[["a"], *[[]] * 5], [["a"], ["b"], *[[]] * 5]])
def test_a_limit_that_leaves_multi_label_rows_empty_is_reported(labels: list[Any]) -> None:
    used = [load(labels, train_limit=1, seed=seed) for seed in range(20)]
    bare = [corpus for corpus in used if not corpus.splits["train"].targets.any()]
    assert bare
    for corpus in bare:
        assert any(note.endswith("no training row with a text that is not empty") for note in corpus.notes)


def test_a_validation_limit_keeps_classes_and_changes_nothing_else() -> None:
    whole, few = load(HARD), load(HARD, validation_limit=3)
    assert sorted(few.splits["validation"].targets) == [0, 1, 2]
    assert set(few.splits["validation"].ids) < set(whole.splits["validation"].ids)
    assert few.splits["train"].ids == whole.splits["train"].ids
    assert any("validation_limit=3" in note for note in few.notes)


def test_rows_per_class_need_classes() -> None:
    with pytest.raises(UserError, match=r"data\.per_class needs one class per row"):
        load(FRACTIONS, per_class=2)


def test_splits_are_stratified_and_independent_of_the_seed() -> None:
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(HARD)]
    first, second = (load_corpus(DataSettings(train_limit=20), data=rows, seed=seed) for seed in (0, 1))
    assert first.splits["test"].ids == second.splits["test"].ids
    assert first.splits["validation"].ids == second.splits["validation"].ids
    assert first.splits["train"].ids != second.splits["train"].ids
    assert np.bincount(first.splits["test"].targets).tolist() == [12, 6, 2]


def test_written_lists_are_noted() -> None:
    written = [note for note in load(["x", "y", "['x']"]).notes if "a list written as text" in note]
    assert written == ["label \"['x']\": looks like a list written as text; JSONL and Parquet hold lists"]


SHARES = [{"x": 0.7, "y": 0.3}, {"y": 1.0}, {"x": 0.4, "y": 0.6}]


@pytest.mark.parametrize("labels", [["x", "y", "y"], SHARES, [("x",), ("x", "y"), ("y",)], FRACTIONS])
def test_dense_targets_are_equivalent(labels: list[Any]) -> None:
    corpus = load(labels)
    task, targets = corpus.task, corpus.splits["train"].targets
    numbers = dense(task, targets, np.float64)
    assert numbers.shape == (len(labels), task.outputs)
    assert numbers.dtype == np.float64
    assert dense(task, targets).dtype == np.float32
    if targets.ndim == 2:
        assert np.array_equal(numbers, targets)
    elif task.labels:
        assert np.array_equal(likeliest(numbers), targets)
        assert np.array_equal(numbers.sum(axis=1), np.ones(len(labels)))
    else:
        assert np.array_equal(numbers[:, 0], targets)


def test_the_likeliest_label_of_a_row() -> None:
    assert likeliest(load(["x", "y", "y"]).splits["train"].targets).tolist() == [0, 1, 1]
    assert likeliest(load(SHARES).splits["train"].targets).tolist() == [0, 1, 1]


@pytest.mark.parametrize("pair", [False, True])
def test_selected_rows_keep_all_their_columns(pair: bool) -> None:
    extra = [{"id": f"r{n}", "domain": "ab"[n % 2], "weight": n + 1.0} for n in range(4)]
    if pair:
        extra = [row | {"text_pair": str(n)} for n, row in enumerate(extra)]
    train = load(["x", "y", "y", "x"], extra=extra).splits["train"]
    taken = train.take([3, 1])
    assert (list(taken.texts), list(taken.ids)) == (["text 3", "text 1"], ["r3", "r1"])
    assert taken.pairs == (["3", "1"] if pair else None)
    assert (taken.targets.tolist(), taken.weights.tolist()) == ([0, 1], [4.0, 2.0])
    assert taken.domains is not None
    assert list(taken.domains) == ["b", "b"]
    assert taken.characters.tolist() == [6 + pair, 6 + pair]
