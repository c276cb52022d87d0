"""What the ranks share out, seen from one process: what is refused, and that a model of one piece stays as it is.

Whole trainings are in tests/test_worlds.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType, PartialState

from nlp_transfer.composing.shipped import launch_file
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TrackingSettings
from nlp_transfer.terminal import doctor
from nlp_transfer.training import device
from nlp_transfer.training.sharding import check_fsdp, check_shardable, collected, in_one_piece, sharded_as
from tests.composed import settings_of


def launched(
    kind: DistributedType = DistributedType.FSDP, precision: str = "no", mesh: Any = None, **plugin: Any
) -> Any:
    """An accelerator of two processes that were launched so."""
    asked = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": False}
    asked |= {"cpu_offload": None, **plugin}
    return SimpleNamespace(
        distributed_type=kind,
        num_processes=2,
        mixed_precision=precision,
        parallelism_config=mesh,
        state=SimpleNamespace(fsdp_plugin=SimpleNamespace(**asked)),
    )


def test_what_the_file_asks_for_that_is_shipped_is_had():
    check_fsdp(launched())
    check_fsdp(launched(precision="bf16"))
    check_shardable(launched(), settings_of({"strategy": "finetune"}))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"fsdp_version": 1}, r"fsdp_version: 1 .* set fsdp_version: 2"),
        ({"cpu_ram_efficient_loading": True}, r"fsdp_cpu_ram_efficient_loading: true .* set it to false"),
        ({"activation_checkpointing": True}, r"training\.gradient_checkpointing=true"),
        ({"cpu_offload": SimpleNamespace(pin_memory=True)}, r"fsdp_offload_params: true .* set it to false"),
        ({"mesh": SimpleNamespace()}, r"parallelism_config .* take it out"),
        ({"precision": "fp16"}, r"training\.precision=fp16 .* bf16, fp32 or auto"),
    ],
)
def test_what_the_file_asks_for_that_cannot_be_had_is_named(asked: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        check_fsdp(launched(**asked))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "anchor"}, r"objective\.anchor .* without FSDP"),
        ({"training.compile": True}, r"training\.compile=true .* without FSDP"),
    ],
)
def test_a_training_that_needs_all_weights_at_once_is_refused(values: dict[str, Any], said: str):
    settings = settings_of({"strategy": "finetune"} | values)
    check_shardable(launched(DistributedType.MULTI_GPU), settings)
    with pytest.raises(UserError, match=said):
        check_shardable(launched(), settings)


def test_processors_of_which_accelerate_would_take_no_notice_are_told(monkeypatch: pytest.MonkeyPatch):
    check_fsdp(launched(DistributedType.MULTI_CPU))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    said = f"accelerate has FSDP on GPUs alone: launch on processors with {launch_file('cpu.yaml')}"
    with pytest.raises(UserError, match=said):
        check_fsdp(launched(DistributedType.MULTI_CPU))
    assert said not in doctor.examine()["notes"]  # of a single process, which has nobody to share with
    monkeypatch.setattr(PartialState(), "distributed_type", DistributedType.MULTI_CPU)
    assert said in doctor.examine()["notes"]


def test_another_way_to_share_a_model_out_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    kind = DistributedType.MEGATRON_LM
    state = SimpleNamespace(device=torch.device("cpu"), num_processes=1, distributed_type=kind)
    monkeypatch.setattr(device, "join_ranks", lambda: state)
    with pytest.raises(UserError, match=rf"untried here; .* FSDP2 \({launch_file('fsdp2.yaml')}\)"):
        device.make_accelerator("fp32", TrackingSettings(), tmp_path)


def test_tensors_of_one_piece_are_left_alone():
    tensor, parameter = torch.arange(6.0).reshape(3, 2), torch.nn.Parameter(torch.zeros(3, 2))
    assert in_one_piece(tensor) is tensor
    assert sharded_as(tensor, parameter) is tensor
    assert collected({"a": tensor})["a"] is tensor
