"""The parts of the GPU training benchmark that need no GPU."""

import importlib

import pytest
import torch

from recipes.benchmarks.gpu import training
from tests.encoder.families import tiny_encoder


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure for minutes")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys: pytest.CaptureFixture):
    assert training.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no GPU found; nothing is measured\n"


@pytest.mark.parametrize("method", training.METHODS.values(), ids=training.METHODS)
def test_the_attributes_that_methods_replace_exist(method: training.Method):
    for module, name, _ in method.without:
        assert hasattr(importlib.import_module(module), name)


def test_the_first_repeat_is_not_counted_and_failures_are_reported(tmp_path, monkeypatch: pytest.MonkeyPatch):
    encoder = tiny_encoder(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\nmy card has not arrived,a\n")
    seconds = {"nlp_transfer": iter([9.0, 0.1, 0.3]), training.BEST: iter([9.0, 0.4, 0.4])}

    def next_measurement(method: training.Method, job: dict) -> tuple[float, float]:
        return next(seconds[method]), 100.0  # method names stand in for methods

    monkeypatch.setattr(training, "measure_step", next_measurement)
    methods = {name: name for name in seconds} | {"Trainer default": "broken"}
    job = {"texts": "short", "batch": 2, "encoder": str(encoder), "data": str(tmp_path)}
    ours, best, broken = training.measure(job, "tiny", methods, 1e9, 2)
    assert ours[4:7] == ["200.0", "100%", "10"]
    assert ours[-1] == "2.00"
    assert best[-1] == "1.00"
    assert broken[4].startswith("KeyError")
