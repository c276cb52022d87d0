"""All sources give the same rows and name splits in their own way; properties of the corpus."""

import csv
import io
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.data.files import read_rows, stream_rows
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.sources import read_source
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.settings import ColumnSettings, DataSettings

SPLITS = {
    "train": [{"text": f"train text {n}, with é", "label": "ab"[n % 2], "weight": 0.5 + n} for n in range(8)],
    "validation": [{"text": f"validation {n}", "label": "ab"[n % 2], "weight": 1.0} for n in range(4)],
    "test": [{"text": f"test {n}", "label": "ab"[n % 2], "weight": 2.0} for n in range(4)],
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def in_folder(folder: Path, ending: str) -> Corpus:
    for split, rows in SPLITS.items():
        write(folder / f"{split}.{ending}", rows)
    return load_corpus(DataSettings(path=str(folder)))


def in_shards(folder: Path, ending: str, name: str, *, first: int = 0) -> Corpus:
    """Every split in two files, named by its name and the number of the shard."""
    for split, rows in SPLITS.items():
        for number, part in enumerate((rows[:3], rows[3:]), first):
            file = folder / f"{name.format(split=split, number=number)}.{ending}"
            file.parent.mkdir(exist_ok=True)
            write(file, part)
    return load_corpus(DataSettings(path=str(folder)))


def in_files_and_folders(folder: Path) -> Corpus:
    """The training rows in a file, the others in folders, one of which holds shards that are counted from 1."""
    write(folder / "train.csv", SPLITS["train"])
    for split, name in (("validation", "dev/rows"), ("test", "test/test-{:05d}-of-00002")):
        (folder / name).parent.mkdir()
        parts = (SPLITS[split],) if split == "validation" else (SPLITS[split][:3], SPLITS[split][3:])
        for number, part in enumerate(parts, 1):
            write(folder / f"{name.format(number)}.jsonl", part)
    return load_corpus(DataSettings(path=str(folder)))


def as_files(folder: Path) -> Corpus:
    for split, rows in SPLITS.items():
        write(folder / f"my_{split}.csv", rows)
    train, validation, test = (str(folder / f"my_{split}.csv") for split in SPLITS)
    return load_corpus(DataSettings(train=train, validation=validation, test=test))


def with_split_column(folder: Path) -> Corpus:
    names = {"train": "Train", "validation": "dev", "test": "TEST"}
    write(folder / "all.csv", [row | {"split": names[split]} for split, rows in SPLITS.items() for row in rows])
    return load_corpus(DataSettings(path=str(folder / "all.csv")))


def from_pandas(_: Path) -> Corpus:
    import pandas as pd

    return load_corpus(DataSettings(), data={split: pd.DataFrame(rows) for split, rows in SPLITS.items()})


def from_datasets(_: Path) -> Corpus:
    """With labels as ClassLabel integers in another order than the names."""
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["b", "a"]),
            "weight": datasets.Value("float64"),
        }
    )
    parts = {split: datasets.Dataset.from_list(rows).cast(features) for split, rows in SPLITS.items()}
    return load_corpus(DataSettings(), data=datasets.DatasetDict(parts))


