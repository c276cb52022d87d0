"""The head of class means: nearest is likeliest, values by hand, and each row left out as if it had never been."""

import numpy as np
import pytest
from scipy.special import log_softmax

from nlp_transfer.linear.prototypes import fit_prototypes


def drawn(seed: int, rows: int = 40, labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    kinds = np.arange(rows) % labels
    x = random.normal(size=(rows, 5)) + 1.5 * np.eye(5)[kinds]
    return x.astype(np.float32), np.eye(labels, dtype=np.float32)[kinds], random.uniform(0.5, 2, rows)


def test_the_values_by_hand():
    # Means 1 and 6 on a line: the border lies at 3.5, and what they differ by there grows by 2 s (6 - 1) a unit.
    x, targets = np.array([[0.0], [2], [5], [7]], np.float32), np.eye(2)[[0, 0, 1, 1]]
    head = fit_prototypes(x, targets, np.ones(4))
    assert head.weight[:, 0] / head.weight[0, 0] == pytest.approx([1, 6])
    weight, bias = head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]
    assert -bias / weight == pytest.approx([3.5])
    # Of weight 3, the second row draws its mean to 1.5.
    heavy = fit_prototypes(x, targets, np.array([1, 3, 1, 1]))
    weight, bias = heavy.weight[1] - heavy.weight[0], heavy.bias[1] - heavy.bias[0]
    assert -bias / weight == pytest.approx([3.75])


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_mean_is_the_likeliest(seed: int):
    x, targets, weights = drawn(seed)
    head = fit_prototypes(x, targets, weights)
    means = (targets * weights[:, None]).T @ x / (targets * weights[:, None]).sum(0)[:, None]
    far = np.square(x[:, None] - means).sum(-1)
    logits = x @ head.weight.T + head.bias
    assert (logits.argmax(1) == far.argmin(1)).all()
    scale = head.weight[0] @ means[0] / (2 * means[0] @ means[0])
    np.testing.assert_allclose(logits - logits[:, :1], scale * (far[:, :1] - far), atol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_held_out_rows_do_not_influence_prototypes(soft: bool):
    x, targets, weights = drawn(5)
    if soft:
        targets = 0.8 * targets + 0.2 / 3
    head = fit_prototypes(x, targets, weights)
    scale = float(np.linalg.norm(head.weight[0]))
    own = (targets * weights[:, None]).T @ x / (targets * weights[:, None]).sum(0)[:, None]
    scale /= 2 * np.linalg.norm(own[0])
    for row in range(len(x)):
        rest = np.arange(len(x)) != row
        mass = targets[rest] * weights[rest, None]
        means = mass.T @ x[rest] / mass.sum(0)[:, None]
        logits = -scale * np.square(x[row] - means).sum(-1)
        assert head.held_out[row] == pytest.approx(-targets[row] @ log_softmax(logits), rel=1e-3)
    around = [fit_loss(x, targets, weights, scale * factor) for factor in (0.8, 1, 1.25)]
    assert around[1] == min(around)


def fit_loss(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, scale: float) -> float:
    found = []
    for row in range(len(x)):
        rest = np.arange(len(x)) != row
        mass = targets[rest] * weights[rest, None]
        means = mass.T @ x[rest] / mass.sum(0)[:, None]
        found.append(-targets[row] @ log_softmax(-scale * np.square(x[row] - means).sum(-1)))
    return float(np.average(found, weights=weights))


@pytest.mark.parametrize("same", [False, True])
def test_one_row_per_label_is_enough(same: bool):
    x = np.zeros((3, 4), np.float32) if same else np.eye(3, 4, dtype=np.float32)
    head = fit_prototypes(x, np.eye(3), np.ones(3))
    assert np.isfinite(head.weight).all()
    assert same or ((x @ head.weight.T + head.bias).argmax(1) == np.arange(3)).all()
    assert not head.held_out.any()
