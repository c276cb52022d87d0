"""Edited recipes are kept and unedited ones are replaced when a comparison is repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nlp_transfer.comparing import writing
from nlp_transfer.comparing.outcome import ComparisonOutcome
from nlp_transfer.comparing.writing import write_outcome
from nlp_transfer.config import compose
from nlp_transfer.errors import UserError
from nlp_transfer.reporting import files
from tests.comparing.outcomes import SURE, duel, outcome
from tests.full_disk import refuse_to_hold

SETTINGS = compose(None, ["strategy=probe"])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComparisonOutcome:
    monkeypatch.setattr(files, "PAGES", ())  # they take a second each and are looked at elsewhere
    monkeypatch.setattr(writing, "document_of", lambda _: None)
    return dataclasses.replace(
        outcome(duel("probe", "majority", SURE, 0.001)), folder=tmp_path, recipe=tmp_path / "winner.yaml"
    )


def left(made: ComparisonOutcome, *, seed: int = 0) -> tuple[Path, list[str]]:
    """Return where the recipe lies, and what was said."""
    message: list[str] = []
    found = write_outcome(made, dataclasses.replace(SETTINGS, seed=seed), tell=message.append)
    assert compose(str(found.recipe)).seed == seed
    assert f"nlp-transfer adapt {found.recipe}" in found.recipe.read_text(encoding="utf-8")
    return found.recipe, message


def test_unedited_recipes_are_replaced(made: ComparisonOutcome):
    for seed in (0, 0, 1, 2):
        assert left(made, seed=seed) == (made.recipe, [])
    assert [path.name for path in made.folder.glob("*.yaml")] == ["winner.yaml"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_edited_recipe_is_kept_and_the_new_one_gets_another_name(made: ComparisonOutcome, seed: int):
    left(made)
    mine = made.recipe.read_bytes() + b"# mine\n"
    made.recipe.write_bytes(mine)
    second, third = made.folder / "winner-2.yaml", made.folder / "winner-3.yaml"
    for _ in range(2):  # the second time the one beside it is ours
        path, (message,) = left(made, seed=seed)
        assert path == second
        assert f"{made.recipe} was changed" in message
        assert str(second) in message
    second.write_bytes(mine)
    assert left(made, seed=seed)[0] == third
    assert made.recipe.read_bytes() == second.read_bytes() == mine
    made.recipe.unlink()
    assert left(made, seed=seed) == (made.recipe, [])


@pytest.mark.parametrize("name", ["winner.yaml", "compare.json"])
def test_an_incomplete_file_gets_no_final_name(made: ComparisonOutcome, monkeypatch: pytest.MonkeyPatch, name: str):
    left(made)
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    refuse_to_hold(monkeypatch, name)
    with pytest.raises(UserError, match="full"):
        left(made, seed=1)
    assert (made.folder / name).read_bytes() == before[name]


@pytest.mark.parametrize("figures", [None, "", "[]", "{}"])
def test_recipes_of_unknown_origin_are_not_replaced(made: ComparisonOutcome, figures: str | None):
    made.recipe.write_text("mine", encoding="utf-8")
    if figures is not None:
        (made.folder / "compare.json").write_text(figures, encoding="utf-8")
    assert left(made)[0].name == "winner-2.yaml"
    assert made.recipe.read_text(encoding="utf-8") == "mine"
