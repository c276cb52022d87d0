"""What is to be guessed: BERT's shares, never a special token, and the same for a seed however a step is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data.ragged import Tokens
from nlp_transfer.pretraining.masks import Masks, Vocabulary

WORDS = Vocabulary(mask=4, special=np.arange(5), ordinary=np.arange(5, 200))


def tokens_of(lengths: list[int], seed: int = 0) -> Tokens:
    """Texts of random words between [CLS] and [SEP], each with so many words."""
    random = np.random.default_rng(seed)
    rows = [np.concatenate([[2], random.integers(5, 200, size=length), [3]]) for length in lengths]
    return Tokens.whole(np.concatenate(rows).astype(np.int32), None, np.array([len(row) for row in rows], np.int64))


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 100),
)
def test_each_text_has_its_share_of_masks_without_special_tokens(lengths, share, seed, epoch):
    tokens = tokens_of(lengths)
    masks = Masks(tokens, WORDS, share=share, seed=seed)
    given_, reference = masks.of(epoch)
    assert not reference[np.isin(tokens.ids, WORDS.special)].any()
    assert (given_[~reference] == tokens.ids[~reference]).all()
    assert np.isin(given_[reference], np.concatenate([[4], WORDS.ordinary])).all()
    guessed = np.add.reduceat(reference, tokens.offsets[:-1], dtype=int)
    assert guessed.tolist() == masks.counts.tolist()
    expected = [max(1, round(share * length)) if length else 0 for length in lengths]
    assert guessed == pytest.approx(expected, abs=1e-9)


def test_eight_of_ten_are_masked_one_is_replaced_and_one_is_left():
    tokens = tokens_of([40] * 2000)
    masks = Masks(tokens, WORDS, share=0.15, seed=1)
    given_, reference = masks.of(0)
    masked = given_[reference] == WORDS.mask
    same = given_[reference] == tokens.ids[reference]
    assert reference.sum() == 2000 * 6
    assert masked.mean() == pytest.approx(0.8, abs=0.015)
    by_chance = 0.1 / len(WORDS.ordinary)
    assert same.mean() == pytest.approx(0.1 + by_chance, abs=0.012)
    others = given_[reference & (given_ != WORDS.mask) & (given_ != tokens.ids)]
    assert len(np.unique(others)) > 190  # any ordinary word
    places = np.flatnonzero(reference) - tokens.offsets[masks.owner[reference]]
    assert np.bincount(places, minlength=42)[1:41] == pytest.approx(300, abs=90)  # and at any place


def test_masks_depend_on_seed_and_epoch_only():
    tokens = tokens_of([20] * 50)
    masks = Masks(tokens, WORDS, share=0.15, seed=3)
    first, second = masks.of(0), masks.of(1)
    assert (first[1] != second[1]).any()
    for epoch, reference in ((1, second), (0, first)):  # in any order, from any start
        for found, was in zip(Masks(tokens, WORDS, share=0.15, seed=3).of(epoch), reference, strict=True):
            np.testing.assert_array_equal(found, was)
    assert (Masks(tokens, WORDS, share=0.15, seed=4).of(0)[1] != first[1]).any()
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # the global one
    masks.of(2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_windows_of_a_text_share_its_tokens():
    whole = tokens_of([8, 8, 8])
    windows = Tokens(
        whole.ids, None, whole.offsets, np.array([0, 2, 3]), full=np.array([18, 10]), cut=np.zeros(2, np.int64)
    )
    masks = Masks(windows, WORDS, share=0.25, seed=0)
    assert masks.counts.tolist() == [4, 2]
    assert masks.of(0)[1][:20].sum() == 4
