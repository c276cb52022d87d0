"""What a frozen encoder makes of a split is computed once, and no bit of a run depends on where it comes from."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.cache.store import Store
from nlp_transfer.cli import main
from nlp_transfer.config import run_id
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.running import resume
from nlp_transfer.running.head import solve_head
from nlp_transfer.running.preparation import prepare
from tests.cache.counted import bits, counted, prepared_for
from tests.encoder.families import tiny_encoder
from tests.harness import told_by
from tests.place import adapt_words, furnish
from tests.runs import data_for, settings_for
from tests.stores import RUNS
from tests.warm import Warm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "values"),
    [
        ("single_label", {"strategy": "probe"}),
        ("chunk", {"strategy": "probe", "encoder.head": "native"}),
        ("siamese", {"strategy": "probe", "strategy.solver": "adamw", "training.max_steps": 4}),
        ("regression", {"strategy": "finetune", "training.max_steps": 2}),
        ("single_label", {"strategy": "lora", "training.max_steps": 2}),
    ],
    ids=["probe", "windows", "adamw", "finetune", "lora"],
)
def test_a_run_ends_in_the_same_bits_without_a_store_with_an_empty_one_and_from_it(
    home: Path, tmp_path: Path, store_folder: Path, problem: str, values: dict
):
    without = bits(home, tmp_path / "0", problem, **values, **{"cache.gib": 0})
    assert not store_folder.exists()
    assert bits(home, tmp_path / "1", problem, **values) == without
    kept = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store_folder.glob("*/values.npy")}
    assert kept
    for path, (_, content) in list(kept.items())[1:]:
        path.write_bytes(content[:-1] + b"?")
    assert bits(home, tmp_path / "2", problem, **values) == without
    assert {path: path.read_bytes() for path in kept} == {path: content for path, (_, content) in kept.items()}
    first = next(iter(kept))
    assert first.stat().st_mtime_ns == kept[first][0]  # it was found; what was damaged, computed and kept again


@pytest.mark.parametrize("gib", [0, 10])
def test_a_frozen_encoder_reads_each_split_once_in_a_process(home: Path, gib: int):
    prepared = prepared_for(home, **{"cache.gib": gib})
    with counted(prepared) as passes:
        solve_head(prepared)
        for _ in range(2):
            for split in ("train", "validation", "test"):
                prepared.outputs(split)
                prepared.features(split)
    assert sum(passes) == 48 + 16 + 16


def test_a_run_with_another_head_reads_nothing_again(home: Path, store_folder: Path):
    with counted(first := prepared_for(home)) as passes:
        solve_head(first)
        first.outputs("test")
    assert sum(passes) == 48 + 16
    other = {"seed": 7, "data.class_weights": "balanced", "objective.classify.label_smoothing": 0.2}
    with counted(second := prepared_for(home, **other)) as passes:
        solve_head(second)
        logits = second.outputs("test")
    assert passes == []
    assert not np.array_equal(logits, first.outputs("test"))
    assert len(list(store_folder.iterdir())) == 2


def test_the_first_trained_layer_gets_the_cached_states(home: Path):
    """The features of one layer are cut out of those of all, to the last bit."""
    for gib in (0, 10):
        prepared = prepared_for(home, **{"cache.gib": gib})
        with counted(prepared) as passes:
            prepared.keep_layer(1)
            cut = {split: prepared.features(split) for split in ("train", "test", "validation")}
        assert sum(passes) == 48 + 16 + 16
        assert prepared.classifier.model.config.layers == [2]
        for split, features in cut.items():
            alone = prepared.feature_cache.now(prepared.columns[split])
            assert features.shape == alone.shape == (len(prepared.columns[split]), 32)
            assert features.tobytes() == alone.tobytes()
        whole = prepared.logits(prepared.columns["test"])
        assert prepared.outputs("test").tobytes() == whole.tobytes()


def test_features_of_a_trained_encoder_are_never_stale(home: Path):
    prepared = prepared_for(home, strategy="finetune")
    before = prepared.features("train")
    for parameter in prepared.classifier.model.parameters():
        parameter.data.mul_(1.01)
    with counted(prepared) as passes:
        after = prepared.features("train")
    assert sum(passes) == 48
    assert not np.array_equal(before, after)


def test_layers_that_change_in_training_are_not_skipped(tmp_path: Path, store_folder: Path):
    """BigBird gives up sparse attention at the first short text, for good."""
    tiny_encoder(tmp_path, "big_bird", attention_type="block_sparse")
    values = {"encoder.name": str(tmp_path / "tiny-big_bird")}
    for reads in (48 + 16, 48):  # the second time, the test rows are found
        with counted(prepared := prepared_for(tmp_path, **values)) as passes:
            prepared.features("train"), prepared.features("test")
        assert sum(passes) == reads
        assert len(list(store_folder.iterdir())) == 1


def test_features_of_unpinned_code_are_not_cached(home: Path, store_folder: Path):
    plain = settings_for(home, **{"strategy": "finetune", "encoder.head": "native"})
    trusting = dataclasses.replace(plain, encoder=dataclasses.replace(plain.encoder, trust_remote_code=True))
    prepared = prepare(trusting, load_corpus(plain.data, seed=0, data=data_for("single_label")), home)
    assert prepared.features("test").shape == (16, 32)
    assert not store_folder.exists()


@pytest.mark.slow
def test_two_processes_share_cached_features(running: Warm):
    messages = told_by(running, "tests.stores")
    assert {name: each["status"] for name, each in messages.items()} == dict.fromkeys(RUNS, 0)
    assert len({each["left"] for each in messages.values()}) == 1
    alone = sum(messages["one, no store"]["passes"])
    assert alone > 4
    for name, each in messages.items():
        reads = 0 if name == "two again" else alone
        assert sum(each["passes"]) == reads, name
        assert len(each["passes"]) == 1 or not reads or min(each["passes"]) > 0
    entries = messages["one, empty"]["entries"]["a"]
    assert len(entries) == 7  # ids and features of three splits, and the baseline
    once = {"one, no store": [3], "one, empty": [3], "two again": [0, 0], "two, empty": [3, 0]}
    once["two, the second elsewhere"] = [0, 3]
    assert {name: each["tokenised"] for name, each in messages.items()} == once
    assert messages["two, empty"]["entries"] == {"c": entries}  # how many processes there are is no matter
    assert messages["two, the second elsewhere"]["entries"] == {"a": entries, "b": []}  # the first alone writes


def test_an_unusable_cache_is_reported_once_and_the_run_continues(tmp_path: Path, capfd):
    furnish(tmp_path)
    capfd.readouterr()
    (tmp_path / "file").write_text("")
    for value in (f"cache.folder={tmp_path / 'file'}", "cache.gib=0.0000001"):
        words = adapt_words(tmp_path, value, f"output={tmp_path / value.partition('=')[0]}")
        assert main(words) == 0
        out, err = capfd.readouterr()
        assert out.count("\n") == 1
        assert err.count("\n") == 1
        assert err.endswith("; the run continues without it\n")


def test_the_cache_folder_does_not_change_the_run_folder(home: Path, tmp_path: Path):
    one, other = (settings_for(home, **values) for values in ({}, {"cache.gib": 0, "cache.folder": str(tmp_path)}))
    corpus = load_corpus(one.data, seed=0, data=data_for("single_label"))
    assert run_id(one) == run_id(other)
    origin = partial(resume.origin, auxiliary=None)
    assert origin(one, corpus, "", precision="no") == origin(other, corpus, "", precision="no")
    assert origin(one, corpus, "", precision="no") != origin(one, corpus, "", precision="bf16")


def test_entries_describe_themselves(home: Path, store_folder: Path):
    prepared_for(home).features("test")
    (entry,) = Store(store_folder, 1e9).entries()
    about = entry.about
    assert (about["what"], about["rows"], about["encoder"]) == ("features", 16, str(home / "tiny-bert"))
    assert 0 < about["seconds"] < 60
