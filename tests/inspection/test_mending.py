"""A mended copy lacks what was found, keeps everything else, and is read back; the original is never touched."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.console import Screen
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.inspection.examine import Examination, examine
from nlp_transfer.inspection.kinds import KINDS
from nlp_transfer.inspection.mending import MENDED, mend
from tests.composed import settings_of
from tests.inspection.defects import PLAIN, Splits, clean

MENDABLE = [kind for kind, about in KINDS.items() if about.mended]
QUIET = Screen(speaks=False)


@pytest.fixture(scope="module")
def sound() -> Splits:
    return clean(sizes={"train": 120, "validation": 60, "test": 60})


def written(splits: Splits, folder: Path, form: str) -> Path:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        with (folder / f"{split}.{form}").open("w", encoding="utf-8", newline="") as out:
            if form == "jsonl":
                out.writelines(json.dumps(row | {"n": number}) + "\n" for number, row in enumerate(rows))
            else:
                writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return folder


def examined(folder: Path, **values) -> Examination:
    return examine(settings_of({"data": "files", "data.path": str(folder), "check.encoder": False} | values), QUIET)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def texts(folder: Path) -> dict[str, list[str]]:
    settings = settings_of({"data": "files", "data.path": str(folder), "data.unseen": "ignore"})
    return {split: part.texts for split, part in load_corpus(settings.data).splits.items()}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", MENDABLE)
def test_what_is_mended_is_not_found_again(sound: Splits, tmp_path: Path, kind: str, form: str):
    splits = copy.deepcopy(sound)
    PLAIN[kind](splits)
    if kind == "repeat":  # within train; other splits keep theirs
        splits["train"] += splits["train"][:9]
    source = written(splits, tmp_path / "source", form)
    before = hashes(source)
    found = examined(source)
    dropped, changed = mend(found, tmp_path / "copy", separator=None)
    assert hashes(source) == before
    assert dropped + changed >= 9
    again = examined(tmp_path / "copy")
    left = [each for each in again.findings if each.kind == kind and kind != "repeat"]
    assert not left
    told = json.loads((tmp_path / "copy" / MENDED).read_text())
    assert len(told["dropped"]) == dropped
    assert len(told["changed"]) == changed
    if kind not in ("empty",):
        kept, was = texts(tmp_path / "copy"), texts(source)
        assert kept["test"] == was["test"]
        assert len(kept["train"]) + dropped == len(was["train"])


def test_a_sound_corpus_is_copied_as_it_is(sound: Splits, tmp_path: Path):
    source = written(sound, tmp_path / "source", "csv")
    assert mend(examined(source), tmp_path / "copy", separator=None) == (0, 0)
    assert texts(tmp_path / "copy") == texts(source)
    assert {name: digest for name, digest in hashes(tmp_path / "copy").items() if name != MENDED} == hashes(source)


def test_the_label_of_the_majority_stays_and_without_one_none(tmp_path: Path):
    rows = [
        {"text": text, "label": label} for text, label in (("One text.", "a"), ("one  TEXT.", "b"), ("One text.", "b"))
    ]
    rows += [
        {"text": "Another one?", "label": "a"},
        {"text": "another one?", "label": "b"},
        {"text": "Third", "label": "a"},
    ]
    source = written({"train": rows}, tmp_path / "source", "csv")
    mend(examined(source), tmp_path / "copy", separator=None)
    with (tmp_path / "copy" / "train.csv").open(newline="") as lines:
        assert list(csv.reader(lines)) == [["text", "label"], ["one  TEXT.", "b"], ["Third", "a"]]
    told = json.loads((tmp_path / "copy" / MENDED).read_text())["dropped"]
    assert [(Path(each["place"]).name, each["kind"]) for each in told] == [
        *(
            ("train.csv:2", "conflict"),
            ("train.csv:4", "repeat"),
            ("train.csv:5", "conflict"),
            ("train.csv:6", "conflict"),
        )
    ]


def test_several_labels_are_spelled_in_one_way_too(tmp_path: Path):
    rows = [
        {"text": f"{name} number {n}", "label": name} for n in range(5) for name in ("a;late card", "b", "late card")
    ]
    rows[0]["label"] = "a;Late_Card"
    source = written({"train": rows}, tmp_path / "source", "csv")
    mend(examined(source, **{"data.label_separator": ";"}), tmp_path / "copy", separator=";")
    with (tmp_path / "copy" / "train.csv").open(newline="") as lines:
        assert [row["label"] for row in csv.DictReader(lines)][:3] == ["a;late card", "b", "late card"]


def test_a_folder_that_holds_something_else_is_not_written_over(sound: Splits, tmp_path: Path):
    source = written(sound, tmp_path / "source", "csv")
    before = hashes(source)
    with pytest.raises(UserError, match="is no saved mended corpus"):
        mend(examined(source), source, separator=None)
    assert hashes(source) == before


def test_the_command_line_tells_mends_and_fails_where_it_should(sound: Splits, tmp_path: Path, capfd):
    splits = copy.deepcopy(sound)
    PLAIN["leak"](splits)
    source = written(splits, tmp_path / "source", "csv")
    words = ["check", "data=files", f"data.path={source}", "check.encoder=false"]
    assert main(words) == 1
    told = json.loads(capfd.readouterr().out)
    (leak,) = (each for each in told["findings"] if each["kind"] == "leak")
    assert leak["severity"] == "error"
    first = len(sound["train"]) + 2  # the header is line 1
    assert leak["places"] == [f"{source}/train.csv:{first + number}" for number in range(9)]
    assert splits["test"][0]["text"] not in json.dumps(told)
    assert main([*words, "check.fail_on=never"]) == 0
    assert main([*words, "check.skip=[leak,near_leak]"]) == 0
    assert main([*words, f"check.fix={tmp_path / 'copy'}"]) == 1
    capfd.readouterr()
    assert main(["check", "data=files", f"data.path={tmp_path / 'copy'}", "check.encoder=false"]) == 0
    capfd.readouterr()
    for wrong, said in (
        ("check.fail_on=sometimes", "check.fail_on='sometimes' is not known"),
        ("check.skip=[leek]", "did you mean 'leak'?"),
        (f"check.fix={source}", "nothing is written over it"),
        ("data.path=no/such/folder", "no/such/folder"),
    ):
        assert main([*words, wrong]) == 2
        error = capfd.readouterr().err
        assert said in error
        assert "Traceback" not in error
