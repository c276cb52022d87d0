"""Paraphrases are those that comparing all with all finds: within a split, and from an earlier one into a later."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nlp_transfer.data.checks import LEAKS
from nlp_transfer.inspection import encoded
from nlp_transfer.inspection.encoded import paraphrases

SIZES = {"train": 90, "validation": 40, "test": 50}


def vectors(seed: int) -> dict[str, np.ndarray]:
    """Rows around few directions, so that some mean the same; one without any direction."""
    draws = np.random.default_rng(seed)
    middles = draws.normal(size=(60, 24))
    made = {
        split: (middles[draws.integers(60, size=size)] + 0.15 * draws.normal(size=(size, 24))).astype(np.float32)
        for split, size in SIZES.items()
    }
    made["train"][3] = 0
    return made


def sought(made: dict[str, np.ndarray], same: set[tuple[str, int]]) -> dict[tuple[str, str], dict[int, int]]:
    """The findings by splits: which row paraphrases which."""
    prepared = SimpleNamespace(
        corpus=SimpleNamespace(splits=made),
        classifier=SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace())),
        features=made.__getitem__,
    )
    found = {}
    for each in paraphrases(prepared, same):  # type: ignore[arg-type]
        ((target, source),) = {(place[0], other[0]) for place, other in zip(each.places, each.beside, strict=True)}
        assert each.kind == "paraphrase"
        assert ("an earlier one" in each.message) == (source == target)
        found[source, target] = {row: other for (_, row), (_, other) in zip(each.places, each.beside, strict=True)}
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("block", [7, 256])
def test_paraphrases_equal_those_of_a_full_comparison(seed: int, block: int, monkeypatch):
    monkeypatch.setattr(encoded, "_BLOCK", block)
    made = vectors(seed)
    same = {("train", row) for row in range(0, 90, 9)} | {("test", 4)}
    unit = {
        split: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for split, rows in made.items()
    }
    expected = {}
    for source, target in (*LEAKS, *((split, split) for split in SIZES)):
        expected[source, target] = {
            row
            for row in range(SIZES[target])
            for other in range(row if source == target else SIZES[source])
            if (target, row) not in same
            and (source, other) not in same
            and unit[target][row] @ unit[source][other] >= 0.95
        }
    assert all(expected.values())
    found = sought(made, same)
    assert {splits: set(pairs) for splits, pairs in found.items()} == expected
    for (source, target), pairs in found.items():
        for row, other in pairs.items():
            assert (source, other) not in same
            assert unit[target][row] @ unit[source][other] >= 0.95


def test_of_many_rows_a_sample_is_compared(monkeypatch):
    made = vectors(2)
    whole = sought(made, set())
    monkeypatch.setattr(encoded, "_COMPARED", (20, 30))
    for splits, pairs in sought(made, set()).items():
        assert pairs.keys() <= whole[splits].keys()
        assert len(pairs) <= 20
        assert len(set(pairs.values())) <= 30
