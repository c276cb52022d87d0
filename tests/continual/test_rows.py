"""Rows and labels of a run that continues another one: replay, order, and refused settings."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.config import compose
from nlp_transfer.continual.rows import load, read
from nlp_transfer.data.splits import evenly
from nlp_transfer.data.task import label_names
from nlp_transfer.errors import UserError
from nlp_transfer.running.run import adapt
from tests.continual.tasks import continuing, old_run, rows_with_labels, write_rows
from tests.runs import rows, settings_for


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), total=st.integers(0, 100))
def test_rows_are_divided_alike_as_far_as_there_are_any(sizes: list[int], total: int):
    found = evenly({str(number): size for number, size in enumerate(sizes)}, total)
    given = [found[str(number)] for number in range(len(sizes))]
    assert sum(given) == min(total, sum(sizes))
    assert all(0 <= got <= size for got, size in zip(given, sizes, strict=True))
    most = max(given)
    assert all(got >= most - 1 or got == size for got, size in zip(given, sizes, strict=True))


def test_known_labels_come_first_even_without_rows():
    new = ["b", "d", "a"]
    assert label_names(new, problem="single_label", order=None, known=("z", "b")) == ("z", "b", "a", "d")
    assert label_names(["10", "9"], problem="single_label", order=None, known=("1",)) == ("1", "9", "10")
    assert label_names(["b"], problem="ordinal", order=None, known=("c", "b")) == ("c", "b")
    with pytest.raises(UserError, match="'d' has no place in the order"):
        label_names(["d"], problem="ordinal", order=None, known=("c", "b"))


def test_replayed_rows_are_appended_and_balanced(home: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **{"continual.replay": 7, "data.class_weights": "none"})
    corpus = load(settings, data=rows_with_labels({"refund"}))
    assert corpus.task.labels == ("card", "film", "refund")
    assert (corpus.replayed, corpus.absent_labels) == (7, [])
    train = corpus.splits["train"]
    counts = Counter(train.targets[-7:].tolist())
    assert sorted(counts.values()) == [3, 4]
    assert set(train.targets[:-7].tolist()) == {2}
    assert train.ids[-7:] == [f"replayed-{number}" for number in range(1, 8)]
    learned = set(read(compose(str(old / "config.yaml"))).rows["train"].texts)
    assert set(train.texts[-7:]) <= learned
    other = load(continuing(home, old, seed=5, **{"continual.replay": 7}), data=rows_with_labels({"refund"}))
    assert other.splits["train"].texts[-7:] != train.texts[-7:]
    assert other.fingerprint != corpus.fingerprint
    assert any("replayed: 7 of" in note for note in corpus.notes)


def test_measured_rows_are_not_replayed(home: Path):
    old = old_run(home, {"card", "film"})
    learned = read(compose(str(old / "config.yaml"))).rows["train"]
    test = [{"text": text, "label": label} for text, label in zip(learned.texts, learned.labels, strict=True)]
    settings = continuing(home, old, **{"continual.replay": 100})
    with pytest.raises(UserError, match="are among the rows of this run already"):
        load(settings, data=rows_with_labels({"refund"}) | {"test": test})


@pytest.mark.slow
def test_a_third_task_may_replay_the_first(home: Path, tmp_path: Path):
    old = old_run(home, {"card"}, extra=True)
    given = {"data": "files", "continual.replay": 8}
    second = adapt(
        continuing(home, old, output=str(tmp_path), **given | {"data.path": str(write_rows(home, {"film"}))})
    )
    third = load(continuing(home, second.folder, **{"continual.replay": 9}), data=rows_with_labels({"refund"}))
    replayed = third.splits["train"].targets[-9:]
    assert set(replayed.tolist()) == {0, 1, 2}  # card, a second label of the first task, film


def test_class_weights_count_all_rows_and_need_one_of_every_label(home: Path):
    old = old_run(home, {"card", "film"})
    with pytest.raises(UserError, match=r"class_weights=balanced: no training row has the label 'card'"):
        load(continuing(home, old, **{"data.class_weights": "balanced"}), data=rows_with_labels({"refund"}))
    values = {"data.class_weights": "balanced", "continual.replay": 4}
    train = load(continuing(home, old, **values), data=rows_with_labels({"refund"})).splits["train"]
    masses = np.bincount(train.targets, weights=train.weights)
    assert masses.tolist() == pytest.approx([masses[0]] * 3, rel=1e-4)


def test_continual_data_replaces_the_rows_of_the_run(home: Path):
    old = old_run(home, {"card", "film"})
    values = {"continual.replay": 4, "continual.data": str(write_rows(home, {"film"}))}
    corpus = load(continuing(home, old, **values), data=rows_with_labels({"refund"}))
    assert set(corpus.splits["train"].targets[-4:].tolist()) == {1}


@pytest.mark.parametrize("from_python", [False, True])
def test_continual_data_is_split_like_the_data_of_the_run(home: Path, tmp_path: Path, from_python: bool):
    before = [row | {"text": f"{row['text']} {number}"} for number, row in enumerate(rows("single_label", 120, 1))]
    file = tmp_path / "before.jsonl"
    file.write_text("\n".join(map(json.dumps, before)))
    values = {"output": str(tmp_path), "data.test_share": 0.5, "data.validation_share": 0.2, "data.train_limit": 30}
    source = {} if from_python else {"data": "files", "data.path": str(file)}
    made = settings_for(home, **values | source | {"strategy": "probe"})
    old = adapt(made, data=before if from_python else None).folder
    learned = read(made, data=before if from_python else None).rows["train"].texts
    given = {"continual.replay": 200, "continual.data": str(file)}
    corpus = load(continuing(home, old, seed=3, **given), data=rows_with_labels({"card", "film"}))
    assert sorted(corpus.splits["train"].texts[-corpus.replayed :]) == sorted(learned)
    assert not any("split with the default settings" in note for note in corpus.notes)
    alone = tmp_path / "alone"
    shutil.copytree(old / "model", alone)
    corpus = load(continuing(home, alone, **given), data=rows_with_labels({"card", "film"}))
    assert corpus.replayed > len(learned)
    assert any("split with the default settings, because" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"continual.labels": "some"}, r"continual\.labels"),
        ({"continual.replay": -1}, "at least 0"),
        ({"continual.labels": "data", "continual.data": "rows"}, "is not used"),
        ({"continual.data": "nowhere"}, r"continual\.data: .*nowhere"),
        ({"encoder.name": "tiny"}, "is not one: give the folder of its run"),
        ({"pretraining.epochs": 1}, "below the head"),
        ({"strategy.head_last": True}, "'card' has none"),
        ({"decision.unknown": 0.1}, "'card' has none"),
        ({"encoder.head": "native"}, "the head stays"),
        ({"encoder.depth": 1}, "the head stays"),
        ({"data.problem": "multi_label", "data.label_separator": "|"}, "another kind of problem"),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, values: dict, message: str):
    old = old_run(home, {"card", "film"})
    if values.get("encoder.name"):
        values = {"encoder.name": str(home / "tiny-bert")}
    if values.get("continual.data") == "rows":
        values = values | {"continual.data": str(write_rows(home, {"film"}))}
    with pytest.raises(UserError, match=message):
        adapt(continuing(home, old, output=str(tmp_path / "runs"), **values), data=rows_with_labels({"refund"}))
    assert not (tmp_path / "runs").exists()


def test_replayed_rows_add_no_labels(home: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **{"continual.labels": "data", "continual.replay": 4})
    with pytest.raises(UserError, match=r"'card': .* the training rows do not have|do not have: 'card'.*labels=all"):
        load(settings, data=rows_with_labels({"refund", "film"}))
    same = load(settings, data=rows_with_labels({"card", "film"}) | {"train": rows("single_label", 48, 7)})
    assert same.task.labels == ("card", "film", "refund")


def test_unknown_labels_are_not_reported_as_kept(home: Path):
    old = old_run(home, {"card", "film"})
    values = {"continual.replay": 4, "continual.data": str(write_rows(home, {"refund"}))}
    with pytest.raises(UserError, match=r"'refund': .* the training rows do not have|do not have: 'refund'") as refused:
        load(continuing(home, old, **values), data=rows_with_labels({"film"}))
    assert "labels=all" not in str(refused.value)


def test_a_regression_model_is_refused(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"}, problem="regression")
    with pytest.raises(UserError, match="is a regression model"):
        load(continuing(home, old), data=rows_with_labels({"refund"}))
