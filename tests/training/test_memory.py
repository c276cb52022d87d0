"""Where memory does not suffice, passes become smaller and nothing else changes."""

import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import WorkingCopy
from nlp_transfer.training.memory import is_lack_of_memory, release_free_memory
from nlp_transfer.training.passes import NoMemory, Passes
from tests.training.cut import parts
from tests.training.scarce import Scarce, no_memory

pytestmark = pytest.mark.slow


def gradient(step: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])


@pytest.mark.parametrize("rows", [4, 1])
def test_a_step_that_does_not_fit_is_halved_and_has_the_same_gradient(tmp_path: Path, rows: int):
    step, columns, padding = parts(tmp_path, "single_label", 8)
    accelerator, everything = Accelerator(cpu=True), np.arange(8)
    seeds: list[int] = []
    said: list[int] = []
    loss = Passes(accelerator, step, columns, padding, None, 8192).accumulate(everything, 0.0, reseed=lambda: None)
    whole = gradient(step)
    step.zero_grad()
    scarce = Scarce(step, rows)
    passes = Passes(accelerator, scarce, columns, padding, 8, 8192, on_halved=said.append)
    assert passes.accumulate(everything, 0.0, reseed=lambda: seeds.append(1)) == pytest.approx(loss, abs=1e-6)
    assert (gradient(step) - whole).norm() / whole.norm() < 1e-6
    assert scarce.failed == len(seeds) - 1 >= 1
    assert said == [passes.halved_to]
    assert passes.pace._examples == 8  # once each
    step.zero_grad()
    passes.accumulate(everything, 0.0, reseed=lambda: seeds.append(1))
    assert scarce.failed == len(seeds) - 2  # learnt once
    assert len(said) == 1


def test_a_working_copy_is_halved_and_hands_over_the_same_gradient(tmp_path: Path):
    step, columns, padding = parts(tmp_path, "single_label", 8)
    accelerator, gradients = Accelerator(cpu=True), []
    for rows in (8, 3):
        working = WorkingCopy(step)
        scarce = Scarce(working.module, rows)
        passes = Passes(accelerator, scarce, columns, padding, 8, 8192, working=working)
        passes.accumulate(np.arange(8), 0.0, reseed=lambda: None)
        gradients.append(gradient(step))
        assert (scarce.failed > 0) is (rows < 8)
        step.zero_grad()
    assert (gradients[0] - gradients[1]).norm() < 2e-2 * gradients[0].norm()  # of bfloat16


def test_passes_that_are_left_open_are_as_large_as_suits_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step, columns, padding = parts(tmp_path, "single_label", 1200)
    everything, tokens = np.arange(1200), columns.tokens.sizes

    def largest(accelerator, most_tokens: int | None = None, **options) -> int:
        passes = Passes(
            accelerator, step, columns, replace(padding, positions_per_token=1 << 30), None, most_tokens, **options
        )
        cut = passes.cut(everything)
        taken = np.concatenate(cut)
        assert len(taken) == len(np.unique(taken)) == len(everything) // accelerator.num_processes
        return max(int(tokens[part].sum()) for part in cut)

    def on(device: str, ranks: int = 1) -> SimpleNamespace:
        return SimpleNamespace(device=torch.device(device), num_processes=ranks, process_index=0)

    alone, two, gpu, working = on("cpu"), on("cpu", 2), on("cuda"), WorkingCopy(step)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert tokens.sum() > 2 * 4096
    assert 900 < largest(alone) <= 1024
    assert 900 < largest(two) <= 1024
    assert 1800 < largest(alone, working=working) <= 2048
    assert 3000 < largest(two, working=working) <= 4096
    assert 3000 < largest(alone, compares=True) <= 4096
    assert largest(gpu) == tokens.sum() <= 16384
    thrice = Passes(gpu, step, columns, replace(padding, positions_per_token=1 << 30), None, None).cut(
        np.tile(everything, 3)
    )
    assert 12000 < max(int(tokens[part].sum()) for part in thrice) <= 16384
    assert 200 < largest(gpu, 256) <= 256
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert 1800 < largest(alone) <= 2048
    assert 3000 < largest(alone, working=working) <= 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back on Linux")
def test_memory_that_is_free_goes_back_to_the_system():
    kept = [bytearray(60_000) for _ in range(2000)]  # too small to be mapped one by one
    last = kept.pop()  # above the others, so that their memory cannot simply be cut off
    full = resident()
    kept.clear()
    release_free_memory()
    assert len(last) == 60_000
    assert full - resident() > 60  # MB


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def test_an_example_that_does_not_fit_is_named(tmp_path: Path):
    step, columns, padding = parts(tmp_path, "single_label", 3)
    passes = Passes(Accelerator(cpu=True), Scarce(step, 0), columns, padding, None, 8192)
    with pytest.raises(NoMemory) as caught:
        passes.accumulate(np.arange(3), 0.0, reseed=lambda: None)
    assert len(caught.value.examples) == 1


def test_measuring_halves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step, columns, padding = parts(tmp_path, "single_label", 8)
    accelerator, forward, sizes = Accelerator(cpu=True), inference.forward, []
    whole = inference.run(accelerator, step.model, columns, padding=padding, most_tokens=8192)

    def scarce(model, batch):
        sizes.append(len(batch["targets"]))
        if sizes[-1] > 3:
            raise no_memory()
        return forward(model, batch)

    monkeypatch.setattr(inference, "forward", scarce)
    halved = inference.run(accelerator, step.model, columns, padding=padding, most_tokens=8192)
    np.testing.assert_allclose(halved, whole, atol=1e-6)
    assert sizes == [8, 4, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (MemoryError("Unable to allocate 9 GiB for an array"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, lacks: bool):
    assert is_lack_of_memory(error) == lacks


def test_what_fits_is_never_taken_for_halved(tmp_path: Path):
    step, columns, padding = parts(tmp_path, "single_label", 4)
    said: list[int] = []
    passes = Passes(Accelerator(cpu=True), step, columns, padding, None, 100_000_001, on_halved=said.append)
    passes.accumulate(np.arange(4), 0.0, reseed=lambda: None)
    assert (said, passes.halved_to) == ([], None)
