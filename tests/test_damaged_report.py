"""A finished run whose figures are damaged is refused by file, whatever the damage; nothing of it is taken away."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nlp_transfer import config
from nlp_transfer.cli import main
from nlp_transfer.settings import Settings
from tests.place import adapt_words, furnish, run_of

MUTANTS = 60
VALUES = (None, True, -1, 0.5, 10**400, float("inf"), float("nan"), "text", "\ud800", [], [[]], {}, {"a": {}})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("damaged"))
    assert main(adapt_words(folder)) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def _composed_once() -> Iterator[None]:
    """The same words make the same settings: it is the reading back that is done again and again."""
    compose, made = config.compose, {}

    def remembered(recipe: str | None = None, overrides: Sequence[str] = ()) -> Settings:
        words = (recipe, *overrides)
        if words not in made:
            made[words] = compose(recipe, overrides)
        return copy.deepcopy(made[words])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "compose", remembered)
        yield


@pytest.fixture
def figures(place: Path):
    """The file, which is whole again afterwards."""
    path = Path(run_of(place)) / "metrics.json"
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


def read_back(place: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of the same command once more, and what it said of an error."""
    capfd.readouterr()
    status = main(adapt_words(place))
    out, err = capfd.readouterr()
    if status:
        assert out == ""
    return status, err


def report_with(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plain: plain | {"report": plain["report"] | values}


def report_without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda plain: plain | {"report": {key: value for key, value in plain["report"].items() if key != name}}


def first_row(**values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(plain: dict[str, Any]) -> dict[str, Any]:
        plain["report"]["rows"][0] |= values
        return plain

    return change


@pytest.mark.parametrize("content", ["", " ", "{", '{"report": ', "figures", "[]", "3", "null", "{}", "[" * 100_000])
@pytest.mark.parametrize("binary", [b"", b"\xff\xfe"])
def test_reports_that_are_no_objects_are_named(place: Path, figures: Path, capfd, content: str, binary: bytes):
    figures.write_bytes(binary + content.encode())
    status, message = read_back(place, capfd)
    assert status == 2
    assert message.startswith(f"nlp-transfer: {figures} ")
    assert message.count("\n") == 1
    assert "overwrite=true" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: {key: value for key, value in plain.items() if key != "report"}, "'report'"),
        *((lambda plain, value=value: plain | {"report": value}, "report=") for value in ([], "text", None, 3)),
        *((report_without(key), f"lacks {key}") for key in ("split", "examples", "metric", "confidence", "rows")),
        *((report_without(key), f"lacks {key}") for key in ("labels", "notes", "comparison")),
        (report_with(examples="many"), "report.examples=many is of another type"),
        (report_with(examples=True), "report.examples=True is of another type"),
        (report_with(confidence=95), "confidence"),
        (report_with(confidence=None), "confidence"),
        (report_with(confidence=10**400), "confidence|too large"),
        (report_with(metric="recall"), "recall"),
        (report_with(split="\ud800"), "surrogates"),
        (report_with(rows=[]), "no rows"),
        (report_with(rows={}), "report.rows="),
        (report_with(notes=[3]), "report.notes.0=3"),
        (report_with(labels=[{"name": "card"}]), "report.labels.0 lacks f1"),
        *(
            (
                report_with(
                    labels=[dict.fromkeys(("precision", "recall", "f1"), 1) | {"name": "card", "support": value}]
                ),
                "support",
            )
            for value in (None, float("inf"))
        ),
        (report_with(comparison={}), "report.comparison lacks"),
        (first_row(name="majority"), "not those of a model"),
        (first_row(intervals={}), "not those of a model"),
        (first_row(intervals={"accuracy": {"value": "1", "low": 0, "high": 1}}), "accuracy.value=1 is of another type"),
    ],
)
def test_invalid_figures_are_named(place: Path, figures: Path, capfd, change: Callable[..., Any], words: str):
    figures.write_text(json.dumps(change(json.loads(figures.read_text()))))
    status, message = read_back(place, capfd)
    assert status == 2
    assert message.count("\n") == 1
    before, _, reason = message.partition(" holds no report that can be read ")
    assert before.endswith(str(figures))
    assert any(word in reason for word in words.split("|")), message


def test_damage_takes_no_checkpoint_away(place: Path, figures: Path, capfd):
    kept = figures.parent / "checkpoints" / "step-000001"
    kept.mkdir(parents=True)
    figures.write_text(json.dumps(report_without("rows")(json.loads(figures.read_text()))))
    assert read_back(place, capfd)[0] == 2
    assert kept.is_dir()


def test_no_mutation_causes_an_internal_error(place: Path, figures: Path, capfd):
    whole, generator, refused = figures.read_bytes(), random.Random(0), 0
    for number in range(MUTANTS):
        figures.write_bytes(mutated(whole, generator))
        status, message = read_back(place, capfd)
        assert status in (0, 2), (number, message, figures.read_text(errors="replace"))
        if status:
            refused += 1
            assert message.count("\n") == 1
            assert str(figures.parent) in message
    assert MUTANTS / 2 < refused < MUTANTS  # some numbers and names may be others


def mutated(whole: bytes, generator: random.Random) -> bytes:
    """A file cut off, with another byte, or with another value or none in one place."""
    place = generator.randrange(len(whole))
    kind = generator.random()
    if kind < 0.1:
        return whole[:place]
    if kind < 0.3:
        return whole[:place] + bytes([generator.randrange(256)]) + whole[place + 1 :]
    plain = json.loads(whole)
    node, key = generator.choice(list(places(plain)))
    if generator.random() < 0.3:
        del node[key]
    else:
        node[key] = generator.choice(VALUES)
    return json.dumps(plain).encode()


def places(node: Any):
    """Every place of a value in nested objects and arrays."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)
