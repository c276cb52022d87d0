"""The Hub of the tests answers the real client as the Hub does: by LFS and by Xet, to owners, others and strangers."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

from tests.publishing.hub_repository import read
from tests.publishing.hub_server import ALICE, ALWAYS, BOB, READER, Fault, HubServer

WEIGHTS = bytes(range(256)) * 1000
README = b"---\ntags: [tiny]\nlibrary_name: transformers\n---\nTiny.\n"
FILES = {"README.md": README, "config.json": b"{}", "1_Pooling/config.json": b"[]", "model.safetensors": WEIGHTS}
NAME = "alice/tiny"


@pytest.fixture(params=["lfs", "xet"])
def transport(request) -> str:
    return request.param


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without Xet, and Alice at this process's client."""
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home", token=ALICE)
        yield server


@pytest.fixture
def either(tmp_path, monkeypatch, transport):
    """A Hub that is reached by LFS or by Xet, and Alice at this process's client."""
    with HubServer(xet=tmp_path / "xet") as server:
        server.attach(monkeypatch, tmp_path / "home", token=ALICE, xet=transport == "xet")
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that the client wanted to wait before it tried again; it does not."""
    waits: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "pushed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "pushed"


def api(token: str | bool = ALICE) -> HfApi:
    return HfApi(token=token)


def commit(*operations: CommitOperationAdd | CommitOperationCopy | CommitOperationDelete, token=ALICE, **options: Any):
    """Commit operations with a message."""
    return api(token).create_commit(NAME, operations, **{"commit_message": "Work", **options})


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def contents(folder: str | Path) -> dict[str, bytes]:
    return {name: content for name, content in read(Path(folder)).items() if name != ".gitattributes"}


def refused(status: int):
    return pytest.raises(HfHubHTTPError, check=lambda error: error.response.status_code == status)


# Accounts and repositories.


def test_a_token_identifies_its_owner_and_rights(hub):
    me = api().whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("alice", ["acme"])
    assert me["auth"]["accessToken"]["role"] == "write"
    assert api(READER).whoami()["auth"]["accessToken"]["role"] == "read"
    for stranger in (api(False), api("hf_forged")):
        with pytest.raises(Exception, match=r"401|[Tt]oken"):
            stranger.whoami()


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_repository_is_created_changed_and_deleted(hub, kind):
    for name in ("tiny", "acme/tiny"):
        url = api().create_repo(name, private=True, repo_type=kind)
        assert url.repo_id == (name if "/" in name else f"alice/{name}")
        assert (url.repo_type, api().create_repo(name, repo_type=kind, exist_ok=True)) == (kind, url)
        with refused(409):
            api().create_repo(name, repo_type=kind)
    assert api().repo_info(NAME, repo_type=kind).private
    api().update_repo_settings(NAME, private=False, gated="manual", repo_type=kind)
    info = api().repo_info(NAME, repo_type=kind)
    assert (info.private, info.gated) == (False, "manual")
    api().delete_repo(NAME, repo_type=kind)
    assert not api().repo_exists(NAME, repo_type=kind)
    api().delete_repo(NAME, repo_type=kind, missing_ok=True)


@pytest.mark.parametrize(("token", "name"), [(ALICE, "bob/tiny"), (BOB, "acme/tiny"), (READER, "alice/tiny")])
def test_creating_a_repository_needs_write_access(hub, token, name):
    with refused(403):
        api(token).create_repo(name, exist_ok=True)
    assert not hub.repositories


# Files and commits.


@pytest.mark.parametrize("chunk", [None, 100_000])
def test_pushed_files_are_downloaded_unchanged(tmp_path, monkeypatch, folder, transport, chunk):
    with HubServer(xet=tmp_path / "xet", lfs_chunk=chunk) as hub:
        hub.attach(monkeypatch, tmp_path / "home", token=ALICE, xet=transport == "xet")
        api().create_repo(NAME)
        pushed = api().upload_folder(repo_id=NAME, folder_path=folder)
        assert contents(snapshot_download(NAME)) == FILES
        assert len(hub.asked(r"PUT /large/")) == {"xet": 0, "lfs": 3 if chunk else 1}[transport]
        stored = {sibling.rfilename: sibling for sibling in api().model_info(NAME, files_metadata=True).siblings}
        assert {name: stored[name].size for name in FILES} == {name: len(FILES[name]) for name in FILES}
        assert stored["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert stored["config.json"].blob_id == hashlib.sha1(b"blob 2\0{}").hexdigest()
        # What is there already makes no commit.
        assert api().upload_folder(repo_id=NAME, folder_path=folder).oid == pushed.oid
        # Whoever does not speak the other's protocol gets the same bytes.
        hub.attach(monkeypatch, tmp_path / "other", xet=transport != "xet")
        assert contents(snapshot_download(NAME)) == FILES


def test_a_hub_without_xet_refuses_a_client_with_it(hub, monkeypatch, tmp_path, folder):
    hub.attach(monkeypatch, tmp_path / "home", token=ALICE, xet=True)
    api().create_repo(NAME)
    with pytest.raises(Exception, match="xet-write-token"):
        api().upload_folder(repo_id=NAME, folder_path=folder)


def test_a_commit_adds_copies_and_deletes(hub):
    hub.add(NAME, {**FILES, "old/a": b"a", "old/b": b"b"})
    copied = CommitOperationCopy("config.json", "copy.json")
    deleted = [CommitOperationDelete("old/"), CommitOperationDelete("README.md")]
    info = commit(add("new", b"new"), copied, *deleted, commit_message="Tidy", commit_description="Why")
    assert set(api().list_repo_files(NAME)) == {*FILES, "new", "copy.json", ".gitattributes"} - {"README.md"}
    assert Path(hf_hub_download(NAME, "copy.json")).read_bytes() == b"{}"
    last = api().list_repo_commits(NAME)[0]
    assert (last.commit_id, last.title, last.message, last.authors) == (info.oid, "Tidy", "Why", ["alice"])
    with pytest.raises(EntryNotFoundError):
        api().delete_file("absent", NAME)


def test_a_commit_that_does_not_follow_its_parent_is_refused(either):
    repository = either.add(NAME)
    first = repository.head.oid
    second = commit(add("a", b"1"), parent_commit=first)
    with refused(412):
        commit(add("a", b"2"), parent_commit=first)
    assert repository.head.oid == second.oid


def test_listings_have_folders(hub):
    hub.add(NAME, {"a/b/c": b"c", "a/d": b"d", "e.bin": b"e"})
    assert {item.path for item in api().list_repo_tree(NAME)} == {"a", "e.bin", ".gitattributes"}
    assert {item.path for item in api().list_repo_tree(NAME, "a", recursive=True)} == {"a/b", "a/b/c", "a/d"}
    assert [item.path for item in api().get_paths_info(NAME, ["a", "e.bin", "f"])] == ["a", "e.bin"]
    assert api().file_exists(NAME, "a/d")
    assert not api().file_exists(NAME, "a")
    with pytest.raises(EntryNotFoundError):
        list(api().list_repo_tree(NAME, "f"))


def test_a_commit_can_be_named_by_itself_a_branch_or_a_tag(hub):
    first = hub.add(NAME, {"a": b"1"}).head.oid
    api().create_branch(NAME, branch="some/work")
    api().create_tag(NAME, tag="v1", tag_message="One")
    pushed = api().upload_file(repo_id=NAME, path_in_repo="a", path_or_fileobj=b"2", revision="some/work").oid
    refs = api().list_repo_refs(NAME, include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "some/work": pushed}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    for revision, content in {"some/work": b"2", "v1": b"1", pushed[:8]: b"2", None: b"1"}.items():
        assert Path(hf_hub_download(NAME, "a", revision=revision)).read_bytes() == content
    api().create_branch(NAME, branch="some/work", exist_ok=True)
    with refused(409):
        api().create_tag(NAME, tag="v1")
    api().delete_branch(NAME, branch="some/work")
    api().delete_tag(NAME, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api().model_info(NAME, revision="v1")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(NAME, "b")


def test_a_card_is_checked_and_read(hub):
    api().create_repo(NAME)
    ModelCard(README.decode()).push_to_hub(NAME)
    info = api().model_info(NAME)
    assert (info.card_data.tags, info.library_name, info.tags) == (["tiny"], "transformers", ["tiny", "transformers"])
    assert ModelCard.load(NAME).data.to_dict() == info.card_data.to_dict()
    with pytest.raises(ValueError, match="Invalid metadata"):
        commit(add("README.md", b"---\na: [\n---\n"))


# Pull requests.


def test_pull_requests_are_opened_by_others_and_merged_by_owners(either, folder):
    repository = either.add(NAME, {"config.json": b"[]", "kept": b"kept"})
    before = repository.head.oid
    proposed = api(BOB).upload_folder(repo_id=NAME, folder_path=folder, create_pr=True)
    assert (proposed.pr_num, proposed.pr_revision, repository.head.oid) == (1, "refs/pr/1", before)
    assert contents(snapshot_download(NAME, revision="refs/pr/1")) == {**FILES, "kept": b"kept"}
    more = commit(add("more", b"more"), token=BOB, revision="refs/pr/1")
    details = api().get_discussion_details(NAME, 1)
    assert (details.author, details.is_pull_request, details.target_branch) == ("bob", True, "refs/heads/main")
    assert [event.oid for event in details.events if event.type == "commit"] == [proposed.oid, more.oid]
    with refused(403):
        api(BOB).merge_pull_request(NAME, 1)
    repository.commit({"since": b"since"})
    api().merge_pull_request(NAME, 1)
    assert contents(snapshot_download(NAME)) == {**FILES, "kept": b"kept", "more": b"more", "since": b"since"}
    details = api().get_discussion_details(NAME, 1)
    assert (details.status, details.merge_commit_oid) == ("merged", repository.head.oid)
    with pytest.raises(BadRequestError):
        api().merge_pull_request(NAME, 1)


def test_a_pull_request_starts_at_the_main_branch(hub):
    repository = hub.add(NAME)
    head = repository.head.oid
    info = commit(add("a", b"a"), token=BOB, create_pr=True, parent_commit=head)
    assert (info.pr_url, info.pr_revision) == (f"{hub.url}/{NAME}/discussions/1", "refs/pr/1")
    assert repository.commits[info.oid].parent == head
    assert api().list_repo_refs(NAME, include_pull_requests=True).pull_requests[0].target_commit == info.oid


def test_discussions_are_opened_listed_and_closed(hub):
    hub.add(NAME)
    api(BOB).create_discussion(NAME, "Why?", description="I wonder")
    draft = api().create_pull_request(NAME, "Better", description="By far")
    assert (draft.num, draft.status, draft.events[0].content) == (2, "draft", "By far")
    assert api().change_discussion_status(NAME, 2, "open").new_status == "open"
    api(BOB).change_discussion_status(NAME, 1, "closed")
    found = {
        tuple(found.num for found in api().get_repo_discussions(NAME, **asked))
        for asked in ({}, {"discussion_status": "open"}, {"discussion_type": "discussion"}, {"author": "bob"})
    }
    assert found == {(1, 2), (2,), (1,)}


# Who may see and change what.


def test_a_private_repository_is_hidden_from_others(hub):
    hub.add(NAME, FILES, private=True)
    assert api(READER).model_info(NAME).private
    for token in (BOB, False):
        for ask in (api(token).model_info, api(token).list_repo_refs, api(token).list_repo_files):
            with pytest.raises(RepositoryNotFoundError):
                ask(NAME)
        with pytest.raises(RepositoryNotFoundError):
            api(token).upload_file(repo_id=NAME, path_in_repo="a", path_or_fileobj=b"a")
    with refused(401):
        api("hf_forged").model_info(NAME)


@pytest.mark.parametrize("token", [BOB, READER])
def test_only_owners_write(either, folder, token):
    repository = either.add(NAME, {"a": b"a"})
    before = dict(repository.refs)
    for change in (
        lambda: api(token).upload_folder(repo_id=NAME, folder_path=folder),
        lambda: commit(CommitOperationDelete("a"), token=token),
        lambda: api(token).create_branch(NAME, branch="work"),
        lambda: api(token).update_repo_settings(NAME, private=True),
        lambda: api(token).delete_repo(NAME),
    ):
        with refused(403):
            change()
    assert (repository.refs, repository.private, NAME in either.repositories) == (before, False, True)


def test_a_gated_repository_shows_its_files_to_its_owners_only(hub):
    hub.add(NAME, FILES, gated=True)
    assert api(BOB).model_info(NAME).gated == "manual"
    for token in (BOB, False):
        with pytest.raises(GatedRepoError):
            hf_hub_download(NAME, "config.json", token=token)
        with pytest.raises(GatedRepoError):
            api().auth_check(NAME, token=token)
    hf_hub_download(NAME, "config.json")
    api().auth_check(NAME)


def test_a_repository_may_hold_names_that_no_client_sends(hub, tmp_path):
    hub.add(NAME, {"../x": b"x", "a/../../y": b"y"}, oid="0" * 40)
    assert api().model_info(NAME).sha == "0" * 40
    assert {"../x", "a/../../y"} <= {sibling.rfilename for sibling in api().model_info(NAME).siblings}
    with pytest.raises(Exception, match="nvalid"):
        snapshot_download(NAME, local_dir=tmp_path / "local")


# What goes wrong.


@pytest.mark.parametrize("status", [429, 503])
def test_the_client_retries_idempotent_requests(hub, waits, status):
    repository = hub.add(NAME)
    hub.faults.append(Fault("/preupload/", status, headers={"Retry-After": "7"}, times=2))
    commit(add("a", b"a"))
    assert (waits, len(hub.asked("/preupload/")), len(repository.commits)) == ([8, 8], 3, 2)


@pytest.mark.parametrize("fault", [{"status": 503}, {"close": True}])
def test_a_commit_that_fails_is_sent_again_by_xet_only(either, folder, waits, transport, fault):
    repository = either.add(NAME)
    either.faults.append(Fault("/commit/", **fault, times=2))
    if transport == "lfs":
        with pytest.raises((HfHubHTTPError, httpx2.TransportError)):
            api().upload_folder(repo_id=NAME, folder_path=folder)
    else:
        api().upload_folder(repo_id=NAME, folder_path=folder)
    assert (len(repository.commits), waits) == {"lfs": (1, []), "xet": (2, [1, 2])}[transport]


def test_a_commit_with_a_lost_response_exists(either, folder, waits, transport):
    """By Xet it is sent again: there are two, unless it names its parent; then the client hears of a conflict."""
    repository = either.add(NAME)
    either.faults.append(Fault("/commit/", after=True))
    if transport == "lfs":
        with pytest.raises(httpx2.RemoteProtocolError):
            api().upload_folder(repo_id=NAME, folder_path=folder)
    else:
        api().upload_folder(repo_id=NAME, folder_path=folder)
    assert len(repository.commits) == {"lfs": 2, "xet": 3}[transport]
    (folder / "config.json").write_text("[]")
    either.faults.append(Fault("/commit/", status=504, after=True))
    before = len(repository.commits)
    with refused({"lfs": 504, "xet": 412}[transport]):
        api().upload_folder(repo_id=NAME, folder_path=folder, parent_commit=repository.head.oid)
    assert len(repository.commits) == before + 1


def test_a_broken_download_is_retried(hub):
    hub.add(NAME, FILES)
    hub.faults.append(Fault("GET .*safetensors", truncate=100_000))
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert len(hub.asked("GET .*safetensors")) == 2


@pytest.mark.parametrize(
    ("asked", "status", "got"), [("7-9", 206, WEIGHTS[7:10]), ("9-", 206, WEIGHTS[9:]), ("999999-", 416, b"")]
)
def test_a_part_of_a_file_can_be_asked_for(hub, asked, status, got):
    hub.add(NAME, FILES)
    answer = httpx2.get(f"{hub.url}/{NAME}/resolve/main/model.safetensors", headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (status, got)


def test_a_slow_hub_times_out(hub):
    hub.add(NAME)
    hub.faults.append(Fault("/revision/|/models/", delay=30, times=ALWAYS))
    with pytest.raises(httpx2.TimeoutException):
        api().model_info(NAME, timeout=0.1)


def test_a_stopped_hub_closes_its_connections(hub):
    hub.add(NAME)
    api().model_info(NAME)
    hub.stop()
    with pytest.raises(httpx2.TransportError):
        api().model_info(NAME)
    with pytest.raises(httpx2.ConnectError):
        api().model_info(NAME)


# Its surroundings.


def test_the_log_names_users_and_no_tokens(hub):
    hub.add(NAME)
    api().model_info(NAME, files_metadata=True)
    api(False).model_info(NAME)
    mine, strange = hub.asked("/api/models/")
    assert (mine.method, mine.query, mine.user, mine.authorized, mine.status) == (
        "GET",
        "blobs=true",
        "alice",
        True,
        200,
    )
    assert (strange.user, strange.authorized) == (None, False)
    assert "hf_" not in str(hub.log)


@pytest.mark.slow
def test_a_new_process_finds_only_this_hub(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    code = f"""
from huggingface_hub import create_repo, snapshot_download, upload_folder
create_repo({NAME!r})
upload_folder(repo_id={NAME!r}, folder_path={str(folder)!r})
print(snapshot_download({NAME!r}))
"""
    with HubServer(xet=tmp_path / "xet") as hub:
        environment = hub.environment(tmp_path / "home", token=ALICE, xet=True)
        ran = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    fetched = Path(ran.stdout.strip())
    assert fetched.is_relative_to(tmp_path / "home")
    assert contents(fetched) == FILES
    assert {entry.user for entry in hub.log} == {"alice"}
