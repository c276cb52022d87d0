"""`nlp-transfer cache` lists and removes entries and imports nothing heavy."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.cache.entries import Entry
from nlp_transfer.cache.store import Store
from nlp_transfer.cli import main

KEYS = ["ab12" + "0" * 60, "ab34" + "0" * 60, "cd56" + "0" * 60]


@pytest.fixture
def store(store_folder: Path) -> Store:
    """Three entries, the first used last."""
    store = Store(store_folder, 1e9)
    for age, key in enumerate(KEYS):
        store.keep(
            key, np.ones((10 + age, 3), np.float32), {"what": "features", "encoder": "[red]/x", "rows": 10 + age}
        )
        os.utime(store_folder / key / "entry.json", (10**9 - 7200 * age,) * 2)
    return store


def left(store: Store) -> set[str]:
    return {entry.key for entry in store.entries()}


def test_entries_are_listed_last_used_first(store: Store, capfd):
    (store.folder / KEYS[2] / "entry.json").write_text("{")
    assert main(["cache", "ls"]) == 0
    out, err = capfd.readouterr()
    listed = {line["entry"]: line for line in map(json.loads, out.splitlines())}
    assert set(listed) == set(KEYS)
    first = listed[KEYS[0]]
    assert (first["what"], first["encoder"], first["rows"], first["shape"]) == ("features", "[red]/x", 10, [10, 3])
    assert first["bytes"] == sum(path.stat().st_size for path in (store.folder / KEYS[0]).iterdir())
    assert listed[KEYS[2]]["encoder"] is None
    assert err == ""
    assert list(listed).index(KEYS[0]) < list(listed).index(KEYS[1])


def test_a_closed_pipe_is_no_error_of_the_cache(store: Store, monkeypatch: pytest.MonkeyPatch, capfd):
    class Left(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Left())
    assert main(["cache", "ls"]) == 0
    assert capfd.readouterr().err == ""


def test_a_terminal_shows_a_table(store: Store, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    (store.folder / KEYS[2] / "entry.json").write_text("{")
    assert main(["cache", "ls"]) == 0
    out = capfd.readouterr().out
    assert all(key[:12] in out and key not in out for key in KEYS)
    assert "[red]/x" in out
    assert "damaged" in out
    assert "days ago" in out
    assert "3 entries, 0.0 MiB" in out
    assert main(["cache", "rm", "--all"]) == 0
    capfd.readouterr()
    assert main(["cache", "ls"]) == 0
    assert capfd.readouterr().out.count("\n") == 1  # no table of nothing


def test_entries_are_removed_by_their_first_digits(store: Store, capfd):
    assert main(["cache", "rm", "ab1", KEYS[0], KEYS[2]]) == 0
    assert left(store) == {KEYS[1]}
    assert main(["cache", "rm", "--all"]) == 0
    assert left(store) == set()
    assert main(["cache", "rm", "--all"]) == 0
    assert [path.name for path in store.folder.iterdir()] == []
    assert capfd.readouterr().out == ""


def test_an_entry_removed_by_another_process_is_no_error(store: Store, monkeypatch, capfd):
    listed = Store.entries

    def stale(self: Store) -> list[Entry]:
        entries = listed(self)
        self.remove(entries[0].key)
        return entries

    monkeypatch.setattr(Store, "entries", stale)
    assert main(["cache", "rm", "--all"]) == 0
    monkeypatch.undo()
    assert left(store) == set()
    assert capfd.readouterr().err.startswith("2 entries removed")


def test_another_folder_is_named_as_for_a_run(store: Store, tmp_path: Path, capfd):
    assert main(["cache", "ls", f"cache.folder={tmp_path / 'none'}"]) == 0
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "none").exists()
    store.folder.rename(tmp_path / "moved")
    assert main(["cache", "rm", "cd", f"cache.folder={tmp_path / 'moved'}"]) == 0
    assert left(Store(tmp_path / "moved", 1e9)) == set(KEYS[:2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache"], "cache takes `ls`, `rm ENTRY ...` or `rm --all`"),
        (["cache", "list"], "(did you mean 'ls'?)"),
        (["cache", "ls", "x"], "cache takes"),
        (["cache", "ls", "--all"], "cache takes"),
        (["cache", "rm"], "cache rm needs an ENTRY"),
        (["cache", "rm", KEYS[0], "--all"], "cache takes"),
        (["cache", "rm", "ab"], "'ab' begins 2 entries"),
        (["cache", "rm", ""], "there is no entry ''"),
        (["cache", "rm", "ab1200000009"], "(did you mean 'ab1200000000'?)"),
        (["cache", "rm", KEYS[0], "zz"], "there is no entry 'zz'"),
        (["cache", "ls", "cache.folder=/dev/null"], "cannot be used"),
        (["cache", "ls", "cache.folder="], "cache.folder is empty"),
        (["cache", "ls", "cache.gb=3"], "did you mean 'cache.gib'"),
        (["doctor", "--all"], "doctor does not take --all; cache does"),
        (["adapt", "cache.gib=-1"], "cache.gib=-1.0 must be at least 0"),
        (["adapt", "cache.gib=.nan"], "must be"),
    ],
)
def test_refused_removals_remove_nothing(store: Store, capfd, words: list[str], message: str):
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert left(store) == set(KEYS)


def test_nothing_heavy_is_imported(store: Store):
    code = (
        "import sys\nfrom nlp_transfer.cli import main\n"
        f"assert main(['cache', 'ls']) == 0 and main(['cache', 'rm', '{KEYS[0]}']) == 0\n"
        "assert not {'torch', 'transformers', 'accelerate', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left(store) == set(KEYS[1:])
