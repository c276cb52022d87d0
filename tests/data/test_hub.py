"""Data sets of a local Hub: one commit, files only, and the cache when the Hub is unreachable."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from nlp_transfer.data import hub as hub_module
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings
from tests.data.cards import CARD, COMMIT, OTHER
from tests.publishing.hub_repository import Repository
from tests.publishing.hub_server import ALWAYS, BOB, Fault, HubServer, attach

ROWS = "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(6))
HIDDEN = "text,label\nhidden,\n"
FILES = {"train.csv": ROWS, "validation.csv": ROWS, "test.csv": HIDDEN}
QUOTED = {"X-Error-Message": f"token {BOB}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with a data set `acme/tiny`, whose only commit of data is COMMIT or v1."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.chdir(tmp_path)
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home", token=BOB)
        serve(server, FILES).name_ref("refs/tags/v1", COMMIT)
        yield server


def serve(hub: HubServer, files: dict[str, str], *, name: str = "acme/tiny", **options: Any) -> Repository:
    """Put a data set with these files at COMMIT in the place of whatever has its name."""
    return hub.add(name, encoded(files), oid=COMMIT, kind="datasets", **options)


def change(hub: HubServer, files: dict[str, str], **options: Any) -> None:
    """Commit to `acme/tiny`."""
    hub.repositories["datasets/acme/tiny"].commit(encoded(files), **options)


def encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: content.encode() for name, content in files.items()}


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_whatever_the_revision_the_source_names_the_commit(hub, revision) -> None:
    corpus = load_corpus(DataSettings(hub="acme/tiny", revision=revision))
    assert corpus.source == f"acme/tiny @ {COMMIT}"
    assert list(corpus.splits) == ["train", "validation"]
    assert corpus.splits["train"].texts == [f"text {n}" for n in range(6)]
    assert "test: its 1 rows have no labels, so it is not used" in corpus.notes
    asked = [entry.path for entry in hub.asked("acme/tiny")][1:]  # the first one asks for the commit
    assert asked
    assert all(COMMIT in path for path in asked)


def test_the_licence_of_the_data_is_reported(hub) -> None:
    for header, notes in (("license: cc-by-4.0\n", ["licence of the data: cc-by-4.0"]), ("", [])):
        serve(hub, FILES | {"README.md": f"---\n{header}language: en\n---\nTiny.\n"})
        corpus = load_corpus(DataSettings(hub="acme/tiny"))
        assert [note for note in corpus.notes if "licence" in note] == notes


def test_a_cached_commit_is_read_without_the_hub(hub, monkeypatch) -> None:
    online = load_corpus(DataSettings(hub="acme/tiny"))
    change(hub, {"train.csv": ROWS + "more,a\n"}, oid=OTHER)  # a new commit with other rows, which is now the latest
    newer = load_corpus(DataSettings(hub="acme/tiny"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, expected in {None: newer, "main": newer, OTHER: newer, COMMIT: online}.items():
        corpus = load_corpus(DataSettings(hub="acme/tiny", revision=revision))
        assert (corpus.source, corpus.fingerprint) == (expected.source, expected.fingerprint)
        commit = corpus.source.removeprefix("acme/tiny @ ")
        assert f"the Hub cannot be reached; acme/tiny is read from the cache of this machine, commit {commit}" in (
            corpus.notes
        )
    with pytest.raises(UserError, match=rf"data\.revision='v1'.*in the cache of this machine is {OTHER}"):
        load_corpus(DataSettings(hub="acme/tiny", revision="v1"))
    with pytest.raises(UserError, match=r"at revision '0000.*nor from the cache of this machine"):
        load_corpus(DataSettings(hub="acme/tiny", revision="0" * 40))


def test_another_cached_commit_is_not_used(hub) -> None:
    load_corpus(DataSettings(hub="acme/tiny"))
    change(hub, {"train.csv": ROWS + "more,a\n"}, oid=OTHER)
    hub.faults.append(Fault(f"acme/tiny/tree/{OTHER}", 403, times=ALWAYS))
    with pytest.raises(UserError, match=rf"the files of commit {OTHER} cannot be fetched"):
        load_corpus(DataSettings(hub="acme/tiny"))


def test_a_data_set_that_is_a_program_is_refused(hub) -> None:
    change(hub, {"tiny.py": "raise RuntimeError('ran')"})
    with pytest.raises(UserError, match=r"data\.hub=acme/tiny is a program \(tiny\.py\).*refs/convert/parquet"):
        load_corpus(DataSettings(hub="acme/tiny"))


@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        (f"hf://datasets/acme/tiny@{OTHER}/train.csv", f"takes rows from .*@{OTHER}.*, which the commit does not pin"),
        (f"hf://datasets/acme/other@{COMMIT}/train.csv", "cannot be loaded"),
        ("{folder}/outside.csv", "cannot be loaded"),
    ],
)
def test_rows_from_outside_the_commit_are_refused(hub, tmp_path, elsewhere, message) -> None:
    elsewhere = elsewhere.format(folder=tmp_path)
    (tmp_path / "outside.csv").write_text(ROWS)
    serve(hub, FILES, name="acme/other")
    served = serve(hub, {**FILES, "README.md": card(default=elsewhere)})
    served.commit(encoded(FILES), ref="refs/heads/other", oid=OTHER)
    with pytest.raises(UserError, match=rf"data\.hub=acme/tiny {message}"):
        load_corpus(DataSettings(hub="acme/tiny"))


def card(**files: str) -> str:
    """Return a card that names a file for every configuration."""
    configs = "".join(f"- config_name: {name}\n  data_files: {file}\n" for name, file in files.items())
    return f"---\nconfigs:\n{configs}---\n"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("acme/missing", {}, "acme/missing is not a repository on the Hub"),
        ("acme/gated", {}, "acme/gated is gated: accept its terms on its page on the Hub"),
        ("acme/down", {}, "cannot be fetched from the Hub, nor from the cache of this machine .*set data.path"),
        ("acme/half", {}, "acme/half cannot be loaded"),
        ("acme/tiny", {"revision": "nowhere"}, "at revision 'nowhere' has no such revision"),
        ("acme/tiny", {"subset": "en"}, r"data\.subset=en cannot be loaded .*'en' not found.*'default'"),
        ("a/b/c", {}, "is not a valid Hub name"),
        ("here", {}, "here is also a folder here"),
    ],
)
def test_load_errors_are_one_sentence_without_the_token(hub, tmp_path, name, options, message) -> None:
    (tmp_path / "here").mkdir()
    serve(hub, FILES, name="acme/gated", gated=True)
    serve(hub, FILES, name="acme/half")
    for match, status in {"half/tree": 403, "acme/down": 503}.items():
        hub.faults.append(Fault(match, status, headers=QUOTED, times=ALWAYS))
    hub.faults.append(Fault("acme/missing", headers=QUOTED, times=ALWAYS))
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        load_corpus(DataSettings(hub=name, **options))
    assert not [word for word in (BOB, "http", "\n") if word in str(error.value)]
    assert time.monotonic() - started < 10


def test_a_subset_is_one_of_the_authors(hub) -> None:
    names = ("en", "de")
    files = {f"{name}/train.csv": ROWS.replace("text ", f"{name} ") for name in names}
    change(hub, {**files, "README.md": card(**{name: f"{name}/train.csv" for name in names})})
    corpus = load_corpus(DataSettings(hub="acme/tiny", subset="de"))
    assert all(text.startswith("de ") for text in corpus.splits["train"].texts)
    with pytest.raises(UserError, match=r"cannot be loaded .*\['en', 'de'\]"):
        load_corpus(DataSettings(hub="acme/tiny"))


def test_integers_get_the_names_of_their_card(hub) -> None:
    files = {"train": "p,0\nq,1\n", "validation": "p,1\n", "test": "p,-1\nq,-1\n"}
    tables = {f"{name}.csv": f"text,label\n{rows}" for name, rows in files.items()}
    change(hub, {**tables, "README.md": CARD})
    corpus = load_corpus(DataSettings(hub="acme/tiny"))
    assert [corpus.task.labels[target] for target in corpus.splits["train"].targets] == ["z", "y"]
    assert "test: its 2 rows have no labels, so it is not used" in corpus.notes


def test_a_silent_hub_times_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hub_module, "SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        attach(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, tmp_path)
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be fetched"):
            load_corpus(DataSettings(hub="acme/tiny"))
    assert time.monotonic() - started < 10
