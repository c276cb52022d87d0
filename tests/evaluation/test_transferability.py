"""Scores of features: equal to their definitions, and in the order in which features really tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nlp_transfer.evaluation.transferability import h_score, logme, neighbour_accuracy

CLASSES = 4


def made(noise: float, *, rows: int = 300, width: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes whose means lie apart, under noise."""
    draws = np.random.default_rng(seed)
    classes = np.arange(rows) % CLASSES
    means = draws.standard_normal((CLASSES, width))
    return (means[classes] + noise * draws.standard_normal((rows, width))).astype(np.float32), classes


@pytest.mark.parametrize("seed", range(3))
def test_every_score_falls_as_noise_grows(seed: int):
    found = []
    for noise in (0.5, 1.0, 2.0, 4.0, 16.0):
        features, classes = made(noise, seed=seed)
        found.append(
            (
                logme(features, np.eye(CLASSES)[classes]),
                h_score(features, classes),
                neighbour_accuracy(features, classes),
            )
        )
    for values in zip(*found, strict=True):
        assert list(values) == sorted(values, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
def test_logme_is_the_largest_evidence_by_its_definition(rows: int, width: int):
    draws = np.random.default_rng(rows)
    f = draws.standard_normal((rows, width))
    f -= f.mean(0)
    y = f[:, :1] * 1.5 + draws.standard_normal((rows, 1))
    y -= y.mean(0)

    basis = np.linalg.svd(np.eye(rows) - 1 / rows)[0][:, :-1]  # of what is left when a mean is taken away

    def evidence(alpha: float, beta: float) -> float:
        covariance = basis.T @ (np.eye(rows) / beta + f @ f.T / alpha) @ basis
        return float(multivariate_normal(np.zeros(rows - 1), covariance).logpdf(basis.T @ y[:, 0])) / (rows - 1)

    grid = [evidence(alpha, beta) for alpha in np.logspace(-3, 4, 60) for beta in np.logspace(-2, 3, 60)]
    assert logme(f, y) == pytest.approx(max(grid), abs=5e-3)


def test_scores_are_invariant_to_scale_and_rotation():
    features, classes = made(1.0)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))
    turned = 7 * features @ turn.astype(np.float32)
    expected = np.eye(CLASSES)[classes]
    assert logme(turned, expected) == pytest.approx(logme(features, expected), abs=1e-4)
    assert h_score(turned, classes) == pytest.approx(h_score(features, classes), rel=1e-4)
    assert neighbour_accuracy(turned, classes) == neighbour_accuracy(features, classes)


def test_neighbours_are_those_of_a_library():
    from sklearn.neighbors import NearestNeighbors

    features, classes = made(2.0, rows=700)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances, near = NearestNeighbors(n_neighbors=6).fit(unit).kneighbors(unit)
    right = 0
    for row in range(len(unit)):
        others = [
            (1 - gap**2 / 2, classes[other])
            for gap, other in zip(distances[row], near[row], strict=True)
            if other != row
        ]
        votes = {name: sum(1 + 1e-3 * alike for alike, other in others[:5] if other == name) for name in range(CLASSES)}
        right += max(votes, key=votes.__getitem__) == classes[row]
    assert neighbour_accuracy(features, classes) == pytest.approx(right / len(unit), abs=2 / len(unit))


def test_a_class_that_no_row_has_changes_nothing():
    draws = np.random.default_rng(0)
    features, expected = draws.normal(size=(60, 5)), np.eye(3)[draws.integers(3, size=60)]
    assert logme(features, np.pad(expected, ((0, 0), (0, 2)))) == logme(features, expected)
    assert logme(features, np.ones((60, 1))) == 0


def test_constant_features_score_zero():
    features, classes = np.ones((50, 5), np.float32), np.arange(50) % 2
    assert np.isfinite(logme(features, np.eye(2)[classes]))
    assert h_score(features, classes) == pytest.approx(0, abs=1e-6)
