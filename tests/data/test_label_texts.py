"""Texts made of the names of labels stand behind the training rows, and nothing that is counted or measured changes."""

import numpy as np
import pytest

from nlp_transfer.checks import check_settings
from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.label_texts import readable_name, readable_names, with_label_texts
from nlp_transfer.errors import UserError
from tests.runs import data_for

FORMS = ["{}", "This is {}."]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("joy", "joy"),
        ("very_positive", "very positive"),
        ("veryPositive", "very Positive"),
        ("HUM:ind", "HUM ind"),
        ("card-arrival ", "card arrival"),
        ("体育", "体育"),
        ("5_stars", "5 stars"),
        ("__", ""),
        ("don't know", "don't know"),
        ("C++", "C++"),
        ("हिन्दी", "हिन्दी"),
        ("e\u0301te\u0301", "e\u0301te\u0301"),
    ],
)
def test_label_names_are_written_as_words(label: str, name: str):
    assert readable_name(label) == name


@pytest.mark.parametrize(
    ("labels", "names"), [(["a_b", "-"], ["a_b", "-"]), (["a_b", "a-b"], ["a_b", "a-b"]), (["a_b", "c"], ["a b", "c"])]
)
def test_ambiguous_label_names_are_kept_as_written(labels, names):
    assert readable_names(labels) == names


@pytest.mark.parametrize("problem", ["single_label", "soft"])
def test_each_label_and_template_adds_one_training_row(problem: str):
    data = data_for(problem)
    for number, row in enumerate(data["train"]):
        row |= {"weight": 1 + number % 2, "domain": "here"}
    corpus = load_corpus(compose(None, ["data=object"]).data, data=data)
    more = with_label_texts(corpus, FORMS)
    before, train = corpus.splits["train"], more.splits["train"]
    labels = corpus.task.labels
    added = slice(len(before), None)
    assert list(train.texts[: len(before)]) == list(before.texts)
    assert list(train.texts[added]) == [*labels, *(f"This is {label}." for label in labels)]
    likeliest = train.targets.argmax(1) if problem == "soft" else train.targets
    assert [labels[target] for target in likeliest[added]] == [*labels, *labels]
    np.testing.assert_array_equal(train.targets[: len(before)], before.targets)
    assert train.targets.dtype == before.targets.dtype
    np.testing.assert_allclose(train.weights[added], before.weights.mean())
    assert len(set(train.ids)) == len(train.ids) == len(train.domains) == len(train)
    assert more.fingerprint == corpus.fingerprint
    assert more.own_train is corpus.own_train is before
    assert with_label_texts(more, FORMS) is more
    assert {split: rows for split, rows in more.splits.items() if split != "train"} == {
        split: rows for split, rows in corpus.splits.items() if split != "train"
    }
    assert more.notes == [
        *corpus.notes,
        "train: 6 texts made from the label names follow its rows (data.label_texts)",
    ]


@pytest.mark.parametrize("problem", ["multi_label", "ordinal", "regression", "pair"])
def test_texts_of_another_kind_are_refused(problem: str):
    words = ["data=object"] if problem == "pair" else ["data=object", f"data.problem={problem}"]
    corpus = load_corpus(compose(None, words).data, data=data_for(problem))
    with pytest.raises(UserError, match=r"data\.label_texts makes texts of one label each, and the data has"):
        with_label_texts(corpus, FORMS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.label_texts=['This is it.']"], "'This is it.' must have {} once"),
        (["data.label_texts=['{} or {}']"], "'{} or {}' must have {} once"),
        (["data.label_texts=['{}']", "continual.replay=5"], "cannot be combined with continual learning"),
    ],
)
def test_invalid_templates_are_refused(words: list[str], message: str):
    with pytest.raises(UserError) as refused:
        check_settings(compose(None, words))
    assert message in str(refused.value)
