"""A corpus without defects is found to have none; every defect that is put in is found, and nothing else with it."""

from __future__ import annotations

import copy
import csv
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nlp_transfer
from nlp_transfer.composing.shipped import shipped_names
from nlp_transfer.data.near import near_pairs
from nlp_transfer.errors import UserError
from nlp_transfer.inspection import contamination
from nlp_transfer.inspection.examine import examine
from nlp_transfer.inspection.kinds import KINDS
from nlp_transfer.inspection.label_errors import Doubt
from tests.composed import settings_of
from tests.data.many import many
from tests.inspection.defects import BESIDES, LEARNED, PLAIN, Splits, clean, other
from tests.inspection.looking import QUIET, custom, examined, kinds, terminal_output
from tests.runs import rows


def test_every_kind_of_finding_is_tested():
    assert {*PLAIN, *LEARNED, "paraphrase", "contamination"} == set(KINDS)


def test_advised_encoders_exist():
    advised = {name for kind in KINDS.values() for name in re.findall(r"encoder=(\w+)", kind.advice)}
    assert advised
    assert advised <= set(shipped_names("encoder"))


def test_the_random_state_of_the_caller_is_restored(known: Splits, encoder: Path):
    def drawn() -> tuple:
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    def seeded() -> None:
        random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002

    seeded()
    expected = drawn()
    seeded()
    examined(known, **custom(encoder))
    assert drawn() == expected


def test_a_sound_corpus_has_no_defects(sound: Splits):
    assert kinds(examined(sound)) <= {"few_rows"}


@pytest.mark.parametrize("kind", PLAIN)
def test_exactly_the_planted_defect_is_found(sound: Splits, kind: str):
    splits = copy.deepcopy(sound)
    PLAIN[kind](splits)
    found = examined(splits)
    assert kind in kinds(found)
    assert kinds(found) - {"few_rows", kind} <= BESIDES.get(kind, set())


@pytest.mark.parametrize("kind", LEARNED)
def test_a_defect_that_needs_an_encoder_is_found(known: Splits, encoder: Path, kind: str):
    splits = copy.deepcopy(known)
    before = examined(splits, **custom(encoder))
    LEARNED[kind](splits)
    found = examined(splits, **custom(encoder))
    assert kind not in kinds(before)
    assert kind in kinds(found)
    if kind == "weak_probe":
        assert "label_error" not in kinds(found)
        assert not found.doubts


def test_label_errors_are_sorted_by_certainty_with_suggestions(known: Splits, encoder: Path):
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


def test_outlying_targets_are_sorted_by_distance(encoder: Path):
    data = {split: rows("regression", count, seed) for split, count, seed in (("train", 150, 1), ("validation", 40, 2))}
    for part in data.values():
        for row in part:
            row["label"] = float(int(row["label"]))
    right = [row["label"] for row in data["train"][:3]]
    assert not examined(data, **custom(encoder) | {"data.problem": "regression"}).doubts
    for row in data["train"][:3]:
        row["label"] += 25
    told = {doubt.place: doubt for doubt in examined(data, **custom(encoder) | {"data.problem": "regression"}).doubts}
    assert set(list(told)[:3]) == {("train", row) for row in range(3)}
    assert len(told) < 12  # whoever learns from wrong numbers is wrong about some that are like them
    for row, value in enumerate(right):
        assert abs(float(told["train", row].suggested) - value) < 8
        assert float(told["train", row].given) == value + 25


def test_rows_from_python_are_checked_like_files(sound: Splits):
    splits = copy.deepcopy(sound)
    PLAIN["conflict"](splits)
    found = nlp_transfer.check(None, {"check.encoder": False}, data=splits)
    (conflict,) = (each for each in found.findings if each.kind == "conflict")
    assert conflict.places[0] == ("train", 0)
    assert len(conflict.places) == 18
    with pytest.raises(UserError, match=r"check\.fail_on='no'"):
        nlp_transfer.check(None, ["check.fail_on=no"], data=splits)
    limited = settings_of({"data": "object", "check.encoder": False, "data.per_class": 2})  # as a recipe may have it
    assert len(examine(limited, QUIET, data=splits).corpus.rows["train"]) == len(splits["train"])
    for limit in ("train_limit", "per_class", "validation_limit"):
        with pytest.raises(UserError, match=f"data.{limit}=5: check looks at every row"):
            nlp_transfer.check(None, [f"data.{limit}=5"], data=splits)


