"""What the tokenizer cuts and spells, by hand and by the plain definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from nlp_transfer.config import compose
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.encoder.source import locate
from nlp_transfer.inspection import encoded
from nlp_transfer.running.prepared import Prepared

UNSPACED = ("\u0e00\u0fff", "\u1000\u109f", "\u1780\u17ff", "\u3040\u9fff", "\uac00\ud7af")
borders = [chr(ord(end) + step) for pair in UNSPACED for end in pair for step in (-1, 0, 1)]


@given(st.text(st.sampled_from([*borders, *"ab 1é"]) | st.characters(), max_size=20))
def test_unknown_characters_are_counted_in_any_script(text: str):
    may_be_words = any(low <= character <= high for character in text for low, high in UNSPACED)
    assert encoded._letters(text) == (0 if may_be_words else sum(character.isalpha() for character in text))


def test_the_length_at_which_each_split_is_cut_is_reported():
    """Training rows are cut at one length, measured ones at what the encoder can take."""
    rows, most = 4, {"train": 16, "test": 32}
    ones = np.ones(rows, np.float32)
    columns, splits = {}, {}
    for split, length in most.items():
        full, lengths = np.full(rows, 40), np.full(rows, length)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        tokens = Tokens(np.full(ends[-1], 9, np.int32), None, ends, np.arange(rows + 1), full, full - lengths)
        columns[split] = Columns(tokens, np.zeros(rows, np.int64), ones)
        splits[split] = Examples(["word " * 38] * rows, None, np.zeros(rows, np.int64), ones, [""] * rows, None)
    prepared: Any = SimpleNamespace(
        columns=columns,
        corpus=SimpleNamespace(splits=splits),
        spec=SimpleNamespace(max_length=most["train"], limit=most["test"]),
        classifier=SimpleNamespace(tokenizer=SimpleNamespace(unk_token_id=1)),
    )
    output = [found.message for found in encoded.tokens(cast(Prepared, prepared)) if found.kind == "truncated"]
    assert ["longer than 16 tokens" in output[0], "longer than 32 tokens" in output[1]] == [True, True]


@pytest.mark.parametrize(
    ("text", "unknown", "spelled"),
    [
        ("no rush, but where are my lights 😊", False, False),
        ("Missing parcel, LF-33871, £118.", False, False),
        ("Any news on LF-48213?", False, False),
        ("لم تصل بطاقتي بعد ولا أعرف ماذا أفعل الآن", False, True),
        ("where is my parcel ᏣᎳᎩ", True, False),
        ("ᏣᎳᎩ 😊 ᎦᏬᏂᎯᏍᏗ", True, False),
    ],
)
def test_emoji_and_order_numbers_are_no_other_language(text: str, unknown: bool, spelled: bool):
    tokenizer = AutoTokenizer.from_pretrained(locate(compose(None, []).encoder).folder)
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    ones = np.ones(1, np.float32)
    examples = Examples([text], None, np.zeros(1, np.int64), ones, [""], None)
    tokens = Tokens.whole(ids, None, np.array([len(ids)]))
    assert len(encoded._with_unknown_words(examples, tokens, tokenizer.unk_token_id)) == unknown
    assert len(encoded._spelled(examples, tokens)) == spelled
