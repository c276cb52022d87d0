"""Generated files and configurations: what a correct writer wrote comes back exactly, anything else is one UserError.

``NLP_TRANSFER_FUZZ=100000 pytest tests/test_fuzz.py`` looks at so many examples in all; the suite at a few hundred.
"""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from nlp_transfer.checks import check_settings
from nlp_transfer.composing.plain import dotted
from nlp_transfer.composing.shipped import shipped_names
from nlp_transfer.composing.words import from_mapping
from nlp_transfer.config import compose, to_plain, to_yaml
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.files import read_rows, stream_rows
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.checks import check_predict
from nlp_transfer.settings import DataSettings
from nlp_transfer.strategies import STRATEGIES

EXAMPLES = int(os.environ.get("NLP_TRANSFER_FUZZ", "500"))


def share(part: float, least: int = 1) -> settings:
    """Return the profile of a property that gets this part of all examples."""
    return settings(
        max_examples=max(least, round(EXAMPLES * part)),
        derandomize="NLP_TRANSFER_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows of a table as they would be written in JSON."""
    return [
        {name: cells[row] for name, cells in table.columns.items() if cells[row] is not MISSING}
        for row in range(len(table))
    ]


def written(content: bytes, ending: str) -> Path:
    path = FOLDER / f"rows.{ending}"
    path.write_bytes(content)
    return path


_UNTIL_THE_END = tempfile.TemporaryDirectory(prefix="fuzz-")
FOLDER = Path(_UNTIL_THE_END.name)
PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
CELLS = st.text(PLAIN, max_size=12) | st.text(" \",;\t\r\n\\'|{}[]:#-=a1é\ufeff\u2028\x85\x1c", max_size=12)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "gb18030", "shift_jis"]
DELIMITED = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t", "|", "^", "é"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
    }
)


def tables(least: int = 0) -> st.SearchStrategy[list[list[str]]]:
    """A header of distinct names and rows as wide."""

    def rows(header: list[str]) -> st.SearchStrategy[list[list[str]]]:
        row = st.lists(CELLS, min_size=len(header), max_size=len(header))
        return st.lists(row, min_size=least, max_size=6).map(lambda rows: [header, *rows])

    return st.lists(CELLS, min_size=1, max_size=4, unique=True).flatmap(rows)


def returns(rows: list[list[str]]) -> bool:
    return any("\r" in cell or "\n" in cell for row in rows for cell in row)


@share(0.12)
@given(tables(), DELIMITED, st.sampled_from(ENCODINGS), st.integers(1, 4))
@example([["a"], ["\n"]], {"delimiter": ",", "quoting": csv.QUOTE_ALL, "lineterminator": "\r"}, "utf-8", 1)
def test_what_the_csv_module_wrote_comes_back(
    rows: list[list[str]], dialect: dict[str, Any], encoding: str, chunk: int
) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **dialect).writerows(rows)
    try:
        content = buffer.getvalue().encode(encoding)
        assume(content.decode(encoding) == buffer.getvalue())
    except UnicodeError:
        assume(False)
    assume(not (encoding == "utf-8" and buffer.getvalue().startswith("\ufeff")))  # a byte order mark is no text
    # Before Python 3.13 the module puts only those ends of lines into quotes that it writes itself.
    assume(dialect["quoting"] == csv.QUOTE_ALL or dialect["lineterminator"] == "\r\n" or not returns(rows))
    delimiter = dialect["delimiter"]
    path = written(content, "csv")
    try:
        table = read_rows(path, DataSettings(encoding=encoding, delimiter=delimiter))
    except UserError as error:
        event("refused")
        one_column = len(rows[0]) == 1 and any(mark in rows[0][0] for mark in ";\t|,")
        starts_like_another = "byte order mark" in str(error) or " is " in str(error)
        assert one_column or starts_like_another, error  # noqa: PT017 - most are read
        return
    assert [list(table.columns), *map(list, zip(*table.columns.values(), strict=True))] == rows
    parts = list(
        stream_rows(io.BytesIO(content), format="csv", encoding=encoding, delimiter=delimiter, chunk_rows=chunk)
    )
    assert [row for part in parts for row in rows_of(part)] == rows_of(table)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@share(0.135)
@given(
    st.lists(st.dictionaries(CELLS, VALUES, max_size=4), min_size=1, max_size=6),
    st.sampled_from(["jsonl", "json", "array"]),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_the_json_module_wrote_comes_back(
    rows: list[dict[str, Any]], kind: str, ascii_only: bool, indent: int | None, encoding: str
) -> None:
    try:
        if kind == "array":
            text = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
        else:
            text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
        content = text.encode(encoding)
    except UnicodeError:
        assume(False)  # half of a surrogate pair
    path = written(content, "jsonl" if kind == "jsonl" else "json")
    assert rows_of(read_rows(path, DataSettings(encoding=encoding))) == rows
    if kind == "jsonl":
        parts = list(stream_rows(io.BytesIO(content), format="jsonl", encoding=encoding, chunk_rows=2))
        assert [row for part in parts for row in rows_of(part)] == rows


ARROW = {
    "string": (pa.string(), st.text(PLAIN, max_size=8)),
    "large": (pa.large_string(), st.text(PLAIN, max_size=8)),
    "integer": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.uint8(), st.integers(0, 255)),
    "number": (pa.float64(), st.floats(allow_nan=False)),
    "boolean": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary(max_size=8)),
    "list": (pa.list_(pa.string()), st.lists(st.text(PLAIN, max_size=4), max_size=3)),
}


