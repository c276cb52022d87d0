"""Whether validation rows are split off: by data.validation_share or the number of training rows."""

from typing import Any

import pytest

from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings

CLASSES = ("a", "b", "c")


def rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """So many rows a class."""
    return [{"text": f"text {name} {start + n}", "label": name} for n in range(count) for name in CLASSES]


def load(data: Any, **options: Any) -> Corpus:
    return load_corpus(DataSettings(**options), data=data)


def sizes(corpus: Corpus) -> dict[str, int]:
    return {split: len(part) for split, part in corpus.splits.items()}


def test_few_training_rows_are_not_split() -> None:
    few, enough = ({"train": rows(count), "test": rows(3, start=100)} for count in (19, 20))
    assert sizes(load(few)) == {"train": 57, "test": 9}
    assert sizes(load(enough)) == {"train": 54, "validation": 6, "test": 9}
    asked = load(few, validation_share=0.1)
    assert sizes(asked) == {"train": 51, "validation": 6, "test": 9}
    output = [note for note in load(few).notes if note.startswith("validation")]
    assert output == [
        "validation: none, for there are few rows (19 per class): the last weights of a training are kept and "
        "probabilities are not calibrated; data.validation_share=0.1 splits some off"
    ]


def test_rows_are_counted_after_the_test_split() -> None:
    assert sizes(load(rows(24))) == {"train": 58, "test": 14}
    assert sizes(load(rows(25))) == {"train": 54, "validation": 6, "test": 15}
    assert load(rows(25)).fingerprint == load(rows(25), validation_share=0.1).fingerprint


def test_limits_apply_after_splitting() -> None:
    data = {"train": rows(20), "test": rows(3, start=100)}
    assert sizes(load(data, per_class=2)) == {"train": 6, "validation": 6, "test": 9}
    assert sizes(load(data, per_class=2, validation_share=0.0)) == {"train": 6, "test": 9}
    assert sizes(load(data, validation_limit=3, validation_share=0.0)) == {"train": 60, "test": 9}


def test_few_rows_are_split_if_there_are_no_test_rows() -> None:
    assert sizes(load(rows(10), test_share=0.0)) == {"train": 27, "validation": 3}
    with pytest.raises(UserError, match=r"neither test nor validation rows.*data\.test.*data\.validation_share"):
        load(rows(10), test_share=0.0, validation_share=0.0)


def test_given_validation_rows_are_kept() -> None:
    data = {"train": rows(5), "validation": rows(2, start=50), "test": rows(3, start=100)}
    assert load(data, validation_share=0.0).fingerprint == load(data).fingerprint
    assert sizes(load(data)) == {"train": 15, "validation": 6, "test": 9}


@pytest.mark.parametrize(
    ("labels", "options", "follows"),
    [
        ([n + 0.5 for n in range(30)], {}, "kept"),
        ([["x"], ["y"], ["x", "y"]] * 10, {}, "kept, probabilities are not calibrated and thresholds not chosen"),
        (["1", "2", "3"] * 10, {"problem": "ordinal"}, "kept and probabilities are not calibrated"),
    ],
)
def test_other_problem_types_are_split_unless_disabled(
    labels: list[Any], options: dict[str, Any], follows: str
) -> None:
    some = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    assert sizes(load(some, **options)) == {"train": 22, "validation": 2, "test": 6}
    whole = load(some, validation_share=0.0, **options)
    assert sizes(whole) == {"train": 24, "test": 6}
    assert f"validation: none (data.validation_share=0): the last weights of a training are {follows}" in whole.notes
