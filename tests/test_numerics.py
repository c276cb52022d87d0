"""The numbers of a run: what they depend on, what leaves them alone, and what they were when last recorded.

`python -m tests.test_numerics` writes golden.json anew: the losses of 20 steps, for a change that means to alter them.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.learning import learn
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.run import adapt
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.loop import Checkpointing
from nlp_transfer.training.schedules import rate
from tests.encoder.families import tiny_encoder
from tests.runs import STRATEGIES, data_for, rows, settings_for
from tests.stopped import stopped_run

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden.json"
PEAK = 1e-3


def log_of(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line and "loss" in line]


def trained(home: Path, folder: Path, **values) -> Prepared:
    """The parts of a run after its training, before anything is saved."""
    settings = settings_for(home, **values)
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data_for("single_label")), folder)
    never = Checkpointing(resumed=None, due=lambda: False, commit=lambda snapshot: None)
    learn(prepared, RunFolder(folder), Screen(quiet=True), never)
    return prepared


@pytest.mark.parametrize("strategy", ["finetune", "lora"])
def test_measuring_more_often_changes_no_bit_of_the_weights_and_no_prediction(
    home: Path, tmp_path: Path, strategy: str
):
    weights, answers, measured = [], [], []
    for every in (1.0, 0.2):
        values = {**STRATEGIES[strategy], "training.keep": "last", "training.evaluate_every": every}
        run = adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))
        weights.append((run.folder / "model" / "model.safetensors").read_bytes())
        answers.append(run.predictor.logits([row["text"] for row in data_for("single_label")["test"]]).tobytes())
        measured.append((run.folder / "metrics.jsonl").read_text().count('"split"'))
    assert weights[0] == weights[1]
    assert answers[0] == answers[1]
    assert measured == [3, 18]


def test_the_rows_of_a_limit_are_fixed():
    """On any system and any Python: what a seed chooses of a corpus is a function of the two."""
    data = compose(None, ["data.per_class=4"]).data
    chosen = [sorted(load_corpus(data, seed=seed).splits["train"].texts) for seed in (0, 1)]
    digests = [hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] for texts in chosen]
    assert digests == ["34e2251012a9b80c", "d974fa08cab57ae0"]


def test_rates_are_their_closed_form_however_a_step_is_cut_and_where_it_goes_on(tmp_path: Path):
    steps = 12
    values = {"strategy.lr": PEAK, "training.warmup": 0.25, "training.max_steps": steps, "training.min_steps": steps}
    path, reference = stopped_run(tmp_path, at=5, **values, **{"training.micro_batch_size": 3})
    run = adapt(settings_for(tmp_path, **reference), data=data_for("single_label"))
    assert run.folder == path.parent.parent
    # The rate of the first group: that of the lowest layer, which learns at the rate that is asked for.
    expected = [PEAK * rate("linear", (step + 0.5) / steps, warmup=0.25) for step in range(steps)]
    assert log_of(run.folder, "learning_rate") == expected
    assert expected[0] == pytest.approx(PEAK * 0.5 / 3)
    assert expected[-1] == pytest.approx(PEAK * 0.5 / 9)


def test_an_adapter_leaves_every_weight_of_the_encoder_as_it_was(home: Path, tmp_path: Path):
    before = load_file(home / "tiny-bert" / "model.safetensors")
    model = trained(home, tmp_path, **STRATEGIES["lora"]).classifier.model
    now = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    of_encoder = {name: next((key for key in now if key.endswith(f"encoder.{name}")), None) for name in before}
    found = {name: key for name, key in of_encoder.items() if key}
    assert len(found) >= len(before) - 2  # all but the pooler that a pooled head leaves out
    assert all(torch.equal(before[name], now[key]) for name, key in found.items())
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in now.items())


def test_measuring_draws_no_random_number_and_leaves_the_model_in_training(home: Path, tmp_path: Path):
    settings = settings_for(home, strategy="finetune")
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data_for("single_label")), tmp_path)
    model = prepared.classifier.model.train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout)).eval()
    training = [module.training for module in model.modules()]
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    first = prepared.logits(prepared.columns["test"])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert [module.training for module in model.modules()] == training
    assert not frozen.training
    assert first.tobytes() == prepared.logits(prepared.columns["test"]).tobytes()  # no dropout


@pytest.mark.parametrize("strategy", ["finetune", "lora", "lora unmerged", "probe"])
def test_the_saved_model_equals_the_trained_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
):
    kept: list[np.ndarray] = []
    measure = Prepared.logits

    def keeping(self: Prepared, columns):
        kept.append(measure(self, columns))
        return kept[-1]

    monkeypatch.setattr(Prepared, "logits", keeping)
    values = STRATEGIES[strategy.split()[0]] | ({"strategy.merge": False} if "unmerged" in strategy else {})
    run = adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))
    test = load_corpus(settings_for(home).data, seed=0, data=data_for("single_label")).splits["test"]
    again = Predictor(run.folder).logits(test.texts)
    if strategy == "lora":  # its weights were added up
        np.testing.assert_allclose(again, kept[-1], atol=1e-5)
    else:
        assert again.tobytes() == kept[-1].tobytes()


@pytest.mark.parametrize("strategy", ["finetune", "lora"])
def test_a_pipeline_of_transformers_gives_our_probabilities(home: Path, tmp_path: Path, strategy: str):
    run = adapt(settings_for(home, output=str(tmp_path), **STRATEGIES[strategy]), data=data_for("single_label"))
    texts = [row["text"] for row in rows("single_label", 8, 9)]
    theirs = pipeline("text-classification", str(run.folder / "model"), top_k=None)(texts)
    for answer, scores in zip(run.predict(texts), theirs, strict=True):
        for each in scores:
            assert answer.probabilities[each["label"]] == pytest.approx(each["score"], abs=1e-6)
    logits = run.predictor.logits(texts)
    found = np.array([list(answer.probabilities.values()) for answer in run.predict(texts)])
    np.testing.assert_allclose(found, probabilities(run.predictor.record.task, logits), rtol=1e-6)


def test_the_seed_draws_the_same_head_in_any_state_of_the_callers_generators(home: Path):
    settings = settings_for(home).encoder
    task = load_corpus(settings_for(home).data, seed=0, data=data_for("single_label")).task
    heads = []
    for state in (1, 2):
        torch.manual_seed(state)
        model = load_classifier(settings, task, head="native", seed=5).model
        heads.append(model.classifier.weight.detach().clone())
    assert torch.equal(*heads)


def losses(home: Path, output: Path, strategy: str) -> list[float]:
    """The losses of 20 steps, with dropout, from a random head: how far a solver goes hangs on the last bits."""
    values = STRATEGIES[strategy] | {"training.max_steps": 20, "training.min_steps": 20, "evaluation.floors": False}
    values |= {"training.precision": "fp32", "strategy.head_first": False}
    return log_of(adapt(settings_for(home, output=str(output), **values), data=data_for("single_label")).folder, "loss")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the losses were recorded on Linux")
@pytest.mark.parametrize("strategy", ["finetune", "lora"])
def test_the_losses_are_those_that_were_recorded(home: Path, tmp_path: Path, strategy: str):
    recorded = json.loads(GOLDEN.read_text())[strategy]
    assert len(recorded) == 20
    assert np.mean(recorded[-5:]) < np.mean(recorded[:5])
    np.testing.assert_allclose(losses(home, tmp_path, strategy), recorded, rtol=0, atol=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        tiny_encoder(Path(scratch))
        golden = {
            strategy: losses(Path(scratch), Path(scratch) / strategy, strategy) for strategy in ("finetune", "lora")
        }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
