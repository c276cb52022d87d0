"""Nearly equal texts are found as by comparing all with all; damage is undone where it is, and nowhere else."""

from __future__ import annotations

import html
import random
import zlib
from html import entities

import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data import near
from nlp_transfer.data.near import bare_words, near_pairs
from nlp_transfer.inspection import mail
from nlp_transfer.inspection.damage import UNDO, damage
from tests.inspection.defects import clean, headed, quoting, signed


def grams(text: str) -> set[str]:
    words = bare_words(text)
    return {words[start : start + 4] for start in range(max(1, len(words) - 3))}


def varied(seed: int) -> list[str]:
    """Texts, and others that were made from them by changing some words."""
    draws = random.Random(seed)
    texts = [row["text"] for row in clean(seed, {"train": 150})["train"]]
    for text in texts[:100]:
        words = text.split()
        for _ in range(draws.choice([1, 1, 2, 3])):
            words[draws.randrange(len(words))] = draws.choice(["very", "not", "a", "THE", "again", ""])
        texts.append(" ".join(words))
    draws.shuffle(texts)
    return texts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_near_pairs_equal_those_of_a_full_comparison(seed: int):
    texts = varied(seed)
    every = [grams(text) for text in texts]
    alike = {
        (first, second)
        for second in range(len(texts))
        for first in range(second)
        if len(every[first] & every[second]) >= 0.8 * len(every[first] | every[second])
    }
    found = {(pair.first, pair.second) for pair in near_pairs(texts, list(range(len(texts))))}
    assert len(alike) > 30
    assert found <= alike
    assert len(found) >= 0.95 * len(alike)


def test_each_of_many_equal_texts_is_paired_once():
    texts = [f"please send my card to the new address number {number % 3}" for number in range(300)]
    groups = [number % 2 for number in range(300)]
    pairs = near_pairs(texts, groups)
    assert {pair.second for pair in pairs} == set(range(1, 300))
    assert len(pairs) <= 2 * 300
    assert near_pairs(["", "!?", "…", ""], [0, 0, 0, 0]) == []


def test_a_copy_is_found_among_texts_of_one_template():
    """More texts are likely than one is compared with, and the one that is near comes last."""
    draws = random.Random(0)
    words = ["amber", "basil", "cedar", "daisy", "ember", "fjord", "grape", "hazel", "ivory", "jolly", "koala", "lemon"]
    template = "dear customer the parcel with your {} {} and {} leaves our house tomorrow at noon please wait there"
    texts = [template.format(*draws.sample(words, 3)) for _ in range(39)] + [template.format("mango", "north", "olive")]
    copy = texts[-1] + " soon"
    likenesses = [len(grams(copy) & grams(text)) / len(grams(copy) | grams(text)) for text in texts]
    assert max(likenesses[:-1]) < 0.8 < likenesses[-1]
    signatures, _ = near._signatures([*texts, copy], lambda *_: None)
    shares = (signatures[:-1] == signatures[-1]).mean(axis=1)
    assert (shares[:-1] >= near._SOUGHT).sum() > near._COMPARED
    pairs = near_pairs([*texts, copy], [*range(40), -1])
    assert [(pair.first, pair.second) for pair in pairs if pair.second == 40] == [(39, 40)]


def test_texts_are_likely_near_where_two_signatures_agree_in_a_band():
    """As the library that makes the signatures finds them, for what is sought."""
    texts = [*varied(3), "", "card", "card"]
    signatures, says = near._signatures(texts, lambda *_: None)
    hashed = MinHash.bulk([[gram.encode() for gram in grams(text)] for text in texts], num_perm=64, hashfunc=zlib.crc32)
    ours, theirs = near._Index(signatures), MinHashLSH(0.65, num_perm=64, weights=(0.3, 0.7))
    likely = 0
    for row, signature in enumerate(hashed):
        expected = sorted(other for other in theirs.query(signature) if hashed[other].jaccard(signature) >= 0.65)
        assert ours.candidates(row) == expected
        likely += len(expected)
        if row % 3:
            ours.add(row)
            theirs.insert(row, signature)
    assert likely > 30
    assert says.tolist() == [bool(text) for text in texts]


def test_page_breaks_separate_words():
    assert UNDO["control"]("apple tree\x0cNext\x07 page\ufeff") == "apple tree Next page"


@given(st.text(max_size=60))
def test_repaired_texts_have_no_damage_of_that_kind(text: str):
    for kind, undo in UNDO.items():
        mended = undo(text)
        assert undo(mended) == mended
        assert kind not in damage(mended)


def test_every_entity_is_undone():
    for name in entities.html5:
        if name.endswith(";"):
            assert UNDO["entity"](f"a &{name} b") == UNDO["control"](f"a {entities.html5[name]} b")
    assert UNDO["entity"]("a&nbsp;b&#160;c&#x2009;d&#10;e&shy;f") == "a\xa0b\xa0c\u2009d\ne\xadf"


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60))
def test_entities_of_a_plain_text_are_undone_to_it(text: str):
    plain = UNDO["entity"](text)
    assert UNDO["entity"](html.escape(plain, quote=True)) == plain


@pytest.mark.parametrize(
    "text",
    [
        *(
            "http://x.y/?a=1&copy=2&reg=3",
            "&notit; &#0; &#65533;",
            "AT&T & co",
            "a < b",
            'He said "no".',
            '"A quotation."',
            "C:\\new",
            "naïve café — “well”",
            "日本語のテキスト",
        ),
        *("l'été à Paris", "😀 great", "x & y;", "R&D; or not"),
    ],
)
def test_undamaged_texts_are_unchanged(text: str):
    assert [kind for kind in damage(text) if kind in UNDO] == []
    assert all(undo(text) == text for undo in UNDO.values())


@pytest.mark.parametrize(("wrap", "seen"), [(headed, mail.headed), (quoting, mail.quoting), (signed, mail.signed)])
def test_parts_of_mails_are_recognised(wrap, seen):
    parts = (mail.headed, mail.quoting, mail.signed)
    for row in clean(3, {"train": 60})["train"]:
        assert [part(wrap(row)) for part in parts] == [part is seen for part in parts]
        assert seen(wrap(row).replace("\n", "\r\n"))
        assert not any(part(row["text"]) for part in parts)
    joined = " ".join(headed(row).split())  # as where a table was written without line ends
    assert mail.headed(joined)


@pytest.mark.parametrize(
    "text",
    [
        "From: Boston To: Denver, one way",
        "Subject to change: the date: open",
        "Date: tomorrow\nLines: 4",
        "a quote -- and more\n--\n",
        "She wrote: I am fine.\nHe wrote:\nNo.",
        "if x > 3\n> 4",
    ],
)
def test_texts_that_only_resemble_mails_are_not_reported(text: str):
    assert not any(part(text) for part in (mail.headed, mail.quoting, mail.signed))


@pytest.mark.parametrize("piece", ["x\n", "@", "--\n", "In article\n", "writes: ", "> ", "from: ", "\n"])
def test_very_long_texts_are_checked_quickly(piece: str):
    for part in (mail.headed, mail.quoting, mail.signed):
        part("a\n--\n" + piece * 100_000 + "b")
