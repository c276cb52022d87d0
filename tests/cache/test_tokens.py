"""Token ids that were kept are those that would be made, and others are never taken for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers.pre_tokenizers import PreTokenizer

from nlp_transfer.cache import tokens as encoding
from nlp_transfer.cache.store import ENVIRONMENT, Store
from nlp_transfer.cli import main
from nlp_transfer.data.corpus import Corpus, load_corpus
from nlp_transfer.data.tokens import encode_whole
from nlp_transfer.encoder.classifier import Classifier, load_classifier
from nlp_transfer.settings import Settings
from tests.encoder.families import WORDS, tiny_encoder
from tests.runs import data_for, settings_for

KINDS = {"bert": "single_label", "bert, pairs": "pair", "bert, windows": "chunk", "roberta": "single_label"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoding")
    for family in ("bert", "roberta"):
        tiny_encoder(folder, family)
    return folder


def parts(home: Path, kind: str) -> tuple[Settings, Corpus, Classifier]:
    settings = settings_for(home, KINDS[kind], **{"encoder.name": str(home / f"tiny-{kind.split(',')[0]}")})
    corpus = load_corpus(settings.data, seed=0, data=data_for(KINDS[kind]))
    return settings, corpus, load_classifier(settings.encoder, corpus.task, head="pooled", seed=0)


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the tokenizer was given; every split is large enough to be kept."""
    monkeypatch.setattr(encoding, "_WORTH_KEEPING", 0)
    made: list[int] = []

    def counted(tokenizer, texts, pairs):
        made.append(len(texts))
        return encode_whole(tokenizer, texts, pairs)

    monkeypatch.setattr(encoding.token_ids, "encode_whole", counted)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_run_finds_the_same_ids(home: Path, tmp_path: Path, tokenised: list[int], kind: str):
    settings, corpus, classifier = parts(home, kind)
    store = Store(tmp_path, 1 << 30)
    expected, spec = encoding.encode_splits(settings, corpus, classifier)
    made, _ = encoding.encode_splits(settings, corpus, classifier, store)
    calls = len(tokenised)
    found, again = encoding.encode_splits(settings, corpus, parts(home, kind)[2], store)
    assert len(tokenised) == calls == 2 * len(corpus.splits)
    assert again == spec
    assert {entry.about["encoder"] for entry in store.entries()} == {settings.encoder.name}
    for split in corpus.splits:
        for field in dataclasses.fields(expected[split].tokens):
            arrays = [getattr(columns[split].tokens, field.name) for columns in (expected, made, found)]
            if arrays[0] is None:
                assert arrays == [None] * 3
            else:
                assert {(each.dtype, each.tobytes()) for each in arrays} == {(arrays[0].dtype, arrays[0].tobytes())}


def test_other_texts_pairs_and_tokenizers_have_other_keys(home: Path):
    _, corpus, classifier = parts(home, "bert, pairs")
    texts, pairs = list(corpus.splits["train"].texts), list(corpus.splits["train"].pairs)
    other = parts(home, "roberta")[2].tokenizer

    def key(tokenizer, texts, pairs=None) -> str:
        return encoding._key(tokenizer, dataclasses.replace(corpus.splits["train"], texts=texts, pairs=pairs))

    tokenizer = classifier.tokenizer
    changed = [[texts[0] + " ", *texts[1:]], texts[::-1], texts[:-1], ["".join(texts[:2]), "", *texts[2:]]]
    keys = [key(tokenizer, texts), key(tokenizer, texts, pairs), key(tokenizer, pairs, texts), key(other, texts)]
    keys += [key(tokenizer, each) for each in changed]
    tokenizer.add_tokens(["parcel"])
    keys.append(key(tokenizer, texts))
    assert len(set(keys)) == len(keys)


def test_a_tokenizer_with_custom_code_is_not_cached(home: Path, tmp_path: Path, tokenised: list[int]):
    class Letters:
        def pre_tokenize(self, text):
            text.split(lambda number, piece: [piece])

    settings, corpus, classifier = parts(home, "bert")
    classifier.tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Letters())
    store = Store(tmp_path, 1 << 30)
    for _ in range(2):
        encoding.encode_splits(settings, corpus, classifier, store)
    assert store.entries() == []
    assert len(tokenised) == 2 * len(corpus.splits)


def test_plan_caches_nothing(home: Path, tmp_path: Path, tokenised: list[int], monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{word},{n % 2}\n" for n, word in enumerate(WORDS)))
    words = ["encoder=custom", f"encoder.name={home / 'tiny-bert'}", "data=files", f"data.path={tmp_path / 'a.csv'}"]
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "kept"))
    assert main(["plan", *words]) == 0
    assert tokenised
    assert not (tmp_path / "kept").exists()


def test_damaged_token_ids_are_computed_again(home: Path, tmp_path: Path, tokenised: list[int]):
    settings, corpus, classifier = parts(home, "bert")
    store = Store(tmp_path, 1 << 30)
    encoding.encode_splits(settings, corpus, classifier, store)
    for entry in store.entries():
        path = tmp_path / entry.key / "values.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
    found, _ = encoding.encode_splits(settings, corpus, classifier, store)
    assert len(tokenised) == 2 * len(corpus.splits)
    expected, _ = encoding.encode_splits(settings, corpus, classifier)
    assert all(np.array_equal(found[split].tokens.ids, expected[split].tokens.ids) for split in corpus.splits)


def test_fast_computations_are_not_cached(home: Path, tmp_path: Path):
    settings, corpus, classifier = parts(home, "bert")
    store = Store(tmp_path, 1 << 30)
    encoding.encode_splits(settings, corpus, classifier, store)
    assert store.entries() == []
