"""The distance of domains: its values between the extremes, and warnings about writing styles."""

import numpy as np
import pytest

from nlp_transfer.evaluation.divergence import DomainGap, a_distance, style_warnings


def normal(rows: int, *, at: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(at, 1, (rows, 8)).astype(np.float32)


def test_the_distance_is_zero_for_equal_and_two_for_separable_domains():
    assert a_distance(normal(300, at=0, seed=1), normal(300, at=0, seed=2), seed=0)[0] < 0.3
    assert a_distance(normal(300, at=0, seed=1), normal(300, at=9, seed=2), seed=0) == (2.0, 0.0)


def test_the_distance_is_two_minus_four_times_the_error():
    # Means 2 apart along each of 8 axes at half a deviation: errors of Φ(-√8 / 2) = 0.0786.
    found, error = a_distance(normal(3000, at=0, seed=1), normal(3000, at=1, seed=2), seed=0)
    assert error == pytest.approx(0.0786, abs=0.01)
    assert found == 2 * (1 - 2 * error)


def test_neither_the_number_of_texts_nor_which_domain_is_which_matters():
    few, many = normal(100, at=0, seed=1), normal(1900, at=1, seed=2)
    found, error = a_distance(few, many, seed=0)
    assert error == pytest.approx(0.0786, abs=0.05)  # to take all for the domain of the many would be one half
    assert a_distance(many, few, seed=0)[0] == pytest.approx(found, abs=0.1)
    assert a_distance(few[:3], many[:3], seed=0) is None


def test_one_text_gives_no_distance():
    # Held out, it leaves nothing of its domain to learn from, and would be taken for one of the other whatever it is.
    assert a_distance(normal(60, at=0, seed=1), normal(1, at=9, seed=2), seed=0) is None
    assert a_distance(normal(1, at=9, seed=2), normal(60, at=0, seed=1), seed=0) is None


@pytest.mark.parametrize("cased", [True, False])
def test_capitals_are_warned_of_where_the_encoder_sees_them(cased: bool):
    def encode(texts: list[str]) -> np.ndarray:
        return np.array(" ".join(texts if cased else map(str.lower, texts)).split())

    raw, lower = ["The Card is here.", "Where is it?"], ["the card", "where is it"]
    found = style_warnings(lower, raw, encode)
    assert len(found) == cased
    assert all("0% of the training texts have capital letters, 100% of the unlabelled" in message for message in found)
    assert style_warnings(raw, raw, encode) == []


def test_words_that_were_split_are_warned_of():
    def encode(texts: list[str]) -> np.ndarray:
        return np.frombuffer(" ".join(texts).encode(), np.uint8)

    (message,) = style_warnings(["do n't , he said ."], ["don't, he said."], encode)
    assert "spaces before punctuation" in message
    assert message.startswith("warning")


def test_the_sentence_explains_the_distance():
    (message,) = DomainGap(1.5, 0.125, 2000, 1, []).sentences
    assert "12.5% of 2,000 training texts and 1 unlabelled text " in message
    assert "1.50 (0: identical, 2: fully separable)" in message
