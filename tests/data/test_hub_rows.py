"""Samples of Hub data sets: the same rows however often the download is interrupted."""

from __future__ import annotations

import errno
import io
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from nlp_transfer.cache.store import PARTIAL_SUFFIX, Store
from nlp_transfer.cli import main
from nlp_transfer.continual.rows import load
from nlp_transfer.data import hub_split
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.hub_rows import check_labels
from nlp_transfer.data.sources import read_source
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError
from nlp_transfer.machine import disk
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import DataSettings
from nlp_transfer.training import checkpoint
from tests.crashes import fingerprint
from tests.data.cards import CARD, COMMIT, OTHER
from tests.encoder.families import tiny_encoder
from tests.publishing.hub_server import ALWAYS, Fault, HubServer
from tests.runs import rows, settings_for
from tests.warm import Warm

TWICE = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: a.csv}, {split: validation, path: b.csv}, {split: dev, path: c.csv}]
---
"""
FORMATS = ("csv", "jsonl", "parquet")
SHARD = 20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub; retries do not wait."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 1)
    monkeypatch.setattr(datasets.config, "STREAMING_OPEN_MAX_RETRIES", 1)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(hub_split, "PART_ROWS", 3)
    monkeypatch.chdir(tmp_path)
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home")
        yield server


@pytest.fixture
def store(store_folder: Path) -> Store:
    return Store(store_folder, 1e9)


def file_of(kind: str, rows: list[tuple[str, Any]], *, group: int = SHARD) -> bytes:
    """Return a file of texts and labels; in Parquet so many rows are a group."""
    if kind == "csv":
        return ("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)).encode()
    if kind == "jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()
    import pyarrow as pa
    import pyarrow.parquet

    file, columns = io.BytesIO(), list(zip(*rows, strict=True))
    pyarrow.parquet.write_table(pa.table({"text": columns[0], "label": columns[1]}), file, row_group_size=group)
    return file.getvalue()


def named(shard: int | str, rows: int = SHARD) -> list[tuple[str, Any]]:
    return [(f"{shard}:{row}", "ab"[row % 2]) for row in range(rows)]


def serve(hub: HubServer, files: dict[str, bytes], **options: Any) -> None:
    hub.add("acme/large", files, oid=COMMIT, kind="datasets", **options)


def serve_shards(hub: HubServer, kind: str) -> None:
    """Three files to train on and one to test on."""
    files = {f"train-{shard}.{kind}": file_of(kind, named(shard)) for shard in range(3)}
    serve(hub, {**files, f"test.{kind}": file_of(kind, named("test"))})


def settings(rows: int = 12, **options: Any) -> DataSettings:
    return DataSettings(hub="acme/large", hub_rows=rows, **options)


def texts(store: Store, data: DataSettings) -> dict[str, list[str]]:
    return {split: list(table.columns["text"]) for split, table in read_source(data, store=store).splits.items()}


def kept(store: Store) -> dict[str, bytes]:
    """All that is kept, but for when it was."""
    files = {path.relative_to(store.folder): path for path in store.folder.rglob("*") if path.is_file()}
    output = {str(name): path.read_bytes() for name, path in files.items() if name.name != "entry.json"}
    assert output
    assert not [name for name in output if PARTIAL_SUFFIX in name or ".making" in name]
    digests = [json.loads(path.read_text())["sha256"] for name, path in files.items() if name.name == "entry.json"]
    return output | {"sha256": "".join(digests).encode()}


@pytest.mark.parametrize("kind", ["csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS[1:])])
def test_rows_come_from_all_files_in_equal_shares_and_are_read_once(hub, store, kind):
    serve_shards(hub, kind)
    train = [f"{shard}:{row}" for shard in (0, 2, 1) for row in range(4)]
    expected = {"train": train, "test": [f"test:{row}" for row in range(12)]}
    assert texts(store, settings()) == expected
    fetched = hub.asked("resolve")
    assert fetched
    assert all(COMMIT in entry.path for entry in fetched)
    hub.log.clear()
    assert texts(store, settings()) == expected  # main has to be looked up
    assert [entry.path for entry in hub.log] == ["/api/datasets/acme/large"]
    hub.log.clear()
    assert texts(store, settings(revision=COMMIT)) == expected
    assert hub.log == []
    source = read_source(settings(), store=store)
    assert source.name == f"acme/large @ {COMMIT}"
    assert source.notes == [
        "train: 12 rows, from 3 of its 3 files or groups of rows",
        "test: the first 12 rows",
    ]


def test_every_beginning_of_the_order_of_shards_is_spread_over_all():
    assert hub_split.spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    for shards in range(1, 70):
        order = hub_split.spread(shards)
        assert sorted(order) == list(range(shards))
        for count in range(1, shards + 1):
            ends = [*sorted(order[:count]), shards]
            assert ends[0] == 0
            assert max(after - before for before, after in pairwise(ends)) <= 2 * shards / count + 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(30, 2, 30), (1, 1, 50), (5, 0, 40)])
def test_longer_files_fill_up_short_ones(hub, store, sizes):
    serve(hub, {f"train-{n}.csv": file_of("csv", named(n, rows)) for n, rows in enumerate(sizes)})
    read = texts(store, settings(40))["train"]
    assert len(read) == len(set(read)) == 40
    for shard, size in enumerate(sizes):
        own = [text for text in read if text.startswith(f"{shard}:")]
        assert own == [f"{shard}:{row}" for row in range(len(own))]
        assert len(own) <= size
    everything = texts(store, settings(sum(sizes) + 1))["train"]
    assert sorted(everything) == sorted(text for n, rows in enumerate(sizes) for text, _ in named(n, rows))
    assert "rows, from" not in str(read_source(settings(sum(sizes) + 1), store=store).notes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("when", ["flush", "enforce_budget"])
def test_an_interrupted_download_ends_in_the_same_bytes(hub, store, tmp_path, monkeypatch, kind, when):
    serve_shards(hub, kind)
    read_source(settings(), store=store)
    place, count = disk if when == "flush" else Store, 0
    original = getattr(place, when)

    def interrupted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(place, when, interrupted)
    other, stops = Store(tmp_path / "other", 1e9), 0
    while True:
        try:
            read_source(settings(), store=other)
            break
        except KeyboardInterrupt:
            stops += 1
            assert stops < 50
    assert stops > 2
    assert kept(other) == kept(store)


@pytest.mark.parametrize("kind", ["csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS[1:])])
def test_a_download_that_lost_the_hub_resumes(hub, store, tmp_path, kind):
    serve_shards(hub, kind)
    read_source(settings(), store=store)
    first = len(hub.asked("GET .*resolve"))
    other = Store(tmp_path / "other", 1e9)
    hub.faults.append(Fault(f"GET .*train-1.{kind}", close=True, times=ALWAYS))
    # All Parquet files are opened before a row is read, to see where their groups are.
    kept_then = "$" if kind == "parquet" else "; the rows read so far are kept, and the next run continues"
    with pytest.raises(UserError, match=rf"cannot be loaded .* rows are read{kept_then}"):
        read_source(settings(), store=other)
    assert len(other.entries()) == (kind != "parquet")
    hub.faults.clear()
    hub.log.clear()
    read_source(settings(), store=other)
    assert kept(other) == kept(store)
    assert len(hub.asked("GET .*resolve")) <= first
    if kind == "csv":  # JSON is opened to see what it is like, and Parquet to see where its groups are
        assert not hub.asked("GET .*resolve.*train-0")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("times", [1, ALWAYS])
def test_a_truncated_response_is_not_the_end_of_a_file(hub, store, tmp_path, kind, times):
    serve_shards(hub, kind)
    read_source(settings(), store=store)
    other = Store(tmp_path / "other", 1e9)
    hub.faults.append(Fault(f"GET .*train-1.{kind}", truncate=60, times=times))
    try:
        read_source(settings(), store=other)
    except UserError:
        assert not [entry for entry in other.entries() if not entry.key.endswith(PARTIAL_SUFFIX)]
        hub.faults.clear()
        read_source(settings(), store=other)
    assert kept(other) == kept(store)


@pytest.mark.slow
def test_rows_that_were_removed_are_read_again_and_are_the_same(hub, store):
    serve_shards(hub, "jsonl")
    before, corpus = (read_source(settings(), store=store), kept(store)), load_corpus(settings(), store=store)
    (entry,) = store.entries()
    assert main(["cache", "rm", entry.key[:9]]) == 0
    assert store.entries() == []
    assert load_corpus(settings(), store=store).fingerprint == corpus.fingerprint
    assert (read_source(settings(), store=store), kept(store)) == before


def test_without_the_hub_a_commit_is_read_whose_rows_are_kept(hub, store, monkeypatch):
    serve_shards(hub, "csv")
    expected = texts(store, settings())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts(store, settings(revision=COMMIT)) == expected
    for revision in (None, "main"):
        with pytest.raises(UserError, match=rf"data\.hub_rows=12 rows are kept here of {COMMIT}: set data\.revision"):
            read_source(settings(revision=revision), store=store)
    for data in (settings(revision=OTHER), settings(13, revision=COMMIT), settings(subset="en", revision=COMMIT)):
        with pytest.raises(UserError, match=r"cannot be fetched from the Hub, nor are data\.hub_rows=1. rows of it"):
            read_source(data, store=store)


@pytest.mark.slow
def test_sorted_labels_are_reported(hub, store):
    ordered = [(f"{row}", "neg" if row < 50 else "pos") for row in range(100)]
    late = [(f"{row}", "neg" if row < 39 else "pos") for row in range(100)]
    serve(hub, {"train.csv": file_of("csv", ordered)})
    with pytest.raises(UserError, match=r"all 40 rows that were read have the label 'neg'.*Raise data\.hub_rows"):
        read_source(settings(40), store=store)
    assert set(read_source(settings(100), store=store).splits["train"].columns["label"]) == {"neg", "pos"}
    hub.repositories["datasets/acme/large"].commit({"train.csv": file_of("csv", late)}, oid=OTHER)
    (_, note) = read_source(settings(40), store=store).notes
    assert note.startswith("train: 39 of the 40 rows that were read have the label 'neg'; the data set may be sorted")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_training_rows_may_not_have_one_label_and_others_may(split):
    def said(labels: list[str], *, cut: bool = True) -> list[str]:
        table = Table({"text": labels, "label": labels}, "acme/large", list(range(len(labels))))
        return check_labels({split: table}, None, {split} if cut else set())

    assert said(["a"] * 37 + ["b"] * 3) == said(["a"] * 40, cut=False) == said([]) == said(["a"]) == []
    assert "39 of the 40 rows that were read have the label 'a'" in said(["a"] * 39 + ["b"])[0]
    if split == "train":
        with pytest.raises(UserError, match=r"all 40 rows that were read have the label 'a'.*Raise data\.hub_rows"):
            said(["a"] * 40)
    else:
        assert said(["a"] * 40)[0].startswith(f"{split}: 40 of the 40 rows that were read have the label 'a'")


@pytest.mark.slow
def test_groups_of_rows_mix_the_labels_of_a_sorted_file(hub, store):
    ordered = [(f"{row}", "neg" if row < 50 else "pos") for row in range(100)]
    serve(hub, {"train.parquet": file_of("parquet", ordered, group=5)})
    labels = read_source(settings(40), store=store).splits["train"].columns["label"]
    assert sorted(map(labels.count, ("neg", "pos"))) in ([19, 21], [20, 20], [18, 22])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_second_process_waits_without_requests(hub, store, kind):
    serve_shards(hub, kind)
    read_source(settings(11), store=store)
    alone = len(hub.asked("resolve"))
    hub.log.clear()
    hub.faults.append(Fault("GET .*resolve", delay=0.2))
    read: list[dict[str, list[str]]] = []
    both = [threading.Thread(target=lambda: read.append(texts(Store(store.folder, 1e9), settings()))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(read) == 2
    assert read[0] == read[1]
    assert len(hub.asked("resolve")) == alone
    assert not [entry for entry in store.entries() if entry.key.endswith(PARTIAL_SUFFIX)]


@pytest.mark.slow
def test_a_run_says_that_it_waits_for_another_process(hub, store, tmp_path):
    serve_shards(hub, "csv")
    read_source(settings(revision=COMMIT), store=store)
    (entry,) = store.entries()
    growing = store.folder / f"{entry.key}{PARTIAL_SUFFIX}"
    (store.folder / entry.key).rename(growing)
    output, corpora, asked = [], [], threading.Event()

    def tell(sentence: str) -> None:
        output.append(sentence)
        asked.set()

    words = {"data": "hub", "data.hub": "acme/large", "data.hub_rows": 12, "data.revision": COMMIT, "cache.gib": 1}
    asks = settings_for(tmp_path, **words)
    thread = threading.Thread(target=lambda: corpora.append(load(asks, tell=tell)))
    with disk.locked(growing):
        thread.start()
        assert asked.wait(30)
    thread.join(30)
    assert output == ["another process is writing rows of acme/large; this one waits for it"]
    assert len(corpora[0].splits["test"]) == 12


@pytest.mark.slow
def test_unfinished_downloads_are_listed_and_removable(hub, store, monkeypatch, capfd):
    serve_shards(hub, "csv")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "enforce_budget", stop)
        with pytest.raises(KeyboardInterrupt):
            read_source(settings(), store=store)
    assert main(["cache", "ls"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert (listed["what"], listed["rows"]) == ("rows of acme/large (unfinished)", 12)
    assert main(["cache", "rm", listed["entry"][:12]]) == 0
    assert store.entries() == []
    read_source(settings(), store=store)
    assert main(["cache", "ls"]) == 0
    assert json.loads(capfd.readouterr().out)["what"] == "rows of acme/large"


def test_rows_that_do_not_fit_the_cache_are_refused_and_others_make_room(hub, store):
    import numpy as np

    serve_shards(hub, "csv")
    store.keep("0" * 64, np.ones(10_000), {"what": "features"})
    read_source(settings(), store=Store(store.folder, 60_000))
    assert [entry.about["what"] for entry in store.entries()] == ["rows of acme/large"]
    refused = (
        r"data\.hub_rows keeps .* more than the .* GiB that cache\.gib allows; raise cache\.gib, or lower data\.hub"
    )
    with pytest.raises(UserError, match=refused):
        read_source(settings(13), store=Store(store.folder, 2_000))
    with pytest.raises(
        UserError, match=r"data\.hub_rows=12 keeps .* cache, and there is none: .* in Python, give store="
    ):
        read_source(settings())


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"train.csv": b"", "large.py": b"raise RuntimeError('ran')"}, {}, r"is a program \(large\.py\)"),
        ({"train.csv": file_of("csv", named(0))}, {"gated": True}, "is gated: accept its terms"),
        ({"train.tar.gz": b"no archive"}, {}, "data.hub=acme/large at revision .* cannot be loaded"),
        ({"test.csv": file_of("csv", named(0))}, {}, "has no train split; it has: test"),
        (
            {"README.md": TWICE, **dict.fromkeys(("a.csv", "b.csv", "c.csv"), b"no rows")},
            {},
            "has two validation splits, one .* called 'dev'",
        ),
    ],
    ids=["program", "gated", "archive", "test alone", "two alike"],
)
def test_unstreamable_data_sets_are_refused_in_a_sentence(hub, store, files, options, message):
    serve(hub, files, **options)
    with pytest.raises(UserError, match=message) as refused:
        read_source(settings(), store=store)
    assert "are kept" not in str(refused.value)
    assert store.entries() == []  # for not a row was read
    assert not hub.asked(r"GET .*resolve.*\.csv")


def test_a_disk_that_is_full_at_the_end_is_not_the_fault_of_the_hub(hub, store, monkeypatch):
    serve_shards(hub, "csv")
    flush = disk.flush

    def full(path: Path) -> None:
        if path.name.endswith("data.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "flush", full)
        with pytest.raises(
            UserError, match=rf"in {store.folder}, which fails: No space left on device; make room there"
        ):
            read_source(settings(), store=store)
    hub.log.clear()
    read_source(settings(), store=store)
    assert not hub.asked("GET .*resolve")


def test_partial_downloads_in_another_order_are_not_used(hub, store, tmp_path, monkeypatch):
    serve_shards(hub, "csv")
    read_source(settings(), store=store)
    other, build_folder = Store(tmp_path / "other", 1e9), Store.enforce_budget

    def stop(self: Store, growing: Path) -> None:
        build_folder(self, growing)
        first = growing / "train-00000.arrow"
        for left in ("train-00002", ".making-train-00001", "train-00099"):
            shutil.copy(first, growing / f"{left}.arrow")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "enforce_budget", stop)
        with pytest.raises(KeyboardInterrupt):
            read_source(settings(), store=other)
    read_source(settings(), store=other)
    assert kept(other) == kept(store)


@pytest.mark.parametrize(
    "gone", ["train-*", *(pytest.param(gone, marks=pytest.mark.slow) for gone in ("train-00001*", "*"))]
)
def test_rows_that_are_taken_away_while_they_are_read_are_no_empty_table(hub, store, monkeypatch, gone):
    serve_shards(hub, "csv")
    build_folder = Store.build_folder

    def robbed(self: Store, *given: Any) -> Path:
        folder = build_folder(self, *given)
        for path in folder.glob(f"{gone}.arrow"):
            path.unlink()
        return folder

    monkeypatch.setattr(Store, "build_folder", robbed)
    with pytest.raises(
        UserError, match=r"rows of t.* are gone; another process may .* raise cache\.gib, and run it again"
    ):
        read_source(settings(), store=store)


def test_invalid_settings_are_refused_before_any_request(store):
    with pytest.raises(UserError, match=r"data\.hub_rows=0 must be at least 1"):
        read_source(settings(0), store=store)
    with pytest.raises(UserError, match=r"data\.hub_rows goes with data\.hub only"):
        read_source(DataSettings(embedded="customer_intents", hub_rows=5), store=store)


@pytest.mark.slow
def test_types_and_names_of_classes_are_those_of_the_data_set(hub, store):
    numbers = [(f"text {row}", row % 2) for row in range(9)]
    serve(hub, {"train.csv": file_of("csv", numbers), "README.md": CARD.encode()})
    assert read_source(settings(6), store=store).splits["train"].columns["label"] == list("zyzyzy")
    lines = [{"text": f"text {row}", "label": "ab"[row % 2], "note": None if row < 4 else "late"} for row in range(9)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    hub.repositories["datasets/acme/large"].commit({"train.csv": None, "train.jsonl": content, "README.md": None})
    read = read_source(settings(6), store=store).splits["train"]
    assert read.columns["note"] == [line["note"] for line in lines[:6]]


# Reads as a run does; a part has few rows, and after each the process says so and gives a moment to end it in.
READ = """
import sys, time
from nlp_transfer.data import hub_split
from nlp_transfer.data.sources import read_source
from nlp_transfer.settings import DataSettings
from nlp_transfer.cache.store import Store, store_of
from nlp_transfer.settings import CacheSettings