SOURCES = {
    "csv": lambda folder: in_folder(folder, "csv"),
    "tsv": lambda folder: in_folder(folder, "tsv"),
    "json": lambda folder: in_folder(folder, "json"),
    "jsonl": lambda folder: in_folder(folder, "jsonl"),
    "parquet": lambda folder: in_folder(folder, "parquet"),
    "folders of csv": lambda folder: in_shards(folder, "csv", "{split}/{number}"),
    "folders of jsonl": lambda folder: in_shards(folder, "jsonl", "{split}/{number}"),
    "shards of parquet": lambda folder: in_shards(folder, "parquet", "{split}-{number:05d}-of-00002"),
    "shards from 1": lambda folder: in_shards(folder, "csv", "{split}-{number:05d}-of-00002", first=1),
    "files and folders": in_files_and_folders,
    "files": as_files,
    "split column": with_split_column,
    "lists": lambda folder: load_corpus(DataSettings(), data=SPLITS),
    "pandas": from_pandas,
    "datasets": from_datasets,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_corpus(source: str, tmp_path: Path) -> None:
    corpus = SOURCES[source](tmp_path)
    assert list(corpus.splits) == ["train", "validation", "test"]
    assert corpus.task.labels == ("a", "b")
    for split, rows in SPLITS.items():
        examples = corpus.splits[split]
        assert examples.texts == [row["text"] for row in rows]
        assert [corpus.task.labels[target] for target in examples.targets] == [row["label"] for row in rows]
        assert examples.weights.tolist() == [row["weight"] for row in rows]
        assert examples.ids == [f"{split}-{n + 1}" for n in range(len(rows))]
    assert corpus.fingerprint == load_corpus(DataSettings(), data=SPLITS).fingerprint


@pytest.mark.parametrize("part", ["text", "label", "weight"])
def test_the_fingerprint_sees_every_part_of_a_row(part: str) -> None:
    changed = {split: [dict(row) for row in rows] for split, rows in SPLITS.items()}
    changed["test"][0][part] = {"text": "other", "label": "b", "weight": 3.0}[part]
    assert load_corpus(DataSettings(), data=changed).fingerprint != load_corpus(DataSettings(), data=SPLITS).fingerprint


def test_class_weights_do_not_change_the_fingerprint() -> None:
    plain, weighted = (
        load_corpus(DataSettings(class_weights=kind), data=SPLITS) for kind in ("none", {"a": 1, "b": 3})
    )
    assert plain.fingerprint == weighted.fingerprint


def test_texts_may_be_pages_of_the_web(tmp_path: Path) -> None:
    page = b"<!DOCTYPE html>\n<html>buy now</html>\n"
    for label in ("spam", "ham"):
        (tmp_path / label).mkdir()
        for number in range(5):
            (tmp_path / label / f"{number}.txt").write_bytes(page.replace(b"now", f"{label} {number}".encode()))
    examples = load_corpus(DataSettings(path=str(tmp_path))).splits["train"]
    assert all(text.startswith("<!DOCTYPE html>") for text in examples.texts)
    chunks = list(stream_rows(io.BytesIO(page), format="text"))
    assert [row for chunk in chunks for row in chunk.columns["text"]] == ["<!DOCTYPE html>", "<html>buy now</html>"]


@pytest.mark.parametrize("splits", [False, True])
def test_folder_of_class_folders(splits: bool, tmp_path: Path) -> None:
    for split in ("train", "test") if splits else ("",):
        for label in ("good", "bad"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(5):
                (folder / f"{number}.txt").write_bytes(f"{split} {label} {number}\nsecond line\r\n".encode())
        hidden = tmp_path / split / ".ipynb_checkpoints"
        hidden.mkdir()
        (hidden / "0-checkpoint.txt").write_text("no row")
    (tmp_path / "README.md").write_text("no row")
    corpus = load_corpus(DataSettings(path=str(tmp_path)))
    examples = corpus.splits["train"]
    assert corpus.task.labels == ("bad", "good")
    assert all(text.endswith("\nsecond line") for text in examples.texts)
    ids = [name for part in corpus.splits.values() for name in part.ids]
    assert len(set(ids)) == len(ids) == (20 if splits else 10)
    for text, target, name in zip(examples.texts, examples.targets, examples.ids, strict=True):
        assert corpus.task.labels[target] in text
        assert f"{corpus.task.labels[target]}/" in name
    if splits:
        assert sorted(corpus.splits["test"].texts) == sorted(
            f"test {label} {number}\nsecond line" for label in ("good", "bad") for number in range(5)
        )
        assert f"not read in {tmp_path}: README.md" in corpus.notes


def test_a_missing_file_is_reported_even_in_an_unlistable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"train\.csv does not exist$"):
        load_corpus(DataSettings(path=str(tmp_path / "train.csv")))


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    write(tmp_path / "data[1].csv", SPLITS["train"])
    with pytest.raises(UserError, match=r"dta\[1\]\.csv does not exist \(did you mean 'data\[1\]\.csv'\?\)$"):
        load_corpus(DataSettings(path=str(tmp_path / "dta[1].csv")))


def test_error_in_a_class_folder_names_the_file(tmp_path: Path) -> None:
    for label, content in (("good", b"fine"), ("bad", b"one\n\xff")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad/0\.txt:2: character 1"):
        load_corpus(DataSettings(path=str(tmp_path)))
    (tmp_path / "bad" / "0.txt").write_bytes(b" \n")
    with pytest.raises(UserError, match=r"bad/0\.txt: nothing to read"):
        load_corpus(DataSettings(path=str(tmp_path)))


def test_unread_files_of_a_folder_are_named(tmp_path: Path) -> None:
    in_folder(tmp_path, "csv")
    (tmp_path / "train_small.csv").write_text("text,label\n")
    (tmp_path / ".hidden").write_text("")
    assert f"not read in {tmp_path}: train_small.csv" in load_corpus(DataSettings(path=str(tmp_path))).notes
    (tmp_path / "test").mkdir()  # a file gives this split
    assert f"not read in {tmp_path}: test, train_small.csv" in load_corpus(DataSettings(path=str(tmp_path))).notes
    write(tmp_path / "dev.jsonl", SPLITS["validation"])
    with pytest.raises(UserError, match=r"several validation files \(dev\.jsonl, validation\.csv\)"):
        load_corpus(DataSettings(path=str(tmp_path)))


def test_rows_of_shards_have_their_file_and_shards_are_reported(tmp_path: Path) -> None:
    settings = DataSettings(path=str(tmp_path))
    in_shards(tmp_path, "csv", "{split}/{number}")
    source = read_source(settings)
    last = source.splits["train"].take([7, 2])
    assert [last.where(row) for row in range(2)] == [f"{tmp_path}/train/1.csv:6", f"{tmp_path}/train/0.csv:4"]
    output = [f"{tmp_path}/{split}: 2 files are read as one split, 0.csv, 1.csv" for split in ("test", "train")]
    assert sorted(source.notes) == [*output, f"{tmp_path}/validation: 2 files are read as one split, 0.csv, 1.csv"]
    (tmp_path / "test" / "about.md").write_text("no row")
    (tmp_path / "test" / "old").mkdir()
    assert read_source(settings).notes[-1] == f"not read in {tmp_path}: test/about.md, test/old/"
    for hidden in ("test/.old", "test/old"):
        (tmp_path / hidden).mkdir(exist_ok=True)
        (tmp_path / hidden / ".0.txt").write_text("no row")
    (tmp_path / "test" / ".old" / "0.txt").write_text("no row")
    assert read_source(settings).notes[-1] == f"not read in {tmp_path}: test/about.md, test/old/"
    write(tmp_path / "train" / "2.csv", [{"text": "an hour", "lable": "a", "weight": 1.0}])
    with pytest.raises(UserError, match=r"train/2\.csv has other columns than \S+train/0\.csv: .*'label', 'lable'"):
        read_source(settings)
    (tmp_path / "train" / "2.csv").write_text(f"{'a long text ' * 9},a,1.0\n")
    with pytest.raises(UserError, match=r"'a long text a long text a long text a l…', .* first line is a row of"):
        read_source(settings)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (
            ["a.csv", "docs/readme.txt"],
            r"holds files of rows \(a\.csv\) and folders of texts \(docs/readme\.txt\)",
        ),
        (["a.csv", "docs/README.TXT"], r"\(a\.csv\) and folders of texts \(docs/README\.TXT\)"),
        (
            ["train.csv", "test.csv"],
            r"train/test\.csv is called as the test split is, .* are read as train",
        ),
        (["dev-00000-of-00001.csv"], r"train/dev-00000-of-00001\.csv is called as the validation split is"),
        (["train-00000-of-00002.csv"], r"train lacks a part of train: train-00001-of-00002; put it there$"),
        (["rows-00002-of-00003.csv", "other.csv"], r"lacks a part of rows: rows-00000-of-00003, rows-00001-of-00003;"),
        (["a-00000-of-00001.csv", "a-00000-of-00002.csv"], r"parts of a that are called -of-00001 and others"),
        (["rows-00002-of-00002.csv"], r"lacks a part of rows: rows-00001-of-00002;"),  # counted from 1
        ([".a.csv", "docs/about.md"], r"neither files of rows .* hold train/docs/about\.md, .*if train is not a split"),
    ],
)
@pytest.mark.parametrize("others", ["test.csv", "test/rows.csv"])
def test_ambiguous_split_folders_are_refused(files: list[str], error: str, others: str, tmp_path: Path) -> None:
    for name in [*(f"train/{file}" for file in files), others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, SPLITS["train"])
    with pytest.raises(UserError, match=error):
        read_source(DataSettings(path=str(tmp_path)))


