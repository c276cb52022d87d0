"""Token ids: the tokenizer's own encoding, cut or windowed only where it must be, special tokens in texts as text."""

import numpy as np
import pytest

from nlp_transfer.data.tokens import check_tokens, encode, full_lengths, resolve_spec
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TokenSettings
from tests.encoder.families import TEXTS, tiny_tokenizer

LONG = "my card has not arrived yet please refund the order " * 8


def spec_for(tokenizer, texts, pairs=None, *, limit=64, **knobs):
    return resolve_spec(
        TokenSettings(**knobs), full_lengths(tokenizer, texts, pairs), limit=limit, pair=pairs is not None
    )


@pytest.mark.parametrize("style", ["wordpiece", "roberta", "llama"])
@pytest.mark.parametrize("paired", [False, True])
def test_short_rows_are_the_tokenizers_own(style: str, paired: bool):
    tokenizer = tiny_tokenizer(style)
    pairs = TEXTS[::-1] if paired else None
    spec = spec_for(tokenizer, TEXTS, pairs)
    tokens = encode(tokenizer, TEXTS, pairs, spec, max_length=spec.max_length)
    for row, text in enumerate(TEXTS):
        wanted = tokenizer(text, pairs[row] if pairs else None)["input_ids"]
        assert tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() == wanted
    assert not tokens.cut.any()


def test_cut_rows_keep_head_or_tail_and_count_what_is_lost():
    tokenizer = tiny_tokenizer("wordpiece")
    whole = tokenizer(LONG)["input_ids"]
    for side in ("right", "left"):
        spec = spec_for(tokenizer, [LONG], max_length=16, truncation_side=side)
        tokens = encode(tokenizer, [LONG], None, spec, max_length=16)
        assert len(tokens.ids) == 16
        assert tokens.cut.tolist() == [len(whole) - 16]
        kept = whole[1:15] if side == "right" else whole[-15:-1]
        assert tokens.ids[1:-1].tolist() == kept


def test_windows_overlap_and_cover_the_text():
    tokenizer = tiny_tokenizer("wordpiece")
    spec = spec_for(tokenizer, [LONG, "refund"], long="chunk", max_length=16, overlap=0.25, max_windows=None)
    tokens = encode(tokenizer, [LONG, "refund"], None, spec, max_length=16)
    body = tokenizer(LONG, add_special_tokens=False)["input_ids"]
    rebuilt: list[int] = []
    for window in range(tokens.first[0], tokens.first[1]):
        inner = tokens.ids[tokens.offsets[window] : tokens.offsets[window + 1]].tolist()[1:-1]
        rebuilt += inner if window == 0 else inner[4:]
    assert rebuilt == body
    assert tokens.windows.tolist()[1] == 1
    assert not tokens.cut.any()


def test_a_bound_on_windows_is_counted_as_cut():
    tokenizer = tiny_tokenizer("wordpiece")
    spec = spec_for(tokenizer, [LONG], long="chunk", max_length=16, max_windows=2)
    tokens = encode(tokenizer, [LONG], None, spec, max_length=16)
    assert tokens.windows.tolist() == [2]
    # 16 + 16 tokens less two special ones and an overlap of 4 are read of the whole text
    assert tokens.cut[0] == len(tokenizer(LONG)["input_ids"]) - (16 + 16 - 2 - 4)
    assert tokens.full[0] == len(tokenizer(LONG)["input_ids"])


def test_a_pair_whose_other_text_alone_is_too_long_is_refused():
    tokenizer = tiny_tokenizer("wordpiece")
    spec = spec_for(tokenizer, ["refund"], [LONG], max_length=16, pair_truncation="only_first")
    with pytest.raises(UserError, match="longest_first"):
        encode(tokenizer, ["refund"], [LONG], spec, max_length=16)


@pytest.mark.parametrize("style", ["decoder", "llama", "wordpiece"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("long", ["truncate", "chunk"])
def test_an_empty_text_has_a_token(style: str, paired: bool, long: str):
    """GPT-2 and its kin add no special tokens; the rows in between stay what they are."""
    tokenizer = tiny_tokenizer(style)
    texts = ["", "refund", "", LONG, ""]
    pairs = ["", "card", "", "refund", ""] if paired else None
    knobs = {"long": long, "max_length": 16, "pair_truncation": "only_first"}
    spec = spec_for(tokenizer, texts, pairs, **knobs)
    tokens = encode(tokenizer, texts, pairs, spec, max_length=16)
    assert full_lengths(tokenizer, texts, pairs).tolist() == tokens.full.tolist()
    assert tokens.longest.min() > 0
    wanted = tokenizer([""], [""] if paired else None)["input_ids"][0] or [tokenizer.eos_token_id]
    for example in (0, 2, 4):
        start, stop = tokens.offsets[tokens.first[example]], tokens.offsets[tokens.first[example] + 1]
        assert tokens.ids[start:stop].tolist() == wanted
    assert tokens.windows[[0, 2, 4]].tolist() == [1, 1, 1]
    assert tokens.cut[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    if tokens.types is not None:
        assert len(tokens.types) == len(tokens.ids)


def test_special_tokens_in_a_text_are_text():
    tokenizer = tiny_tokenizer("wordpiece")
    spec = spec_for(tokenizer, ["a"], limit=64, max_length=64)
    tokens = encode(tokenizer, ["refund [SEP] [MASK] the order"], None, spec, max_length=64)
    assert tokens.ids.tolist().count(tokenizer.sep_token_id) == 1
    assert tokenizer.mask_token_id not in tokens.ids


def test_auto_length_follows_the_percentile_and_the_encoder():
    lengths = np.array([10] * 99 + [200])
    assert resolve_spec(TokenSettings(percentile=99.0), lengths, limit=64, pair=False).max_length == 16
    assert resolve_spec(TokenSettings(percentile=100.0), lengths, limit=64, pair=False).max_length == 64
    assert resolve_spec(TokenSettings(percentile=99.0), lengths, limit=64, pair=False).limit == 64


@pytest.mark.parametrize(
    ("knobs", "pair", "words"),
    [
        ({"max_length": 65}, False, "at most|most the"),
        ({"long": "chunk"}, True, "pair_truncation"),
    ],
)
def test_what_does_not_fit_encoder_or_task_is_refused(knobs, pair, words):
    with pytest.raises(UserError, match=words):
        resolve_spec(TokenSettings(**knobs), np.array([10]), limit=64, pair=pair)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"max_length": "long"}, "auto or a whole number"),
        ({"max_length": True}, "auto or a whole number"),
        ({"long": "chunks"}, "did you mean 'chunk'"),
        ({"percentile": 0}, "percentile"),
        ({"overlap": 1.0}, "overlap"),
        ({"max_windows": 0}, "max_windows"),
    ],
)
def test_impossible_settings_are_refused(knobs, words):
    with pytest.raises(UserError, match=words):
        check_tokens(TokenSettings(**knobs))
