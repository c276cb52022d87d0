"""Hints in messages can be pasted into a shell and give the intended value."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from nlp_transfer.composing.words import readable
from nlp_transfer.data.hints import quoted, shell_word

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1) | st.text("a1 _-+.,;:=()[]{}'\"\\~#@!%&*?|é\t", min_size=1)


@given(TEXTS.filter(lambda text: "${" not in text))  # a reference to another key
@example('\\"')
@example("C:\\")
@example("1e5")
@example("null")
@example(" ")
def test_a_pasted_word_arrives_unchanged(value: str):
    (pasted,) = shlex.split(shell_word("data.label_separator", value))
    for word in (pasted, f"data.label_separator={quoted(value)}"):
        assert OverridesParser.create().parse_override(readable(word)).value() == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(";", "'data.delimiter=;'"), (r"\t", r"'data.delimiter=\t'"), ("a,b", "'data.delimiter=\"a,b\"'"), ("x", None)],
)
def test_words_have_no_more_quotes_than_they_need(value: str, expected: str | None):
    assert shell_word("data.delimiter", value) == (expected or f"data.delimiter={value}")
