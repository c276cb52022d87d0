"""Words get the scores that they have in a model whose weights are known, and the one that decides gets the largest."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.predicting.attribution import Attribution, attribute
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.running.run import adapt
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for

WEIGHTS = {"good": 2.0, "bad": -3.0, "film": 0.5, "late": -0.25}


class Bag(Labeller):
    """A model whose first output is the sum of its words' weights."""

    def __init__(self, problem: str = "regression", *, pair: bool = False) -> None:
        labels = () if problem == "regression" else ("yes", "no")
        self.record = SimpleNamespace(task=Task(problem, labels, pair=pair))
        self.asked: list[list[str]] = []

    def logits(self, texts, pairs=None) -> np.ndarray:
        self.check_pairs(pairs)
        columns = [texts] if pairs is None else [texts, pairs]
        rows = [list(row) for row in zip(*columns, strict=True)]
        self.asked += rows
        sums = [sum(WEIGHTS.get(word, 0.0) for text in row for word in text.split()) for row in rows]
        rest = [np.full(len(sums), 7.0)] * (self.record.task.outputs - 1)
        return np.stack([np.array(sums) + 1, *rest], axis=1).astype(np.float32)


def scores(found: Attribution) -> list[dict[str, float]]:
    return [{span.text: span.score for span in spans if span.score is not None} for spans in found.texts]


@pytest.mark.parametrize("problem", ["regression", "multi_label", "single_label"])
def test_scores_of_a_linear_model_are_its_weights(problem: str):
    model = Bag(problem)
    found = attribute(model, "a good film, not a bad film , late", output=0, most=64)
    assert scores(found) == [
        {"a": 0, "good": 2, "film,": 0, "not": 0, "bad": -3, "film": 0.5, ",": 0, "late": -0.25},
    ]
    assert sum(span.score or 0 for span in found.texts[0]) == -0.75
    assert found.evidence == {"single_label": 0.25 - 7}.get(problem, 0.25)
    assert len(model.asked) == 1 + 9
    assert model.asked[1] == ["good film, not a bad film , late"]
    assert model.asked[2] == ["a film, not a bad film , late"]
    assert model.asked[-1] == ["a good film, not a bad film ,"]
    if problem == "single_label":  # what speaks for one of two labels speaks against the other
        assert scores(attribute(model, "good bad", output=1, most=9)) == [{"good": -2, "bad": 3}]


def test_both_texts_of_a_pair_are_attributed():
    model = Bag(pair=True)
    assert scores(attribute(model, "good film", "late", output=0, most=9)) == [
        {"good": 2, "film": 0.5},
        {"late": -0.25},
    ]
    assert model.asked[1:] == [["film", "late"], ["good", "late"], ["good film", ""]]
    long = attribute(model, "good bad " * 50, "film " * 3, output=0, most=10)
    assert sum(map(len, scores(long))) <= 10
    assert long.grouped == 12


def test_of_long_texts_neighbours_are_left_out_together():
    model = Bag()
    found = attribute(model, "good bad " * 500 + "x" * 10_000, output=0, most=10)
    assert found.grouped == 101
    assert len(model.asked) == 11
    assert [span.score for span in found.texts[0] if span.score is not None] == [-48, -53] * 4 + [-48, -48]


@settings(max_examples=100)
@given(st.text() | st.text("ab 包裹กำ\n🙂👩‍🚀"), st.integers(1, 12))
def test_parts_of_a_text_join_to_the_text(text: str, most: int):
    model = Bag()
    (spans,) = attribute(model, text, output=0, most=most).texts
    assert "".join(span.text for span in spans) == text
    assert len(model.asked) <= most + 1
    assert all(span.text.strip() for span in spans if span.score is not None)
    assert not any(span.text.strip() for span in spans if span.score is None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" \n\t", []),
        ("  one \n two ", ["one", "two"]),
        ("don't stop-it, e.g. 1,000", ["don't", "stop-it,", "e.g.", "1,000"]),
        ("fine👩‍🚀 🙂🙂", ["fine👩‍🚀", "🙂🙂"]),
        ("包裹还没到,ok", ["包", "裹", "还", "没", "到", ",ok"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),  # a mark stays with its letter
        ("привет мир", ["привет", "мир"]),
    ],
)
def test_what_is_left_out_at_a_time(text: str, parts: list[str]):
    (spans,) = attribute(Bag(), text, output=0, most=64).texts
    assert [span.text for span in spans if span.score is not None] == parts


def test_the_word_that_decides_has_the_largest_score(tmp_path):
    tiny_encoder(tmp_path)
    rows = {
        split: [
            row | {"label": "yes" if n % 2 else "no", "text": row["text"] + " help" * (n % 2)}
            for n, row in enumerate(part)
        ]
        for split, part in data_for("single_label").items()
    }
    values = {"strategy": "probe", "evaluation.floors": False}
    model = Predictor(adapt(settings_for(tmp_path, **values), data=rows).folder)
    found = attribute(
        model, "where is my card help the order was late", output=model.record.task.labels.index("yes"), most=64
    )
    best = max(scores(found)[0].items(), key=lambda item: item[1])
    assert best[0] == "help"
    assert best[1] > 1
