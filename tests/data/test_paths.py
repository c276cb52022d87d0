"""Names of files: the home folder is meant where a shell would mean it."""

import sys
from pathlib import Path

from nlp_transfer.data.paths import expanded, not_a_name


def test_a_tilde_is_the_home_folder_only_where_there_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert expanded("~/rows.csv") == Path("/home/someone/rows.csv")
    assert expanded("~draft.csv") == Path("~draft.csv")


def test_a_name_that_the_encoding_of_the_process_lacks(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert not_a_name("caf\xe9.csv") == (
        "'caf\xe9.csv' has characters that the encoding of this process (ascii) lacks; "
        "set the environment variable PYTHONUTF8=1"
    )
    assert "'caf\xe9.csv' holds bytes that are not text" in not_a_name("caf\udcc3\udca9.csv")
