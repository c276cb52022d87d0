"""The promise of the loop: how a step is cut into forward passes and ranks changes neither loss nor gradient."""

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nlp_transfer.data.batches import Columns, micro_batches
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.loop import TrainingData, fit
from nlp_transfer.training.optimizer import awake, build_optimizer, set_rates
from nlp_transfer.training.passes import Passes
from tests.crash_harness import Case, start
from tests.training.cut import CUTS, PROBLEMS, loss_and_gradient, parts
from tests.training.scarce import Scarce
from tests.warm import MODULE, Warm


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("examples", [8, 7])
def test_any_cut_gives_the_same_loss_and_gradient(tmp_path: Path, problem: str, examples: int):
    step, columns, padding = parts(tmp_path, problem, examples)
    assert (columns.tokens.windows.max() > 1) == (problem == "chunk")
    accelerator = Accelerator(cpu=True)
    whole, gradient = loss_and_gradient(step, columns, padding, size=examples, accelerator=accelerator)
    for name, size in CUTS.items():
        loss, part = loss_and_gradient(step, columns, padding, size=size, accelerator=accelerator)
        assert loss == pytest.approx(whole, abs=1e-6), name
        assert (part - gradient).norm() / gradient.norm() < 1e-6, name


def test_the_loss_is_the_weighted_mean(tmp_path: Path):
    step, columns, padding = parts(tmp_path, "single_label", 6)
    accelerator = Accelerator(cpu=True)
    alone = []
    for example in range(6):
        one = Columns(encode_one(columns, example), columns.targets[[example]], np.ones(1, np.float32))
        alone.append(loss_and_gradient(step, one, padding, size=1, accelerator=accelerator)[0])
    whole, _ = loss_and_gradient(step, columns, padding, size=6, accelerator=accelerator)
    assert whole == pytest.approx(float(np.average(alone, weights=columns.weights)), abs=1e-6)


def encode_one(columns: Columns, example: int):
    tokens = columns.tokens
    where = slice(tokens.offsets[example], tokens.offsets[example + 1])
    length = where.stop - where.start
    types = tokens.types[where] if tokens.types is not None else None
    return type(tokens)(
        tokens.ids[where], types, np.array([0, length]), np.array([0, 1]), np.array([length]), np.zeros(1, np.int64)
    )


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_without_examples_still_take_part(tmp_path: Path, world: int):
    _, columns, _ = parts(tmp_path, "single_label", 2)
    dealt = [
        micro_batches(columns.tokens, np.arange(2), rank=r, world=world, most_examples=None, most_tokens=8192)
        for r in range(world)
    ]
    assert sorted(np.concatenate([np.concatenate(d) for d in dealt if d]).tolist()) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("examples", [*(pytest.param(count, marks=pytest.mark.exhaustive) for count in (8, 1)), 7])
