"""Names of files: the home folder is meant where a shell would mean it."""

from pathlib import Path

from nlp_transfer.data.paths import expanded


def test_a_tilde_is_the_home_folder_only_where_there_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert expanded("~/rows.csv") == Path("/home/someone/rows.csv")
    assert expanded("~draft.csv") == Path("~draft.csv")
