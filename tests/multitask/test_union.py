"""The corpora of several tasks put together: every text once, and each row's place is that of its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.data.corpus import divide_corpus, encode_corpus, read_corpus
from nlp_transfer.multitask.task_set import Member
from nlp_transfer.multitask.union import union_of
from nlp_transfer.settings import DataSettings, Settings
from tests.data.many import few_tries, many, texts, write

task_rows = st.lists(st.tuples(texts, texts, st.sampled_from(["a", "b"])), min_size=2, max_size=8)


@settings(few_tries, max_examples=10)
@given(st.lists(task_rows, min_size=2, max_size=3), st.booleans())
def test_memory_mapped_tasks_are_joined_like_small_ones(
    tmp_path: Path, tasks: list[list[tuple[str, str, str]]], pairs: bool
) -> None:
    def together() -> list[Any]:
        members = []
        for number in range(len(tasks)):
            given = DataSettings(path=str(tmp_path / str(number)), empty="keep", unseen="ignore")
            corpus = encode_corpus(divide_corpus(read_corpus(given), given, seed=0), given)
            members.append(Member(str(number), Settings(), corpus, "accuracy"))
        union = union_of(members)
        own = union.corpus
        splits = [
            [name, list(of.texts), of.pairs and list(of.pairs), list(of.ids), of.targets.tolist(), of.weights.tolist()]
            for name, of in own.splits.items()
        ]
        for member, places in zip(members, union.places, strict=True):
            for name, of in member.corpus.splits.items():
                whole = own.splits[name]
                assert [whole.texts[place] for place in places[name]] == list(of.texts)
                assert not pairs or [whole.pairs[place] for place in places[name]] == list(of.pairs)
        for of in own.splits.values():
            each = list(zip(of.texts, of.pairs or of.texts, strict=True))
            assert len(set(each)) == len(each)
        places = [{name: rows.tolist() for name, rows in each.items()} for each in union.places]
        return [splits, places, list(union.ids), own.notes, own.task, own.fingerprint]

    for number, rows in enumerate(tasks):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        both = [("x", "y", "a"), ("y", "x", "b"), *rows]
        for split, part in (("train", both), ("test", both[::2])):
            told_rows = [
                {"text": one, "label": label, **({"text_pair": two} if pairs else {})} for one, two, label in part
            ]
            write(tmp_path / str(number) / f"{split}.csv", told_rows)
    expected = together()
    with many(3):
        assert together() == expected
