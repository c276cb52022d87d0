"""A corpus without defects is found to have none; every defect that is put in is found, and nothing else with it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import nlp_transfer
from nlp_transfer.console import Screen
from nlp_transfer.errors import UserError
from nlp_transfer.inspection.examine import Examination, examine
from nlp_transfer.inspection.kinds import KINDS
from tests.composed import settings_of
from tests.encoder.families import tiny_encoder
from tests.inspection.defects import BESIDES, LEARNED, PLAIN, Splits, clean
from tests.test_run import rows

QUIET = Screen(speaks=False)


@pytest.fixture(scope="module")
def sound() -> Splits:
    return clean()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def examined(splits: Splits, **values) -> Examination:
    settings = settings_of({"data": "object", "check.encoder": False} | values)
    return examine(settings, QUIET, data=splits)


def kinds(found: Examination) -> set[str]:
    return {each.kind for each in found.findings}


def test_every_kind_is_tried_and_every_one_that_is_tried_is_a_kind():
    assert {*PLAIN, *LEARNED, "paraphrase"} == set(KINDS)


def test_a_sound_corpus_has_no_defects(sound: Splits):
    assert kinds(examined(sound)) <= {"few_rows"}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_defect_is_found_and_nothing_that_is_not_there(sound: Splits, kind: str):
    splits = copy.deepcopy(sound)
    PLAIN[kind](splits)
    found = examined(splits)
    assert kind in kinds(found)
    assert kinds(found) - {"few_rows", kind} <= BESIDES.get(kind, set())


@pytest.fixture(scope="module")
def known() -> Splits:
    """Rows whose words the tiny tokenizer knows."""
    return {"train": rows("single_label", 200, 1), "test": rows("single_label", 60, 2)}


def custom(encoder: Path) -> dict[str, object]:
    return {"check.encoder": True, "encoder": "custom", "encoder.name": str(encoder), "training.precision": "fp32"}


@pytest.mark.parametrize("kind", LEARNED)
def test_a_defect_that_an_encoder_sees_is_found(known: Splits, encoder: Path, kind: str):
    splits = copy.deepcopy(known)
    before = examined(splits, **custom(encoder))
    LEARNED[kind](splits)
    found = examined(splits, **custom(encoder))
    assert kind not in kinds(before)
    assert kind in kinds(found)


def test_wrong_labels_are_told_with_the_right_ones_the_most_certain_first(known: Splits, encoder: Path):
    splits = copy.deepcopy(known)
    right = [row["label"] for row in splits["train"][:12]]
    LEARNED["label_error"](splits)
    found = examined(splits, **custom(encoder))
    told = {doubt.place: doubt for doubt in found.doubts}
    planted = [row for row in range(12) if ("train", row) in told]
    assert len(planted) >= 10
    assert [told["train", row].suggested for row in planted] == [right[row] for row in planted]
    assert [told["train", row].given for row in planted] == [splits["train"][row]["label"] for row in planted]
    likely = [doubt.probability for doubt in found.doubts]
    assert likely == sorted(likely)
    assert len(told) < 20


def test_from_python_rows_are_looked_at_as_from_files(sound: Splits):
    splits = copy.deepcopy(sound)
    PLAIN["conflict"](splits)
    found = nlp_transfer.check(None, {"check.encoder": False}, data=splits)
    (conflict,) = (each for each in found.findings if each.kind == "conflict")
    assert conflict.places[0] == ("train", 0)
    assert len(conflict.places) == 18
    with pytest.raises(UserError, match=r"check\.fail_on='no'"):
        nlp_transfer.check(None, ["check.fail_on=no"], data=splits)
