"""What holds for any rows: exact reading, splits that depend on texts alone, no error but ours."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.files import read_rows, stream_rows
from nlp_transfer.data.rows import Rows, rows_of
from nlp_transfer.data.splits import apportion, carve, limit
from nlp_transfer.data.table import Table, from_records
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings

quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
# Few distinct texts, so that repeats, conflicts and classes with one example are common.
labelled = st.lists(st.tuples(st.sampled_from(["x", "X ", "y", "z", "u", "v", "w", "ß", "SS"]), st.sampled_from("abc")))


def concatenated(tables: list[Table]) -> dict[str, list[Any]]:
    return {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns}


@quick
@given(st.lists(st.tuples(texts, texts), min_size=1), st.sampled_from(["csv", "tsv"]), st.integers(1, 5))
def test_delimited_text_comes_back_exactly(rows: list[tuple[str, str]], kind: str, chunk: int) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="," if kind == "csv" else "\t").writerows([("text", "other"), *rows])
    tables = list(stream_rows(io.BytesIO(buffer.getvalue().encode()), format=kind, chunk_rows=chunk))
    assert all(len(table) <= chunk for table in tables)
    assert list(zip(*concatenated(tables).values(), strict=True)) == rows


@quick
@given(st.lists(texts, min_size=1), st.booleans(), st.integers(1, 5))
def test_json_lines_come_back_exactly(rows: list[str], ascii_only: bool, chunk: int) -> None:
    content = "".join(json.dumps({"text": text}, ensure_ascii=ascii_only) + "\n" for text in rows)
    tables = list(stream_rows(io.BytesIO(content.encode()), format="jsonl", chunk_rows=chunk))
    assert concatenated(tables) == {"text": rows}
    assert [line for table in tables for line in table.lines] == list(range(1, len(rows) + 1))


@quick
@given(st.lists(texts.filter(lambda text: not set(text) & set("\r\n")), min_size=1))
def test_lines_of_text_come_back_exactly(rows: list[str]) -> None:
    tables = list(
        stream_rows(io.BytesIO("".join(f"{text}\r\n" for text in rows).encode()), format="text", chunk_rows=2)
    )
    byte_order_mark = rows[0].startswith("\ufeff")
    assert concatenated(tables)["text"] == [rows[0][byte_order_mark:], *rows[1:]]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
@quick
@given(st.binary(max_size=60) | st.text('{}[]":,\r\n\t;abc01', max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_user_error(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"any.{ending}"
    path.write_bytes(content)
    try:
        table = read_rows(path, DataSettings())
    except UserError as error:
        assert path.name in str(error)  # noqa: PT017 - most bytes are refused, some are rows
    else:
        assert all(len(cells) == len(table) for cells in table.columns.values())


@quick
@given(st.lists(st.none() | st.integers() | st.floats() | st.text() | st.booleans() | st.lists(st.text()), max_size=6))
def test_no_label_cell_raises_anything_but_a_user_error(labels: list[Any]) -> None:
    records = [{"text": f"text {row}", "label": label} for row, label in enumerate(labels)]
    try:
        corpus = load_corpus(DataSettings(), data={"train": records, "validation": records})
    except UserError:
        return
    assert len(corpus.splits["train"].targets) == len(labels)


def as_rows(pairs: list[tuple[str, str]]) -> Rows:
    records = [{"text": text, "label": label} for text, label in pairs]
    table = from_records(records, range(1, len(pairs) + 1), "test")
    roles = {"text": "text", "label": "label"}
    return rows_of(table, roles, DataSettings(), split="train", problem="single_label", notes=[])


def chosen(rows: Rows, indices: list[int]) -> Counter[tuple[str, Any]]:
    return Counter((rows.texts[row], rows.labels[row]) for row in indices)


@quick
@given(labelled.filter(len).flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
def test_carving_depends_on_the_texts_alone(orders: tuple[list[tuple[str, str]], list[tuple[str, str]]]) -> None:
    first, second = map(as_rows, orders)
    try:
        stay, go = carve(first, 0.3, split="validation", problem="single_label")
    except UserError:
        with pytest.raises(UserError):
            carve(second, 0.3, split="validation", problem="single_label")
        return
    assert sorted(stay + go) == list(range(len(first)))
    assert chosen(first, go) == chosen(second, carve(second, 0.3, split="validation", problem="single_label")[1])
    assert not {first.keys[row] for row in stay} & {first.keys[row] for row in go}
    assert 0 < len(go) <= max(1, round(0.3 * len(first)))
    counts = Counter(first.labels)
    alone = {
        label
        for label in counts
        if len({key for key, name in zip(first.keys, first.labels, strict=True) if name == label}) == 1
    }
    conflicting = len(set(zip(first.keys, first.labels, strict=True))) > len(set(first.keys))
    if not conflicting:
        assert alone <= {first.labels[row] for row in stay}


@quick
@given(
    labelled.filter(lambda pairs: len(pairs) > 3).flatmap(lambda p: st.tuples(st.just(p), st.permutations(p))),
    st.integers(0, 9),
)
def test_limits_depend_on_texts_and_seed_alone(orders: tuple[list[Any], list[Any]], seed: int) -> None:
    first, second = map(as_rows, orders)
    for options in ({"total": 3, "per_class": None}, {"total": None, "per_class": 2}):
        kept = limit(first, seed=seed, problem="single_label", **options)
        assert chosen(first, kept) == chosen(second, limit(second, seed=seed, problem="single_label", **options))
        assert kept == sorted(set(kept))
        assert {first.labels[row] for row in kept} == set(first.labels)
    assert max(Counter(first.labels[row] for row in kept).values()) <= 2


@quick
@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1), st.data())
def test_apportioning_is_exact_and_proportional(sizes: dict[str, int], data: st.DataObject) -> None:
    least = data.draw(st.integers(0, 1))
    total = data.draw(st.integers(least * len(sizes), sum(sizes.values())))
    parts = apportion(sizes, total, least=least)
    assert sum(parts.values()) == total
    assert all(least <= parts[name] <= size for name, size in sizes.items())
    if not least:
        assert all(abs(parts[name] - total * size / sum(sizes.values())) < 1 for name, size in sizes.items())


@quick
@given(
    st.lists(st.integers(-5, 5) | st.sampled_from([10**30, -(10**30)]), min_size=1).flatmap(
        lambda n: st.tuples(st.just(n), st.permutations(n))
    )
)
def test_the_label_set_depends_on_the_labels_alone(orders: tuple[list[int], list[int]]) -> None:
    tasks = []
    for numbers in orders:
        records = [{"text": f"text {row}", "label": number} for row, number in enumerate([0, 1, *numbers])]
        tasks.append(load_corpus(DataSettings(), data={"train": records, "validation": records}).task)
    assert tasks[0] == tasks[1]
    assert [int(name) for name in tasks[0].labels] == sorted({0, 1, *orders[0]})
