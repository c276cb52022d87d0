"""The solver: its derivatives, its folds, its coordinates, and how few passes over the rows it needs."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nlp_transfer.linear.losses import TrainingRows
from nlp_transfer.linear.solver import PrincipalAxes, Solver

LOSSES = ["softmax", "sigmoid", "squared"]


def rows_of(
    loss: str, rows: int = 60, width: int = 5, outputs: int = 3, *, seed: int = 0, scale=1.0, intercept: bool = True
) -> TrainingRows:
    generator = np.random.default_rng(seed)
    x = (generator.normal(size=(rows, width)) * scale).astype(np.float32)
    z = x @ generator.normal(size=(width, outputs)) + generator.normal(size=(rows, outputs))
    y = {"softmax": np.eye(outputs)[z.argmax(1)] * 0.9 + 0.1 / outputs, "sigmoid": z > 0, "squared": z}[loss]
    w = generator.uniform(0.5, 2, rows)
    positive = np.arange(1.0, outputs + 1) if loss == "sigmoid" else None
    return TrainingRows(
        x, np.ascontiguousarray(y.T, np.float32), (w / w.sum()).astype(np.float32), loss, positive, intercept
    )


def torch_losses(rows: TrainingRows, z: torch.Tensor) -> torch.Tensor:
    """Losses (rows,) of outputs (rows, outputs) as torch defines them."""
    y = torch.from_numpy(rows.y.T).double()
    if rows.loss == "softmax":
        return -(y * functional.log_softmax(z, 1)).sum(1)
    if rows.loss == "squared":
        return (z - y).square().mean(1)
    beta = torch.tensor(rows.positive_weights)
    return functional.binary_cross_entropy_with_logits(z, y, pos_weight=beta, reduction="none").mean(1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [0.1, 3.0, 40.0])
def test_derivatives_are_those_of_the_losses(loss: str, size: float):
    rows = rows_of(loss)
    z = (size * np.random.default_rng(1).normal(size=(1, 3, 60))).astype(np.float32)
    at = torch.from_numpy(z[0].T.copy()).double().requires_grad_()
    expected = torch_losses(rows, at)
    slope = torch.autograd.grad(expected.sum(), at, create_graph=True)[0]
    curvature = torch.stack([torch.autograd.grad(slope[:, i].sum(), at, retain_graph=True)[0][:, i] for i in range(3)])
    everything = slice(0, 60)
    np.testing.assert_allclose(rows.curvatures(z, everything, halfway=False)[0], curvature, atol=1e-5)
    losses, slopes = rows.losses_and_gradients(z, everything)
    np.testing.assert_allclose(losses[0], expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slopes[0], slope.detach().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("intercept", [True, False])
# wider than long; features turned once; weights turned in every pass
@pytest.mark.parametrize(("rows", "width"), [(30, 70), (200, 8), (1300, 8)])
def test_the_slope_at_the_solution_is_zero(loss: str, intercept: bool, rows: int, width: int):
    given = rows_of(loss, rows, width, intercept=intercept, scale=np.linspace(0.1, 2, width))
    problem = Solver(PrincipalAxes(given, problems=1))
    matrix, bias = problem.original(problem.solve(0.01, None, tolerance=1e-10))
    w, b = (torch.from_numpy(part).double().requires_grad_() for part in (matrix, bias))
    losses = torch_losses(given, torch.from_numpy(given.x).double() @ w.T + b)
    objective = torch.from_numpy(given.w).double() @ losses + 0.005 * w.square().sum()
    slope, bias_slope = torch.autograd.grad(objective, (w, b))
    assert slope.abs().max() < 1e-5
    if intercept:
        assert bias_slope.abs().max() < 1e-5
    else:
        assert (bias == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [40, 1300])
def test_held_out_folds_do_not_influence_the_solution(loss: str, rows: int):
    given = rows_of(loss, rows, 6)
    sizes = [rows // 4, rows // 4 + 3, rows - 2 * (rows // 4) - 3]
    folds = Solver(PrincipalAxes(given, problems=3), sizes)
    solution = folds.solve(0.01, None, tolerance=1e-9)
    losses = folds.held_out(solution)
    for fold, (start, stop) in enumerate(zip(np.cumsum([0, *sizes[:-1]]), np.cumsum(sizes), strict=True)):
        kept = np.r_[:start, stop:rows]
        rest = TrainingRows(given.x[kept], given.y[:, kept], given.w[kept], loss, given.positive_weights, True)
        alone = Solver(PrincipalAxes(rest, problems=1))
        matrix, bias = alone.original(alone.solve(0.01, None, tolerance=1e-9))
        np.testing.assert_allclose(solution[fold, :, :-1] @ folds.axes.basis.T, matrix, atol=1e-3)
        outputs = torch.from_numpy(given.x @ matrix.T + bias).double()
        np.testing.assert_allclose(losses[start:stop], torch_losses(given, outputs)[start:stop], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_solution_does_not_depend_on_start_and_history(loss: str):
    given = rows_of(loss, 100, 20)
    fresh, used = (Solver(PrincipalAxes(given, problems=1)) for _ in range(2))
    expected = fresh.solve(1e-3, None, tolerance=1e-9)
    on_the_way = None
    for penalty in (1.0, 0.1, 0.01):
        on_the_way = used.solve(penalty, on_the_way, tolerance=1e-4)
    found = used.solve(1e-3, on_the_way, tolerance=1e-9)
    if loss == "softmax":  # the biases have no common level
        for solution in (found, expected):
            solution[:, :, -1] -= solution[:, :, -1].mean()
    np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.parametrize(("loss", "most"), [("softmax", 25), ("sigmoid", 25), ("squared", 5)])
def test_few_passes_suffice_whatever_the_units_of_the_features(loss: str, most: int, monkeypatch: pytest.MonkeyPatch):
    passes, objective = [], Solver._objective

    def counted(*arguments, **options):
        passes.append(None)
        return objective(*arguments, **options)

    monkeypatch.setattr(Solver, "_objective", counted)
    problem = Solver(PrincipalAxes(rows_of(loss, 300, 40, scale=np.logspace(-3, 0.5, 40)), problems=1))
    problem.solve(1e-2, None, tolerance=1e-6)
    assert 1 < len(passes) <= most