def test_one_text_with_two_sets_of_labels_is_a_conflict(sound: Splits):
    splits = {split: [row | {"label": [row["label"], "any"]} for row in part] for split, part in sound.items()}
    splits["train"].append(splits["train"][0] | {"label": ["any"]})
    (conflict,) = (each for each in examined(splits).findings if each.kind == "conflict")
    assert conflict.message.startswith("1 training text with more than one set of labels, for example ")
    assert "one label" not in KINDS["conflict"].advice


@pytest.mark.parametrize("problem", ["soft", "multi_label", "ordinal", "regression", "pair"])
def test_every_problem_type_is_checked(encoder: Path, problem: str):
    data = {"train": rows(problem, 150, 1), "validation": rows(problem, 40, 2), "test": rows(problem, 40, 3)}
    words = custom(encoder) | {
        "data.problem": problem if problem in ("ordinal", "regression", "multi_label") else "auto"
    }
    found = examined(data, **words)
    assert "leak" in kinds(found)  # the texts are few words
    if problem == "regression":
        assert not {"conflict", "near_conflict", "label_error"} & kinds(found)
    for each in found.findings:
        assert all(found.where(place) for place in (*each.places, *each.beside))
        assert len(each.beside) in (0, len(each.places))


def test_places_refer_to_the_rows_as_read(encoder: Path):
    """One file, blank rows in it, validation and test carved out, a row of weight zero."""
    made = [row | {"weight": 1} for row in rows("single_label", 200, 1)]
    for number in (3, 50, 51):
        made[number]["text"] = " "
    made[7]["weight"] = 0
    wrong = range(20, 32)
    for number in wrong:
        made[number] = other(made[number])
    found = examined({"train": made}, **custom(encoder))
    (empty,) = (each for each in found.findings if each.kind == "empty")
    assert [row for _, row in empty.places] == [3, 50, 51]
    told = {doubt.place[1]: doubt for doubt in found.doubts}
    assert {place for place, _ in (doubt.place for doubt in found.doubts)} == {"train"}
    assert all(doubt.given == made[row]["label"] for row, doubt in told.items())
    assert len(set(wrong) & told.keys()) >= 8
    assert found.where(("train", 20)).endswith(":21")
    assert sum(found.encoder_rows.values()) == 197
    seen = found.encoder_rows
    sizes = f"{seen['train']} training, {seen['test']} test, {seen['validation']} validation rows"
    assert all(part in terminal_output(found) for part in ("split as in a run", *sizes.split(", ")))


def test_places_refer_to_the_file_with_a_split_column(sound: Splits, tmp_path: Path):
    path = tmp_path / "all.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label", "split"])
        for number, row in enumerate(sound["train"][:60]):
            writer.writerow([row["text"], row["label"], ("train", "test")[number % 2]])
        writer.writerow([sound["train"][1]["text"], sound["train"][1]["label"], "train"])
    found = examine(settings_of({"data": "files", "data.path": str(path), "check.encoder": False}), QUIET)
    (leak,) = (each for each in found.findings if each.kind == "leak")
    assert f"in train too, for example {path}:62 and {path}:3: scores" in leak.message
    assert [found.where(place) for place in leak.places] == [f"{path}:62"]


def test_the_tally_counts_the_rows_of_the_table(sound: Splits):
    splits = copy.deepcopy(sound)
    PLAIN["leak"](splits)
    splits["validation"] += copy.deepcopy(splits["train"][:3])
    found = examined(splits)
    assert [each.kind for each in found.findings].count("leak") == 2
    assert found.count("error") == 1
    assert terminal_output(found).splitlines()[-1].startswith("1 error, ")


def test_white_space_in_a_doubtful_label_is_visible(sound: Splits):
    doubt = Doubt(("train", 0), "card ", "card", 0.1)
    line = next(
        line for line in terminal_output(replace(examined(sound), doubts=[doubt])).splitlines() if "'card '" in line
    )
    assert line.count("card") == 2 + sound["train"][0]["text"].count("card")


