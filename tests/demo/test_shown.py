"""Texts that are entered into the demo page and shown by it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.demo import shown
from nlp_transfer.demo.reading import read_texts
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.attribution import Attribution, Span
from nlp_transfer.settings import ColumnSettings
from nlp_transfer.verb_settings import DemoSettings

ONE, MANY = Task("single_label", ("a", "b", "c"), pair=False), Task("multi_label", ("a", "b", "c"), pair=False)
NUMBER = Task("regression", (), pair=False)
LIKELY = {"a": 0.2, "b": 0.7, "c": 0.1}
LIMITS = DemoSettings(texts=3, characters=10)


@pytest.mark.parametrize(
    ("typed", "pairs", "lines", "expected"),
    [
        ("one", None, True, (["one"], None)),
        ("one\r\n\n  \ntwo\n\n", None, True, (["one", "two"], None)),
        ("one\ntwo\n", None, False, (["one\ntwo\n"], None)),
        ("a\nb", "c\nd\n", True, (["a", "b"], ["c", "d"])),
        ("a\n\n\nb", "c\n\nx\nd", True, (["a", "", "b"], ["c", "x", "d"])),
        ("a", "c\nd", False, (["a"], ["c\nd"])),
    ],
)
def test_lines_are_separate_texts_if_selected(typed, pairs, lines, expected):
    assert read_texts(typed, pairs, LIMITS, lines=lines) == expected


@pytest.mark.parametrize(
    ("typed", "pairs", "message"),
    [
        ("", None, "there is no text yet"),
        (" \n\n", None, "there is no text yet"),
        ("", "", "there is no text yet"),
        ("a\nb", "c", "the first box has 2 texts and the second 1"),
        ("a\nb\nc\nd", None, "4 texts are more than the 3"),
        ("a\n" + "b" * 11, None, "text 2 has 11 characters, more than the 10"),
        ("a", "b" * 11, "text 1 has 11 characters"),
    ],
)
def test_invalid_input_is_reported(typed, pairs, message):
    with pytest.raises(UserError, match=message):
        read_texts(typed, pairs, LIMITS, lines=True)


@pytest.mark.parametrize(
    ("task", "answer", "headline", "row"),
    [
        (ONE, Prediction("b", LIKELY), "b (70.0%)", ["b", "70.0%"]),
        (
            replace(ONE, abstain_below=0.71),
            Prediction("b", LIKELY, abstains=True),
            "abstains: its best label, b, has 70.0%, less than 71.0%",
            ["abstains (b?)", "70.0%"],
        ),
        (MANY, Prediction(["a", "b"], LIKELY), "a, b", ["a (20.0%), b (70.0%)"]),
        (MANY, Prediction([], LIKELY), "none of the labels (no probability reaches 50.0%)", ["(none)"]),
        (NUMBER, Prediction(3.14159, {}), "3.142", ["3.142"]),
    ],
)
def test_predictions_are_summarised(task, answer, headline, row):
    assert shown.headline(task, answer) == headline
    assert shown.rows([["x"]], [answer]) == [[*row, "x"]]
    assert len(shown.header(task)) == len(shown.widths(task)) == len(row) + 1


def test_probabilities_are_ranked_and_never_rounded_to_certainty():
    assert shown.ranking(Prediction("b", LIKELY)) == [["b", "70.0%"], ["a", "20.0%"], ["c", "10.0%"]]
    assert [shown.percent(share) for share in (0, 1e-9, 0.5, 1 - 1e-9, 1)] == [
        *("0.0%", "< 0.1%", "50.0%", "> 99.9%", "100.0%"),
    ]
    assert shown.best_label(Prediction(1.0, {})) is None


def test_marks_are_relative_to_the_strongest_and_told_in_numbers():
    spans = [Span("good", 2.0), Span(" ", None), Span("b" * 99, -4.0)]
    found = Attribution(0.0, [spans, [Span("z", 0.0)]], 1)
    assert shown.marked(found) == [[("good", 0.5), (" ", None), ("b" * 99, -1.0)], [("z", 0.0)]]
    long, good, nothing = shown.strongest(ONE, found)
    assert (long[1:], good, nothing) == (["50.0%", "98.2%"], ["good", "50.0%", "11.9%"], ["z", "50.0%", "50.0%"])
    assert len(long[0]) < 70
    assert shown.strongest(NUMBER, found)[1] == ["good", "0", "-2"]
    assert shown.marked(Attribution(0.0, [[]], 1)) == [[]]
    assert "without each word" in shown.legend(found, "<b>")
    assert "&lt;b&gt;" in shown.legend(found, "<b>")
    assert "each 7 neighbouring words" in shown.legend(Attribution(0.0, [], 7), None)


def test_the_page_describes_the_model_and_its_files():
    assert shown.purpose(ONE) == "This model gives every text one of 3 labels: a, b, c"
    assert shown.purpose(Task("single_label", tuple("abcdefghijkl<"), pair=True)).endswith(
        "every pair of texts one of 13 labels: a, b, c, d, e, f, g, h …"
    )
    record = SimpleNamespace(task=ONE, roles={"text": "mess<age"})
    assert "a column <code>mess&lt;age</code>" in shown.wanted_file(record, ColumnSettings())
    assert "a column <code>body</code>" in shown.wanted_file(record, ColumnSettings(text="body"))
    paired = SimpleNamespace(task=Task("single_label", ("a", "b"), pair=True), roles={})
    assert "columns <code>text</code> and <code>text_pair</code>" in shown.wanted_file(paired, ColumnSettings())


def test_decision_rules_are_in_the_headline():
    strange = Prediction("b", LIKELY, unknown=True, set=["a", "b"])
    task = replace(ONE, unknown=0.05, coverage=0.9)
    assert shown.headline(task, strange) == "unlike all it knows; best guess: b (70.0%); 90.0% set: a, b"
    assert shown.rows([["text"]], [strange]) == [["unknown (b?)", "70.0%", "a, b", "text"]]
    assert shown.header(task) == ["Label", "Probability", "90.0% set", "Text"]
    number = Prediction(2.0, {}, low=1.5, high=2.5)
    assert shown.headline(replace(NUMBER, coverage=0.9), number) == "2 (1.5 to 2.5, 90.0% interval)"
    assert shown.rows([["text"]], [number]) == [["2", "1.5 to 2.5", "text"]]
    assert shown.header(replace(NUMBER, coverage=0.9)) == ["Number", "90.0% interval", "Text"]
    for each in (task, replace(NUMBER, coverage=0.9), replace(task, pair=True)):
        assert len(shown.widths(each)) == len(shown.header(each))
        assert sum(int(width.rstrip("%")) for width in shown.widths(each)) <= 100
