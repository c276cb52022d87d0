"""Data that a run would refuse is an error, skipped checks are named, and other findings are kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from nlp_transfer.errors import UserError
from nlp_transfer.inspection.examine import examine
from tests.composed import settings_of
from tests.inspection.defects import PLAIN, Splits
from tests.inspection.looking import QUIET, custom, examined, kinds


@pytest.mark.parametrize(
    ("change", "kind", "refused"),
    [
        (lambda splits: [row.update(label="never seen") for row in splits["test"]], "unseen_label", True),
        (lambda splits: [row.update(text=" ") for row in splits["test"]], "empty", False),
        (PLAIN["id_as_label"], "id_as_label", True),
    ],
)
def test_data_that_a_run_refuses_is_still_checked(known: Splits, encoder: Path, change, kind: str, refused: bool):
    splits = copy.deepcopy(known)
    change(splits)
    settings = settings_of({"data": "object"} | custom(encoder) | {"data.class_weights": "balanced"})
    found = examine(settings, QUIET, data=splits)
    assert kind in kinds(found)
    assert ("refused" in kinds(found)) == refused
    assert found.to_json()["encoder"]["asked"] != refused


@pytest.mark.parametrize("asks", [True, False])
def test_too_few_rows_are_an_error_with_or_without_an_encoder(asks: bool, encoder: Path):
    few = [{"text": f"the word {number}", "label": "aab"[number]} for number in range(3)]
    divided = {"data.validation_share": 0.1}
    found = examined({"train": few}, **custom(encoder) | divided | {"check.encoder": asks})
    (refused,) = (each for each in found.findings if each.kind == "refused")
    assert refused.message.startswith("a run would end with: no validation rows can be taken from the ")
    assert found.fails("error")
    assert found.to_json()["encoder"] == {
        "asked": False,
        "why_not": "a run would end before that" if asks else "check.encoder=false",
        "rows": {},
    }


def test_a_missing_encoder_is_an_error_if_chosen(sound: Splits, tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match=r"encoder\.name=.*nope.*: there is no such folder"):
        examined(sound, **custom(tmp_path / "nope"))
    assert (
        examined(sound, **custom(tmp_path / "nope") | {"check.encoder": False}).no_encoder_reason
        == "check.encoder=false"
    )
    monkeypatch.setattr("nlp_transfer.encoder.source._packaged", lambda _: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    output = examined(sound, **{"check.encoder": True}).to_json()
    assert not output["encoder"]["asked"]
    assert "cannot be fetched from the Hub" in output["encoder"]["why_not"]
    assert {each["kind"] for each in output["findings"]} <= {"few_rows"}
