"""What is told of how fast a training is."""

import time

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nlp_transfer.training import pace as paces
from nlp_transfer.training.pace import PARTS, Pace, in_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(paces, "operations_per_second", lambda device, kind: 1000.0)
    return now


class Two(nn.Module):
    """A frozen layer of 4 × 5 weights and one of 5 × 2 that learns."""

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.frozen, self.learning, self.again = nn.Linear(4, 5), nn.Linear(5, 2), again
        self.frozen.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        left = self.frozen(rows)
        return checkpoint(self.learning, left, use_reentrant=False) if self.again else self.learning(left)


def passed(pace: Pace, step: nn.Module, rows: int) -> None:
    with pace.passes():
        with pace.part("forward"):
            loss = step(torch.ones(rows, 4)).sum()
        with pace.part("backward"):
            loss.backward()
        pace.count(rows, 2 * rows, 1)


@pytest.mark.parametrize("again", [False, True])
def test_what_layers_multiply_is_counted_once_a_training(clock: list[float], again: bool):
    step = Two(again=again)
    pace = Pace(Accelerator(cpu=True), step)
    passed(pace, step, 3)
    passed(pace, step, 7)  # 10 rows in all
    clock[0] += 2
    told = pace.figures()
    # A row: 2·20 operations in the frozen layer; 2·10 in the other, and as many for its weights' gradient.
    assert told["matrix_share"] == pytest.approx((40 + 20 + 20) * 10 / 2 / 1000)
    assert not step.learning._forward_hooks
    assert not step.frozen._forward_hooks


def test_a_step_that_begins_again_is_counted_once(clock: list[float]):
    step = Two()
    pace = Pace(Accelerator(cpu=True), step)
    for rows in (3, 7):
        with pace.passes():
            for tried in (1, rows):
                pace.discard_step()
                with pace.part("forward"):
                    step(torch.ones(tried, 4))
                pace.count(tried, 2 * tried, 1)
    clock[0] += 2
    told = pace.figures()
    assert (told["tokens_per_second"], told["rows_per_second"]) == (5, 1)
    assert told["matrix_share"] == pytest.approx((40 + 20 + 20) * 10 / 2 / 1000)


def test_every_second_is_counted_where_it_went_and_once(clock: list[float]):
    pace = Pace(Accelerator(cpu=True), nn.Linear(1, 1))
    clock[0] += 50  # before the training
    pace.restart()
    for _ in range(1000):  # more than wait to be read
        for seconds, name in zip((1, 2, 4, 1), PARTS, strict=True):
            with pace.part(name):
                clock[0] += seconds
        pace.count(30, 40, 2)
        clock[0] += 2  # in no part
    told = pace.figures()
    assert {name: told[name] for name in PARTS} == pytest.approx(
        {"data": 0.1, "forward": 0.2, "backward": 0.4, "optimizer": 0.1}
    )
    assert (told["tokens_per_second"], told["rows_per_second"], told["padding"]) == pytest.approx((3, 0.2, 0.25))
    assert "matrix_share" not in told  # nothing was multiplied
    assert in_words(told).startswith(
        "3 tokens per second, 25% padding, 10% data, 20% forward, 40% backward, 10% optimizer"
    )
    pace.restart()
    clock[0] += 1
    assert pace.figures()["tokens_per_second"] == 0


def test_the_rate_of_products_is_that_of_this_machine():
    rate = paces.operations_per_second(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15
