"""Plain values become typed settings, or one sentence names the key, the value and what it must be."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from nlp_transfer.composing.plain import checked
from nlp_transfer.errors import UserError


@dataclass(frozen=True)
class Inner:
    text: str | None = None


@dataclass(frozen=True)
class Outer:
    whole: int = 0
    number: float = 0.0
    switch: bool = False
    text: str = ""
    numbers: list[float] = field(default_factory=list)
    texts: list[str] | None = None
    fields: dict[str, Any] | None = None
    anything: Any = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("whole", "12", 12),
        ("number", 3, 3.0),
        ("number", "5e-5", 5e-5),
        ("switch", "yes", True),
        ("switch", 0, False),
        ("text", 1.5, "1.5"),
        ("numbers", [1, "2"], [1.0, 2.0]),
        ("texts", None, None),
        ("texts", ["a", 1], ["a", "1"]),
        ("fields", {"a": [1]}, {"a": [1]}),
        ("anything", [None], [None]),
        ("inner", {"text": "x"}, Inner("x")),
    ],
)
def test_convertible_values_are_accepted(key: str, value: Any, expected: Any):
    found = getattr(checked(Outer, {key: value}, ""), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"whole": 2.5}, r"at\.whole=2\.5 must be a whole number$"),
        ({"whole": True}, r"at\.whole=true must be a whole number$"),
        ({"number": "many"}, r"at\.number=many must be a number$"),
        ({"number": None}, r"at\.number=null must be a number$"),
        ({"switch": "maybe"}, r"at\.switch=maybe must be true or false$"),
        ({"text": ["a"]}, r'at\.text=\["a"\] must be a text$'),
        ({"texts": "a"}, r"at\.texts=a must be a list of texts, such as \[a,b\], or null$"),
        ({"numbers": ["a"]}, r'at\.numbers=\["a"\] must be a list of numbers'),
        ({"fields": 3}, r"at\.fields=3 must be keys and values, such as \{a: 1\}, or null$"),
        ({"inner": None}, r"at\.inner=null is not possible: at\.inner is a group of keys, at\.inner\.text$"),
        ({"inner": {"txt": 1}}, r"at\.inner\.txt is not a known key \(did you mean 'text'\?\); known here: text$"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        checked(Outer, values, "at.")
