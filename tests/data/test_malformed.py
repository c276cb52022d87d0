"""Malformed and unusual input gives exactly the rows written, or an error with place and reason."""

import bz2
import gzip
import json
import lzma
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import nlp_transfer
from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import encode, full_lengths, resolve_spec
from nlp_transfer.errors import UserError
from nlp_transfer.settings import ColumnSettings, DataSettings, TokenSettings
from tests.encoder.families import tiny_encoder, tiny_tokenizer

HEAD = b"text,label\n"
GOOD = HEAD + b"one,a\ntwo,b\n"
Rows = list[tuple[str, Any]]


@dataclass
class Case:
    """Bytes of a training file (or a function that makes the settings), and the rows or the error they must give.

    The same file serves as validation split, so that nothing is carved out of the rows that are compared.
    """

    id: str
    source: bytes | Callable[[Path], dict[str, Any]]
    rows: Rows | None = None
    error: str | None = None
    note: str | None = None
    name: str = "train.csv"
    settings: dict[str, Any] | None = None

    def load(self, folder: Path) -> Corpus:
        options = dict(self.settings or {})
        if callable(self.source):
            options |= self.source(folder)
        else:
            (folder / self.name).write_bytes(self.source)
            options = {"train": str(folder / self.name), "validation": str(folder / self.name)} | options
        data = options.pop("data", None)
        return load_corpus(DataSettings(columns=ColumnSettings(**options.pop("columns", {})), **options), data=data)


def rows_of(corpus: Corpus, split: str = "train") -> Rows:
    """The texts of a split with the names their targets stand for."""
    task, examples = corpus.task, corpus.splits[split]
    if task.problem == "multi_label":
        named: list[Any] = [
            tuple(name for name, yes in zip(task.labels, row, strict=True) if yes) for row in examples.targets
        ]
    elif task.problem == "regression":
        named = [float(target) for target in examples.targets]
    else:
        named = [task.labels[target] for target in examples.targets]
    return list(zip(examples.texts, named, strict=True))


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def row(text: Any, label: Any) -> dict[str, Any]:
    return {"text": text, "label": label}


def extra(name: str, content: bytes, **settings: Any) -> Callable[[Path], dict[str, Any]]:
    """A good training file and another split."""

    def make(folder: Path) -> dict[str, Any]:
        (folder / "train.csv").write_bytes(GOOD)
        (folder / f"{name}.csv").write_bytes(content)
        return {"train": str(folder / "train.csv"), name: str(folder / f"{name}.csv"), **settings}

    return make


def leaking(folder: Path) -> dict[str, Any]:
    made = extra("test", HEAD + "ｏｎｅ ,a\nnew,b\n two,b\n".encode())(folder)
    return made | {"validation": made["train"]}


def parquet(columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet

        table = pa.table(columns)
        if metadata is not None:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
        pyarrow.parquet.write_table(table, folder / "train.parquet")
        return {"train": str(folder / "train.parquet"), "validation": str(folder / "train.parquet")}

    return make


def arrow_labels(kind: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        if kind == "dictionary":
            labels = pa.array(["b", "a"]).dictionary_encode()
        else:
            labels = pa.array([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)])
        return parquet({"text": pa.array(["one", "two"], pa.large_string()), "label": labels})(folder)

    return make


def renamed_column(folder: Path) -> dict[str, Any]:
    """A column whose name is no UTF-8."""
    made = parquet({"text": ["one", "two"], "label": ["a", "b"], "moreover": ["x", "y"]})(folder)
    path = Path(made["train"])
    path.write_bytes(path.read_bytes().replace(b"moreover", b"more\xff\xfeer"))
    return made


def bytes_as_text(folder: Path) -> dict[str, Any]:
    """A text that is no UTF-8."""
    import pyarrow as pa

    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"one", b"t\xffo"], pa.binary()).buffers())
    return parquet({"text": texts, "label": ["a", "b"]})(folder)


def class_labels_that_differ(folder: Path) -> dict[str, Any]:
    """Two Parquet files whose integers mean different names."""
    names = {"train": ["a", "b"], "validation": ["b", "a"]}
    for split, classes in names.items():
        feature = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": classes, "_type": "ClassLabel"}}
        made = folder / split
        made.mkdir()
        parquet({"text": ["one", "two"], "label": [classes.index("a"), classes.index("b")]}, feature)(made)
    return {split: str(folder / split / "train.parquet") for split in names}


def dataset_dict(names: dict[str, str]) -> Callable[[Path], dict[str, Any]]:
    def make(_: Path) -> dict[str, Any]:
        import datasets

        part = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": ["a", "b"] * 10})
        return {"data": datasets.DatasetDict(dict.fromkeys(names, part))}

    return make