@share(0.08)
@given(st.data())
def test_what_arrow_wrote_comes_back(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(ARROW)), min_size=1, max_size=4))
    count = data.draw(st.integers(0, 6))
    columns = {
        f"{name} {position}": data.draw(st.lists(st.none() | ARROW[name][1], min_size=count, max_size=count))
        for position, name in enumerate(kinds)
    }
    arrays = [pa.array(columns[name], ARROW[name.split()[0]][0]) for name in columns]
    if data.draw(st.booleans()):
        arrays = [array.dictionary_encode() if pa.types.is_string(array.type) else array for array in arrays]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        pa.table(arrays, names=list(columns)),
        buffer,
        compression=data.draw(st.sampled_from(["none", "snappy", "gzip"])),
        row_group_size=data.draw(st.integers(1, 4)),
    )
    table = read_rows(written(buffer.getvalue(), "parquet"), DataSettings())
    assert table.columns == columns
    assert table.lines == list(range(1, count + 1))


def good(ending: str) -> bytes:
    """A file that a correct writer wrote."""
    rows = [{"text": f"text {n}, “é”\nagain", "label": "ab"[n % 2], "weight": n + 0.5} for n in range(6)]
    if ending == "parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    if ending in ("csv", "tsv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if ending == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if ending == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return json.dumps(rows, indent=1).encode()


GOOD = {ending: good(ending) for ending in ("csv", "tsv", "jsonl", "json", "parquet")}
PIECES = st.sampled_from(
    [
        *(b"", b"\0", b"\n", b"\r", b'"', b'""', b",", b"\t", b"\\", b"{", b"[", b"]", b"}", b":", b"-0", b"1e999"),
        *(b"null", b"NaN", b"\\ud800", b"PAR1", b"\x1a"),
        *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8"),
    ]
)
CHANGE = st.tuples(st.integers(0, 999), st.integers(0, 4), PIECES | st.binary(max_size=4))
CHANGES = st.lists(CHANGE, min_size=1, max_size=4)


