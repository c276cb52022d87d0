"""AdamW's moments shared out by DeepSpeed: the same steps, what is refused, and what is said where it is not installed.

Whole trainings are in tests/test_worlds.py and tests/test_crash_worlds.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState

from nlp_transfer.composing.shipped import launch_file
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TrackingSettings
from nlp_transfer.terminal.doctor import examine
from nlp_transfer.training.device import make_accelerator
from nlp_transfer.training.meeting import join_ranks
from nlp_transfer.training.zero import ZeroAdamW, check_deepspeed, shards_moments
from tests import zeroed
from tests.harness import told_by
from tests.warm import Warm

STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


def launched(precision: str = "no", processes: int = 2) -> Any:
    """An accelerator of a process that was launched so."""
    return SimpleNamespace(num_processes=processes, mixed_precision=precision)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that the shipped file sets."""
    for name, value in zeroed.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a DeepSpeed that is found, whether there is another one or not."""
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "deepspeed.py"
    file.touch()
    return file


@pytest.mark.usefixtures("installed")
def test_what_the_file_asks_for_that_is_shipped_is_had(asked: pytest.MonkeyPatch):
    check_deepspeed(launched())
    check_deepspeed(launched("bf16"))
    assert shards_moments(launched())
    assert not shards_moments(launched(processes=1))


def test_nothing_is_refused_or_shared_out_where_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(STAGE, "3")
    check_deepspeed(launched("fp16"))
    assert not shards_moments(launched())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (STAGE, "0", f"zero_stage: 0 .*{launch_file('ddp.yaml')}"),
        (STAGE, "", f"zero_stage: 2 .*{launch_file('fsdp2.yaml')} and fsdp_reshard_after_forward: false"),
        (STAGE, "2", f"zero_stage: 2 .*{launch_file('fsdp2.yaml')} and fsdp_reshard_after_forward: false"),
        (STAGE, "3", f"zero_stage: 3 .*{launch_file('fsdp2.yaml')}, which shards weights too"),
        (STAGE, "4", "zero_stage: 4 .* set it to 1"),
        ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "ds.json", r"deepspeed_config_file .* take it out: the batch, "),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", r"gradient_accumulation_steps .* take it out"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", r"gradient_clipping .* take it out"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", r"offload_optimizer_device .* set it to none"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", r"offload_param_device .* set it to none"),
    ],
)
def test_what_the_file_asks_for_that_cannot_be_had_is_named(
    asked: pytest.MonkeyPatch, name: str, value: str, said: str
):
    asked.setenv(name, value)
    with pytest.raises(UserError, match=said):
        check_deepspeed(launched())


def test_scaled_losses_are_refused(asked: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"training\.precision=fp16 .* bf16, fp32 or auto"):
        check_deepspeed(launched("fp16"))


@pytest.mark.parametrize("ask", ["join_ranks", "make_accelerator", "doctor"])
def test_the_wish_is_hidden_from_accelerate_while_it_forms_ranks(asked: pytest.MonkeyPatch, tmp_path: Path, ask: str):
    found = []
    for kind in (PartialState, Accelerator):

        def looking(self: Any, *arguments: Any, _well: Any = kind.__init__, **named: Any) -> None:
            found.append(os.environ.get("ACCELERATE_USE_DEEPSPEED"))
            _well(self, *arguments, **named)

        asked.setattr(kind, "__init__", looking)
    asking = {"join_ranks": join_ranks, "make_accelerator": lambda: made(tmp_path), "doctor": examine}
    asking[ask]()
    assert found
    assert set(found) == {None}
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def made(folder: Path) -> Accelerator:
    return make_accelerator("fp32", TrackingSettings(), folder)


def test_where_it_is_not_installed_that_is_said_before_anything_is_loaded(asked: pytest.MonkeyPatch):
    asked.setitem(sys.modules, "deepspeed", None)
    check_deepspeed(launched(processes=1))
    with pytest.raises(UserError, match=r'not installed: pip install "nlp-transfer\[deepspeed\]"'):
        check_deepspeed(launched())


@pytest.mark.parametrize("error", ["OSError", "ImportError", "RuntimeError"])
def test_where_it_cannot_be_imported_that_is_said(installed: Path, error: str):
    installed.write_text(f"raise {error}('CUDA_HOME is not set\\nfor long')")
    plain = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(UserError, match=rf"imported \({error}: CUDA_HOME is not set\): .* {launch_file('ddp.yaml')}"):
        ZeroAdamW(plain, 1.0, None)


@pytest.mark.slow
def test_two_processes_that_share_moments_out_take_the_steps_of_one(running: Warm):
    pytest.importorskip("deepspeed")
    told = told_by(running, "tests.zero_steps")
    one, (first, second) = told["alone"], told["together"]
    for each in (first, second):
        assert np.allclose(each["told"], one["told"], rtol=0, atol=1e-6)
        for own, wanted in zip(each["weights"], one["weights"], strict=True):
            assert np.allclose(own, wanted, rtol=0, atol=1e-7)
        assert each["same bits"] == [True, True]
        assert each["apart"]
    assert first["weights"] == second["weights"]
    values = sum(map(len, one["weights"]))
    assert (first["moments"], second["moments"]) == (4, 0)  # whole ones are on the first alone
    assert first["made"] > 2 * values > second["made"] == 0
    assert values / 2 <= first["values"] == second["values"] < values / 2 + 8  # but for what fills up its last share