def packed(kind: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        path = folder / f"train.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("train.csv", GOOD)
        else:
            path.write_bytes(gzip.compress(GOOD))
        return {"path": str(path)}

    return make


def renamed_gzip(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").write_bytes(gzip.compress(GOOD))
    return {"path": str(folder / "train.csv")}


def renamed_parquet(folder: Path) -> dict[str, Any]:
    made = parquet({"text": ["one", "two"], "label": ["a", "b"]})(folder)
    (folder / "train.csv").write_bytes(Path(made["train"]).read_bytes())
    return {"path": str(folder / "train.csv")}


def link(folder: Path) -> dict[str, Any]:
    (folder / "real.csv").write_bytes(GOOD)
    (folder / "train.csv").symlink_to(folder / "real.csv")
    return {"train": str(folder / "train.csv"), "validation": str(folder / "train.csv")}


def dangling(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").symlink_to(folder / "gone.csv")
    return {"path": str(folder / "train.csv")}


def loop(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").symlink_to(folder / "train.csv")
    return {"path": str(folder / "train.csv")}


def pipe(folder: Path) -> dict[str, Any]:
    os.mkfifo(folder / "train.csv")
    return {"path": str(folder / "train.csv")}


def typo(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").write_bytes(GOOD)
    return {"path": str(folder / "trian.csv")}


def home(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").write_bytes(GOOD)  # the test makes this folder the home folder
    return {"train": "~/train.csv", "validation": "~/train.csv"}


CP1252 = "text,label\ncafé,a\ntwo,b\n".encode("cp1252")
BAD_AT_1000 = HEAD + b"fine,a\nfine too,b\n" * 499 + b"b\xff\xfed,a\n" + b"fine,a\n" * 5
THREE_MB = "word " * 600_000
NEXT_LINE = "a\x85b\u2028c\x0bd"  # line ends to str.splitlines, not to CSV

THREE_ROWS: Rows = [(THREE_MB, "a"), ("x", "b")]

CASES = [
    Case("01-empty-file", b"", error=r"train\.csv is empty"),
    Case("01-empty-jsonl", b"", name="train.jsonl", error=r"train\.jsonl is empty"),
    Case("01-empty-array", b"[]", name="train.json", error=r"train\.json is empty"),
    Case("02-no-object-in-lines", b"\n\n", name="train.jsonl", error=r"train\.jsonl is empty"),
    Case("02-header-only", HEAD, error=r"train\.csv has no rows"),
    Case("03-no-header", b"I love it,good\nawful,bad\n", error=r"train\.csv:1 is a row of data, the file has no"),
    Case("04-bom", b"\xef\xbb\xbf" + GOOD, [("one", "a"), ("two", "b")]),
    Case("04-bom-other-encoding", b"\xef\xbb\xbf" + GOOD, error="data.encoding=utf-8", settings={"encoding": "cp1252"}),
    Case("05-utf16-le", "\ufefftext,label\n".encode("utf-16-le"), error=r"train\.csv .*data\.encoding=utf-16"),
    Case("05-utf16-be", "\ufefftext,label\n".encode("utf-16-be"), error=r"train\.csv .*data\.encoding=utf-16"),
    Case("05-utf16-no-mark", GOOD.decode().encode("utf-16-le"), error=r"train\.csv:1.*NUL.*data\.encoding=utf-16"),
    Case(
        "05-utf16-declared",
        "text,label\nçà,a\nдва,b\n".encode("utf-16"),
        [("çà", "a"), ("два", "b")],
        settings={"encoding": "utf-16"},
    ),
    Case("05-utf16-cut", GOOD.decode().encode("utf-16")[:-1], error=r"train\.csv:", settings={"encoding": "utf-16"}),
    Case("06-cp1252", CP1252, error=r"train\.csv:2: character 4 .*0xE9.*data\.encoding=cp1252"),
    Case("06-cp1252-declared", CP1252, [("café", "a"), ("two", "b")], settings={"encoding": "cp1252"}),
    Case("06-latin-1", CP1252, [("café", "a"), ("two", "b")], settings={"encoding": "latin-1"}),
    Case("06-encoding-of-no-text", GOOD, error="data.encoding='hex'", settings={"encoding": "hex"}),
    Case("06-encoding-typo", GOOD, error="data.encoding='utf-88'", settings={"encoding": "utf-88"}),
    Case("07-bad-bytes-mid-file", BAD_AT_1000, error=r"train\.csv:1000: character 2 .*0xFF"),
    Case("08-nul-byte", HEAD + b"one,a\ntw\0o,b\n", error=r"train\.csv:3: character 3 is a NUL byte"),
    Case("09-cr-only", GOOD.replace(b"\n", b"\r"), [("one", "a"), ("two", "b")]),
    Case("09-cr-only-line", b"text,label\rone,a\rtwo\r", error=r"train\.csv:3: 1 cells"),
    Case("09-cr-among-lf", HEAD + b"one,a\rtwo,b\n", error=r"train\.csv:2: some rows end in a line feed, others in a"),
    Case("09-lf-among-cr", b"text,label\rone,a\ntwo,b\r", error=r"train\.csv:2: some rows end in a line feed"),
    Case("09-cr-in-quotes", HEAD + b'"one\r",a\n"\rtwo",b\n', [("one\r", "a"), ("\rtwo", "b")]),
    Case("10-crlf-and-lf", HEAD + b"one,a\r\ntwo,b\n", [("one", "a"), ("two", "b")]),
    Case("10-crlf", GOOD.replace(b"\n", b"\r\n"), [("one", "a"), ("two", "b")]),
    Case("11-no-final-newline", GOOD.rstrip(b"\n"), [("one", "a"), ("two", "b")]),
    Case("11-blank-lines", b"text,label\n\none,a\n\n\ntwo,b\n\n", [("one", "a"), ("two", "b")]),
    Case("12-semicolon", GOOD.replace(b",", b";"), error=r"train\.csv:1: .*set 'data\.delimiter=;'$"),
    Case("12-semicolon-declared", GOOD.replace(b",", b";"), [("one", "a"), ("two", "b")], settings={"delimiter": ";"}),
    Case(
        "12-excel-mark",
        b"sep=;\r\n" + GOOD,
        error=r"train\.csv:1 tells Excel .*delete this line, .*'data\.delimiter=;'$",
    ),
    Case("12-excel-mark-declared", b"sep=;\n" + GOOD, error=r"csv:1 tells Excel", settings={"delimiter": ";"}),
    Case("13-tab", GOOD.replace(b",", b"\t"), error=r"train\.csv:1: .*set 'data\.delimiter=\\t'$"),
    Case("13-tab-declared", GOOD.replace(b",", b"\t"), [("one", "a"), ("two", "b")], settings={"delimiter": r"\t"}),
    Case("13-tab-in-tsv", b"text\tlabel\nx, y\ta\ntwo\tb\n", [("x, y", "a"), ("two", "b")], name="train.tsv"),
    Case("13-delimiter-of-two", GOOD, error="data.delimiter=',,' must be one character", settings={"delimiter": ",,"}),
    Case("13-delimiter-empty", GOOD, error="data.delimiter='' must be one character", settings={"delimiter": ""}),
    Case("14-ragged-long", HEAD + b"one,a\ntwo, three,b\n", error=r"train\.csv:3: 3 cells where the header has 2"),
    Case(
        "14-empty-cells",
        HEAD + b"one,a,,\n",
        error=r"train\.csv:2: 4 cells .*; delete every ',' at the end of the rows",
    ),
    Case("14-columns-without-name", b"text,label,,\n", error=r"train\.csv:1: 2 columns have no name; give each one"),
    Case("14-line-above", b"# made\n" + GOOD, error=r"train\.csv:2: 2 cells .*further down, delete what is above it"),
    Case("15-ragged-short", HEAD + b"one,a\ntwo\n", error=r"train\.csv:3: 1 cells .* column 'label'"),
    Case("16-unclosed-quote", GOOD + b'"three,a\nfour,b\n', error=r"train\.csv:4: a quote .* never closed"),
    Case("17-quote-inside", HEAD + b'a 5" disk,a\ntwo,b\n', [('a 5" disk', "a"), ("two", "b")]),
    Case("17-quote-in-quotes", HEAD + b'"a 5" disk",a\n', error=r"train\.csv:2: text follows a closing quote"),
    Case("18-backslash", HEAD + b'one,a\n"he said \\"hi\\"",b\n', error=r"train\.csv:3: .*backslash"),
    Case("19-newline-in-field", HEAD + b'"1\n2\r\n3\r4",a\ntwo,b\n', [("1\n2\r\n3\r4", "a"), ("two", "b")]),
    Case("19-line-after-it", HEAD + b'"1\n2\n3",a\ntwo\n', error=r"train\.csv:5: 1 cells"),
    Case("19-other-line-ends", HEAD + f"{NEXT_LINE},a\ntwo,b\n".encode(), [(NEXT_LINE, "a"), ("two", "b")]),
    Case(
        "20-text-na",
        HEAD + b"NA,a\nnull,b\nNone,a\nnan,b\nN/A,a\n-,b\n#N/A,a\n",
        [("NA", "a"), ("null", "b"), ("None", "a"), ("nan", "b"), ("N/A", "a"), ("-", "b"), ("#N/A", "a")],
    ),
    Case(
        "21-label-na",
        HEAD + b"p,NA\nq,None\nr,true\ns,1.0\n",
        [("p", "NA"), ("q", "None"), ("r", "true"), ("s", "1.0")],
    ),
    Case(
        "22-text-numbers",
        HEAD + b"007,a\n1e5,b\n4.50,a\n2026-01-02,b\n1_000,a\n",
        [("007", "a"), ("1e5", "b"), ("4.50", "a"), ("2026-01-02", "b"), ("1_000", "a")],
    ),
    Case(
        "22-number-in-jsonl",
        lines(row("one", "a"), row(7, "b")),
        name="train.jsonl",
        error=r"train\.jsonl:2, column 'text': '7' is of type int",
    ),
    Case("23-empty-text", GOOD + b",a\n", error=r"train\.csv:4: nothing to read in column 'text' \(1 of 3 rows\)"),
    Case(
        "23-empty-drop",
        GOOD + b",a\n",
        [("one", "a"), ("two", "b")],
        settings={"empty": "drop"},
        note="train: 1 of 3 rows .* dropped",
    ),
    Case(
        "23-empty-keep",
        GOOD + b",a\n",
        [("one", "a"), ("two", "b"), ("", "a")],
        settings={"empty": "keep"},
        note="train: 1 of 3 rows .* kept",
    ),
    Case("23-empty-typo", GOOD, error="data.empty='dorp'.*did you mean 'drop'", settings={"empty": "dorp"}),
    Case("23-empty-all", HEAD + b",a\n,b\n", error=r"train\.csv: no row", settings={"empty": "drop"}),
    Case("24-white-space", GOOD + b"  \t,a\n", error=r"train\.csv:4: nothing to read"),
    Case("24-zero-width", GOOD + "\u200b\u200e\u00a0\ufeff,a\n".encode(), error=r"train\.csv:4: nothing to read"),
    Case("24-control", GOOD + b"\x01\x1f\x7f,a\n", error=r"train\.csv:4: nothing to read"),
    Case("24-not-blank", HEAD + "…,a\n🫠,b\n".encode(), [("…", "a"), ("🫠", "b")]),
    Case("25-three-megabytes-of-json", lines(row(THREE_MB, "a"), row("x", "b")), THREE_ROWS, name="train.jsonl"),
    Case("25-three-megabytes", HEAD + THREE_MB.encode() + b",a\ntwo,b\n", [(THREE_MB, "a"), ("two", "b")]),
    Case(
        "26-unicode",
        HEAD + "👩‍👩‍👧 ok,a\nשלום,b\ne\u0301,a\n\u00e9,b\n".encode(),
        [("👩‍👩‍👧 ok", "a"), ("שלום", "b"), ("e\u0301", "a"), ("\u00e9", "b")],
    ),
    Case(
        "26-surrogate-pair",
        b'{"text":"\\ud83d\\ude00","label":"a"}\n' + lines(row("x", "b")),
        [("😀", "a"), ("x", "b")],
        name="train.jsonl",
    ),
    Case(
        "26-lone-surrogate",
        lines(row("x", "b")) + b'{"text":"\\ud83d","label":"a"}\n',
        name="train.jsonl",
        error=r"train\.jsonl:2, column 'text': half of a surrogate pair",
    ),
    Case("27-special-tokens", HEAD + b"[SEP] <s> [MASK],a\n</s>,b\n", [("[SEP] <s> [MASK]", "a"), ("</s>", "b")]),
    Case(
        "28-line-end-in-a-name",
        b'"te\nxt",label\none\n',
        error=r"header has 2 \(te xt, label\); no cell for column 'label'$",
    ),
    Case("28-duplicate-columns", b"text,label,text\none,a,x\n", error=r"train\.csv:1: .*'text' more than once"),
    Case(
        "29-wrong-column",
        GOOD,
        error=r"no column data\.columns\.text='txet' \(did you mean 'text'\?\)",
        settings={"columns": {"text": "txet"}},
    ),
    Case("29-unknown-label", b"text,lable\none,a\n", error="no column is known as the label; .*columns.label=lable"),
    Case("29-two-candidates", b"text,label,category\none,a,b\n", error="'label', 'category'.*data.columns.label=label"),
    Case(
        "29-chosen",
        b"title,stars,x\none,a,1\ntwo,b,2\n",
        [("one", "a"), ("two", "b")],
        settings={"columns": {"text": "title", "label": "stars"}},
    ),
    Case("29-one-for-two", GOOD, error="cannot be both", settings={"columns": {"text": "text", "label": "text"}}),
    Case(
        "30-missing-label",
        GOOD + b"three,\nfour, \n",
        error=r"train\.csv:4, column 'label'; .*train\.csv:5, column 'label': the label is missing",
    ),
    Case(
        "31-unseen",
        extra("test", HEAD + b"x,c\ny,a\nz,c\nw,d\n"),
        error=r"test: 2 labels .*'c': 2 rows, first .*test\.csv:2; 'd': 1 row, first .*test\.csv:5.*unseen=ignore",
    ),
    Case("31-all-unseen", extra("validation", HEAD + b"x,c\n", unseen="ignore"), error="validation: no row has"),
    Case(
        "32-class-only-in-train",
        extra("validation", HEAD + b"x,a\n"),
        [("one", "a"), ("two", "b")],
        note="label 'b': no validation row",
    ),
    Case("33-single-class", HEAD + b"one,a\ntwo,a\n", error="the 2 training rows have only the label 'a'"),
    Case(
        "34-one-example",
        GOOD + b"three,a\nfour,a\n",
        [("one", "a"), ("two", "b"), ("three", "a"), ("four", "a")],
        note="label 'b': one training row only",
    ),
    Case(
        "35-variants",
        HEAD + b"p,Pos\nq,pos\nr,neg\ns,pos \n",
        [("p", "Pos"), ("q", "pos"), ("r", "neg"), ("s", "pos ")],
        note=r"different classes here: 'Pos' \(1 row\), 'pos' \(1 row\), 'pos ' \(1 row\)",
    ),
    Case(
        "35-variants-nobody-sees",
        HEAD + "p,café\nq,cafe\u0301\nr,tea\ns,tea\u200b\n".encode(),
        note=r"different classes here: 'cafe\\u0301' \(1 row\), 'café' \(1 row\)$",
    ),
    Case(
        "35-missing-as-text",
        HEAD + b"p,a\nq,nan\nr,None\n",
        note="label 'nan': programs write this for a missing",
    ),
    Case(
        "36-gap-negative-huge",
        HEAD + b"p,10\nq,-1\nr,9\ns,123456789012345678901234567890\n",
        [("p", "10"), ("q", "-1"), ("r", "9"), ("s", "123456789012345678901234567890")],
    ),
    Case(
        "36-integers-in-jsonl",
        lines(row("p", 10), row("q", 9), row("r", 2**70)),
        [("p", "10"), ("q", "9"), ("r", str(2**70))],
        name="train.jsonl",
    ),
    Case(
        "36-one-based",
        lines(row("p", 1), row("q", 2), row("r", 3)),
        [("p", "1"), ("q", "2"), ("r", "3")],
        name="train.jsonl",
    ),
    Case(
        "36-zero-in-another-split",
        extra("test", HEAD + b"x,0\n"),
        error=r"test: 1 label .*'0': 1 row, first .*test\.csv:2",
    ),
    Case("37-floats-in-parquet", parquet({"text": ["p", "q"], "label": [1.0, 0.5]}), [("p", "1.0"), ("q", "0.5")]),
    Case(
        "37-nan-in-parquet",
        parquet({"text": ["p", "q"], "label": [1.0, float("nan")]}),
        error=r"parquet:2, column 'label': a decimal number \(nan\).*not finite",
    ),
    Case("37-bools-in-parquet", parquet({"text": ["p", "q"], "label": [True, False]}), [("p", "true"), ("q", "false")]),
    Case("37-floats", lines(row("p", 1.0), row("q", 0.5)), [("p", "1.0"), ("q", "0.5")], name="train.jsonl"),
    Case("37-bools", lines(row("p", True), row("q", False)), [("p", "true"), ("q", "false")], name="train.jsonl"),
    Case(
        "38-mixed",
        lines(row("p", 1), row("q", "1")),
        name="train.jsonl",
        error=r"train\.jsonl:2, column 'label': the label is text here but a whole number in .*train\.jsonl:1",
    ),
    Case("38-mixed-bool", lines(row("p", 1), row("q", True)), name="train.jsonl", error=r"jsonl:2.*true/false"),
    Case("38-mixed-in-lists", lines(row("p", ["1"]), row("q", [1])), name="train.jsonl", error=r"jsonl:2.*whole"),
    Case(
        "38-whole-and-decimal",
        HEAD + b"p,1\nq,1.0\nr,2\ns,1\n",
        [("p", "1"), ("q", "1.0"), ("r", "2"), ("s", "1")],
        note=r"different classes here: '1' \(2 rows\), '1.0' \(1 row\)",
    ),
    Case(
        "39-conflict",
        HEAD + b"same,a\nother,b\nSame ,b\n",
        [("same", "a"), ("other", "b"), ("Same ", "b")],
        note=r"1 training text with more than one label, .*train\.csv:2 and .*train\.csv:4",
    ),
    Case(
        "39-conflict-in-test",
        extra("test", HEAD + b"same,a\nnew,b\nSame ,b\nsame,b\nlast,a\n"),
        [("one", "a"), ("two", "b")],
        note=r"1 test text with more than one label, .*test\.csv:2 and .*test\.csv:4: no model can be right for more "
        r"than 4 of the 5 rows",
    ),
    Case(
        "39-conflict-in-case",  # which a model may read
        extra("test", HEAD + b"US,a\nnew,b\nus,b\n"),
        [("one", "a"), ("two", "b")],
        note=r"1 test text with more than one label, .*test\.csv:2 and .*test\.csv:4\.?$",
    ),
    Case(
        "40-leak-counted",
        extra("validation", HEAD + b"ONE,a\nnew,b\n"),
        [("one", "a"), ("two", "b")],
        note=r"1 of 2 validation rows have a text that is in train too, .*train\.csv:2 and .*validation\.csv:2: ",
    ),
    Case(
        "40-leak-into-test",
        leaking,
        note="2 of 3 test rows have a text that is in train too",
    ),
    Case(
        "41-joined-labels",
        HEAD + b'p,a\nq,b\nr,"a,b"\n',
        [("p", "a"), ("q", "b"), ("r", "a,b")],
        note="label 'a,b': made of other labels, or of their parts; .*data.label_separator=','",
    ),
    Case(
        "41-joined-labels-of-parts-that-never-stand-alone",
        HEAD + b"p,a\nq,a|b\nr,c|b\n",
        [("p", "a"), ("q", "a|b"), ("r", "c|b")],
        note=r"label 'a\|b': made of other labels, or of their parts; .*data.label_separator='\|'",
    ),
    Case(
        "41-one-column-for-each-label",
        b"text,toxic,insult,stars\np,0,1,5\nq,1,1,3\n",
        error=r"'toxic', 'insult' hold 0 and 1 only.*set 'data\.label_columns=\[toxic,insult\]'",
    ),
    Case(
        "41-label-columns",
        b"text,toxic,insult,stars\np,0,1,5\nq,1,TRUE,3\nr,0.0,false,3\n",
        [("p", ("insult",)), ("q", ("insult", "toxic")), ("r", ())],
        settings={"label_columns": ["toxic", "insult"]},
    ),
    *(
        Case(f"41-label-columns-{number}", content, error=error, settings={"label_columns": names} | more)
        for number, (content, names, more, error) in enumerate(
            (
                (b"text,a,b\np,0,2\n", ["a", "b"], {}, r"train\.csv:2, column 'b': '2' is neither 0 nor 1"),
                (b"text,a,b\np,0,\n", ["a", "b"], {}, r"train\.csv:2, column 'b': '' is neither 0 nor 1"),
                (b"text,a,b\np,0,1\n", ["a", "c"], {}, r"no column 'c' of data\.label_columns"),
                (b"text,a,b,labels\np,0,1,x\n", ["a", "b"], {}, r"a column 'labels' beside"),
                (b"text,a,b\np,0,1\n", ["a"], {}, "at least two different columns"),
                (b"text,a,b\np,0,1\n", ["a", "a"], {}, "at least two different columns"),
                (b"text,a,b\np,0,1\n", ["a", "b"], {"problem": "ordinal"}, "but data.problem=ordinal"),
                (b"text,a,b\np,0,1\n", ["a", "b"], {"label_separator": ","}, "data.label_separator=, is for labels in"),
            )
        )
    ),
    Case(
        "41-separator",
        HEAD + b'p,a\nq,\nr,"a, b"\n',
        [("p", ("a",)), ("q", ()), ("r", ("a", "b"))],
        settings={"label_separator": ","},
    ),
    Case(
        "41-separator-hole",
        HEAD + b'p,a\nr,"a,,b"\n',
        settings={"label_separator": ","},
        error=r"train\.csv:3, column 'label': an empty name",
    ),
    Case(
        "41-list-single",
        lines(row("p", "a"), row("q", ["a", "b"])),
        name="train.jsonl",
        error=r"train\.jsonl:2, column 'label': the label is a list here but text",
    ),
    Case(
        "41-lists-single",
        lines(row("p", ["a"]), row("q", ["b"])),
        name="train.jsonl",
        settings={"problem": "single_label"},
        error=r"train\.jsonl:1, column 'label': a list .* cannot be a label",
    ),
    Case(
        "41-lists-of-one",
        lines(row("p", ["a"]), row("q", ["b"])),
        [("p", ("a",)), ("q", ("b",))],
        name="train.jsonl",
        note="problem type multi_label, because the labels are lists, each of one label here",
    ),
    *(
        Case(
            f"41-numbers-{number}", lines(*rows), name="train.jsonl", error=r"jsonl:1, .*\] has a number for each label"
        )
        for number, rows in enumerate(
            (
                [row("p", [0, 1]), row("q", [1, 0])],
                [row("p", [0.0, 1.0, 0.0]), row("q", [0.0, 0.0, 1.0])],
                [row("p", [0.3, 0.7]), row("q", [0.1, 0.9])],
                [row("p", [True, True]), row("q", [True, False])],
            )
        )
    ),
    Case(
        "41-names-in-numbers",
        lines(row("p", [0, 1]), row("q", [0, 1])),
        [("p", ("0", "1"))] * 1 + [("q", ("0", "1"))],
        name="train.jsonl",
    ),
    Case(
        "41-list-cut-at-separator",
        HEAD + b"p,\"['a', 'b']\"\nq,['b']\n",
        settings={"label_separator": ","},
        note="parts of a list written as text",
    ),
    Case("41-text-multi", GOOD, settings={"problem": "multi_label"}, error=r"train\.csv:2, .*set data.label_separator"),
    Case(
        "42-broken-last-line",
        lines(row("p", "a"), row("q", "b"))[:-6],
        name="train.jsonl",
        error=r"train\.jsonl:2: not valid JSON: .* cut off",
    ),
    Case(
        "42-blank-lines",
        b"\n" + lines(row("p", "a")) + b"  \n" + lines(row("q", "b")),
        [("p", "a"), ("q", "b")],
        name="train.jsonl",
    ),
    Case(
        "42-array",
        b'[\n {"text":"p","label":"a"},\n\n {"text":"q","label":"b"}\n]\n',
        [("p", "a"), ("q", "b")],
        name="train.json",
    ),
    Case(
        "42-array-line",
        b'[\n {"text":"p","label":"a"},\n\n {"text":"q","label":""}\n]',
        name="train.json",
        error=r"train\.json:4, column 'label'",
    ),
    Case("42-array-cut", b'[\n {"text":"p","label":"a"},\n {"text":"q"', name="train.json", error=r"train\.json:3"),
    Case("42-array-unclosed", b'[\n {"text":"p","label":"a"}\n', name="train.json", error=r"train\.json:3: .*cut off"),
    Case("42-array-tail", b'[{"text":"p","label":"a"}]\n]', name="train.json", error=r"train\.json:2: text follows"),
    Case("42-lines-in-json", lines(row("p", "a"), row("q", "b")), [("p", "a"), ("q", "b")], name="train.json"),
    Case("42-array-in-jsonl", b'[{"text":"p","label":"a"}]\n', name="train.jsonl", error=r"train\.jsonl:1: .*\.json"),
    Case("42-no-object", lines(row("p", "a"), "q"), name="train.jsonl", error=r"train\.jsonl:2: .*not a JSON object"),
    Case(
        "42-object-of-rows",
        b'{"data": [{"text":"p","label":"a"}]}',
        name="train.json",
        error=r"one object, with 'data'",
    ),
    Case(
        "42-object-of-columns",
        b'{"text":{"0":"p"},"label":{"0":"a"}}\n',
        name="train.json",
        error=r"train\.json is one object, with 'text', 'label'; rows are an array of objects",
    ),
    Case(
        "42-object-over-lines",
        b'{"version": 1,\n "data": [{"text":"p","label":"a"}]}\n',
        name="train.json",
        error=r"train\.json is one object, with 'version', 'data'",
    ),
    Case(
        "42-array-over-lines",
        b'[\n{"text":"p","label":"a"}\n]',
        name="train.jsonl",
        error=r"jsonl:1: an array .*\.json$",
    ),
    Case("42-lines-in-csv", lines(row("p", "a")), error=r"train\.csv:1 is a JSON object .* the ending \.jsonl$"),
    Case(
        "42-two-in-a-line", b'{"a":1}{"a":2}\n', name="train.jsonl", error=r"jsonl:1: .*Extra data .*; a line holds one"
    ),
    Case("42-single-quotes", b"{'a': 1}\n", name="train.jsonl", error=r"jsonl:1: .*double quotes at character 2$"),
    Case(
        "42-no-known-key",
        lines({"a": 1}),
        name="train.jsonl",
        error=r"jsonl: none .*known name: set data\.columns\.text",
    ),
    Case(
        "42-no-known-key-below-a-blank-line",
        b"\n" + lines({"a": 1}),
        name="train.jsonl",
        error=r"jsonl: none .*known name: set data\.columns\.text",
    ),
    Case(
        "42-no-known-key-in-an-array",
        b'[\n{"a": 1}]',
        name="train.json",
        error=r"json: none .*known name: set data\.columns\.text",
    ),
    Case("42-no-header-below-a-blank-line", b"\ngood,x\nbad,y\n", error=r"csv:2 is a row of data, the file has no"),
    Case(
        "42-missing-key",
        lines(row("p", "a"), {"text": "q"}),
        name="train.jsonl",
        error=r"train\.jsonl:2, column 'label': the label is missing",
    ),
    Case("42-null", lines(row("p", "a"), row(None, "b")), name="train.jsonl", error=r"train\.jsonl:2: nothing to read"),
    Case("42-nested", lines(row("p", "a"), row({"a": 1}, "b")), name="train.jsonl", error=r"train\.jsonl:2.*type dict"),
    *(
        Case(
            f"42-annotator-said-{answer}",
            lines(row("p", "a") | {"answer": "accept"}, row("q", "b") | {"answer": answer}, row("r", "b")),
            name="train.jsonl",
            error=rf"jsonl:2, column 'answer': '{answer}' .* \(1 of 3 rows say .*accepted rows alone",
        )
        for answer in ("reject", "ignore", "Reject", "IGNORE")
    ),
    Case(
        "42-annotator-accepted",
        lines(row("p", "a") | {"answer": "accept"}, row("q", "b") | {"answer": "Accept"}),
        name="train.jsonl",
        rows=[("p", "a"), ("q", "b")],
    ),
    Case(
        "42-answers", b"text,label,answer\np,a,accept\nq,b,reject\nr,b,42\n", rows=[("p", "a"), ("q", "b"), ("r", "b")]
    ),
    Case(
        "42-answers-are-labels",
        b"text,answer\np,accept\nq,reject\n",
        rows=[("p", "accept"), ("q", "reject")],
        settings={"columns": {"label": "answer"}},
    ),
    Case(
        "42-infinite", b'{"text":"p","label":"a","n":1e400}\n', name="train.jsonl", error=r"jsonl:1: .*1e400 is larger"
    ),
    Case(
        "42-nan", b'{"text":"p","label":NaN}\n', name="train.jsonl", error=r"train\.jsonl:1: .*NaN is not a JSON value"
    ),
    Case(
        "42-duplicate-key",
        lines(row("p", "a")) + b'{"text":"q","text":"r","label":"a"}\n',
        name="train.jsonl",
        error=r"train\.jsonl:2: .*key 'text' appears more than once",
    ),
    Case("42-deep", b"[" * 100_000 + b"\n", name="train.jsonl", error=r"train\.jsonl:1: not valid JSON"),
    Case(
        "42-no-label-at-all",
        extra("test", b"text,label\nx,\ny,\n"),
        error=r"test\.csv:2, .*missing, as it is in all 2 rows",
    ),
    Case(
        "42-no-label-column",
        extra("test", b"text\nx\n"),
        error=r"test\.csv has no column 'label'.*; its columns: 'text'; .* leave the test split",
    ),
    Case("43-dictionary", arrow_labels("dictionary"), [("one", "b"), ("two", "a")]),
    Case(
        "43-timestamp",
        arrow_labels("timestamp"),
        error=r"train\.parquet:1, column 'label': a datetime .* cannot be a label",
    ),
    Case(
        "43-class-label-of-no-name",
        parquet({"text": ["one", "two"], "label": [0, 7]}, {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}),
        error=r"train\.parquet:2, column 'label': 7 is not one of the 2 classes",
    ),
    Case(
        "43-class-label-missing",
        parquet({"text": ["one", "two"], "label": [0, -1]}, {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}),
        error=r"train\.parquet:2, column 'label': the label is missing",
    ),
    Case("43-name-of-no-text", renamed_column, error=r"train\.parquet cannot be read as Parquet: .*utf-8"),
    Case("43-text-of-no-text", bytes_as_text, error=r"train\.parquet cannot be read as Parquet: .*UTF8"),
    Case("43-no-parquet", GOOD, name="train.parquet", error=r"train\.parquet cannot be read as Parquet"),
    Case("43-half", b"PAR1\x15\x04", name="train.parquet", error=r"train\.parquet cannot be read as Parquet"),
    Case("43-pointer", b"version https://git-lfs.github.com/", name="train.parquet", error=r"parquet is what Git LFS"),
    Case("43-class-label", class_labels_that_differ, [("one", "a"), ("two", "b")]),
    Case(
        "44-no-validation",
        dataset_dict({"train": "", "test": ""}),
        note=r"validation: 2 of 20 training rows",
        settings={"validation_share": 0.1},
    ),
    Case("44-few-rows", dataset_dict({"train": "", "test": ""}), note=r"validation: none, for .* \(10 per class\)"),
    Case("44-split-typo", dataset_dict({"trian": "", "test": ""}), error=r"no train split \(did you mean 'train'\?\)"),
    Case("44-other-split", dataset_dict({"train": "", "extra": ""}), note="splits not used: extra"),
    Case("46-zip", packed("zip"), error=r"train\.zip.*unpack"),
    Case("46-gz", packed("csv.gz"), error=r"train\.csv\.gz.*unpack"),
    Case("46-gz-renamed", renamed_gzip, error=r"train\.csv is gzip-compressed; unpack it first"),
    *(
        Case(f"46-foreign-{number}", start, error=rf"train\.csv is {kind}")
        for number, (start, kind) in enumerate(
            (
                (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "what Git LFS puts in the place"),
                (bz2.compress(GOOD), "bzip2-compressed; unpack it first"),
                (lzma.compress(GOOD), "xz-compressed; unpack it first"),
                (b"\x28\xb5\x2f\xfd\x24\x00", "zstd-compressed; unpack it first"),
                (b"<!DOCTYPE html>\n<html>\n", "a page of the web"),
                (b"<!doctype HTML>\n", "a page of the web"),
                (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "a spreadsheet or document of an old Office"),
            )
        )
    ),
    Case("46-parquet-renamed", renamed_parquet, error=r"train\.csv is a Parquet file"),
    Case("46-link", link, [("one", "a"), ("two", "b")]),
    Case("46-dangling-link", dangling, error=r"train\.csv is a link to .*gone\.csv, which does not exist"),
    Case("46-link-to-itself", loop, error=r"train\.csv cannot be opened: Too many levels of symbolic links"),
    Case("46-device", lambda folder: {"path": "/dev/null"}, error="/dev/null is neither a file nor a folder"),
    Case("46-name-too-long", lambda folder: {"path": f"{'x' * 5000}.csv"}, error="opened: File name too long"),
    Case("46-name-with-nul", lambda folder: {"path": "a\0b.csv"}, error="cannot be the name of a file"),
    Case("46-name-cut", lambda folder: {"path": "a\ud800.csv"}, error="cannot be the name of a file"),
    Case("46-empty-folder", lambda folder: {"path": str(folder)}, error="has no train split; it has: nothing"),
    Case("46-folder-as-file", lambda folder: {"train": str(folder)}, error="is a folder where a file is expected"),
    Case("46-pipe", pipe, error=r"train\.csv is neither a file nor a folder"),
    Case("46-missing", typo, error=r"trian\.csv does not exist \(did you mean 'train\.csv'\?\)"),
    Case("46-home", home, [("one", "a"), ("two", "b")]),
    Case("46-url", lambda folder: {"path": "https://example.org/train.csv"}, error="is a URL; download"),
    Case(
        "46-unknown-ending",
        GOOD,
        name="train.xlsx",
        error=r"files that end in '\.xlsx' are not read; known endings: \.csv",
    ),
    Case("46-no-ending", GOOD, name="train", error="train: files that end in nothing are not read"),
    *(
        Case(
            f"47-as-many-labels-as-rows-{label}",
            lambda folder, label=label: {"data": [row(f"text {n}", label.format(n)) for n in range(20)]},
            error=f"each has a label of its own: .*if they are measurements, {todo}",
        )
        for label, todo in {
            "{},5": "write them with a decimal point",
            "1{}": "set data.problem=regression",
            "1{}.0": "set data.problem=regression",
        }.items()
    ),
    Case("48-four-rows", GOOD + b"three,a\nfour,b\n", [("one", "a"), ("two", "b"), ("three", "a"), ("four", "b")]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_malformed_files_give_exact_rows_or_an_error_with_place(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if case.error is not None:
        with pytest.raises(UserError, match=case.error):
            case.load(tmp_path)
        return
    corpus = case.load(tmp_path)
    if case.rows is not None:
        assert rows_of(corpus) == case.rows
    if case.note is not None:
        assert any(re.search(case.note, note) for note in corpus.notes), corpus.notes
    assert case.rows is not None or case.note is not None


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 46; permissions do not stop root, so opening itself is made to fail."""
    (tmp_path / "train.csv").write_bytes(GOOD)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"train\.csv cannot be opened: Permission denied"):
        load_corpus(DataSettings(path=str(tmp_path / "train.csv")))


def test_unseen_labels_are_dropped_and_counted_on_request(tmp_path: Path) -> None:
    """Case 31."""
    (tmp_path / "train.csv").write_bytes(GOOD)
    for split in ("validation", "test"):
        (tmp_path / f"{split}.csv").write_bytes(HEAD + b"x,c\ny,a\nz,b\n")
    corpus = load_corpus(DataSettings(path=str(tmp_path), unseen="ignore"))
    assert rows_of(corpus, "test") == [("y", "a"), ("z", "b")]
    assert "test: 1 of 3 rows with a label that training lacks were dropped" in corpus.notes


@pytest.mark.parametrize("words", [20_000, pytest.param(1_000_000, marks=pytest.mark.exhaustive)])
def test_truncated_tokens_are_counted(words: int) -> None:
    """Case 25."""
    tokenizer, text = tiny_tokenizer(), "my card " * (words // 2)
    full = full_lengths(tokenizer, [text], None)
    windows = 64 * 16 - 15 * (16 + 2)  # each repeats 16 tokens of the one before, and has two special ones
    for long, kept in (("truncate", 64), ("chunk", windows)):
        spec = resolve_spec(TokenSettings(long=long, max_length=64), full, limit=64, pair=False)
        tokens = encode(tokenizer, [text], None, spec, max_length=64)
        assert full.tolist() == tokens.full.tolist() == [words + 2]
        assert tokens.cut.tolist() == [words + 2 - kept]


def test_a_class_with_one_row_stays_in_training(tmp_path: Path) -> None:
    """Case 34: it cannot be in every split."""
    (tmp_path / "all.csv").write_bytes(HEAD + b"".join(b"text %d,%s\n" % (n, b"ab"[n % 2 :][:1]) for n in range(40)))
    with (tmp_path / "all.csv").open("ab") as file:
        file.write(b"alone,c\n")
    corpus = load_corpus(DataSettings(path=str(tmp_path / "all.csv"), validation_share=0.1))
    assert [text for text, label in rows_of(corpus) if label == "c"] == ["alone"]
    assert any(note.startswith("label 'c': one training row only") for note in corpus.notes)
    assert {"label 'c': no validation row", "label 'c': no test row"} <= set(corpus.notes)


def test_fewer_rows_than_a_batch_are_trained_on(tmp_path: Path) -> None:
    """Case 48."""
    rows = [row(text, label) for text, label in (("my card", "a"), ("good film", "b"), ("the card", "a"))]
    values = {
        "data": "object",
        "encoder": "custom",
        "encoder.name": str(tiny_encoder(tmp_path)),
        "output": str(tmp_path / "runs"),
        "training.batch_size": 64,
        "training.epochs": 3,
        "evaluation.resamples": 20,
        "verify": False,
    }
    run = nlp_transfer.adapt(None, values, data={"train": rows, "validation": rows, "test": rows[:1]})
    assert {answer.label for answer in run.predict(["my card", "good film"])} <= {"a", "b"}
    assert json.loads((run.folder / "metrics.json").read_text())["steps"] == 3


def test_labels_are_numbered_numerically() -> None:
    """Case 36: order of names, whatever the order of rows."""
    corpus = load_corpus(
        DataSettings(), data={split: [row(str(n), n) for n in (10, 9, -1, 2**70)] for split in ("train", "validation")}
    )
    assert corpus.task.labels == ("-1", "9", "10", str(2**70))


def test_targets_follow_names_not_positions() -> None:
    """Case 45: a model may number its labels in another order than the data set would."""
    task = Task(problem="single_label", labels=("b", "a"), pair=False)
    assert task.encode(["a", "b", "a"], str).tolist() == [1, 0, 1]


def test_ten_thousand_classes(tmp_path: Path) -> None:
    """Case 47."""
    content = "text,label\n" + "".join(f"text {i},class {i % 10_000}\n" for i in range(30_000))
    (tmp_path / "train.csv").write_text(content, encoding="utf-8")
    corpus = load_corpus(DataSettings(path=str(tmp_path / "train.csv"), class_weights="balanced"))
    assert corpus.task.outputs == 10_000
    assert len(set(corpus.splits["train"].targets.tolist())) == 10_000
