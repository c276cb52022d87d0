"""Copies in bfloat16: what is in them, and that what is trained stays in float32."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nlp_transfer.config import compose
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.objective import Objective, Step
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EncoderSettings, TrackingSettings
from nlp_transfer.training import device
from nlp_transfer.training.bfloat16 import (
    WorkingCopy,
    computes_in_bfloat16,
    in_bfloat16,
    is_in_bfloat16,
    why_not_in_bfloat16,
)
from tests.crashes import fingerprint
from tests.encoder.families import TEXTS, tiny_encoder
from tests.runs import data_for, settings_for
from tests.stopped import stopped_run

pytestmark = pytest.mark.slow

# Before any fixture of all tests replaces it.
measured = device.multiplies_bf16_fast
TASK = Task("single_label", ("a", "b", "c"), pair=False)


@pytest.fixture
def classifier(tmp_path: Path):
    folder = tiny_encoder(tmp_path, "llama")  # rotary positions: buffers that are numbers
    return load_classifier(EncoderSettings(name=str(folder)), TASK, head="pooled", seed=0)


def batch_of(classifier) -> dict[str, torch.Tensor]:
    rows = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    columns = {"targets": torch.tensor([0, 1, 2, 0]), "weights": torch.ones(4)}
    return {name: rows[name] for name in ("input_ids", "attention_mask")} | columns


class Gpu:
    """As much of an accelerator on a GPU as decides how it computes."""

    device, mixed_precision = torch.device("cuda"), "bf16"

    def __init__(self, *, autocast: bool = False) -> None:
        self.autocast_handler = object() if autocast else None


def test_a_model_that_cannot_run_in_bfloat16_runs_under_autocast_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "make_accelerator", lambda *_, autocast: Gpu(autocast=autocast))
    gpu, asked = Gpu(), (torch.nn.Linear(1, 1), {}, "bf16", TrackingSettings(), Path())
    monkeypatch.setattr(device, "why_not_in_bfloat16", lambda *_, **__: None)
    assert device.with_supported_precision(gpu, *asked) == (gpu, None)
    assert computes_in_bfloat16(gpu)
    monkeypatch.setattr(
        device, "why_not_in_bfloat16", lambda *_, autocast=False: None if autocast else "it has its reasons"
    )
    other, why = device.with_supported_precision(gpu, *asked)
    assert why == "bfloat16 under autocast: the encoder cannot run in it alone (it has its reasons)"
    assert not computes_in_bfloat16(other)
    monkeypatch.setattr(device, "why_not_in_bfloat16", lambda *_, **__: "it has its reasons")
    with pytest.raises(UserError, match=r"this encoder cannot on this device, cuda \(it has its reasons\)"):
        device.with_supported_precision(gpu, *asked)


@pytest.mark.parametrize("refuses", [False, True])
def test_whether_a_model_runs_under_autocast_is_tried_and_leaves_no_trace(classifier, refuses: bool):
    model, rows = classifier.model, {"input_ids": torch.tensor([[1, 5, 6, 2]])}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def in_full(layer, inputs, found):
        assert not refuses or found.dtype != torch.bfloat16, "no bfloat16"

    linear = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    handle = linear.register_forward_hook(in_full)
    assert why_not_in_bfloat16(model, rows, autocast=True) == ("AssertionError: no bfloat16" if refuses else None)
    handle.remove()
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())


def test_an_accelerator_that_autocasts_makes_no_copies(tmp_path: Path):
    for autocast in (False, True):
        made = device.make_accelerator("bf16", TrackingSettings(), tmp_path, autocast=autocast)
        assert computes_in_bfloat16(made) is not autocast


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of a CPU")
def test_a_model_that_cannot_run_in_bfloat16_runs_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(device, "why_not_in_bfloat16", lambda *_: "it has its reasons")

    def found(precision: str):
        made = device.make_accelerator("bf16", TrackingSettings(), tmp_path)
        return device.with_supported_precision(made, torch.nn.Linear(1, 1), {}, precision, TrackingSettings(), tmp_path)

    accelerator, why = found("auto")
    assert accelerator.mixed_precision == "no"
    assert why == "float32: the encoder cannot run in bfloat16 (it has its reasons)"
    with pytest.raises(UserError, match=r"this encoder cannot on this device, cpu \(it has its reasons\)"):
        found("bf16")


def test_a_copy_is_in_bfloat16_but_for_the_output_layer_and_positions(classifier):
    before = {name: p.detach().clone() for name, p in classifier.model.named_parameters()}
    made = in_bfloat16(classifier.model, classifier.model)
    kinds = {name: p.dtype for name, p in made.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.startswith("classifier.")} == {torch.float32}
    assert {kind for name, kind in kinds.items() if name.startswith("encoder.")} == {torch.bfloat16}
    assert {b.dtype for b in made.buffers() if b.is_floating_point()} == {torch.float32}
    assert is_in_bfloat16(made)
    assert not is_in_bfloat16(classifier.model)
    assert all(torch.equal(before[name], p) for name, p in classifier.model.named_parameters())
    with torch.inference_mode():
        wanted, found = (forward(model, batch_of(classifier)) for model in (classifier.model, made))
    assert found.logits.dtype == found.features.dtype == torch.float32
    assert 0 < (wanted.logits - found.logits).norm() < 2e-2 * wanted.logits.norm()


def test_a_working_copy_hands_its_gradient_over_and_takes_the_weights(classifier):
    step = Step(classifier.model, Objective({"classify": ClassifySettings()}, TASK))
    twin = copy.deepcopy(step)
    working = WorkingCopy(step)
    batch = batch_of(classifier)
    for _ in range(2):  # two passes of one step
        working.module(batch, 0.5).backward()
        working.hand_over()
        twin(batch, 0.5).backward()
    wanted = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    found = torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])
    assert found.dtype == torch.float32
    assert (wanted - found).norm() < 3e-2 * wanted.norm()
    assert all(p.grad is None for p in working.module.parameters())
    working.forget()
    assert all(p.grad is None for p in step.parameters())
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.mul_(0)
    working.refresh()
    assert all(not p.any() for p in working.module.parameters() if p.requires_grad)


@pytest.mark.parametrize("tokens", [4096, 16], ids=["one pass", "several passes"])
def test_a_run_that_goes_on_ends_in_the_same_bits(tmp_path: Path, tokens: int):
    """The copy takes what the checkpoint brings; layers that sleep, clipping and a moving average among it."""
    values = {"strategy": "finetune", "strategy.gradual": 0.9, "training.ema": 0.9, "training.max_grad_norm": 0.1}
    values |= {"training.precision": "bf16", "training.micro_batch_tokens": tokens}
    _, wanted = stopped_run(tmp_path, **values)
    on = adapt(settings_for(tmp_path, **wanted), data=data_for("single_label"))
    whole = wanted | {"output": str(tmp_path / "whole")}
    straight = adapt(settings_for(tmp_path, **whole), data=data_for("single_label"))
    ends = [fingerprint(run.folder.parent)["model/model.safetensors"] for run in (on, straight)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("strategy", ["finetune", pytest.param("lora", marks=pytest.mark.exhaustive), "probe"])
def test_runs_in_bfloat16_give_the_same_bits_twice_and_save_float32(tmp_path: Path, strategy: str):
    tiny_encoder(tmp_path)
    weights = []
    for name in ("one", "two"):
        values = {"strategy": strategy, "training.precision": "bf16", "output": str(tmp_path / name)}
        run = adapt(settings_for(tmp_path, **values), data=data_for("single_label"))
        weights.append(load_file(run.folder / "model" / "model.safetensors"))
    assert {tensor.dtype for tensor in weights[0].values() if tensor.is_floating_point()} == {torch.float32}
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("family", ["bert", "fnet"])
def test_what_cannot_compute_in_bfloat16_does_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str):
    tiny_encoder(tmp_path, family)
    monkeypatch.setattr("nlp_transfer.training.device.multiplies_bf16_fast", lambda device: True)
    values = {"strategy": "finetune", "encoder.name": str(tmp_path / f"tiny-{family}"), "training.max_steps": 2}
    values["training.precision"] = "auto"
    run = adapt(settings_for(tmp_path, **values), data=data_for("single_label"))
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["precision"] == {"bert": "bf16", "fnet": "fp32"}[family]
    assert run.predict(["good movie"])[0].probabilities


def test_it_learns_as_in_float32(tmp_path: Path):
    tiny_encoder(tmp_path)
    scores = {}
    for precision in ("fp32", "bf16"):
        # A head solved on an untrained encoder rests on differences that bfloat16 does not know.
        values = {"strategy": "finetune", "strategy.head_first": False, "training.precision": precision}
        run = adapt(settings_for(tmp_path, **values), data=data_for("single_label"))
        scores[precision] = run.metrics["log_loss"]
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("strategy", ["probe", "finetune"])
def test_the_default_encoder_is_as_good_in_bfloat16(tmp_path: Path, strategy: str):
    """180 rows tell two accuracies apart by chance alone; the loss is finer."""
    losses, steps = {}, 40 if measured(torch.device("cpu")) else 10  # emulated, forty take eight minutes
    for precision in ("fp32", "bf16"):
        words = [f"strategy={strategy}", f"training.precision={precision}", f"output={tmp_path / precision}"]
        words += [f"training.max_steps={steps}", "evaluation.floors=false", "evaluation.resamples=20", "verify=false"]
        losses[precision] = adapt(compose(None, words)).metrics["log_loss"]
    assert losses["bf16"] < losses["fp32"] + 0.03


@pytest.mark.parametrize(
    ("small", "large", "wanted"),
    [(2.0, 2.0, True), (0.5, 2.0, True), (0.5, 1.2, False), (2.0, 1.2, False), (0.1, 2.0, False)],
)
def test_the_precision_is_chosen_by_measuring(
    monkeypatch: pytest.MonkeyPatch, small: float, large: float, wanted: bool
):
    """By how many times bfloat16 is as fast in small and in larger products."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    times = (float(time) for gain in (small, large) for _ in range(9) for time in (0, gain, 0, 1))
    monkeypatch.setattr(device.time, "process_time", lambda: next(times))
    assert measured(torch.device("cpu")) is wanted


def test_a_clock_that_stands_still_chooses_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(device.time, "process_time", lambda: 0.0)
    assert not measured(torch.device("cpu"))
