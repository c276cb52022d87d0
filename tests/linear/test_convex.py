"""The exact head: it reaches the optimum that scikit-learn reaches, honours weights, and chooses its penalty."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from nlp_transfer.linear import convex
from nlp_transfer.linear.convex import _FIRST, PENALTIES, CrossValidated, cross_validate_head, fit_head, softened
from nlp_transfer.linear.losses import TrainingRows
from nlp_transfer.linear.solver import PrincipalAxes, Solver
from nlp_transfer.significance import is_lower


def blobs(rows: int, labels: int, width: int, *, seed: int = 0, noise: float = 2.0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, labels, rows)
    centres = generator.normal(size=(labels, width))
    return (centres[y] + noise * generator.normal(size=(rows, width))).astype(np.float32), y


def solved(x, y, w, loss, penalty):
    shares = (w / w.sum()).astype(np.float32)
    rows = TrainingRows(x.astype(np.float32), np.ascontiguousarray(y.T, np.float32), shares, loss, None, True)
    problem = Solver(PrincipalAxes(rows, problems=1))
    return problem.original(problem.solve(penalty, None, tolerance=1e-9))


def test_softmax_optimum_is_scikit_learns():
    x, y = blobs(120, 3, 6)
    w = np.random.default_rng(1).uniform(0.5, 2, len(x))
    matrix, bias = solved(x, np.eye(3)[y], w, "softmax", 1e-2)
    # scikit-learn minimises C Σ wᵢ ℓᵢ + ½‖W‖²
    peer = LogisticRegression(C=1 / (1e-2 * w.sum()), max_iter=5000, tol=1e-8).fit(x, y, sample_weight=w)
    np.testing.assert_allclose(matrix, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(bias - bias.mean(), peer.intercept_ - peer.intercept_.mean(), atol=2e-3)


def test_squared_optimum_is_ridge():
    x, y = blobs(80, 4, 5)
    matrix, bias = solved(x, y[:, None].astype(float), np.ones(80), "squared", 0.1)
    peer = Ridge(alpha=0.1 * 80 / 2, solver="cholesky").fit(x, y)
    np.testing.assert_allclose(matrix[0], peer.coef_, atol=1e-3)
    np.testing.assert_allclose(bias[0], peer.intercept_, atol=1e-3)


def test_sigmoid_optimum_is_one_logistic_regression_a_label():
    x, y = blobs(150, 2, 5, seed=3)
    matrix, _ = solved(x, np.stack([y, 1 - y], 1), np.ones(150), "sigmoid", 1e-2)
    np.testing.assert_allclose(matrix[0], -matrix[1], atol=1e-3)
    # the loss is the mean over two labels, so the penalty weighs twice against one label's loss
    peer = LogisticRegression(C=1 / (2 * 1e-2 * 150), max_iter=5000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(matrix[0], peer.coef_[0], atol=2e-3)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "squared"])
def test_a_weight_of_two_is_the_row_twice(loss: str):
    x, y = blobs(40, 3, 4)
    targets = y[:, None].astype(float) if loss == "squared" else np.eye(3)[y]
    w = np.where(np.arange(40) < 10, 2.0, 1.0)
    once = solved(x, targets, w, loss, 1e-2)
    twice = solved(np.vstack([x, x[:10]]), np.vstack([targets, targets[:10]]), np.ones(50), loss, 1e-2)
    np.testing.assert_allclose(once[0], twice[0], atol=2e-3)


def test_noise_gets_a_strong_and_signal_a_weak_penalty():
    x, y = blobs(200, 2, 5, noise=0.4)
    clear = fit_head(x, np.eye(2)[y], np.ones(200), loss="softmax", strata=y)
    shuffled = np.random.default_rng(0).permutation(y)
    noise = fit_head(x, np.eye(2)[shuffled], np.ones(200), loss="softmax", strata=shuffled)
    assert clear.penalty < noise.penalty
    assert ((x @ clear.weight.T + clear.bias).argmax(1) == y).mean() > 0.95
    assert noise.held_out.mean() == pytest.approx(np.log(2), abs=0.03)


@pytest.mark.parametrize("rows", [2, 4, 9])
def test_a_head_of_few_random_rows_is_unconfident(rows: int):
    losses = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(rows + 200, 8)).astype(np.float32)
        y = np.arange(rows + 200) % 2
        found = fit_head(x[:rows], np.eye(2)[y[:rows]], np.ones(rows), loss="softmax", strata=y[:rows])
        surplus = np.diff(x[rows:] @ found.weight.T + found.bias).ravel()
        losses.append(np.logaddexp(0, np.where(y[rows:] == 1, -surplus, surplus)).mean())
    assert np.mean(losses) < np.log(2) + 0.05


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_few_rows_still_give_a_head(rows: int):
    x, _ = blobs(rows, 2, 4)
    y = np.arange(rows) % 2
    head = fit_head(x, np.eye(2)[y], np.ones(rows), loss="softmax", strata=y)
    assert np.isfinite(head.weight).all()
    assert head.penalty in convex.PENALTIES


@pytest.mark.parametrize("unit", [1e-5, 1.0, 1e5])
def test_the_unit_of_a_regression_does_not_matter(unit: float):
    x, y = blobs(120, 4, 5)
    expected = fit_head(x, y[:, None].astype(float), np.ones(120), loss="squared")
    found = fit_head(x, unit * y[:, None], np.ones(120), loss="squared")
    assert found.penalty == expected.penalty
    np.testing.assert_allclose(found.weight / unit, expected.weight, rtol=1e-3, atol=1e-4)


def test_without_intercept_the_bias_is_zero_and_features_are_not_shifted():
    x, y = blobs(100, 2, 4)
    head = fit_head(x + 5, np.eye(2)[y], np.ones(100), loss="softmax", strata=y, intercept=False)
    assert (head.bias == 0).all()
    assert (((x + 5) @ head.weight.T).argmax(1) == y).mean() > 0.6


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "squared"])
def test_rows_of_weight_zero_do_not_count(loss: str):
    x, y = blobs(60, 2, 4)
    targets = y[:, None].astype(float) if loss == "squared" else np.eye(2)[y]
    w = np.ones(60)
    w[::3] = 0
    found = fit_head(x, targets, w, loss=loss, strata=y)
    expected = fit_head(x[w > 0], targets[w > 0], w[w > 0], loss=loss, strata=y[w > 0])
    np.testing.assert_array_equal(found.weight, expected.weight)
    np.testing.assert_array_equal(found.held_out[w > 0], expected.held_out)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_constant_features_give_the_prior_and_not_large_logits(noise: float):
    y = np.arange(30) % 3
    x = 7 + noise * np.random.default_rng(0).normal(size=(30, 5))
    head = fit_head(x, np.eye(3)[y], np.ones(30), loss="softmax", strata=y)
    np.testing.assert_allclose(x @ head.weight.T + head.bias, 0, atol=1e-2)


@pytest.mark.parametrize(("offset", "least", "most"), [(0, 0.28, 0.3), (1e4, 0, 0.01)])
def test_a_head_is_shrunk_where_dropout_would_drown_it(offset: float, least: float, most: float):
    x, y = blobs(200, 3, 50)
    x += offset  # a large common part, of which dropout takes as much as of the rest
    head = fit_head(x, np.eye(3)[y], np.ones(200), loss="softmax", strata=y)
    steady = softened(head, x)
    share = np.linalg.norm(steady.weight) / np.linalg.norm(head.weight)
    assert least <= share <= most
    means = [(x.astype(float) @ h.weight.T.astype(float) + h.bias).mean(0) for h in (head, steady)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-2)


def test_a_lower_loss_must_be_significant():
    generator = np.random.default_rng(0)
    losses, noise = generator.uniform(size=400), generator.normal(size=400)
    noise -= noise.mean()  # its standard error is 0.05
    weights = np.ones(400)
    assert is_lower(losses, losses + 0.06 + noise, weights)
    assert not is_lower(losses, losses + 0.04 + noise, weights)
    assert not is_lower(losses, losses + 0.06 + noise, weights, errors=2)
    assert not is_lower(losses, losses - 0.06 + noise, weights)
    assert not is_lower(losses, losses, weights)


def test_a_rival_out_of_reach_ends_the_search_early_and_one_within_reach_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    labels = np.arange(200) % 3
    x, arguments = np.eye(3, dtype=np.float32)[labels], (np.eye(3)[labels], np.ones(200))
    solved, solve = [], Solver.solve
    monkeypatch.setattr(Solver, "solve", lambda *given, **more: solved.append(given[1]) or solve(*given, **more))

    def tried(**more) -> tuple[CrossValidated, int]:
        solved.clear()
        return cross_validate_head(x, *arguments, loss="softmax", strata=labels, **more), len(solved)

    free, free_solves = tried()
    perfect = dataclasses.replace(free, penalty=PENALTIES[_FIRST], held_out=np.full(200, -1e3, np.float32))
    _, solves = tried(rival=perfect)
    assert solves < free_solves / 2
    behind = dataclasses.replace(free, penalty=PENALTIES[_FIRST], held_out=np.full(200, 1e3, np.float32))
    beaten, solves = tried(rival=behind)
    assert (beaten.penalty, solves) == (free.penalty, free_solves)
    np.testing.assert_array_equal(beaten.held_out, free.held_out)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "squared"])
def test_out_of_fold_predictions_have_the_reported_losses(loss: str):
    x, y = blobs(150, 3, 6, seed=5)
    targets = np.eye(3)[y] if loss != "squared" else np.stack([y * 3.0 + 7, -y], 1)
    weights = np.ones(len(x))
    weights[::7] = 0
    found = cross_validate_head(x, targets, weights, loss=loss, strata=y)
    outputs = found.outputs_held_out()
    assert np.isnan(outputs[::7]).all()
    kept = weights > 0
    z, t = outputs[kept].astype(np.float64), targets[kept]
    if loss == "softmax":
        losses = np.logaddexp.reduce(z, axis=1) - (z * t).sum(1)
    elif loss == "sigmoid":
        losses = (np.logaddexp(0, z) - z * t).mean(1)
    else:  # in units of the targets' spread
        losses = np.square((z - t) / t.std(0)).mean(1)
    np.testing.assert_allclose(losses, found.held_out[kept], rtol=2e-3, atol=2e-3)
    assert cross_validate_head(x[:6], targets[:6], weights[:6], loss=loss).outputs_held_out() is None


def no_folder(*_: object) -> str:
    raise FileNotFoundError("No usable temporary directory found")


@pytest.mark.parametrize("lacking", [None, "os.posix_fallocate", "a folder for temporary files"])
def test_a_copy_in_a_file_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, lacking: str | None):
    x, y = blobs(120, 3, 6)
    x, weights = x.astype(np.float32), np.r_[np.zeros(7), np.ones(len(x) - 7)]
    expected = fit_head(x, np.eye(3)[y], weights, loss="softmax")
    monkeypatch.setattr(convex, "_IN_MEMORY", 10)
    monkeypatch.setattr(convex, "_AT_ONCE", 7)
    if lacking == "os.posix_fallocate":
        monkeypatch.delattr(lacking)
    elif lacking:
        monkeypatch.setattr("tempfile._get_default_tempdir", no_folder)
        monkeypatch.setattr("tempfile.tempdir", None)
    found = fit_head(x, np.eye(3)[y], weights, loss="softmax")
    for name in ("weight", "bias", "held_out", "penalty"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
