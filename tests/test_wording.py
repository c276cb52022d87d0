"""How counts, lists and long words are written."""

import pytest

from nlp_transfer.wording import counted, listed, shortened


@pytest.mark.parametrize(("count", "written"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")])
def test_one_is_singular(count: int, written: str):
    assert counted(count, "row") == written


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, ""), (1, "'0'"), (2, "'0'; '1'"), (3, "'0'; '1' and 1 more"), (1003, "'0'; '1' and 1,001 more")],
)
def test_unlisted_items_are_counted(count: int, written: str):
    message: list[int] = []

    def say(value: int) -> str:
        message.append(value)
        return repr(str(value))

    assert listed(range(count), say, most=2, between="; ") == written
    assert len(message) == min(count, 2)


@pytest.mark.parametrize(("words", "written"), [("", ""), ("tickets", "tickets"), ("tickets2", "ticket…")])
def test_long_words_are_shortened_with_a_mark(words: str, written: str):
    assert shortened(words, 7) == written
