"""The rows from which a head is fitted before gradient steps."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.data.batches import ColumnPool
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.running import head
from nlp_transfer.running.head import solve_head
from nlp_transfer.running.prepared import Prepared
from tests.cache.counted import counted, prepared_for
from tests.runs import PROBLEMS


def weights(prepared: Prepared) -> np.ndarray:
    return active_output(prepared.classifier.model).weight.detach().numpy().copy()


@pytest.mark.parametrize("count", [0, 1, 3, 100])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_every_class_are_found(count: int, seed: int):
    classes = np.random.default_rng(seed).integers(0, 5, 60)
    expected = [int((classes[:place] == name).sum()) < count for place, name in enumerate(classes)]
    assert head._is_among_first(classes, count).tolist() == expected


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_training_starts_from_the_head_of_a_sample(home: Path, monkeypatch: pytest.MonkeyPatch, problem: str):
    values = {"strategy": "finetune", "encoder.head": "pooled"}
    everything = prepared_for(home, problem, **values)
    train = everything.corpus.splits["train"]
    with counted(everything) as all_passes:
        solve_head(everything)
    monkeypatch.setattr(head, "_START_ROWS", 8)
    monkeypatch.setattr(head, "_START_ROWS_PER_CLASS", 3)
    rows = head._start_rows(everything.corpus)
    assert rows is not None
    assert len(rows) < len(train)
    assert (np.diff(rows) > 0).all()
    if problem in ("single_label", "ordinal"):
        assert min(Counter(train.targets[rows].tolist()).values()) >= 3
        assert set(train.targets[rows]) == set(train.targets)
    sampled = prepared_for(home, problem, **values)
    with counted(sampled) as passes:
        solve_head(sampled)
    assert sum(passes) == pytest.approx(sum(all_passes) * len(rows) / len(train), rel=0.2)  # texts have several windows
    assert not np.array_equal(weights(sampled), weights(everything))
    pooled = prepared_for(home, problem, **values)
    columns = pooled.columns["train"]
    pooled.columns["train"] = dataclasses.replace(columns, pool=ColumnPool(columns, np.arange(len(columns))))
    solve_head(pooled)
    np.testing.assert_allclose(weights(pooled), weights(sampled), rtol=1e-3, atol=1e-4)
    later = prepared_for(home, problem, seed=1, **values)
    with counted(later) as passes:
        solve_head(later)
    assert not passes  # the features of the sample are in the cache
    weights_by_row = np.where(np.arange(len(train)) % 2, train.weights, 0)
    half = {"train": dataclasses.replace(train, weights=weights_by_row)}
    assert weights_by_row[head._start_rows(dataclasses.replace(everything.corpus, splits=half))].all()


def test_features_that_are_known_are_not_computed_for_a_sample(home: Path, monkeypatch: pytest.MonkeyPatch):
    prepared, rows = prepared_for(home, **{"strategy": "finetune", "encoder.head": "pooled"}), np.array([3, 1])
    features = prepared.features("train")
    prepared.columns["train"] = dataclasses.replace(prepared.columns["train"], features=features)
    monkeypatch.setattr(prepared.feature_cache, "now", None)
    assert np.array_equal(prepared.features_of_rows("train", rows), features[rows])


def test_a_probe_is_fitted_to_all_rows(home: Path, monkeypatch: pytest.MonkeyPatch):
    everything = prepared_for(home)
    solve_head(everything)
    monkeypatch.setattr(head, "_START_ROWS", 8)
    other = prepared_for(home)
    solve_head(other)
    assert np.array_equal(weights(other), weights(everything))