@pytest.mark.parametrize("way", ["iterdir", "lstat"])
def test_a_folder_that_may_not_be_read_is_named(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    (tmp_path / "train" / "good" / "0.txt").write_text("a text")
    allowed = getattr(Path, way)

    def refused(path: Path) -> Any:
        if secret == (path if way == "iterdir" else path.parent).name:
            raise PermissionError(13, "Permission denied")
        return allowed(path)

    monkeypatch.setattr(Path, way, refused)
    for secret in ("train", "good"):
        with pytest.raises(UserError, match=rf"{secret} cannot be opened: Permission denied"):
            read_source(DataSettings(path=str(tmp_path)))


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    in_shards(tmp_path, "parquet", "{split}-{number:05d}-of-00002")
    (tmp_path / "test-00000-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"lacks a part of test: test-00000-of-00002; put it there$"):
        load_corpus(DataSettings(path=str(tmp_path)))
    write(tmp_path / "test.csv", SPLITS["test"])
    with pytest.raises(UserError, match=r"several test files \(test-00001-of-00002\.parquet, test\.csv\); keep one"):
        load_corpus(DataSettings(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "no data is named"),
        ({"path": "a.csv", "embedded": "b"}, "data.embedded and data.path are set .*: data=files data.path=a.csv$"),
        ({"train": "a b.csv", "embedded": "b"}, "data.embedded and data.train .*: data=files 'data.train=a b.csv'$"),
        ({"hub": "a/b", "embedded": "b"}, "data.embedded and data.hub .*: data=hub data.hub=a/b$"),
        ({"path": "a.csv", "hub": "a/b"}, "data.path and data.hub are set together; give exactly one source"),
        ({"path": "no/such.csv"}, "data.path: no/such.csv does not exist"),
        ({"path": "no/*.csv"}, r"data.path: no/\*.csv is a pattern, .* folder called train/"),
        ({"train": "part?.csv"}, r"data.train: part\?.csv is a pattern, .* folder called train/"),
        (
            {"embedded": "customer_intents", "unlabelled": "no/*.txt"},
            r"data.unlabelled: no/\*.txt is a pattern, and no file has this name; name one file$",
        ),
        ({"train": ".", "test": "no/such.csv"}, "data.train: . is a folder where a file is expected"),
        ({"path": "a.csv", "test": "b.csv"}, "data.test goes with data.train"),
        ({"path": "a.csv", "revision": "main"}, "data.revision goes with data.hub"),
        ({"embedded": "customer_intent"}, "did you mean 'customer_intents'"),
    ],
)
def test_exactly_one_source(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load_corpus(DataSettings(**options))


def test_rows_from_python_with_the_embedded_set_are_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match=r"data\.embedded and data are set together.*: data=object$"):
        load_corpus(DataSettings(embedded="customer_intents"), data=SPLITS)


def test_the_embedded_set_loads_with_its_licence_and_no_other_note() -> None:
    corpus = load_corpus(DataSettings(embedded="customer_intents", encoding="cp1252", delimiter=";"))
    assert corpus.source == "customer_intents (embedded)"
    assert list(corpus.splits) == ["train", "validation", "test"]
    assert corpus.notes == ["licence of the data: apache-2.0, like the package"]


def test_a_row_of_no_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "all.csv", [row | {"split": "tset"} for row in SPLITS["train"]])
    with pytest.raises(UserError, match=r"all\.csv:2, column 'split': 'tset' is not a split \(did you mean 'test'\?\)"):
        load_corpus(DataSettings(path=str(tmp_path / "all.csv")))
    unused = load_corpus(DataSettings(path=str(tmp_path / "all.csv"), columns=ColumnSettings(split="")))
    assert sum(map(len, unused.splits.values())) == len(SPLITS["train"])


