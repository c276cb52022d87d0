"""Token ids: the tokenizer's own encoding, cut or windowed only where it must be, special tokens in texts as text."""

import numpy as np
import pytest
from transformers import BertweetTokenizer, PreTrainedTokenizerFast

from nlp_transfer.data.tokens import encode, encode_whole, full_lengths, resolve_spec, shorten
from nlp_transfer.data.truncation import check_tokens
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
        expected = tokenizer(text, pairs[row] if pairs else None)["input_ids"]
        assert tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() == expected
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
    expected = tokenizer([""], [""] if paired else None)["input_ids"][0] or [tokenizer.eos_token_id]
    for example in (0, 2, 4):
        start, stop = tokens.offsets[tokens.first[example]], tokens.offsets[tokens.first[example] + 1]
        assert tokens.ids[start:stop].tolist() == expected
    assert tokens.windows[[0, 2, 4]].tolist() == [1, 1, 1]
    assert tokens.cut[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    if tokens.types is not None:
        assert len(tokens.types) == len(tokens.ids)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_pair_whose_other_text_leaves_no_room_for_windows_is_refused(overlap: float):
    """The library would end the process instead of raising an exception."""
    tokenizer = tiny_tokenizer("wordpiece")
    knobs = {"long": "chunk", "max_length": 16, "overlap": overlap, "pair_truncation": "only_first"}
    room = int(16 * overlap) + 1  # for one token more than is read twice
    other = " ".join(["card"] * (16 - 3 - room))
    spec = spec_for(tokenizer, [LONG], [other], **knobs)
    assert encode(tokenizer, [LONG], [other], spec, max_length=16).windows.tolist() > [1]
    with pytest.raises(UserError, match=f"leaves {room - 1}, and {room - 1} of them are read twice"):
        encode(tokenizer, [LONG], [f"{other} card"], spec, max_length=16)


@pytest.mark.parametrize("long", ["truncate", "chunk"])
@pytest.mark.parametrize("style", ["wordpiece", "roberta", "decoder"])
@pytest.mark.parametrize("paired", [False, True])
def test_only_rows_that_are_too_long_are_encoded_again(style: str, paired: bool, long: str):
    tokenizer = tiny_tokenizer(style)
    texts = ["refund", LONG, "", "card", LONG + "card", "order"]
    pairs = ["card", "", "refund", "yet", "card", ""] if paired else None
    spec = spec_for(tokenizer, texts, pairs, long=long, max_length=16, pair_truncation="only_first")
    whole = encode_whole(tokenizer, texts, pairs)
    short = shorten(whole, tokenizer, texts, pairs, spec, max_length=16)
    for row, text in enumerate(texts):
        alone = encode(tokenizer, [text], pairs and [pairs[row]], spec, max_length=16)
        own = slice(short.offsets[short.first[row]], short.offsets[short.first[row + 1]])
        assert short.ids[own].tolist() == alone.ids.tolist()
        assert short.types is None or short.types[own].tolist() == alone.types.tolist()
        lengths = short.sequence_lengths[short.first[row] : short.first[row + 1]]
        assert lengths.tolist() == alone.sequence_lengths.tolist()
        assert (short.full[row], short.cut[row]) == (alone.full[0], alone.cut[0])
    assert short.longest.max() == 16
    assert shorten(whole, tokenizer, texts, pairs, spec, max_length=1000) is whole


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer that does more than hand its texts over."""

    def __call__(self, text, *args, **options):
        return super().__call__([f"{one} refund" for one in text], *args, **options)


def test_a_tokenizer_that_does_more_than_its_backend_is_called():
    plain = tiny_tokenizer("wordpiece")
    own = Shouting(tokenizer_object=plain.backend_tokenizer, **plain.special_tokens_map)
    assert encode_whole(own, ["card"], None).ids.tolist() == plain(["card refund"])["input_ids"][0]


def test_a_slow_tokenizer_is_called(tmp_path):
    """BERTweet's has no fast twin."""
    (tmp_path / "vocab.txt").write_text("card 1\nrefund 1\n")
    (tmp_path / "merges.txt").write_text("c a 1\n")
    tokenizer = BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "merges.txt"))
    assert not tokenizer.is_fast
    texts, pairs = ["card", "", "refund order"], ["refund", "card", ""]
    tokens = encode_whole(tokenizer, texts, pairs)
    assert tokens.ids.tolist() == [token for row in tokenizer(texts, pairs)["input_ids"] for token in row]


def test_earlier_tokenizer_settings_do_not_change_texts():
    tokenizer = tiny_tokenizer("wordpiece")
    expected = tokenizer("card")["input_ids"] + tokenizer("the order")["input_ids"]
    tokenizer(["card", "the order"], padding="max_length", truncation=True, max_length=3)
    assert tokenizer.backend_tokenizer.padding
    assert tokenizer.backend_tokenizer.truncation
    assert encode_whole(tokenizer, ["card", "the order"], None).ids.tolist() == expected


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
def test_settings_that_do_not_fit_encoder_or_task_are_refused(knobs, pair, words):
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
