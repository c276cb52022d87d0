"""A corrected copy lacks the findings and keeps everything else; the original is never changed."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.inspection.damage import UNDO
from nlp_transfer.inspection.examine import Examination, examine
from nlp_transfer.inspection.kinds import KINDS
from nlp_transfer.inspection.mending import MENDED, Mending, plan, write
from nlp_transfer.terminal.console import Screen
from tests.composed import settings_of
from tests.inspection.defects import PLAIN, Splits, clean

MENDABLE = ["empty", "leak", "repeat", "twin", *UNDO]
QUIET = Screen(quiet=True)


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


def mended(found: Examination, folder: Path) -> Mending:
    """Write the copy of what was found."""
    planned = plan(found)
    write(planned, found, folder)
    return planned


def bad(found: Examination) -> set[tuple[str, str]]:
    """Kinds that matter, and the splits of their rows."""
    return {
        (each.kind, split)
        for each in found.findings
        if KINDS[each.kind].severity != "note"
        for split in {split for split, _ in each.places} or {""}
    }


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, marks=[] if number % 2 == at else pytest.mark.exhaustive)
        for number, kind in enumerate(MENDABLE)
        for at, form in enumerate(("csv", "jsonl"))
    ],
)
def test_corrected_defects_are_not_found_again(sound: Splits, tmp_path: Path, kind: str, form: str):
    splits = copy.deepcopy(sound)
    PLAIN[kind](splits)
    if kind == "repeat":  # within train; other splits keep theirs
        splits["train"] += splits["train"][:9]
    source = written(splits, tmp_path / "source", form)
    before = hashes(source)
    found = examined(source)
    planned = mended(found, tmp_path / "copy")
    assert hashes(source) == before
    assert len(planned.gone) + len(planned.changed) >= 9
    again = examined(tmp_path / "copy")
    assert (kind, "train") not in bad(again)
    assert bad(again) <= bad(found)
    assert not plan(again)
    output = json.loads((tmp_path / "copy" / MENDED).read_text())
    assert len(output["dropped"]) == len(planned.gone)
    assert len(output["changed"]) == len(planned.changed)
    if kind != "empty":  # with which no corpus is loaded
        kept, was = texts(tmp_path / "copy"), texts(source)
        assert kept["test"] == was["test"]
        assert len(kept["train"]) + len(planned.gone) == len(was["train"])


def test_a_sound_corpus_is_copied_as_it_is(sound: Splits, tmp_path: Path):
    source = written(sound, tmp_path / "source", "csv")
    assert not mended(examined(source), tmp_path / "copy")
    assert texts(tmp_path / "copy") == texts(source)
    assert {name: digest for name, digest in hashes(tmp_path / "copy").items() if name != MENDED} == hashes(source)


def copied(rows: list[dict], folder: Path, form: str = "jsonl", **values) -> list[dict]:
    """The training rows of the copy of a corpus of these; `n` left out."""
    source = written({"train": rows}, folder / "source", form)
    mended(examined(source, **values), folder / "copy")
    examined(folder / "copy", **values)  # it can be read
    if form == "csv":
        with (folder / "copy" / "train.csv").open(newline="") as lines:
            return list(csv.DictReader(lines))
    lines = (folder / "copy" / "train.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "n"} for line in lines]


def labelled(*pairs: tuple[str, object]) -> list[dict]:
    return [{"text": text, "label": label} for text, label in pairs]


def test_conflicts_are_not_corrected(tmp_path: Path):
    rows = labelled(("One text.", "a"), ("one  TEXT.", "b"), ("One text.", "b"))
    rows += labelled(("Another one?", "a"), ("another one?", "b"), ("Third", "a"), ("Third", "a"))
    assert copied(rows, tmp_path, "csv") == rows[:-1]
    (output,) = json.loads((tmp_path / "copy" / MENDED).read_text())["dropped"]
    assert (Path(output["place"]).name, output["kind"]) == ("train.csv:8", "repeat")


@pytest.mark.parametrize(
    "labels", [("B", "B-", "C"), (-1, 0, 1), ("-1", "0", "1"), ("C", "C++", "C#"), ("a_", "a", "b")]
)
def test_labels_that_differ_in_a_sign_stay_different(tmp_path: Path, labels: tuple):
    rows = labelled(*((f"A text about {label!r} and number {n}", label) for n in range(4) for label in labels))
    assert copied(rows, tmp_path) == rows


def test_labels_are_spelled_before_they_are_counted(tmp_path: Path):
    rows = labelled(("fallen leaf", "late card"), ("fallen leaf", "Late card"), ("a tree", "late card"), ("moss", "b"))
    assert copied(rows, tmp_path) == labelled(("fallen leaf", "late card"), ("a tree", "late card"), ("moss", "b"))


def test_of_two_spellings_in_one_row_one_is_left(tmp_path: Path):
    rows = labelled(
        ("one", ["late card", "Late_Card"]),
        ("two", ["late card"]),
        ("three", ["b", "Late_Card"]),
        ("four", ["late card"]),
    )
    assert [row["label"] for row in copied(rows, tmp_path)][:3] == [["late card"], ["late card"], ["b", "late card"]]
    joined = [row | {"label": ";".join(row["label"])} for row in rows]
    found = copied(joined, tmp_path / "joined", "csv", **{"data.label_separator": ";"})
    assert [row["label"] for row in found] == ["late card", "late card", "b;late card", "late card"]


@pytest.mark.parametrize("labels", [(0.0, 1 / 3, 2 / 3, 1.0), ({"a": 0.7, "b": 0.3}, {"a": 0.4, "b": 0.6})])
def test_numbers_and_soft_labels_of_one_text_are_no_conflict_to_mend(tmp_path: Path, labels: tuple):
    rows = labelled(*(("one text", label) for label in labels), ("another", labels[0]), ("b text", labels[-1]))
    problem = "regression" if isinstance(labels[0], float) else "auto"
    assert copied(rows, tmp_path, **{"data.problem": problem}) == rows


def test_leaks_revealed_by_corrections_are_corrected(sound: Splits, tmp_path: Path):
    splits = copy.deepcopy(sound)
    splits["train"] += labelled(("quiet &amp; lake", "card"), ("loud &amp; lake", "card"))
    splits["test"] += labelled(("quiet & lake", "card"))
    planned = mended(examined(written(splits, tmp_path / "source", "csv")), tmp_path / "copy")
    assert planned.summary() == "1 row dropped (leak 1), 1 row changed (entity 1)"
    kept = texts(tmp_path / "copy")
    assert "quiet & lake" not in kept["train"]
    assert {"quiet & lake"} <= set(kept["test"])
    assert "loud & lake" in kept["train"]


def test_skipped_kinds_are_not_corrected(tmp_path: Path):
    rows = labelled(("one", "a"), (" ", "a"), ("", "a"), ("one", "a"), ("two", "b"))
    assert copied(rows, tmp_path, **{"check.skip": ["empty"]}) == labelled(
        ("one", "a"), (" ", "a"), ("", "a"), ("two", "b")
    )


@pytest.mark.parametrize("kind", ["leak", "repeat"])
def test_skipped_kinds_are_not_corrected_indirectly(tmp_path: Path, kind: str):
    same = {
        "leak": labelled(("in test", "a")),
        "repeat": labelled(("twice", "a"), ("twice", "a")),
    }[kind]
    rows = labelled(("x &amp; y", "a"), ("another", "b")) + same
    source = written({"train": rows, "test": labelled(("in test", "a"), ("b", "b"))}, tmp_path / "source", "csv")
    for skip, gone in (([kind], 0), ([], 1)):
        assert len(plan(examined(source, **{"check.skip": skip})).gone) == gone


def test_repeats_revealed_by_corrections_are_corrected(tmp_path: Path):
    rows = labelled(("x &amp; y", "a"), ("x & y", "b"), ("m &amp; n", "a"), ("m & n", "a"), ("z", "b"))
    assert copied(rows, tmp_path, "csv") == labelled(("x & y", "a"), ("x & y", "b"), ("m & n", "a"), ("z", "b"))
    several = labelled(("one text", ["a", "b"]), ("one text", ["b", "a"]), ("c", ["a"]), ("d", ["b"]))
    assert copied(several, tmp_path / "several") == [several[0], *several[2:]]


def test_a_split_that_would_be_empty_is_refused(sound: Splits, tmp_path: Path):
    splits = {"train": sound["train"][:20], "test": sound["train"][:20]}
    found = examined(written(splits, tmp_path / "source", "csv"))
    with pytest.raises(UserError, match="a mended copy would have no training row"):
        plan(found)


@pytest.mark.parametrize(
    ("cell", "kept"), [(1, 1), (1.5, 1.5), (None, None), ([1, "a"], [1, "a"]), ("x\ud800", "x\ud800"), (True, True)]
)
def test_other_cells_stay_what_they_are(tmp_path: Path, cell, kept):
    found = examine(
        settings_of({"data": "object", "check.encoder": False}),
        QUIET,
        data={"train": [{"text": f"text {n}", "label": "ab"[n % 2], "more": cell} for n in range(4)]},
    )
    mended(found, tmp_path / "copy")
    lines = (tmp_path / "copy" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["more"] for line in lines] == [kept] * 4


def test_values_without_json_are_refused(tmp_path: Path):
    data = {"train": [{"text": f"text {n}", "label": "ab"[n % 2], "more": [float("inf")]} for n in range(4)]}
    found = examine(settings_of({"data": "object", "check.encoder": False}), QUIET, data=data)
    with pytest.raises(UserError, match="cannot be written as JSON"):
        mended(found, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("place", ["source", "source/copy", "."])
def test_the_original_is_not_written_over_nor_into(sound: Splits, tmp_path: Path, place: str):
    source = written(sound, tmp_path / "source", "csv")
    before = hashes(source)
    found = examined(source)
    (source / MENDED).write_text("{}")  # as in a copy of another one
    with pytest.raises(UserError, match="has to do with the original"):
        mended(found, tmp_path / place)
    (source / MENDED).unlink()
    assert hashes(source) == before


@pytest.mark.parametrize("name", ["train.csv", "notes.txt", MENDED])
def test_an_edited_copy_is_not_overwritten(sound: Splits, tmp_path: Path, name: str):
    found, folder = examined(written(sound, tmp_path / "source", "csv")), tmp_path / "copy"
    mended(found, folder)
    mended(found, folder)  # which nobody has touched
    with (folder / name).open("a") as out:
        out.write("by hand,card\n")
    before = hashes(folder)
    with pytest.raises(
        UserError, match=r"(is not as check\.fix wrote it|does not say what was written).*name another folder"
    ):
        mended(found, folder)
    assert hashes(folder) == before


@pytest.mark.parametrize("output", ["{}", '{"files": null}', "[1]"])
def test_a_folder_of_unknown_origin_is_not_overwritten(sound: Splits, tmp_path: Path, output: str):
    found, folder = examined(written(sound, tmp_path / "source", "csv")), tmp_path / "copy"
    mended(found, folder)
    (folder / ".DS_Store").write_text("of the desktop")  # is no work of anybody
    mended(found, folder)
    (folder / MENDED).write_text(output)
    with pytest.raises(UserError, match="does not say what was written; name another folder, or delete"):
        mended(found, folder)


@pytest.mark.slow
def test_the_command_line_reports_corrects_and_sets_the_exit_status(sound: Splits, tmp_path: Path, capfd):
    splits = copy.deepcopy(sound)
    PLAIN["leak"](splits)
    source = written(splits, tmp_path / "source", "csv")
    words = ["check", "data=files", f"data.path={source}", "check.encoder=false"]
    assert main(words) == 1
    output = json.loads(capfd.readouterr().out)
    (leak,) = (each for each in output["findings"] if each["kind"] == "leak")
    assert leak["severity"] == "error"
    first = len(sound["train"]) + 2  # the header is line 1
    assert leak["places"] == [f"{source}/train.csv:{first + number}" for number in range(9)]
    assert splits["test"][0]["text"] not in json.dumps(output)
    assert main([*words, "check.fail_on=never"]) == 0
    assert main([*words, "check.skip=[leak,near_leak]"]) == 0
    assert main([*words, f"check.fix={tmp_path / 'copy'}"]) == 1
    capfd.readouterr()
    assert main(["check", "data=files", f"data.path={tmp_path / 'copy'}", "check.encoder=false"]) == 0
    capfd.readouterr()
    for wrong, message in (
        ("check.fail_on=sometimes", "check.fail_on='sometimes' is not known"),
        ("check.skip=[leek]", "did you mean 'leak'?"),
        (f"check.fix={source}", "has to do with the original"),
        ("data.path=no/such/folder", "no/such/folder"),
    ):
        assert main([*words, wrong]) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_a_failed_copy_does_not_lose_the_findings(sound: Splits, tmp_path: Path, capfd):
    splits = {"train": sound["train"][:20], "test": sound["train"][:20]}
    source = written(splits, tmp_path / "source", "csv")
    words = ["check", "data=files", f"data.path={source}", "check.encoder=false"]
    for more, status in (([], 1), (["check.fail_on=never"], 0), ([f"check.fix={tmp_path / 'copy'}"], 2)):
        assert main([*words, *more]) == status
        shown, error = capfd.readouterr()
        (leak,) = (each for each in json.loads(shown)["findings"] if each["kind"] == "leak")
        assert len(leak["places"]) == 20
        assert ("a mended copy would have no training row" in error) == (status == 2)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("place", ["source", "source/copy", "else", "changed"])
def test_a_protected_folder_is_refused_before_the_checks(sound: Splits, tmp_path: Path, monkeypatch, place: str):
    source = written(sound, tmp_path / "source", "csv")
    (tmp_path / "else").mkdir()
    mended(examined(source), tmp_path / "changed")
    (tmp_path / "changed" / "train.csv").write_text("text,label\n")
    monkeypatch.setattr("nlp_transfer.inspection.examine.examine", lambda *_: pytest.fail("looked first"))
    words = ["check", "data=files", f"data.path={source}", "check.encoder=false", f"check.fix={tmp_path / place}"]
    assert main(words) == 2
