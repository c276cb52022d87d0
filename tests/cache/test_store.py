"""A store of arrays: an entry is whole or absent, and nothing that befalls its files is more than lost time."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.cache import entries
from nlp_transfer.cache import store as storage
from nlp_transfer.cache.leftovers import staging_name
from nlp_transfer.cache.store import Store, folder_of
from tests.crash_harness import Case, die_at, start
from tests.test_secrets import HF

KEYS = [f"{number:064x}" for number in range(8)]
VALUES = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
EACH = VALUES.nbytes + 700  # with entry.json and the head of the array


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        np.asfortranarray(VALUES),
        VALUES[:, ::2],
        np.arange(12, dtype=np.uint16).reshape(3, 4),
        np.float32([[np.nan, -0.0, np.inf, 1e-45]]),
    ],
    ids=["plain", "columns first", "with gaps", "bits of bfloat16", "odd numbers"],
)
def test_cached_values_are_bit_identical(tmp_path: Path, values: np.ndarray):
    store = Store(tmp_path / "a" / "b", 1e9)
    assert store.find(KEYS[0]) is None
    assert not (tmp_path / "a").exists()  # looking makes nothing
    kept = store.keep(KEYS[0], values, {"what": "features", "rows": len(values)})
    for found in (kept, store.find(KEYS[0]), Store(tmp_path / "a" / "b", 1e9).peek(KEYS[0])):
        assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())
        assert type(found) is np.ndarray
        assert not found.flags.writeable
    assert files(store.folder) == {KEYS[0], f"{KEYS[0]}/values.npy", f"{KEYS[0]}/entry.json"}
    (entry,) = store.entries()
    assert (entry.key, entry.about["what"], entry.about["rows"]) == (KEYS[0], "features", len(values))
    assert (entry.about["dtype"], entry.about["shape"]) == (str(values.dtype), list(values.shape))
    assert entry.bytes == sum(path.stat().st_size for path in (store.folder / KEYS[0]).iterdir())


def test_a_new_cache_folder_is_private(tmp_path: Path):
    Store(tmp_path / "made", 1 << 20).keep("0" * 64, np.ones(3), {})
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_empty_values_are_not_cached(tmp_path: Path):
    assert Store(tmp_path, 1e9).keep(KEYS[0], VALUES[:0], {}).shape == (0, 50)
    assert files(tmp_path) == set()


def test_no_secret_is_written(tmp_path: Path):
    store = Store(tmp_path, 1e9)
    store.keep(KEYS[0], VALUES, {"encoder": f"https://someone:{HF}@example.org/{HF}"})
    assert HF not in (tmp_path / KEYS[0] / "entry.json").read_text()
    assert "***" in store.entries()[0].about["encoder"]
    assert store.find(KEYS[0]) is not None


def flipped(path: Path) -> None:
    content = bytearray((path / "values.npy").read_bytes())
    content[-1] ^= 1
    (path / "values.npy").write_bytes(content)


def replaced(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def foreign(path: Path) -> None:
    """A whole entry of another key."""
    shutil.rmtree(path)
    Store(path.parent, 1e9).keep(KEYS[7], VALUES + 1, {})
    (path.parent / KEYS[7]).rename(path)


def as_pickle(path: Path) -> None:
    """An array file that needs object loading, with its right digest."""
    np.save(path / "values.npy", np.array([Exploding()], dtype=object), allow_pickle=True)
    entry = json.loads((path / "entry.json").read_text())
    digest = hashlib.sha256((path / "values.npy").read_bytes()).hexdigest()
    (path / "entry.json").write_text(json.dumps(entry | {"sha256": digest}))


class Exploding:
    def __reduce__(self):
        return os._exit, (3,)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flipped,
    "torn values": lambda path: os.truncate(path / "values.npy", VALUES.nbytes // 2),
    "empty values": lambda path: (path / "values.npy").write_bytes(b""),
    "no values": lambda path: (path / "values.npy").unlink(),
    "a folder for values": lambda path: ((path / "values.npy").unlink(), (path / "values.npy").mkdir()),
    "pickled values": as_pickle,
    "torn entry": lambda path: os.truncate(path / "entry.json", 20),
    "empty entry": lambda path: (path / "entry.json").write_bytes(b""),
    "no entry": lambda path: (path / "entry.json").unlink(),
    "no object": lambda path: (path / "entry.json").write_text("[1]"),
    "no text": lambda path: (path / "entry.json").write_bytes(b"\xff\xfe{"),
    "a deep entry": lambda path: (path / "entry.json").write_text("[" * 100_000),
    "another version": lambda path: (path / "entry.json").write_text("{}"),
    "another entry": foreign,
    "a file": replaced,
    "nothing": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_removed(tmp_path: Path, damage: str):
    message: list[str] = []
    store = Store(tmp_path, 1e9, message.append)
    store.keep(KEYS[0], VALUES, {})
    DAMAGES[damage](tmp_path / KEYS[0])
    before = files(tmp_path)
    assert store.peek(KEYS[0]) is None
    assert files(tmp_path) == before
    assert [entry.key for entry in store.entries()] == [KEYS[0]]  # listed, so that it can be removed
    assert store.find(KEYS[0]) is None
    assert files(tmp_path) == set()
    assert store.keep(KEYS[0], VALUES, {}).tobytes() == VALUES.tobytes()
    assert store.find(KEYS[0]).tobytes() == VALUES.tobytes()
    assert message == []


def test_the_least_recently_used_entry_is_evicted(tmp_path: Path):
    store = Store(tmp_path, 4 * EACH)
    for age, key in enumerate(KEYS[:4]):
        store.keep(key, VALUES, {})
        os.utime(tmp_path / key / "entry.json", (1000 - age, 1000 - age))  # the first was used last
    store.find(KEYS[3])  # and now the last
    for key in KEYS[4:6]:
        store.keep(key, VALUES, {})
    assert {entry.key for entry in store.entries()} == {KEYS[0], KEYS[3], *KEYS[4:6]}
    assert store.entries()[0].key == KEYS[0]  # the next to go
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= store.budget


def test_values_above_the_budget_are_not_cached_and_reported_once(tmp_path: Path):
    message: list[str] = []
    store = Store(tmp_path, 4 * EACH, message.append)
    store.keep(KEYS[0], VALUES, {})
    large = np.tile(VALUES, (5, 1))
    for key in KEYS[1:3]:
        assert store.keep(key, large, {}) is large
    assert [entry.key for entry in store.entries()] == [KEYS[0]]  # nothing went for it
    (sentence,) = message
    assert "are not cached for later runs: more than cache.gib allows" in sentence


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No file may be longer than a page."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For root as well, to whom a mode forbids nothing."""
    change, to, back = ("chmod", "a-w", "u+w") if os.geteuid() else ("chattr", "+i", "-i")
    asked = [change, "-R", to, folder]
    if shutil.which(change) is None or subprocess.run(asked, check=False, capture_output=True).returncode:
        pytest.skip("nothing here can be made read-only")
    try:
        yield
    finally:
        subprocess.run([change, "-R", back, folder], check=True)


