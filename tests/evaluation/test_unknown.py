"""Scores of the unknown: by hand, against scikit-learn, and whatever order or blocks the rows come in."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from nlp_transfer.evaluation import unknown
from nlp_transfer.evaluation.hidden_classes import (
    auroc,
    auroc_interval,
    choose_detector,
    fit_detector,
    hidden_class_aurocs,
    sample_rows,
)
from nlp_transfer.evaluation.unknown import DETECTORS, Mahalanobis, Moments, RelativeMahalanobis

LABELS, WIDTH = 6, 8
NAMES = {kind: name for name, kind in DETECTORS.items()}


def clouds(rows: int, seed: int, labels: int = LABELS) -> tuple[np.ndarray, np.ndarray]:
    """Rows around one corner of a cube for each class."""
    chooser = np.random.default_rng(seed)
    classes = chooser.integers(labels, size=rows)
    features = 4 * np.eye(WIDTH)[classes] + 1 + chooser.normal(size=(rows, WIDTH))
    return features.astype(np.float32), classes


def scores_of(name: str, features: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
    train, classes = clouds(300, 0)
    return fit_detector(name, train, classes, labels=LABELS, seed=0).scores(
        features[:, :LABELS] if logits is None else logits, features
    )


def test_auroc_is_that_of_scikit_learn():
    chooser = np.random.default_rng(0)
    known, strange = chooser.integers(5, size=40), chooser.integers(1, 7, size=30)  # with ties
    truth = np.repeat([0, 1], [40, 30])
    assert auroc(known, strange) == pytest.approx(roc_auc_score(truth, np.concatenate([known, strange])))


def test_the_interval_of_an_auroc_has_its_coverage():
    chooser, held = np.random.default_rng(0), 0
    for _ in range(400):
        area = auroc(chooser.normal(size=25), chooser.normal(1.2, size=15))
        low, high = auroc_interval(area, 25, 15, confidence=0.9)
        held += low <= 0.8020 <= high  # of normal scores with means 1.2 apart
    assert 0.87 <= held / 400 <= 0.95


@pytest.mark.parametrize("area", [0.0, 0.3, 1.0])
def test_the_interval_of_an_auroc_has_a_width_whatever_it_is_and_mirrors(area: float):
    low, high = auroc_interval(area, 10, 5, confidence=0.95)
    assert 0 <= low <= area <= high <= 1
    assert high - low > 0.1
    assert auroc_interval(1 - area, 5, 10, confidence=0.95) == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_scores_of_logits_by_hand():
    logits = np.log([[1.0, 3.0], [4.0, 4.0]])
    np.testing.assert_allclose(DETECTORS["energy"].of({}).scores(logits, None), -np.log([4, 8]))
    np.testing.assert_allclose(DETECTORS["probability"].of({}).scores(logits, None), [0.25, 0.5])


def test_the_covariance_is_the_one_of_ledoit_and_wolf():
    features, classes = clouds(60, 1)
    means = np.stack([features[classes == label].mean(axis=0) for label in range(LABELS)])
    expected, _ = ledoit_wolf(features.astype(np.float64) - means[classes], assume_centered=True)
    found = Moments.of(features, classes, LABELS).covariance()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_distances_are_those_of_their_definitions():
    features, classes = clouds(200, 1)
    moments = Moments.of(features, classes, LABELS + 1)  # one class has no row
    rows = clouds(9, 2)[0].astype(np.float64)
    means = [features[classes == label].mean(axis=0, dtype=np.float64) for label in range(LABELS)]
    inverse, whole = (np.linalg.inv(moments.covariance(whole=each)) for each in (False, True))
    near = np.array([min((row - mean) @ inverse @ (row - mean) for mean in means) for row in rows])
    found = Mahalanobis.fit(moments).scores(np.zeros(0), rows.astype(np.float32))
    np.testing.assert_allclose(found, near, rtol=1e-4)
    centred = rows - features.mean(axis=0, dtype=np.float64)
    far = np.array([row @ whole @ row for row in centred])
    relative = unknown.RelativeMahalanobis.fit(moments).scores(np.zeros(0), rows.astype(np.float32))
    np.testing.assert_allclose(relative, near - far, rtol=1e-3, atol=1e-3)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (features / length).T
    neighbours = unknown.Neighbours.fit(features).scores(np.zeros(0), rows.astype(np.float32))
    np.testing.assert_allclose(neighbours, np.sqrt(2 - 2 * cosines.max(axis=1)), atol=2e-3)  # kept in halves


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_depends_neither_on_order_nor_blocks_and_survives_its_tensors(name: str, monkeypatch):
    features = clouds(50, 3)[0]
    whole = scores_of(name, features)
    np.testing.assert_allclose(scores_of(name, features[::-1])[::-1], whole, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(unknown, "_BLOCK", 7)
    np.testing.assert_allclose(scores_of(name, features), whole, rtol=1e-5, atol=1e-5)
    train, classes = clouds(300, 0)
    detector = fit_detector(name, train, classes, labels=LABELS, seed=0)
    again = DETECTORS[name].of(detector.tensors())
    logits = features[:, :LABELS]
    np.testing.assert_array_equal(again.scores(logits, features), detector.scores(logits, features))


@pytest.mark.parametrize("name", ["mahalanobis", "neighbours"])
def test_rows_far_from_all_classes_score_higher(name: str):
    foreign = np.random.default_rng(5).normal(size=(100, WIDTH)).astype(np.float32) - 3
    assert auroc(scores_of(name, clouds(100, 4)[0]), scores_of(name, foreign)) > 0.99


def test_rehearsals_hide_classes_and_need_more_than_two():
    (train, classes), (held, truth) = clouds(300, 0), clouds(200, 1)
    figures = hidden_class_aurocs(train, classes, held, truth, labels=LABELS, seed=0)
    assert list(figures) == list(DETECTORS)
    assert np.mean(figures["mahalanobis"]) > 0.9
    assert figures == hidden_class_aurocs(train, classes, held, truth, labels=LABELS, seed=0)
    mixed = np.random.default_rng(0).permutation(truth)
    hardly = hidden_class_aurocs(train, classes, held, mixed, labels=LABELS, seed=0)["mahalanobis"]
    assert np.mean(hardly) == pytest.approx(0.5, abs=0.1)
    assert hidden_class_aurocs(train, classes % 2, held, truth % 2, labels=2, seed=0) == {}


def test_both_distances_of_a_group_of_hidden_classes_come_from_one_fit(monkeypatch: pytest.MonkeyPatch):
    (train, classes), (held, truth) = clouds(300, 0), clouds(200, 1)
    fits = []
    fit = Moments.of
    monkeypatch.setattr(Moments, "of", lambda *given: fits.append(fit(*given)) or fits[-1])
    figures = hidden_class_aurocs(train, classes, held, truth, labels=LABELS, seed=0)
    groups = np.array_split(np.random.default_rng(0).permutation(LABELS), 5)
    assert len(fits) == len(groups)
    for kind in (Mahalanobis, RelativeMahalanobis):
        for moments, hidden, area in zip(fits, groups, figures[NAMES[kind]], strict=True):
            scores, unknown = kind.fit(moments).scores(held, held), np.isin(truth, hidden)
            assert area == auroc(scores[~unknown], scores[unknown])


def test_another_detector_is_chosen_only_where_it_is_clearly_better():
    usual, lower = [0.80, 0.70, 0.90, 0.85, 0.75], [0.5] * 5
    surely = [area + gain for area, gain in zip(usual, (0.03, 0.02, 0.04, 0.03, 0.02), strict=True)]
    hardly = [area + gain for area, gain in zip(usual, (0.2, -0.1, 0.1, -0.1, 0.1), strict=True)]
    for best, taken in ((surely, "energy"), (hardly, "relative_mahalanobis"), (usual, "relative_mahalanobis")):
        figures = {"energy": best, "relative_mahalanobis": usual, "neighbours": lower}
        assert choose_detector(figures, WIDTH) == taken
    assert choose_detector({}, WIDTH) == "relative_mahalanobis"
    assert choose_detector(dict.fromkeys(DETECTORS, [1.0] * 5), WIDTH) == "relative_mahalanobis"  # nothing to gain
    assert (
        choose_detector({"energy": hardly, "neighbours": usual}, 5000) == "neighbours"
    )  # a covariance would be too wide
    assert choose_detector({}, 5000) == "neighbours"


def test_rows_that_are_kept_are_drawn_by_the_seed():
    assert list(sample_rows(3, 3, seed=0)) == [0, 1, 2]
    drawn = sample_rows(100, 10, seed=0)
    assert len(set(drawn)) == 10
    assert list(drawn) == sorted(drawn) == list(sample_rows(100, 10, seed=0))
    assert list(drawn) != list(sample_rows(100, 10, seed=1))


def test_features_that_do_not_vary_have_a_score():
    detector = fit_detector("mahalanobis", np.ones((9, 4), np.float32), np.arange(9) % 3, labels=3, seed=0)
    assert np.isfinite(detector.scores(np.zeros(0), np.ones((2, 4), np.float32))).all()
