"""Which weights a training keeps."""

import math

import pytest
import torch
from torch import nn

from nlp_transfer.training.keeper import Keeper


def kept_of(values: list[float], *, higher: bool = True, best: bool = True, patience: int | None = None):
    """Show a keeper one evaluation a step; return the step and the weight that it kept, and the steps it saw."""
    keeper = Keeper(higher_is_better=higher, keep_best=best, patience=patience)
    parameters = {"w": nn.Parameter(torch.zeros(1))}
    for step, value in enumerate(values, start=1):
        parameters["w"].data.fill_(step)
        keeper.consider(value, step, parameters, is_last=step == len(values))
        if keeper.out_of_patience:
            break
    seen = int(parameters["w"])
    keeper.restore(parameters)
    return keeper.step, float(parameters["w"].detach()), seen


@pytest.mark.parametrize(
    ("values", "options", "step"),
    [
        ([0.1, 0.9, 0.5], {}, 2),
        ([0.9, 0.1, 0.5], {"higher": False}, 2),
        ([0.5, 0.9, 0.9, 0.2], {}, 3),  # of equally good ones the later
        ([1.0, 1.0, 1.0], {}, 3),
        ([0.9, 0.1], {"best": False}, 2),
        ([math.nan, 0.1, math.nan], {}, 2),
        ([math.nan, math.nan], {}, 2),  # nothing was measured
    ],
)
def test_the_best_weights_are_kept_or_the_last(values: list[float], options: dict, step: int):
    assert kept_of(values, **options) == (step, step, len(values))


@pytest.mark.parametrize("best", [True, False])
def test_patience_ends_where_nothing_improves_though_it_may_be_as_good(best: bool):
    step, weight, seen = kept_of([0.5, 0.7, 0.7, 0.7, 0.9], best=best, patience=2)
    assert (step, weight, seen) == (4, 4, 4)