@pytest.mark.parametrize(
    ("data", "columns", "error"),
    [
        (SPLITS, {"split": "text"}, "data.columns.split='text': dict is divided into splits already"),
        (SPLITS, {"text": ""}, "data.columns.text cannot be empty"),
        ({"train": SPLITS["train"], "dev": SPLITS["test"], "val": SPLITS["test"]}, {}, "two validation splits"),
        ([row | {"split": "test"} for row in SPLITS["train"]], {}, "column 'split': no row is train; found test"),
        ({"test": SPLITS["test"]}, {}, "dict has no train split; it has: test"),
    ],
)
def test_invalid_splits(data: Any, columns: dict[str, str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load_corpus(DataSettings(columns=ColumnSettings(**columns)), data=data)


def test_folders_that_hold_no_data(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    empty = (
        r"nor folders of \.txt files, one folder per class; its folders hold nothing, but texts are read from files "
    )
    with pytest.raises(UserError, match=empty):
        load_corpus(DataSettings(path=str(tmp_path)))
    (tmp_path / "good" / "inner").mkdir()
    for number in range(4):
        (tmp_path / "good" / f"{number}").write_text("a text\n")
    found = r"hold good/0, good/1, good/2 and 2 more, but texts are read from files that end in \.txt only"
    with pytest.raises(UserError, match=found):
        load_corpus(DataSettings(path=str(tmp_path)))
    (tmp_path / "test.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="has no train split"):
        load_corpus(DataSettings(path=str(tmp_path)))


@pytest.mark.parametrize(("file", "folder"), [("train.csv", "train"), ("test.csv", "test"), ("dev.csv", "validation")])
def test_a_file_and_a_folder_of_one_split_are_refused(tmp_path: Path, file: str, folder: str) -> None:
    for name in {"train.csv", file}:
        (tmp_path / name).write_text("text,label\none,a\ntwo,b\nthree,a\n")
    (tmp_path / folder / "images").mkdir(parents=True)
    (tmp_path / folder / "images" / "1.jpg").touch()
    load_corpus(DataSettings(path=str(tmp_path)))  # nothing in it can be rows
    (tmp_path / folder / "part.csv").write_text("text,label\nfour,a\n")
    with pytest.raises(UserError, match=rf"a file {file} and a folder {folder}/, which both are its {folder} split"):
        load_corpus(DataSettings(path=str(tmp_path)))


def test_a_weight_column_only_in_train_is_reported() -> None:
    unweighted = [{"text": row["text"], "label": row["label"]} for row in SPLITS["validation"]]
    corpus = load_corpus(DataSettings(), data=SPLITS | {"validation": unweighted})
    assert corpus.splits["validation"].weights.tolist() == [1.0] * len(unweighted)
    assert "validation: no column 'weight', so every row weighs 1" in corpus.notes


def test_soft_labels_survive_parquet(tmp_path: Path) -> None:
    """Arrow gives every row the keys of all rows, null where a row had none."""
    rows = [{"text": "p", "label": {"a": 1.0}}, {"text": "q", "label": {"b": 0.25, "a": 0.75}}]
    write(tmp_path / "train.parquet", rows)
    write(tmp_path / "validation.parquet", rows)
    corpus = load_corpus(DataSettings(path=str(tmp_path)))
    assert corpus.splits["train"].targets.tolist() == [[1.0, 0.0], [0.75, 0.25]]
    assert corpus.fingerprint == load_corpus(DataSettings(), data={"train": rows, "validation": rows}).fingerprint


@pytest.mark.parametrize(
    "written", [b"", b"{", b"[]", b"{}", b'{"info": null}', b'{"info": {"features": [1]}}', b"\xff"]
)
def test_a_parquet_file_whose_features_cannot_be_read_has_none(written: bytes, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.Table.from_pylist(SPLITS["train"]).replace_schema_metadata({"huggingface": written})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", DataSettings()).columns["label"] == list("abababab")


@pytest.mark.parametrize("kind", ["int64", "float64", "float32", "bool", "U1", "lists", "sets", "shares"])
def test_numpy_values_in_dicts_are_read_like_in_a_data_frame(kind: str) -> None:
    import pandas as pd

    numbers = np.arange(8) % 2
    labels: list[Any] = list(numbers.astype(kind)) if kind not in ("lists", "sets", "shares") else []
    labels = labels or [
        {"lists": numbers[: 1 + number], "sets": list(numbers[: 1 + number]), "shares": {"a": np.float32(number)}}[kind]
        for number in numbers
    ]
    texts = np.array([f"text {n}" for n in range(8)])
    records = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    sources = [read_source(DataSettings(), data=data) for data in (records, pd.DataFrame(records))]
    plain, framed = (source.splits["train"] for source in sources)
    assert plain.columns == framed.columns
    assert {type(cell) for cell in plain.columns["text"]} == {str}
    assert "np." not in repr(plain.columns["label"])


def test_a_time_of_numpy_is_no_number_and_nan_is_missing() -> None:
    rows = [{"text": "one", "label": np.datetime64("2026-01-02", "ns")}, {"text": float("nan"), "label": np.nan}]
    columns = read_source(DataSettings(), data=rows).splits["train"].columns
    assert columns == {"text": ["one", None], "label": [np.datetime64("2026-01-02", "ns"), None]}


def test_a_dataset_with_a_transform_is_refused() -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": ["one", "two"], "label": ["a", "b"]})
    with pytest.raises(UserError, match=r"has a transform, .*`map`"):
        read_source(DataSettings(), data=data.with_transform(lambda rows: rows))


def test_decimals_are_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    numbers = pa.array([Decimal(n) / 8 for n in range(24)], pa.decimal128(10, 3))
    rows = pa.table({"text": [f"text {n}" for n in range(24)], "label": numbers, "weight": numbers})
    pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
    corpus = load_corpus(DataSettings(train=str(tmp_path / "rows.parquet"), validation=str(tmp_path / "rows.parquet")))
    assert corpus.task.problem == "regression"
    expected = [n / 8 for n in range(24)]
    assert corpus.splits["train"].targets.tolist() == corpus.splits["train"].weights.tolist() == expected


def test_missing_values_of_pandas_are_missing() -> None:
    import pandas as pd

    for column, error in (("label", "the label is missing"), ("text", "nothing to read")):
        frame = pd.DataFrame(SPLITS["train"])
        frame.loc[2, column] = None
        with pytest.raises(UserError, match=rf"DataFrame:3.*{error}"):
            load_corpus(DataSettings(), data=frame)


@pytest.mark.parametrize("data", ["text", 3, [1, 2], {"train": "text"}, iter([])])
def test_other_objects_are_refused(data: Any) -> None:
    with pytest.raises(UserError, match="are not read; give a pandas DataFrame") as refused:
        load_corpus(DataSettings(), data=data)
    assert ("a file is named in overrides" in str(refused.value)) is ("type str" in str(refused.value))


@pytest.mark.parametrize("name", ["tickets.csv", Path("tickets.csv")])
def test_a_file_name_instead_of_rows_is_refused_with_a_hint(name: str | Path) -> None:
    with pytest.raises(UserError, match=r"a file is named in overrides: data=files data\.path=tickets\.csv$"):
        load_corpus(DataSettings(), data=name)


def test_lists_of_class_labels_are_names() -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["z", "y"]))}
    )
    part = datasets.Dataset.from_dict({"text": ["p", "q", "r"], "labels": [[0], [1, 0], []]}, features=features)
    corpus = load_corpus(DataSettings(), data={"train": part, "validation": part.select([2, 1])})
    assert corpus.task.problem == "multi_label"
    assert corpus.task.labels == ("y", "z")
    assert corpus.splits["train"].targets.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert corpus.splits["validation"].targets.tolist() == [[0, 0], [1, 1]]


def test_streaming_reads_one_chunk_at_a_time() -> None:
    content = b"text\n" + b"fine\n" * 100_000 + b"bad,row\n"
    buffer = io.BytesIO(content)
    tables = stream_rows(buffer, format="csv", chunk_rows=10)
    assert len(next(tables)) == 10
    assert buffer.tell() < len(content) / 4
    with pytest.raises(UserError, match="<stream>:100002: 2 cells where the header has 1"):
        list(tables)
    assert not buffer.closed


def test_streaming_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"text;label\n1;2\n3\n"))
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(UserError, match="standard input:3: 1 cells"):
        list(stream_rows("-", format="csv", delimiter=";"))
    with pytest.raises(UserError, match="open it in binary mode"):
        next(stream_rows(io.StringIO("text\n"), format="csv"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"predict\.format='cvs'.*did you mean 'csv'"):
        next(stream_rows("-", format="cvs"))


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(("before", "line"), [("", 1), ("\n \r\n", 3)])
def test_json_lines_are_no_header(kind: str, before: str, line: int) -> None:
    lines = f'{before} {{"text": "a"}}\n{{"text": "b"}}\n'.encode()
    message = rf"<stream>:{line} is a JSON object where {kind.upper()} has its header; set predict\.format=jsonl"
    with pytest.raises(UserError, match=message):
        next(stream_rows(io.BytesIO(lines), format=kind))
    assert next(stream_rows(io.BytesIO(lines), format="jsonl")).columns == {"text": ["a", "b"]}


@pytest.mark.parametrize("header", ["{text}", '{"text": 1', "{", '"{}"', '{"a":' * 100_000])
def test_a_header_that_only_begins_like_json_is_one(header: str) -> None:
    (table,) = stream_rows(io.BytesIO(f"\n{header}\na\n".encode()), format="csv")
    assert (table.columns, table.lines) == ({next(csv.reader([header]))[0]: ["a"]}, [3])


def test_streamed_rows_without_a_key_are_reported(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "p", "x": null}\n{"text": "q"}\n', encoding="utf-8")
    assert read_rows(tmp_path / "rows.jsonl", DataSettings()).columns == {"text": ["p", "q"], "x": [None, MISSING]}


def test_a_test_split_is_made_only_if_none_is_given(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(100)]
    write(tmp_path / "train.csv", rows)
    sizes = {}
    given: dict[str, dict[str, Any]] = {
        "train": {},
        "no test": {"test_share": 0.0},
        "test": {"test": str(tmp_path / "train.csv")},
        "validation": {"validation": str(tmp_path / "train.csv")},
    }
    for name, options in given.items():
        corpus = load_corpus(DataSettings(train=str(tmp_path / "train.csv"), **options))
        sizes[name] = {split: len(examples) for split, examples in corpus.splits.items()}
        assert any("also used for selection" in note for note in corpus.notes) == ("test" not in corpus.splits)
    assert sizes == {
        "train": {"train": 72, "validation": 8, "test": 20},
        "no test": {"train": 90, "validation": 10},
        "test": {"train": 90, "validation": 10, "test": 100},
        "validation": {"train": 100, "validation": 100},
    }


def test_a_single_file_is_one_split_with_places(tmp_path: Path) -> None:
    write(tmp_path / "one.csv", SPLITS["train"])
    tables = read_source(DataSettings(path=str(tmp_path / "one.csv"))).splits
    assert list(tables) == ["train"]
    assert tables["train"].where(2, "label") == f"{tmp_path}/one.csv:4, column 'label'"


def test_importing_the_package_imports_no_optional_library() -> None:
    code = (
        "import sys, nlp_transfer.data.corpus as c, nlp_transfer.settings as s; "
        "c.load_corpus(s.DataSettings(embedded='customer_intents')); "
        "heavy = ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'sklearn', 'hydra'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_class_weights_need_no_second_reading_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, read = Task.encode, []
    monkeypatch.setattr(Task, "encode", lambda task, labels, where: read.append(labels) or encode(task, labels, where))
    corpus = load_corpus(DataSettings(class_weights={"a": 1, "b": 3}), data=SPLITS)
    assert len(read) == len(corpus.splits) == 3
    expected = [row["weight"] * {"a": 0.5, "b": 1.5}[row["label"]] for row in SPLITS["train"]]
    assert corpus.splits["train"].weights.tolist() == expected


def test_targets_and_weights_have_the_promised_types() -> None:
    corpus = load_corpus(DataSettings(class_weights="balanced"), data=SPLITS)
    for examples in corpus.splits.values():
        assert examples.targets.dtype == np.int64
        assert examples.weights.dtype == np.float32