@pytest.mark.parametrize("trouble", [full, read_only])
def test_a_full_disk_is_reported_once_and_still_read(tmp_path: Path, trouble):
    message: list[str] = []
    store = Store(tmp_path / "store", 1e9, message.append)
    store.keep(KEYS[0], VALUES, {})
    before = files(tmp_path)
    with trouble(tmp_path / "store"):
        for key in KEYS[1:3]:
            assert store.keep(key, VALUES, {}) is VALUES
            assert store.find(key) is None
        assert store.find(KEYS[0]).tobytes() == VALUES.tobytes()
    (sentence,) = message
    assert str(store.folder) in sentence
    assert files(tmp_path) == before
    store.keep(KEYS[1], VALUES, {})  # once it is well again
    assert store.find(KEYS[1]) is not None


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_an_impossible_cache_folder_is_reported_once(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    message: list[str] = []
    store = Store(tmp_path / place, 1e9, message.append)
    for key in KEYS[:2]:
        assert store.find(key) is None
        assert store.keep(key, VALUES, {}) is VALUES
    assert len(message) == 1
    assert files(tmp_path) == {"file"}


def test_nothing_is_cached_on_nearly_full_disks(tmp_path: Path):
    message: list[str] = []
    store = Store(tmp_path, 1e18, message.append)
    huge = np.lib.stride_tricks.as_strided(VALUES, (shutil.disk_usage(tmp_path).free // 8 + 1, 1), (0, 0))
    assert store.keep(KEYS[0], huge, {}) is huge
    assert "nearly full" in message[0]
    assert files(tmp_path) == set()


def one(values: np.ndarray, output: Path) -> None:
    Store(output / "store", 1e9).keep(KEYS[0], values, {"what": "features"})


def test_a_process_killed_at_any_change_leaves_a_whole_entry_or_none(tmp_path: Path):
    output, journal = tmp_path / "output", tmp_path / "journal"
    case = Case(partial(one, VALUES), lambda _: {}, lambda _: None)
    point, absent = 1, 0
    while (ended := start(case, output, partial(die_at, point, output, journal))) != 0:
        assert ended == -signal.SIGKILL
        store = Store(output / "store", 1e9)
        assert [entry.key for entry in store.entries()] in ([], KEYS[:1])
        found = store.find(KEYS[0])
        absent += found is None
        assert found is None or found.tobytes() == VALUES.tobytes()
        store.keep(KEYS[1], VALUES, {})
        assert not list(output.glob("store/.making-*"))
        shutil.rmtree(output)
        point += 1
    assert absent >= 4


@pytest.mark.parametrize("maker", ["this", "another machine", "an earlier version"])
def test_entries_of_live_processes_are_kept_and_those_of_unknown_ones_for_a_day(tmp_path: Path, maker: str):
    unknown = {"another machine": f".making-{'0' * 8}-1-{gone()}-0a", "an earlier version": f".making-{gone()}-0a"}
    making = tmp_path / unknown.get(maker, staging_name())
    making.mkdir(parents=True)
    (tmp_path / ".trash-0a").mkdir()
    for age, stays in ((3600, True), (100_000, maker == "this")):
        os.utime(making, (time.time() - age, time.time() - age))
        Store(tmp_path, 1e9).keep(KEYS[age % 2], VALUES, {})
        assert making.exists() == stays
        assert not (tmp_path / ".trash-0a").exists()


def test_what_a_process_that_is_gone_was_making_is_removed_at_once_also_when_its_id_is_used_again(tmp_path: Path):
    start, process = staging_name().split("-")[2:4]
    mine = f"-{start}-{process}-"
    for left in (f"-{start}-{gone()}-", f"-{int(start) + 1}-{process}-"):
        (tmp_path / staging_name().replace(mine, left)).mkdir()
    Store(tmp_path, 1e9).keep(KEYS[0], VALUES, {})
    assert [path.name for path in tmp_path.iterdir()] == [KEYS[0]]


def gone() -> int:
    """Return the id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def busily(output: Path) -> None:
    """Cache and find more than the budget, concurrently with another process."""
    store = Store(output / "store", 3 * EACH, lambda sentence: pytest.fail(sentence))
    chooser = np.random.default_rng(os.getpid())
    for number in chooser.integers(0, 5, size=60):
        values = VALUES + number
        found = store.find(KEYS[number])
        if found is None:
            found = store.keep(KEYS[number], values, {})
        assert found.tobytes() == values.tobytes()


def test_processes_share_a_folder(tmp_path: Path):
    assert start(Case(busily, lambda _: {}, lambda _: None, processes=3), tmp_path / "output") == 0
    entries = Store(tmp_path / "output" / "store", 1e9).entries()
    assert entries
    assert {path.name for path in (tmp_path / "output" / "store").iterdir()} == {entry.key for entry in entries}


def test_the_cache_folder_is_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(storage.ENVIRONMENT, "~/elsewhere")
    assert folder_of("~/named") == tmp_path / "named"
    assert folder_of(None) == tmp_path / "elsewhere"
    monkeypatch.setenv(storage.ENVIRONMENT, "")
    assert folder_of(None) == tmp_path / "xdg" / "nlp_transfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder_of(None) == tmp_path / ".cache" / "nlp_transfer"
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    assert folder_of(None) is None


def folder_of_files(place: Path, size: int = 4000) -> Path:
    (place / "inside").mkdir(parents=True)
    (place / "weights").write_bytes(bytes(range(250)) * (size // 250))
    (place / "inside" / "one.json").write_text("{}")
    return place


def test_a_folder_is_kept_with_all_its_files_or_not_at_all(tmp_path: Path):
    made = folder_of_files(tmp_path / "made")
    store = Store(tmp_path / "store", 1e9)
    assert store.find_folder(KEYS[0]) is None
    kept = store.keep_folder(KEYS[0], made, {"what": "pretrained encoder", "rows": 3})
    assert kept == store.find_folder(KEYS[0]) == store.folder / KEYS[0]
    assert files(kept) == {*files(made), "entry.json"}
    assert (kept / "weights").read_bytes() == (made / "weights").read_bytes()
    (entry,) = store.entries()
    assert (entry.about["what"], entry.about["rows"]) == ("pretrained encoder", 3)
    assert entry.bytes >= 4000 + sum(path.stat().st_size for path in (kept / "inside").iterdir())
    assert store.keep_folder(KEYS[0], made, {}) == kept  # of another process that was faster


@pytest.mark.parametrize("change", ["changed", "missing", "added", "inside", "described"])
def test_a_changed_folder_is_removed(tmp_path: Path, change: str):
    store = Store(tmp_path / "store", 1e9)
    kept = store.keep_folder(KEYS[0], folder_of_files(tmp_path / "made"), {})
    assert kept is not None
    {
        "changed": lambda: (kept / "weights").write_bytes(b"other"),
        "missing": lambda: (kept / "weights").unlink(),
        "added": lambda: (kept / "more").touch(),
        "inside": lambda: (kept / "inside" / "one.json").write_text("[]"),
        "described": lambda: (kept / "entry.json").write_text("{"),
    }[change]()
    assert store.find_folder(KEYS[0]) is None
    assert not kept.exists()


def test_folders_and_arrays_share_the_budget(tmp_path: Path):
    messages: list[str] = []
    store = Store(tmp_path / "store", 3 * EACH, messages.append)
    made = folder_of_files(tmp_path / "made", 2 * VALUES.nbytes)
    assert store.keep_folder(KEYS[0], made, {})
    store.keep(KEYS[1], VALUES, {})
    os.utime(store.folder / KEYS[0] / "entry.json", (1, 1))
    store.keep(KEYS[2], VALUES, {})
    assert {entry.key for entry in store.entries()} == {KEYS[1], KEYS[2]}
    assert store.keep_folder(KEYS[3], folder_of_files(tmp_path / "large", 5 * EACH), {}) is None
    assert messages == [messages[0]]
    assert "cache.gib" in messages[0]
    assert {entry.key for entry in store.entries()} == {KEYS[1], KEYS[2]}


def test_a_folder_that_is_being_completed_counts_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ages = []

    def an_hour(work: Callable[..., object]) -> Callable[..., object]:
        def done(*given: object) -> object:
            ages.append(time.time() - tmp_path.stat().st_mtime)
            os.utime(tmp_path, (time.time() - 3600,) * 2)
            return work(*given)

        return done

    monkeypatch.setattr(entries, "flush", an_hour(entries.flush))
    monkeypatch.setattr(hashlib, "file_digest", an_hour(hashlib.file_digest))
    np.save(tmp_path / entries.VALUES, VALUES)
    os.utime(tmp_path, (time.time() - 3600,) * 2)
    entries.seal(tmp_path, KEYS[0], VALUES, {})
    assert max(ages[:2]) < 60