hub_split.PART_ROWS = 3
build_folder = Store.enforce_budget

def told(self, growing):
    build_folder(self, growing)
    print("part", flush=True)
    time.sleep(float(sys.argv[1]))

Store.enforce_budget = told
data = DataSettings(hub="acme/large", hub_rows=12, revision=sys.argv[2])
splits = read_source(data, store=store_of(CacheSettings())).splits
print({split: table.columns["text"] for split, table in splits.items()})
"""


@pytest.fixture
def processes(hub, tmp_path) -> Iterator[tuple[Warm, dict[str, str]]]:
    """Processes that have imported what reads from the Hub, and their environment."""
    env = hub.environment(tmp_path / "home") | {"HF_DATASETS_CACHE": str(tmp_path / "arrow")}
    warm = Warm("import nlp_transfer.data.hub_rows, datasets, pyarrow.dataset, pandas, torch.utils.data", env)
    yield warm, env
    warm.close()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind == "parquet" else pytest.mark.exhaustive) for kind in FORMATS],
)
def test_a_killed_download_is_resumed(hub, store, processes, tmp_path, kind):
    warm, env = processes
    serve_shards(hub, kind)
    expected = texts(store, settings())
    env |= {"NLP_TRANSFER_CACHE": str(tmp_path / "other")}
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = warm.start(READ, "0.3", COMMIT, cwd=tmp_path, env=env)
        while process.said("out").count("part") < 2 and process.poll() is None:
            threading.Event().wait(0.01)
        process.send_signal(number)
        assert process.wait(60) != 0
    process = warm.start(READ, "0", COMMIT, cwd=tmp_path, env=env)
    out, err = process.communicate(60)
    assert out.splitlines()[-1] == str(expected), err
    assert out.count("part") == 10 - 6
    assert kept(Store(tmp_path / "other", 1e9)) == kept(store)


@pytest.mark.slow
def test_two_processes_read_once(hub, store, processes, tmp_path):
    warm, env = processes
    serve_shards(hub, "csv")
    expected = texts(store, settings())
    env |= {"NLP_TRANSFER_CACHE": str(tmp_path / "other")}
    both = [warm.start(READ, "0.1", COMMIT, cwd=tmp_path, env=env) for _ in range(2)]
    ends = [process.communicate(60) for process in both]
    assert [out.splitlines()[-1] for out, _ in ends] == [str(expected)] * 2, ends
    assert sorted(out.count("part") for out, _ in ends) == [0, 10]


@pytest.mark.slow
@pytest.mark.parametrize("removed", [False, True])
def test_a_run_that_was_stopped_ends_in_the_bits_of_one_that_was_not(hub, store, tmp_path, monkeypatch, removed):
    tiny_encoder(tmp_path)
    files = {"train-0": rows("single_label", 40, 1), "train-1": rows("single_label", 40, 2)}
    files |= {"validation": rows("single_label", 16, 3), "test": rows("single_label", 16, 4)}
    lines = {name: [(row["text"], row["label"]) for row in part] for name, part in files.items()}
    serve(hub, {f"{name}.jsonl": file_of("jsonl", part) for name, part in lines.items()})
    expected = {"data": "hub", "data.hub": "acme/large", "data.hub_rows": 48, "data.revision": COMMIT, "cache.gib": 1}
    expected |= {"checkpoint.seconds": 0, "training.max_steps": 6}

    asked = settings_for(tmp_path, **expected)
    adapt(asked)
    whole = fingerprint(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    with monkeypatch.context() as patch:
        commit = checkpoint.commit

        def stop(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
            path = commit(folder, snapshot)
            if snapshot.step == 3:
                raise KeyboardInterrupt
            return path

        patch.setattr(checkpoint, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(asked)
    for entry in store.entries() if removed else ():
        store.remove(entry.key)
    hub.log.clear()
    adapt(asked)
    assert bool(hub.log) == removed
    assert fingerprint(tmp_path / "runs") == whole


@pytest.mark.slow
def test_files_of_one_split_with_other_types_are_refused_as_rows_with_a_fraction_are_not(hub, store):
    numbers, words, fractions = ([(f"{label} {row}", label) for row in range(4)] for label in (1, "x", 0.5))
    serve(hub, {"train-0.csv": file_of("csv", numbers), "train-1.csv": file_of("csv", fractions)})
    assert sorted(read_source(settings(8), store=store).splits["train"].columns["label"]) == [0.5] * 4 + [1.0] * 4
    hub.repositories["datasets/acme/large"].commit({"train-1.csv": file_of("csv", words)}, oid=OTHER)
    with pytest.raises(UserError, match=r"acme/large\[train\]: its files have columns of other types"):
        read_source(settings(8), store=store)