def mutated(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replace a few bytes here and there; a place is in thousandths of the length."""
    for place, length, piece in changes:
        start = int(place / 1000 * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


def strict_csv(text: str, delimiter: str) -> list[dict[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    assert all(len(row) == len(rows[0]) for row in rows)
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


ORACLES: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "csv": lambda text: strict_csv(text, ","),
    "tsv": lambda text: strict_csv(text, "\t"),
    "jsonl": lambda text: [
        json.loads(line, object_pairs_hook=unique) for line in io.StringIO(text, newline="") if line.strip()
    ],
    "json": lambda text: json.loads(text, object_pairs_hook=unique),
}


@share(0.28)
@example("parquet", [(375, 0, b"\xff"), (375, 1, b"")])
@given(st.sampled_from(list(GOOD)), CHANGES)
def test_a_damaged_file_is_refused_or_read_as_it_stands(ending: str, changes: list[tuple[int, int, bytes]]) -> None:
    content = mutated(GOOD[ending], changes)
    path = written(content, ending)
    try:
        table = read_rows(path, DataSettings())
    except UserError as error:
        assert path.name in str(error)  # noqa: PT017 - some are read
        assert "\n" not in str(error)  # noqa: PT017
        return
    event("read")
    assert all(len(cells) == len(table) for cells in table.columns.values())
    if ending in ORACLES and not (ending == "json" and not content.lstrip().startswith(b"[")):
        expected = ORACLES[ending](content.decode("utf-8-sig"))
        assert json.dumps(rows_of(table), sort_keys=True) == json.dumps(expected, sort_keys=True)


@share(0.17)
@given(st.sampled_from(list(GOOD)), CHANGES, st.sampled_from(["auto", "multi_label", "regression", "ordinal"]))
def test_a_corpus_of_a_damaged_file_holds_its_texts_or_is_refused(
    ending: str, changes: list[Any], problem: str
) -> None:
    path = written(mutated(GOOD[ending], changes), ending)
    options = DataSettings(train=str(path), validation=str(path), problem=problem)
    try:
        corpus = load_corpus(options)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some are read
        return
    event("loaded")
    train = corpus.splits["train"]
    assert train.texts == read_rows(path, options).columns[corpus.roles["text"]]
    assert len(train.targets) == len(train.weights) == len(train.ids) == len(train.texts)
    assert math.isfinite(float(train.targets.sum()))


@share(0.17)
@given(
    st.sampled_from(["csv", "tsv", "jsonl", "text"]),
    st.sampled_from(list(GOOD)),
    CHANGES,
    st.sampled_from([*ENCODINGS, "ascii", "utf-7", "hex", "é"]),
    st.none() | st.sampled_from([",", ";", r"\t", "", '"', "ab", "\n"]),
    st.integers(1, 3),
)
def test_a_stream_gives_the_same_rows_in_any_chunks(
    format: str, ending: str, changes: list[Any], encoding: str, delimiter: str | None, chunk: int
) -> None:
    content = mutated(GOOD[ending], changes)

    def streamed(chunk_rows: int) -> list[Table] | str:
        source = io.BytesIO(content)
        try:
            return list(
                stream_rows(source, format=format, encoding=encoding, delimiter=delimiter, chunk_rows=chunk_rows)
            )
        except UserError as error:
            return str(error)

    whole, parts = streamed(10_000), streamed(chunk)
    if isinstance(whole, str) or isinstance(parts, str):
        assert whole == parts
        return
    event("streamed")
    assert all(len(part) <= chunk for part in parts)
    assert [row for part in parts for row in rows_of(part)] == [row for part in whole for row in rows_of(part)]
    assert [line for part in parts for line in part.lines] == [line for part in whole for line in part.lines]


def every_key() -> list[str]:
    plain = to_plain(compose())
    keys = set(dotted(plain)) | {key.rpartition(".")[0] for key in dotted(plain)} - {""}
    return sorted(
        keys | {f"strategy.{name}" for kind in STRATEGIES.values() for name in kind.__annotations__} | {"x.y"}
    )


KEYS = st.sampled_from(every_key())
WORDS = st.sampled_from(
    [
        *("auto", "best", "probe", "lora", "files", "linear", "csv", "error", "native", "mean", "macro_f1", "balanced"),
        *(
            "true",
            "null",
            "None",
            "1e-3",
            "-1",
            "0",
            "3",
            "0.5",
            "nan",
            "inf",
            "",
            " ",
            "[]",
            "{}",
            "~",
            "@",
            "$",
            "???",
        ),
        *("${seed}", "${", "{seed}", "_self_", "hydra", "a=b", ".", "../..", "/dev/null", "file://x"),
        *("\ud800", "\x00", "é" * 3000),
    ]
)
SCALARS = WORDS | st.text(max_size=6) | st.integers() | st.floats() | st.booleans() | st.none()
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=5
)
CHOICES = {
    group: st.sampled_from([*shipped_names(group), "nope"]) for group in ("data", "encoder", "strategy", "objective")
}


def held(call: Callable[[], Any]) -> None:
    """Compose and check; whatever is composed can be written and read again."""
    try:
        composed = call()
    except UserError as error:
        assert len(str(error)) < 5_000  # noqa: PT017 - some are composed
        return
    event("composed")
    again = FOLDER / "again.yaml"
    again.write_text(to_yaml(composed), encoding="utf-8")
    assert to_yaml(compose(str(again))) == to_yaml(composed)
    try:
        check_settings(composed)
        check_predict(composed.predict)
    except UserError:
        return
    event("usable")


@pytest.mark.slow
@share(0.01, 20)
@given(st.dictionaries(KEYS, ANY, max_size=3), st.fixed_dictionaries({}, optional=CHOICES), st.booleans())
def test_any_recipe_composes_to_settings_or_is_refused(
    values: dict[str, Any], choices: dict[str, str], flat: bool
) -> None:
    nested: dict[Any, Any] = {"defaults": ["config", *({f"override {k}": v} for k, v in choices.items()), "_self_"]}
    for key, value in values.items():
        place = nested
        *groups, last = [key] if flat else key.split(".")
        for group in groups:
            place = place.setdefault(group, {})
            assume(isinstance(place, dict))
        place[last] = value
    path = FOLDER / "recipe.yaml"
    try:
        path.write_text(yaml.safe_dump(nested, allow_unicode=True), encoding="utf-8")
    except UnicodeError:
        path.write_text(yaml.safe_dump(nested), encoding="utf-8")
    held(lambda: compose(str(path)))


@share(0.015, 20)
@given(st.text(max_size=40) | st.text("defaults:[]{}&*!|>-?%@`'\"#\n config_self,~<=", max_size=60))
def test_any_text_is_a_recipe_or_is_refused(text: str) -> None:
    path = FOLDER / "text.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    held(lambda: compose(str(path)))


@pytest.mark.slow
@share(0.01, 20)
@given(st.lists(st.tuples(KEYS, SCALARS, st.sampled_from(["", "", "+", "~", "++"])), max_size=3), st.data())
def test_any_words_compose_to_settings_or_are_refused(values: list[tuple[str, Any, str]], data: st.DataObject) -> None:
    words = [f"{sign}{key}={value}" for key, value, sign in values]
    words += data.draw(st.lists(st.text(max_size=6) | st.text("=[]{}(),:'\"\\~+ a1.", max_size=12), max_size=1))
    held(lambda: compose(None, words))


@pytest.mark.slow
@share(0.01, 20)
@example({"data": [0]})
@example({"data": [[]]})
@given(st.dictionaries(KEYS, ANY, max_size=3))
def test_any_mapping_composes_to_settings_or_is_refused(values: dict[str, Any]) -> None:
    held(lambda: compose(None, from_mapping(values)))
