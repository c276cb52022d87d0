"""The verbs as people and scripts use them: results on standard output, words on standard error, no traceback."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from nlp_transfer import cli
from nlp_transfer.artefact.places import PAGES
from nlp_transfer.cli import main
from nlp_transfer.config import from_plain, to_plain
from nlp_transfer.predicting import predict as predict_module
from nlp_transfer.publishing.publication import parcel_of
from nlp_transfer.sweeping import job, multirun, sweep
from nlp_transfer.verb_settings import HubSettings
from nlp_transfer.verbs import VERBS
from nlp_transfer.verbs.help import GROUPS_OF
from tests.encoder.families import tiny_encoder
from tests.place import adapt_words, furnish, run_of, write_csv
from tests.runs import data_for, rows
from tests.warm import CLI, Warm


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny encoder, a corpus in three files, and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    furnish(folder)
    assert main(adapt_words(folder, "report.write=true")) == 0
    return folder


def test_adapt_prints_one_json_line_and_a_second_time_reads_it_back(place: Path, capfd):
    assert main(adapt_words(place)) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1
    assert err == ""
    assert result["folder"] == run_of(place)
    assert result["report"]["rows"][0]["name"] == "model"


def test_plan_writes_nothing(place: Path, tmp_path: Path, capfd):
    assert main(["plan", *adapt_words(place, f"output={tmp_path / 'none'}")[1:]]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["problem"] == "single_label"
    assert plan["trainable"] < plan["parameters"]
    assert not (tmp_path / "none").exists()


def test_evaluate_repeats_the_runs_figures_and_takes_other_rows(place: Path, tmp_path: Path, capfd):
    main(adapt_words(place))
    own = json.loads(capfd.readouterr().out)["report"]["rows"][0]
    assert main(["evaluate", run_of(place)]) == 0
    assert json.loads(capfd.readouterr().out)["report"]["rows"][0] == own
    write_csv(tmp_path / "other.csv", rows("single_label", 11, 8))
    assert main(["evaluate", run_of(place), "data=files", f"data.path={tmp_path / 'other.csv'}"]) == 0
    report = json.loads(capfd.readouterr().out)["report"]
    assert (report["split"], report["examples"]) == ("other.csv", 11)
    assert "train row" not in " ".join(report["notes"])
    assert main(["evaluate", run_of(place), f"data.path={tmp_path / 'other.csv'}", "data.train_limit=5"]) == 2
    assert "data.train_limit=5: all rows of other data are measured" in capfd.readouterr().err
    assert main(["evaluate", f"{run_of(place)}/model"]) == 0
    inside = json.loads(capfd.readouterr().out)
    assert (inside["folder"], inside["report"]["rows"][0]) == (run_of(place), own)
    shutil.copytree(f"{run_of(place)}/model", tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model")]) == 2
    assert f"{tmp_path / 'model'} holds no config.yaml" in capfd.readouterr().err
    write_csv(tmp_path / "foreign.csv", [row | {"label": "nonsense"} for row in rows("single_label", 4, 8)])
    assert main(["evaluate", run_of(place), f"data.path={tmp_path / 'foreign.csv'}"]) == 2
    assert "nonsense" in capfd.readouterr().err


def test_evaluate_finds_a_column_for_each_label_again(place: Path, tmp_path: Path, capfd):
    def write(name: str, count: int) -> str:
        made = rows("multi_label", count, 8)
        names = sorted({label for row in made for label in row["label"]})
        with (tmp_path / name).open("w", newline="") as out:
            lines = ([row["text"], *(int(label in row["label"]) for label in names)] for row in made)
            csv.writer(out).writerows([["text", *names], *lines])
        return f"data.label_columns=[{','.join(names)}]"

    columns = write("a.csv", 60)
    write("other.csv", 9)
    main(adapt_words(place, f"data.path={tmp_path / 'a.csv'}", columns, f"output={tmp_path / 'runs'}"))
    assert main(["evaluate", run_of(tmp_path), "data=files", f"data.path={tmp_path / 'other.csv'}"]) == 0
    assert main(["evaluate", run_of(tmp_path), "data=files", f"data.path={tmp_path / 'other.csv'}", columns]) == 0
    *_, first, second = capfd.readouterr().out.splitlines()
    assert first == second


def test_evaluate_reads_other_rows_as_the_training_rows_were_read(place: Path, tmp_path: Path, capfd):
    def write(name: str, count: int, *header: str) -> str:
        lines = [(row["text"], "|".join(row["label"]), row["text"]) for row in rows("multi_label", count, 8)]
        with (tmp_path / name).open("w", newline="") as out:
            csv.writer(out).writerows([header, *lines])
        return f"data.path={tmp_path / name}"

    columns = [
        "data.columns.text=Frage",
        "data.columns.label=Art",
        "data.columns.text_pair=''",
        "data.label_separator=|",
    ]
    main(adapt_words(place, write("a.csv", 60, "Frage", "Art", "text_b"), *columns, f"output={tmp_path / 'runs'}"))
    other, run = write("other.csv", 9, "Frage", "Art", "text_b"), run_of(tmp_path)
    assert main(["evaluate", run, other]) == 0
    assert main(["evaluate", run, "data=files", other]) == 0
    *_, first, second = capfd.readouterr().out.splitlines()
    assert first == second
    # Columns that the file lacks, or that are named now, are not those of the training rows.
    assert main(["evaluate", run, "data=files", write("known.csv", 9, "text", "label", "other")]) == 0
    swapped = write("swapped.csv", 9, "Art", "Frage", "other")
    assert main(["evaluate", run, "data=files", swapped, "data.columns.text=Art", "data.columns.label=Frage"]) == 0
    assert all(json.loads(line)["report"]["examples"] == 9 for line in capfd.readouterr().out.splitlines())


@pytest.mark.parametrize("word", ["encoder=bert", "strategy=lora", "objective=contrast", "training.epochs=9"])
@pytest.mark.parametrize("verb", ["evaluate", "export", "predict"])
def test_evaluate_reports_the_figures_of_the_given_model(place: Path, capfd, verb: str, word: str):
    assert main([verb, run_of(place), word]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{word}: " in err
    assert f"{verb} uses the saved model as it is and ignores this key; remove it" in err


def test_evaluate_reports_rows_the_model_was_trained_on(place: Path, tmp_path: Path, capfd):
    learned = list(csv.DictReader((place / "data" / "train.csv").open(newline="")))[:3]
    fresh = [row | {"text": f"{row['text']} as nobody wrote before {number}"} for number, row in enumerate(learned)]
    write_csv(tmp_path / "other.csv", [learned[0] | {"text": learned[0]["text"].upper()}, *learned[1:], *fresh])
    words = ["evaluate", run_of(place), "data=files", f"data.path={tmp_path / 'other.csv'}"]
    assert main(words) == 0
    notes = json.loads(capfd.readouterr().out)["report"]["notes"]
    messages = "3 of 6 rows have a text the model was trained on: scores on them are too high."
    assert messages in notes
    assert main([*words, "evaluation.floors=false"]) == 0
    assert messages in json.loads(capfd.readouterr().out)["report"]["notes"]
    disputed = fresh[0] | {"label": "film" if fresh[0]["label"] != "film" else "card"}
    write_csv(tmp_path / "other.csv", [*fresh, disputed])
    assert main(words) == 0
    out = capfd.readouterr().out
    assert "was trained on" not in out
    assert "1 other.csv text with more than one label" in out


def test_evaluate_reads_training_rows_only_for_baselines(place: Path, tmp_path: Path, capfd):
    shutil.copytree(place / "data", tmp_path / "data")
    assert main(adapt_words(place, f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'runs'}")) == 0
    shutil.rmtree(tmp_path / "data")
    write_csv(tmp_path / "other.csv", rows("single_label", 6, 8))
    words = ["evaluate", run_of(tmp_path), "data=files", f"data.path={tmp_path / 'other.csv'}"]
    capfd.readouterr()
    assert main(words) == 2
    assert f"{tmp_path / 'data'} does not exist" in capfd.readouterr().err
    assert main([*words, "evaluation.floors=false"]) == 0
    note = json.loads(capfd.readouterr().out)["report"]["notes"][0]
    assert note.startswith("Whether the model was trained on these rows is not known: ")


def test_a_run_leaves_a_report_that_is_never_pushed(place: Path, monkeypatch):
    run = Path(run_of(place))
    html, markdown = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<h2>Confusions</h2>" in html
    assert "none: the head was fitted without gradient steps" in html
    assert "<dt>encoder</dt><dd>tiny-bert, " in html
    assert str(place) not in html + markdown
    assert "## Label by label" in markdown
    monkeypatch.setattr("nlp_transfer.publishing.verification.verify", lambda *_, **__: 0.0)
    with parcel_of(run, HubSettings(repository="owner/name"), tell=print) as parcel:
        assert "model.safetensors" in parcel.files
        assert not [name for name, path in parcel.files.items() if "report" in f"{name} {path.name}"]
        card = parcel.files["README.md"].read_text(encoding="utf-8")
    assert "texts of the data" not in card


def test_a_report_that_cannot_be_written_does_not_fail_the_run(place: Path, tmp_path: Path, monkeypatch, capfd):
    def broken(*_: object) -> None:
        raise RuntimeError("no\nink")

    monkeypatch.setattr("nlp_transfer.reporting.report_page.document_of", broken)
    assert main(adapt_words(place, f"output={tmp_path / 'runs'}", "report.write=true")) == 0
    assert "the run has no report (RuntimeError: no ink); all else is there" in capfd.readouterr().err
    assert (Path(run_of(tmp_path)) / "metrics.json").is_file()


def test_a_run_stopped_while_writing_its_report_gets_one_later(place: Path, tmp_path: Path, monkeypatch, capfd):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    words = adapt_words(place, f"output={tmp_path / 'runs'}", "report.write=true")
    with monkeypatch.context() as patch:
        patch.setattr("nlp_transfer.reporting.report_page.document_of", stopped)
        assert main(words) == 130
    assert main(words) == 0
    assert {path.name for path in Path(run_of(tmp_path)).iterdir()} >= set(PAGES)


def test_predict_leaves_no_unfinished_file_when_a_signal_ends_it(place: Path, tmp_path: Path, monkeypatch):
    words = ["predict", run_of(place), str(place / "data" / "test.csv"), f"predict.output={tmp_path / 'out.csv'}"]
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the default action would end the process here"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(predict_module, "blank_rows", lambda *_: signal.raise_signal(signal.SIGTERM))
            assert main(words) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())
    assert main(words) == 0


def test_evaluate_writes_a_report_to_report_output(place: Path, tmp_path: Path, capfd):
    write_csv(tmp_path / "other.csv", rows("single_label", 30, 8))
    words = ["evaluate", run_of(place), "data=files", f"data.path={tmp_path / 'other.csv'}"]
    assert main([*words, f"report.output={tmp_path / 'page.html'}"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<dt>data</dt><dd>other.csv: 30 rows</dd>" in page
    assert "30 rows of other.csv" in page
    assert "Training and cost" not in page
    assert "Without rows that repeat training rows" in page
    capfd.readouterr()
    (tmp_path / "mine.md").write_text("mine")
    assert main([*words, f"report.output={tmp_path / 'mine.md'}"]) == 2
    assert "mine.md exists and is not a report of nlp-transfer" in capfd.readouterr().err
    assert (tmp_path / "mine.md").read_text() == "mine"


@pytest.fixture(scope="module")
def changing(place: Path, tmp_path_factory) -> Path:
    """A folder with a finished run and the rows that it was made of, which a test writes anew."""
    folder = tmp_path_factory.mktemp("changing")
    shutil.copytree(place / "data", folder / "data")
    assert main(adapt_words(place, f"data.path={folder / 'data'}", f"output={folder / 'runs'}")) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("change", ["renamed", "additional", "reordered file"])
def test_evaluate_reports_changed_labels_of_the_training_rows(changing: Path, tmp_path: Path, capfd, change: str):
    capfd.readouterr()
    for split, part in data_for("single_label").items():
        labels = {"renamed": {"film": "cinema"}, "additional": {}, "reordered file": {}}[change]
        part = [row | {"label": labels.get(row["label"], row["label"])} for row in reversed(part)]
        part += [row | {"label": "agent", "id": f"agent {row['id']}"} for row in part[:2] if change == "additional"]
        write_csv(changing / "data" / f"{split}.csv", part)
    write_csv(tmp_path / "other.csv", rows("single_label", 11, 8))
    status, other = main(["evaluate", run_of(changing)]), ["data=files", f"data.path={tmp_path / 'other.csv'}"]
    same = change == "reordered file"
    if same:
        assert status == 0
    else:
        assert status == 2
        assert "the labels the model was trained on: card, film, refund;" in capfd.readouterr().err
    capfd.readouterr()
    assert main(["evaluate", run_of(changing), *other]) == 0
    report = json.loads(capfd.readouterr().out)["report"]
    assert report["examples"] == 11
    assert ([row["name"] for row in report["rows"]] == ["model"]) != same
    assert any("the baselines are left out" in note for note in report["notes"]) != same
    assert main(["evaluate", run_of(changing), *other, "evaluation.floors=false"]) == 0  # nothing is missed then
    assert "left out" not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_names_are_shown_unchanged(place: Path, tmp_path: Path, monkeypatch, capfd, terminal: bool):
    """Square brackets and colons mean something to the library that draws the terminal."""
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "1000")
    names = {"card": "[/card]", "refund": "[red]", "film": ":smile:"}
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps({"[/text]": row["text"], "[b]": names[row["label"]]}) + "\n" for row in part)
        )
    more = ["data.columns.text='[/text]'", "data.columns.label='[b]'", "strategy=finetune", "training.max_steps=2"]
    words = adapt_words(place, f"data.path={tmp_path}", f"output={tmp_path / '[bold]' / '[/runs]'}", *more)[1:]
    assert main(["plan", *words]) == 0
    out, planned = capfd.readouterr()
    assert json.loads(out)["roles"] == {"text": "[/text]", "label": "[b]"}
    assert main(["adapt", *words]) == 0
    out, adapted = capfd.readouterr()
    result = json.loads(out)
    assert "/[bold]/[/runs]/" in result["folder"]
    assert [label["name"] for label in result["report"]["labels"]] == sorted(names.values())
    assert main(["evaluate", result["folder"]]) == 0
    evaluated = capfd.readouterr().err
    if not terminal:
        assert planned == ""
        return
    for shown in (planned, adapted):
        assert all(f"{name} " in shown for name in names.values())
        assert "text = '[/text]', label = '[b]'" in shown
        assert result["folder"] in shown
    assert all(name in evaluated for name in names.values())


def test_a_finished_run_is_read_back_without_its_encoder_but_not_with_another(
    place: Path, tmp_path: Path, monkeypatch, capfd
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = Path(shutil.copytree(place / "tiny-bert", tmp_path / "tiny-bert"))
    words = adapt_words(place, f"encoder.name={folder}", f"output={tmp_path / 'runs'}")
    assert main(words) == 0
    first = json.loads(capfd.readouterr().out)
    shutil.move(folder, tmp_path / "moved")
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == first
    assert "not compared with the encoder, which cannot be found now" in err
    tiny_encoder(tmp_path, seed=1)
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "other weights of the encoder" in err
    assert "overwrite=true" in err


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "text"])
@pytest.mark.parametrize("chunk", [2048, 3])
def test_predict_returns_the_same_rows_in_order(place: Path, tmp_path: Path, capfd, kind: str, chunk: int):
    part = rows("single_label", 10, 4)
    path = tmp_path / f"rows.{'txt' if kind == 'text' else kind}"
    delimiter = "\t" if kind == "tsv" else ","
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
    elif kind == "text":
        path.write_text("".join(row["text"] + "\n" for row in part))
    else:
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, ["id", "text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(part)
    assert main(["predict", run_of(place), str(path), f"predict.chunk_rows={chunk}"]) == 0
    out = capfd.readouterr().out
    if kind == "jsonl":
        found = [json.loads(line) for line in out.splitlines()]
        sums = [sum(row["probabilities"].values()) for row in found]
    else:
        found = list(csv.DictReader(io.StringIO(out), delimiter=delimiter))
        sums = [sum(float(value) for key, value in row.items() if key.startswith("p(")) for row in found]
    assert [row["text"] for row in found] == [row["text"] for row in part]
    if kind in ("csv", "tsv"):  # every cell as it was
        assert [{key: row[key] for key in part[0]} for row in found] == part
    assert all(row["prediction"] in ("card", "film", "refund") for row in found)
    assert sums == pytest.approx([1] * len(part), abs=1e-4)


@pytest.mark.parametrize("file", [[], ["-"]])
def test_predict_reads_standard_input_and_writes_files(place: Path, tmp_path: Path, monkeypatch, capfd, file):
    written = b"\xef\xbb\xbftext\r\ngood movie\r\nmy card\r\n"  # as a spreadsheet saves it
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written)))
    assert main(["predict", run_of(place), *file, f"predict.output={tmp_path / 'out.csv'}"]) == 0
    assert capfd.readouterr().out == ""
    assert [row["text"] for row in csv.DictReader((tmp_path / "out.csv").open())] == ["good movie", "my card"]


def test_json_lines_in_standard_input_are_not_read_as_csv(place: Path, monkeypatch, capfd):
    written = b'{"text":"good movie"}\n{"text":"my card"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written)))
    assert main(["predict", run_of(place)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "standard input:1 is a JSON object where CSV has its header; set predict.format=jsonl" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written)))
    assert main(["predict", run_of(place), "predict.format=jsonl"]) == 0
    assert [json.loads(line)["text"] for line in capfd.readouterr().out.splitlines()] == ["good movie", "my card"]


def test_a_first_text_is_not_read_as_a_header(place: Path, monkeypatch, capfd):
    def predict(written: str, *words: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written.encode())))
        return main(["predict", run_of(place), *words])

    lines = "Where is Rome ?\nWho wrote it ?\n"
    assert predict(lines) == 2
    out, err = capfd.readouterr()
    assert out == ""
    for words in ("no column 'text'", "predict.format=text", "set 'data.columns.text=Where is Rome ?'"):
        assert words in err
    assert predict(lines, "predict.format=text") == 0
    texts = [row["text"] for row in csv.DictReader(io.StringIO(capfd.readouterr().out))]
    assert texts == lines.splitlines()
    assert predict(lines, "data.columns.text=Where is Rome ?") == 0  # so it is a header
    assert capfd.readouterr().out.count("\n") == 2
    assert predict("Sentence\ngood movie\n") == 0  # a name that is known for texts
    assert capfd.readouterr().out.startswith("Sentence,prediction,")
    assert predict("sentence\ngood movie\n", "data.columns.text=words") == 2  # nothing else than what was asked for
    assert "no column 'words'" in capfd.readouterr().err
    assert predict('{"words":"good"}\n', "predict.format=jsonl") == 2
    err = capfd.readouterr().err
    assert "set data.columns.text=words" in err
    assert "predict.format" not in err


def test_errors_in_standard_input_name_it(place: Path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text,id\ngood,1\nbad\n")))
    assert main(["predict", run_of(place)]) == 2
    assert "standard input:3: 1 cells" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["rows.json", "rows.csv.gz", "rows.xlsx"])
def test_predict_guesses_no_format(place: Path, tmp_path: Path, capfd, name: str):
    (tmp_path / name).write_text("text\ngood\n")
    assert main(["predict", run_of(place), str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{name}: the rows to label come in files that end in .csv, .tsv, .jsonl, .ndjson, .parquet, .txt" in err
    assert main(["predict", run_of(place), str(tmp_path / name), "predict.format=csv"]) == 0
    assert capfd.readouterr().out.startswith("text,prediction,")


@pytest.mark.parametrize("typed", [";", "|", "\t", r"\t"])
def test_predict_keeps_cells_and_delimiters(place: Path, tmp_path: Path, capfd, typed: str):
    mark = "\t" if typed == r"\t" else typed
    cells = ["a, b", "lone\rreturn", 'say "no"', "two\r\nlines", f"a{mark}b", ""]
    with (tmp_path / "rows").open("w", newline="") as out:  # no ending is CSV
        writer = csv.writer(out, delimiter=mark, quoting=csv.QUOTE_ALL)
        writer.writerows([["text", "note"], *(["good", cell] for cell in cells)])
    words = [f"data.delimiter={typed}", f"predict.output={tmp_path / 'out.csv'}"]
    assert main(["predict", run_of(place), str(tmp_path / "rows"), *words]) == 0
    with (tmp_path / "out.csv").open(newline="") as out:
        found = list(csv.DictReader(out, delimiter=mark))
    assert [row["note"] for row in found] == cells
    assert "\r\n" not in (tmp_path / "out.csv").read_bytes().decode().replace("two\r\nlines", "")


def test_predict_keeps_half_a_surrogate_pair_in_another_column(place: Path, tmp_path: Path, capfd):
    row = {"text": "good", "note": "\ud800", "\udfff": "é😀"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["predict", run_of(place), str(tmp_path / "rows.jsonl")]) == 0
    out = capfd.readouterr().out
    assert "é😀" in out
    found = json.loads(out)
    assert {key: found[key] for key in row} == row


def test_an_output_column_that_exists_already_is_refused(place: Path, tmp_path: Path, capfd):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n{"text": "bad", "prediction": 1}\n')
    assert main(["predict", run_of(place), str(tmp_path / "rows.jsonl"), f"predict.output={tmp_path / 'o'}"]) == 2
    assert "rows.jsonl:3 already has a column 'prediction'" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.slow
def test_file_names_may_contain_an_equals_sign(place: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_of(place), "runs/a=b")
    for name in ("a=b.csv", "~draft.csv", "my file (1).csv", "müll.csv"):
        write_csv(Path(name), rows("single_label", 4, 8))
        assert main(["predict", "runs/a=b", name]) == 0
        assert capfd.readouterr().out.count("\n") == 5
        assert main(["evaluate", "runs/a=b", "data=files", f"data.path={name}"]) == 0
        assert json.loads(capfd.readouterr().out)["report"]["examples"] == 4
    Path("seed=3").touch()  # a known key is a key all the same
    assert main(["plan", "seed=3", "--cfg"]) == 0
    assert "seed: 3" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", "text,id\n", "text,id,prediction,p(card),p(film),p(refund)\n"),
        ("rows.jsonl", "", ""),
        ("rows.txt", "", ""),
    ],
)
def test_a_file_without_rows_gives_a_file_without_rows(
    place: Path, tmp_path: Path, capfd, name: str, content: str, expected: str
):
    (tmp_path / name).write_text(content)
    assert main(["predict", run_of(place), str(tmp_path / name)]) == 0
    assert capfd.readouterr().out == expected


def test_predictions_never_replace_their_input(place: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\ngood\n")
    for spelled in ("rows.csv", "./rows.csv", str(tmp_path / "rows.csv")):
        assert main(["predict", run_of(place), "rows.csv", f"predict.output={spelled}"]) == 2
        assert "is the input itself" in capfd.readouterr().err
    assert main(["predict", run_of(place), "rows.csv", "predict.output=rows.csv", "overwrite=true"]) == 2
    assert Path("rows.csv").read_text() == "text\ngood\n"


def test_predictions_replace_a_file_only_with_overwrite(place: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\ngood\n")
    Path("gold.csv").write_text("kept")
    words = ["predict", run_of(place), "rows.csv", "predict.output=gold.csv"]
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "gold.csv exists already; overwrite=true replaces it" in err
    assert Path("gold.csv").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gold.csv", "rows.csv"]
    assert main([*words, "overwrite=true"]) == 0
    assert Path("gold.csv").read_text().startswith("text,prediction")
    os.mkfifo("pipe")
    assert main(["predict", run_of(place), "rows.csv", "predict.output=pipe", "overwrite=true"]) == 2
    assert Path("pipe").is_fifo()


def test_predictions_go_through_a_link_and_never_into_a_device(place: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\ngood\n")
    Path("real.csv").write_text("kept")
    Path("link.csv").symlink_to("real.csv")
    Path("device").symlink_to("/dev/stdout")
    words = ["predict", run_of(place), "rows.csv", "overwrite=true"]
    assert main([*words, "predict.output=link.csv"]) == 0
    assert Path("link.csv").is_symlink()
    assert Path("real.csv").read_text().startswith("text,prediction")
    for target, message in (
        ("device", "is not a file; without predict.output rows go to standard output"),
        ("/dev/null", "is not a file; without predict.output rows go to standard output"),
        ("nowhere/x.csv", "there is no folder"),
        ("rows.csv/x.csv", "there is no folder"),
    ):
        capfd.readouterr()
        assert main([*words, f"predict.output={target}"]) == 2
        assert message in capfd.readouterr().err
    assert Path("device").is_symlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,id\ngood,1\nbad\n", ":3"),
        ("text,prediction\ngood,1\n", "prediction"),
        ("text,p(card)\ngood,1\n", "p(card)"),
        ("words,id\ngood,1\n", "no column 'text'"),
        ("", "empty"),
    ],
)
def test_unreadable_rows_leave_no_output(place: Path, tmp_path: Path, capfd, content: str, words: str):
    (tmp_path / "rows.csv").write_text(content)
    (tmp_path / "out.csv").write_text("kept")
    words_of = ["predict", run_of(place), str(tmp_path / "rows.csv"), f"predict.output={tmp_path / 'out.csv'}"]
    # the first rows are written before the bad one is read
    assert main([*words_of, "overwrite=true", "predict.chunk_rows=1"]) == 2
    assert words in capfd.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


def test_a_run_named_without_its_folder_is_suggested(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine-1234").mkdir(parents=True)
    for verb in ("predict", "evaluate", "export"):
        assert main([verb, "mine-1234"]) == 2
        assert "mine-1234: there is no such folder (did you mean 'runs/mine-1234'?);" in capfd.readouterr().err


def test_ls_and_cp(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for what in ("strategy", "strategies"):
        assert main(["ls", what]) == 0
        names = [line.split("\t")[1] for line in capfd.readouterr().out.splitlines()]
        assert names == ["adapter", "auto", "finetune", "lora", "probe"]
    assert main(["ls", "data"]) == 0
    assert "data.validation=b.csv" in capfd.readouterr().out  # the whole first paragraph of its comment
    assert main(["cp", "intent", "mine.yaml"]) == 0
    Path("mine.yaml").write_text(Path("mine.yaml").read_text() + "seed: 9\n")
    assert main(["cp", "intent", "mine.yaml"]) == 2
    capfd.readouterr()
    assert main(["cp", "intent", "my own.yaml"]) == 0
    assert "nlp-transfer plan 'my own.yaml' data.path=FILE" in capfd.readouterr().err
    assert main(["plan", "mine.yaml", "data.path=x.csv", "--cfg"]) == 0
    out = capfd.readouterr().out
    assert "name: intent" in out
    assert "seed: 9" in out


def test_doctor_prints_json(capfd):
    assert main(["doctor"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["processes"] == 1
    assert found["transformers"] != "missing"


@pytest.mark.slow
def test_multirun_starts_one_run_per_value_and_refuses_a_launcher(place: Path, tmp_path: Path, monkeypatch, capfd):
    words = adapt_words(place, "--multirun")
    words = [f"output={tmp_path}" if word.startswith("output=") else word for word in words]
    assert main([*words, "seed=1,2"]) == 0
    out, err = capfd.readouterr()
    assert len({json.loads(line)["folder"] for line in out.splitlines()}) == 2  # and nothing else
    assert err == ""  # no progress bar of ours or of any library where nobody looks
    assert [each.name for each in (tmp_path / "sweep").iterdir() if not each.name.startswith("sweep-")] == [
        "multirun.yaml"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*words, "seed=1,2"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=prob,lora"], "strategy=prob is not known (did you mean 'probe'?)"),
        (["seeed=1,2"], "seeed is not a known key (did you mean 'seed'?)"),
        (["data.path=ü,b"], "needs double quotes"),
        (["seed=1,2", "data.path=${oc.env:HOME}"], "must refer to another key"),
        (["seed=1,2", "hydra/sweeper=nevergrad"], "Could not find 'hydra/sweeper/nevergrad'"),
        (["seed=1,2", "output=/dev/null/x"], "sweep"),
        (["seed=1,2", "--cfg"], "--cfg"),
    ],
)
def test_an_impossible_sweep_is_refused_in_one_sentence(tmp_path: Path, capfd, words: list[str], message: str):
    assert main(["adapt", f"output={tmp_path}", *words, "--multirun"]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["strategy=lora", "strategy.rank=4,8"], ["strategy=lora strategy.rank=4", "strategy=lora strategy.rank=8"]),
        pytest.param(
            ["strategy=glob([lora,probe])"], ["strategy=lora", "strategy=probe"], marks=pytest.mark.exhaustive
        ),
        (["seed=range(0,3)"], ["seed=0", "seed=1", "seed=2"]),
    ],
)
def test_every_way_to_name_several_values_sweeps(monkeypatch, tmp_path: Path, words: list[str], runs: list[str]):
    monkeypatch.chdir(tmp_path)
    started: list[str] = []

    def run_jobs(runs: list[tuple[str, ...]], place: object, **_: object) -> dict[tuple[str, ...], job.Job]:
        started.extend(map(" ".join, runs))
        return {words: job.Job(words, job.FINISHED) for words in runs}

    monkeypatch.setattr(sweep, "run_jobs", run_jobs)
    assert multirun.sweep(None, words) == []  # nothing has ended
    assert started == runs


@pytest.mark.parametrize("file", ["strategy/probe.yaml", "strategy/other.yaml", "hydra/launcher/basic.yaml"])
def test_no_file_next_to_a_recipe_sets_keys_of_hydra(tmp_path: Path, capfd, file: str):
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\nname: mine\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("# @package hydra.launcher\n_target_: pathlib.Path.cwd\n")
    strategies = "probe,other" if "other" in file else "probe,lora"
    assert main(["adapt", str(tmp_path / "mine.yaml"), f"strategy={strategies}", "seed=1,2", "--multirun"]) == 2
    assert "changes hydra.launcher._target_" in capfd.readouterr().err


@pytest.mark.slow
def test_failed_runs_of_a_sweep_are_named(tmp_path: Path, capfd):
    words = [f"output={tmp_path}", "data.path=a=b.csv", "seed=1,2", "training.epochs=many"]
    before = list(sys.argv)
    assert main(["adapt", *words, "--multirun"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    named = "nlp-transfer: the run output={} 'data.path=\"a=b.csv\"' seed={} training.epochs=many failed with status 2"
    assert err.splitlines() == [
        *["nlp-transfer: training.epochs=many must be a number, or null"] * 2,
        *[named.format(tmp_path, seed) for seed in (1, 2)],
    ]
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["seed=1,2", "--multirun"]])
def test_an_interrupt_ends_with_status_130_and_a_commit(running: Warm, place: Path, tmp_path: Path, more: list[str]):
    """The run of a sweep is one that the sweep has started, cold."""
    words = adapt_words(place, f"output={tmp_path}", "strategy=finetune", "training.max_steps=100000", *more)
    run = running.start(CLI, *words, "training.epochs=100000")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process in the foreground
        out, err = run.communicate(timeout=60)
        assert run.returncode == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert out == ""
    message = err.splitlines()
    assert [line.partition(":")[0] for line in message] == ["nlp-transfer"] * 2, message
    assert message[1].endswith("the same command continues from it")
    assert not list(tmp_path.rglob("metrics.json"))
    assert len(list(tmp_path.rglob("manifest.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapt", "nonsense"], "recipe"),
        (["adapt", "intent", "second", "data.path=x"], "too much"),
        (["adapt", "data=files"], "no data is named"),
        (["adapt", "data=files", "data.path=no/such.csv"], "no/such.csv"),
        (["adapt", "strategy=lorra"], "did you mean 'lora'"),
        (["adapt", "a b=c"], "a b"),
        (["evaluate"], "needs the folder"),
        (["evaluate", "no/such/run"], "no such folder"),
        (["rank", "minilm", "runs/nope"], "'runs/nope': there is no such folder"),
        (["predict", "."], "nlp_transfer.json"),
        (["ls", "nothing"], "ls shows recipes, data, encoders, strategies"),
        (["cp"], "cp takes"),
        (["cp", "intent", "mine.txt"], ".yaml"),
        (["evaluate", "tests"], "config.yaml"),
        (["adapt", "=3"], "key=value"),
        (["plan", "strategy", "=", "probe"], "'=' has no key before it: write key=value as one word"),
        (["plan", "strategy", "=probe"], "'=probe' has no key before it: write key=value as one word"),
        (["adapt", "data=files", "data.path=a=b.csv"], "a=b.csv does not exist"),
        (["adapt", "data=files", "data.path=é.csv"], "é.csv does not exist"),
        (["adapt", "data=files", "data.path=~draft.csv"], "~draft.csv does not exist"),
        (["plan", "~draft.yaml"], "no such file"),
        (["plan", "--multirun", "seed=1,2"], "--multirun"),
        (["doctor", "--cfg"], "--cfg"),
        (["doctor", "x"], "too much"),
        (["ls", "strategy", "seed=1"], "key=value"),
    ],
)
def test_impossible_requests_end_with_status_2(words: list[str], message: str, capfd):
    assert main(words) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["nonsense"], ["adapt", "--nonsense"]])
def test_unknown_verbs_and_flags_end_with_status_2(words: list[str]):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2


def test_unusable_folders_end_with_status_2(place: Path, tmp_path: Path, capfd):
    (tmp_path / "file").write_text("")
    for output in ("file", "file/below"):
        assert main(adapt_words(place, f"output={tmp_path / output}")) == 2
        assert "output=" in capfd.readouterr().err
    assert main(adapt_words(place, f"output={tmp_path / 'runs'}")) == 0
    next((tmp_path / "runs").rglob("metrics.json")).write_text("{")
    assert main(adapt_words(place, f"output={tmp_path / 'runs'}")) == 2
    assert "overwrite=true" in capfd.readouterr().err
    assert main(adapt_words(place, f"output={tmp_path / 'runs'}", "overwrite=true")) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_explains_its_own_keys(verb: str, capfd):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    shown = capfd.readouterr().out
    assert "nlp-transfer ls recipes" in shown
    assert f"It takes {VERBS[verb][1]}." in " ".join(shown.split())
    groups = GROUPS_OF.get(verb, ())
    settings = to_plain(from_plain({}))
    keys = [f"{group}.{key}" for group in groups for key in settings[group]]
    listed = [
        line.strip().partition("=")[0]
        for line in shown.splitlines()
        if line.startswith(tuple(f"  {group}." for group in groups))
    ]
    assert listed == keys
    if verb == "predict":
        assert "  predict.output=-\n      file to write;" in shown


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)])
def test_the_help_fits_a_terminal_of_80_columns(verb: tuple[str, ...], capfd):
    with pytest.raises(SystemExit, match="0"):
        main([*verb, "--help"])
    ours = capfd.readouterr().out.partition("`nlp-transfer VERB --help`")[0]  # behind that a folder of this machine
    assert [line for line in ours.splitlines() if len(line) >= 80] == []


def test_no_arguments_show_the_help(capfd):
    assert main([]) == 2
    assert "nlp-transfer ls recipes" in capfd.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        "predict.chunk_rows=0",
        "predict.format=xml",
        "predict.output=no/such/folder/x.csv",
        "predict.output=.",
        "predict.output=",
    ],
)
def test_impossible_predict_settings_are_refused(place: Path, tmp_path: Path, capfd, value: str):
    (tmp_path / "rows.csv").write_text("text\ngood\n")
    assert main(["predict", run_of(place), str(tmp_path / "rows.csv"), value]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert value.split("=")[0] in err


def test_a_closed_pipe_is_no_error():
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    listing = subprocess.Popen(
        [sys.executable, "-m", "nlp_transfer", "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    )
    listing.stdout.close()
    assert listing.stderr.read() == b""
    assert listing.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here is always full")  # noqa: PTH110
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_reported(unbuffered: str):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        shown = subprocess.run(
            [sys.executable, "-m", "nlp_transfer", "ls"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert shown.returncode == 2
    assert shown.stderr.startswith("nlp-transfer: standard output, or a temporary file, cannot be written: No space")
    assert shown.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here is always full")  # noqa: PTH110
def test_a_log_on_a_full_disk_changes_no_status(composing: Warm, tmp_path: Path):
    code = (
        "import sys; sys.stderr = open('/dev/full', 'w', buffering=1)\n"
        "from nlp_transfer.cli import main; from nlp_transfer.terminal.console import Screen\n"
        "Screen(quiet=False).tell('all is well'); sys.exit(main(['predict', 'nowhere']))"
    )
    assert composing.run(code, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    "words",
    [["check", "data=files"], ["adapt", "strategy=probe,finetune", "--multirun"], ["doctor"], ["serve", "runs"]],
)
def test_a_deleted_working_folder_is_reported(composing: Warm, tmp_path: Path, words: list[str]):
    code = f"import os, sys\nos.rmdir(os.getcwd())\nfrom nlp_transfer.cli import main\nsys.exit(main({words}))"
    done = composing.run(code, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "nlp-transfer: the current working folder no longer exists; change to one that does\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_error(composing: Warm, tmp_path: Path, closed: str):
    """Nor does a file that is opened later get the number of one, into which others then write."""
    code = (
        "import os, sys; number = {'<': 0, '>': 1, '2': 2}\n"
        "for word in sys.argv[1].split(): os.close(number[word[0]]); "
        "setattr(sys, ('stdin', 'stdout', 'stderr')[number[word[0]]], None)\n"
        "from nlp_transfer.cli import main\n"
        "status = main(['plan', '--cfg'])\n"
        "assert status == 0 and sys.stdin.read() == '' and print() is None and print(file=sys.stderr) is None\n"
        "assert open(os.devnull).fileno() > 2"
    )
    assert composing.run(code, closed, cwd=tmp_path).returncode == 0


def test_internal_errors_end_with_status_70_and_a_report_without_secrets(tmp_path: Path, monkeypatch, capfd):
    token = "hf_" + "a1B2" * 9

    def mistaken(*_):
        raise KeyError(f"no such thing as {token}")

    monkeypatch.setitem(cli._COMMANDS, "doctor", mistaken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["doctor"]) == 70
    message = capfd.readouterr().err
    (report,) = tmp_path.iterdir()
    assert f"report it with {report}" in message
    assert "Traceback" not in message
    assert "in mistaken" in report.read_text()
    assert "transformers" in report.read_text()
    assert token not in message + report.read_text()


def test_an_internal_error_without_room_for_its_report_hides_secrets(monkeypatch, capfd):
    token = "hf_" + "a1B2" * 9

    def mistaken(*_):
        raise KeyError(token)

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(cli._COMMANDS, "doctor", mistaken)
    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert main(["doctor"]) == 70
    message = capfd.readouterr().err
    assert "in mistaken" in message
    assert token not in message


def test_lack_of_memory_is_reported_in_one_sentence(monkeypatch, capfd):
    def scarce(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setitem(cli._COMMANDS, "doctor", scarce)
    assert main(["doctor"]) == 2
    assert (
        capfd.readouterr().err
        == "nlp-transfer: memory does not suffice: CUDA out of memory. Tried to allocate 9 GiB.\n"
    )