@pytest.mark.parametrize("values", [3, 6, 60])
def test_a_leaking_column_is_reported_once(sound: Splits, values: int):
    splits = copy.deepcopy(sound)
    names = sorted({row["label"] for row in splits["train"]})
    for part in splits.values():
        for number, row in enumerate(part):
            row |= {"team": 3 * (number % (values // 3)) + names.index(row["label"]), "half": number % 2}
    for given in (splits, {"train": splits["train"]}):
        told = [each for each in examined(given).findings if each.kind in ("target_leakage", "group")]
        assert len(told) == 1
        assert "'team'" in told[0].message


def _by_house(splits: Splits, column: str, value: Callable[[str, str, random.Random], str]) -> None:
    """Put in a column, which counts on split and label."""
    draws = random.Random(6)
    for split, part in splits.items():
        for row in part:
            row[column] = value(split, row["label"], draws)


def test_sources_shared_by_splits_are_reported(sound: Splits):
    """As the publishers of hyperpartisan news do where its rows are divided at random."""
    labels = sorted({row["label"] for row in sound["train"]})

    def house(split: str, label: str, draws: random.Random) -> str:
        """Half of the rows come from a house that has a label of its own, the others from any."""
        return f"{label if draws.random() < 0.5 else draws.choice(labels)} house {draws.randrange(25)}"

    def told(value: Callable[[str, str, random.Random], str]) -> bool:
        splits = copy.deepcopy(sound)
        _by_house(splits, "publisher", value)
        return "group" in kinds(examined(splits))

    assert told(house)
    assert not told(lambda split, label, draws: f"{split} {house(split, label, draws)}")
    assert not told(lambda split, label, draws: f"house {draws.randrange(75)}")


def test_a_coarser_label_is_not_a_source(sound: Splits):
    splits = copy.deepcopy(sound)
    for part in splits.values():
        for number, row in enumerate(part):
            topic = number % 12
            row |= {"label": f"{topic} {'aaabbcc'[number % 7]}", "domain": f"topic {topic}"}
    assert not {"group", "target_leakage"} & kinds(examined(splits))


def test_unusual_columns_are_no_identifiers(sound: Splits):
    splits = copy.deepcopy(sound)
    for split, part in splits.items():
        for number, row in enumerate(part):
            row |= {
                "numbered": f"row-{number}",
                "odd": "²³¹"[number % 3] + "1" * 5000,
                "many": [number],
                "at": number / 3,
            }
            row |= {"url": f"{split}/{number}"}
    assert kinds(examined(splits)) <= {"few_rows"}
    assert "shared_id" not in kinds(examined({split: part[:5] for split, part in splits.items()}))


def test_writing_styles_of_domains_are_reported_by_name(sound: Splits):
    splits = copy.deepcopy(sound)
    for number, row in enumerate(splits["train"]):
        row["domain"] = ("amazon", "books", "few")[0 if number % 2 else 1 if number > 5 else 2]
        if row["domain"] == "amazon":
            row["text"] = row["text"].upper()
    (told,) = [
        each.message for each in examined(splits).findings if each.kind == "style_shift" and "domain" in each.message
    ]
    shares = (
        r"\d+% of the rows of the domain '(amazon|books)' are in capitals throughout, \d+% of the rows of the domain"
    )
    assert re.fullmatch(rf"{shares} '(amazon|books)'", told)


def test_texts_of_equal_length_are_not_reported_as_cut(sound: Splits):
    draws = random.Random(0)
    splits = {
        split: [{"text": "".join(draws.choices("ACGT", k=60)), "label": "ab"[number % 2]} for number in range(200)]
        for split in sound
    }
    assert "clipped" not in kinds(examined(splits))


@pytest.mark.slow
def test_paraphrases_are_found(sound: Splits):
    splits = {"train": copy.deepcopy(sound["train"][:110]), "test": copy.deepcopy(sound["test"][:30])}
    splits["train"][0]["text"] = "How can I close my bank account?"
    splits["test"][0]["text"] = "How do I close the bank account that I have?"
    splits["train"][5]["text"] = "How can I close the account that I have with my bank?"
    splits["train"][6]["text"] = splits["train"][7]["text"].upper()  # told as what it is
    found = examined(splits, **{"check.encoder": True})
    told = [(each.kind, pair) for each in found.findings for pair in zip(each.places, each.beside, strict=False)]
    assert ("paraphrase", ("test", 0)) in [(kind, place) for kind, (place, _) in told]
    assert ("paraphrase", (("train", 5), ("train", 0))) in told
    assert not {("train", 6), ("train", 7)} & {place for _, pair in told for place in pair}


def test_rows_of_another_data_set_are_reported(sound: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other_rows = [{"words": row["text"].upper(), "kind": "x"} for row in sound["test"][:7]]
    other_rows += [{"words": row["text"], "kind": "y"} for row in sound["train"]]
    path = tmp_path / "other.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["text", "label"])
        writer.writeheader()
        writer.writerows({"text": row["words"], "label": row["kind"]} for row in other_rows)
    found = examined(sound, **{"check.beside": str(path)})
    (told,) = [each for each in found.findings if each.kind == "contamination"]
    assert told.places == tuple(("test", row) for row in range(7))
    assert f"7 of {len(sound['test'])} test rows stand in {path}" in told.message
    assert f"{path}:2" in told.message
    assert found.fails("error")
    # Whether a split is asked about alone or with another, its rows are told; and the other data set is read once.
    calls = []
    monkeypatch.setattr(
        contamination, "near_pairs", lambda *given, **more: calls.append(given) or near_pairs(*given, **more)
    )
    splits = sound | {"validation": [sound["validation"][0], *sound["test"][3:9]]}
    both = [each for each in examined(splits, **{"check.beside": str(path)}).findings if each.kind == "contamination"]
    assert [each.places for each in both] == [tuple(("validation", row) for row in range(1, 5)), told.places]
    assert len(calls) == 1
    with pytest.raises(UserError, match=r"^check\.beside: nowhere\.csv does not exist"):
        examined(sound, **{"check.beside": "nowhere.csv"})
    # Of rows that are not divided any may be measured; where some are, the training rows are none of them.
    (told,) = [
        each
        for each in examined({"train": sound["test"]}, **{"check.beside": str(path)}).findings
        if each.kind == "contamination"
    ]
    assert told.places == tuple(("train", row) for row in range(7))
    assert f"7 of {len(sound['test'])} training rows, of which a run measures on some, stand in {path}" in told.message


def test_a_label_of_one_row_raises_no_doubts(known: Splits, encoder: Path):
    splits = copy.deepcopy(known)
    draws = random.Random(4)
    for row in splits["train"][::3]:  # of which nobody can be sure
        row |= {"text": " ".join(draws.choices("abcdefgh", k=3)), "label": draws.choice(["card", "parcel", "film"])}
    before = {doubt.place for doubt in examined(splits, **custom(encoder)).doubts}
    splits["train"][0]["label"] += " "
    more = {doubt.place for doubt in examined(splits, **custom(encoder)).doubts} - before
    assert len(more) <= 3  # the folds have one row less


@pytest.mark.parametrize(
    "defects",
    [
        ("near_leak", "near_conflict", "repeat", "group", "shared_id"),
        pytest.param(("leak", "conflict", "sorted"), marks=pytest.mark.slow),
        pytest.param(("giveaway", "target_leakage", "style_shift", "empty"), marks=pytest.mark.slow),
        pytest.param(("id_as_text",), marks=pytest.mark.slow),
    ],
)
def test_memory_mapped_rows_have_the_same_findings(sound: Splits, tmp_path: Path, defects: tuple[str, ...]):
    splits = copy.deepcopy(sound)
    for kind in defects:
        PLAIN[kind](splits)
    for folder, files in (
        ("these", splits),
        ("those", {"train": splits["test"][:20] + clean(5, {"train": 40})["train"]}),
    ):
        (tmp_path / folder).mkdir()
        for split, rows_of_it in files.items():
            lines = (json.dumps(row | {"domain": f"{split}{place % 2}"}) for place, row in enumerate(rows_of_it))
            (tmp_path / folder / f"{split}.jsonl").write_text("\n".join(lines))
    named = {"data": "files", "data.path": str(tmp_path / "these"), "check.beside": str(tmp_path / "those")}

    def told() -> tuple[object, list[object]]:
        found = examine(settings_of({"check.encoder": False} | named), QUIET)
        return found.to_json(), [(each.places, each.beside) for each in found.findings]

    expected = told()
    assert {*defects, "contamination"} <= {each["kind"] for each in expected[0]["findings"]}
    with many():
        assert told() == expected