def test_two_processes_give_the_same_loss_and_gradient(running: Warm, tmp_path: Path, examples: int):
    """2 × 4 and 2 × 2 × 2 against one process, all problem types, in one launch."""
    out = tmp_path / "result.json"
    done = running.run(MODULE.format(__name__), str(tmp_path), str(examples), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (loss_difference, gradient_difference) in json.loads(out.read_text()).items():
        assert loss_difference < 1e-6, name
        assert gradient_difference < 1e-6, name


def _two_processes(folder: Path, examples: int, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    differences = _differences(accelerator, folder, examples)
    if accelerator.is_main_process:
        out.write_text(json.dumps(differences))
    accelerator.free_memory()
    gc.collect()  # a DDP module that outlives its process group can keep the process from ending
    accelerator.end_training()


def _differences(accelerator: Accelerator, folder: Path, examples: int) -> dict[str, list[float]]:
    """Difference of loss and gradient between two processes and one, case by case."""
    if accelerator.is_main_process:
        parts(folder, "single_label", 1)
    accelerator.wait_for_everyone()
    differences = {}
    for problem in PROBLEMS:
        alone, reference = loss_and_gradient(*parts(folder, problem, examples), size=examples, accelerator=_Alone())
        for size in (4, 2):
            step, columns, padding = parts(folder, problem, examples)
            loss, gradient = loss_and_gradient(step, columns, padding, size=size, accelerator=accelerator)
            differences[f"{problem} {size}"] = [
                abs(loss - alone),
                float((gradient - reference).norm() / reference.norm()),
            ]
    step, columns, padding = parts(folder, "single_label", examples)
    alone, reference = loss_and_gradient(step, columns, padding, size=examples, accelerator=_Alone())
    step.zero_grad()
    scarce = accelerator.prepare(Scarce(step, 2 if accelerator.process_index else 8))
    passes = Passes(accelerator, scarce, columns, padding, None, 8192)
    loss = passes.accumulate(np.arange(examples), 0.0, reseed=lambda: None)
    gradient = torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])
    differences["one rank lacks memory"] = [abs(loss - alone), float((gradient - reference).norm() / reference.norm())]
    failed = accelerator.gather(torch.tensor([scarce.module.failed])).tolist()
    assert failed[0] == 0
    assert (failed[1] > 0) == (examples > 1)
    told = accelerator.gather(torch.tensor([passes.halved_to or 0])).tolist()
    assert told[0] == told[1]  # the other rank takes smaller passes from now on, too
    assert (told[0] > 0) == (examples > 1)
    return differences


class _Alone:
    """One process's view, inside a process of two: what the reference is computed with."""

    num_processes, process_index, device = 1, 0, torch.device("cpu")

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value


if __name__ == "__main__":  # the two are forked from a process that has imported all that they need
    home, out = Path(sys.argv[1]), Path(sys.argv[3])
    case = Case(lambda _: _two_processes(home, int(sys.argv[2]), out), lambda _: {}, lambda _: None, processes=2)
    sys.exit(start(case, home) != 0)


def test_a_sleeping_group_neither_moves_nor_takes_from_the_norm():
    asleep, busy = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    groups = [Group("top", {"busy": busy}, 0.1), Group("bottom", {"asleep": asleep}, 0.1, wake=0.5)]
    optimizer = build_optimizer(groups, TrainingSettings())
    set_rates(optimizer, TrainingSettings(), 0.25)
    busy.grad, asleep.grad = torch.full((3,), 0.1), torch.full((3,), 1e6)
    norm = torch.nn.utils.clip_grad_norm_(awake(optimizer), 1.0)
    optimizer.step()
    assert float(norm) == pytest.approx(0.1 * 3**0.5)
    assert torch.equal(asleep, torch.ones(3))
    assert asleep not in optimizer.state  # its moments begin when it wakes
    assert not torch.equal(busy, torch.ones(3))


def test_figures_and_kept_weights_are_those_of_the_average(tmp_path: Path):
    step, columns, padding = parts(tmp_path, "single_label", 8)
    learning = dict(step.named_parameters())
    start = {name: p.detach().clone() for name, p in learning.items()}
    history, measured = [], []

    def now() -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in learning.values()])

    def evaluate() -> dict[str, float]:
        measured.append(now())
        return {"accuracy": float(len(measured))}  # better and better: the last weights are kept

    trajectory = fit(
        Accelerator(cpu=True),
        step,
        [Group("all", learning, 1e-2)],
        TrainingData(columns, padding),
        settings=TrainingSettings(epochs=4, batch_size=8, ema=0.3, precision="fp32"),
        seed=0,
        validation=Validation(evaluate, "accuracy", higher_is_better=True),
        callbacks=Callbacks(on_step=lambda *_: history.append(now())),
    )
    average, expected = torch.cat([p.flatten() for p in start.values()]), []
    for update, weights in enumerate(history, start=1):
        decay = min(0.3, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * weights
        expected.append(average)
    assert trajectory.kept_step == len(measured) == len(history) == 4
    torch.testing.assert_close(torch.stack(measured), torch.stack(expected))
    torch.testing.assert_close(now(), expected[-1])
    assert not torch.allclose(now(), history[-1])
