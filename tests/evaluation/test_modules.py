from __future__ import annotations

import socket

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import modules
from nlp_transfer.evaluation.metrics import METRICS, compute
from tests.evaluation.conftest import make_case

MODULES = {
    found.metric: found
    for found in vars(modules).values()
    if isinstance(found, type) and issubclass(found, evaluate.Metric) and hasattr(found, "metric")
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def combined(case, tmp_path):
    return evaluate.combine([MODULES[name](case.task, cache_dir=str(tmp_path)) for name in METRICS[case.task.problem]])


def test_every_metric_has_a_module():
    assert MODULES.keys() == {name for names in METRICS.values() for name in names}


def test_combined_modules_equal_compute(case, tmp_path):
    together = combined(case, tmp_path)
    options = {} if case.weights is None else {"sample_weight": case.weights}
    found = together.compute(predictions=case.logits, references=case.targets, **options)
    assert found == compute(*case.arguments)
    assert tuple(found) == METRICS[case.task.problem]


def test_added_batches_equal_the_whole(case, tmp_path):
    together = combined(case, tmp_path)
    for start in range(0, len(case.logits), 50):
        rows = slice(start, start + 50)
        together.add_batch(predictions=case.logits[rows], references=case.targets[rows])
    assert together.compute() == compute(case.task, case.logits, case.targets)


def test_equal_to_scikit_learn(tmp_path):
    case = make_case("single_label")
    found = combined(case, tmp_path).compute(predictions=case.logits, references=case.targets)
    predicted = case.logits.argmax(axis=1)
    assert found["accuracy"] == accuracy_score(case.targets, predicted)
    assert found["macro_f1"] == pytest.approx(f1_score(case.targets, predicted, average="macro"))


def test_flat_predictions_and_fractions(tmp_path):
    case = make_case("regression")
    found = combined(case, tmp_path).compute(predictions=case.logits[:, 0], references=case.targets)
    assert found == compute(*case.arguments)


def test_the_global_random_state_is_left_alone(tmp_path):
    case = make_case("single_label")
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    combined(case, tmp_path).compute(predictions=case.logits, references=case.targets)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_a_metric_of_another_problem_type_is_refused():
    with pytest.raises(UserError, match="not a metric of a regression task"):
        modules.Accuracy(make_case("regression").task)
