"""A push is one commit or none, with the reason in a sentence."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.utils import _http

from nlp_transfer.errors import PushFailed, UserError
from nlp_transfer.publishing import upload
from nlp_transfer.publishing.upload import Pushed, Target, check_access, push
from nlp_transfer.verb_settings import HubSettings
from tests.publishing.hub_server import ALICE, ALWAYS, READER, Fault, HubServer

NAME = "alice/tiny"
FILES = {
    "README.md": b"---\ntags: [tiny]\n---\nTiny.\n",
    "config.json": b"{}",
    "adapter/adapter_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
}


@pytest.fixture(params=["lfs", "xet"])
def hub(request, tmp_path, monkeypatch):
    """A Hub that is reached by LFS or by Xet, and Alice at this process's client, who waits for nothing."""
    with HubServer(xet=tmp_path / "xet") as server:
        server.attach(monkeypatch, tmp_path / "home", token=ALICE, xet=request.param == "xet")
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(upload, "time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    found = {}
    for name, content in FILES.items():
        found[name] = tmp_path / "model" / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(content)
    return found


def to(repository: str = NAME, **more) -> Target:
    values = {"private": True, "revision": None, "create_pr": False, "message": "weights"} | more
    return Target(repository, **values)


def pushed(files: dict[str, Path], target: Target | None = None) -> Pushed:
    return push(files, target or to(), tell=lambda _: None)


def held(hub: HubServer, ref: str = "main", name: str = NAME) -> dict[str, str]:
    """The SHA-256 of what a repository holds, by name."""
    files = hub.repositories[name].history(ref)[0].files
    kept = {path: blob for path, blob in files.items() if path != ".gitattributes"}
    return {path: blob.sha256 or hashlib.sha256(blob.content or b"").hexdigest() for path, blob in kept.items()}


def hashed(files: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def titles(hub: HubServer, ref: str = "main", name: str = NAME) -> list[str]:
    return [commit.title for commit in hub.repositories[name].history(ref)]


def test_files_arrive_in_one_commit_and_the_same_again_is_none(hub, files):
    first = pushed(files)
    assert held(hub) == hashed(FILES)
    assert hub.repositories[NAME].private
    assert first.changed == len(FILES)
    assert first.url.startswith(f"{hub.url}/{NAME}/commit/")
    again = pushed(files)
    assert again.changed == 0
    assert titles(hub) == ["weights", "initial commit"]


def test_an_existing_repository_keeps_what_is_not_of_a_model_and_its_visibility(hub, files):
    theirs = {"notes.txt": b"mine", "img/picture.png": b"png", "config.json": b'{"old": 1}'}
    stale = {"model-00001-of-00002.safetensors": b"a", "model.safetensors.index.json": b"{}", "pytorch_model.bin": b"p"}
    stale |= {"adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"x", "vocab.txt": b"v"}
    theirs |= {"models/model.safetensors": b"1", "model-v2/weights.safetensors": b"2", "adapter/notes.md": b"3"}
    theirs |= {"lid.model": b"4", "onnx/model.onnx": b"5"}
    hub.add(NAME, theirs | stale, private=False)
    output: list[str] = []
    assert push(files, to(), tell=output.append).changed == len(FILES) + len(stale)
    assert held(hub) == hashed({**theirs, **FILES})
    assert not hub.repositories[NAME].private
    assert "alice/tiny exists already and is public" in output[0]
    assert all(name in output[1] for name in stale)


def test_a_branch_is_made_and_main_stays(hub, files):
    hub.add(NAME, {"config.json": b"old"})
    pushed(files, to(revision="next"))
    assert held(hub, "next") == hashed(FILES)
    assert held(hub) == hashed({"config.json": b"old"})


@pytest.mark.parametrize("owner", ["alice", "bob"])
def test_a_pull_request_is_proposed_once_also_to_others(hub, files, owner):
    name = f"{owner}/tiny"
    hub.add(name, {"config.json": b"old"})
    first, again = (pushed(files, to(name, create_pr=True)) for _ in range(2))
    assert first.url == again.url
    assert (first.changed > 0, again.changed) == (True, 0)
    assert held(hub, "refs/pr/1", name) == hashed(FILES)
    assert held(hub, name=name) == hashed({"config.json": b"old"})
    assert len(hub.repositories[name].discussions) == 1


COMMIT = r"POST .*/commit/"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(COMMIT, status=503, times=2),
        Fault(COMMIT, status=500),
        Fault(COMMIT, status=429, headers={"Retry-After": "3"}),
        Fault(COMMIT, close=True),
        Fault(COMMIT, after=True),
        Fault(COMMIT, after=True, status=504),
        Fault(r"GET .*/api/models/alice/tiny\b", status=502, times=2),
        Fault(r"POST .*/preupload/", status=503, times=2),
        Fault(r"POST .*/objects/batch", status=503),
        Fault(r"PUT ", close=True),
    ],
    ids=lambda fault: f"{fault.match} {fault.status} {'after' if fault.after else ''}",
)
def test_transient_errors_are_retried_and_committed_once(hub, files, waits, fault):
    hub.add(NAME, {})
    hub.faults.append(fault)
    pushed(files)
    assert held(hub) == hashed(FILES)
    assert titles(hub) == ["weights", "initial commit"]
    if fault.headers:
        assert set(waits) <= {4}  # by Xet the client waits itself


def test_concurrent_commits_are_not_lost(hub, files, waits, monkeypatch):
    repository = hub.add(NAME, {"notes.txt": b"old"})
    create, meddled = HfApi.create_commit, []

    def after_somebody_else(self, *arguments, **named):
        if not meddled:
            meddled.append(repository.commit({"notes.txt": b"new"}, title="theirs"))
        return create(self, *arguments, **named)

    monkeypatch.setattr(HfApi, "create_commit", after_somebody_else)
    pushed(files)
    assert titles(hub)[:2] == ["weights", "theirs"]
    assert titles(hub).count("weights") == 1
    assert held(hub) == hashed({"notes.txt": b"new", **FILES})


def refusal(files: dict[str, Path], target: Target | None = None) -> PushFailed:
    with pytest.raises(PushFailed) as caught:
        pushed(files, target)
    assert ALICE not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "rejects the token"), (403, "does not let you write"), (413, "larger than the Hub allows")],
)
def test_permanent_errors_are_not_retried(hub, files, waits, status, message):
    hub.add(NAME, {})
    hub.faults.append(Fault(COMMIT, status=status, times=ALWAYS))
    assert message in str(refusal(files))
    assert not waits
    assert held(hub) == {}


def test_retries_are_bounded(hub, files, waits):
    hub.add(NAME, {})
    hub.faults.append(Fault(COMMIT, status=503, headers={"Retry-After": "100000"}, times=ALWAYS))
    assert "status 503" in str(refusal(files))
    assert waits == [upload.LONGEST_WAIT] * len(upload.WAITS)
    assert held(hub) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hub, patch: hub.stop(), "cannot be reached"),
        (lambda hub, patch: patch.delenv("HF_TOKEN"), "hf auth login"),
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_" + "x" * 34), "rejects the token"),
        (lambda hub, patch: patch.setenv("HF_TOKEN", READER), "the token may only read"),
    ],
    ids=["dead", "no token", "bad token", "reader"],
)
def test_access_is_refused_at_once_in_a_sentence(hub, files, waits, monkeypatch, change, message):
    change(hub, monkeypatch)
    assert message in str(refusal(files))
    with pytest.raises(PushFailed, match=message):
        check_access(HubSettings(repository=NAME), tell=lambda _: None)
    assert not waits
    assert NAME not in hub.repositories


def test_access_checks_are_retried(hub, files, waits):
    hub.faults.append(Fault("whoami", status=503, times=2))
    pushed(files)
    assert waits[:2] == [1, 2]
    assert held(hub) == hashed(FILES)


def test_unreadable_files_are_no_hub_errors(hub, files, waits):
    files["model.safetensors"].unlink()
    with pytest.raises(UserError, match=r"model.safetensors cannot be read") as caught:
        pushed(files)
    assert not isinstance(caught.value, PushFailed)
    assert not waits
    assert not hub.log


def test_repositories_of_others_are_refused(hub, files):
    assert "bob is neither you (alice) nor an organisation of yours (acme)" in str(refusal(files, to("bob/tiny")))


def test_members_may_push_to_their_organisation(hub, files):
    pushed(files, to("acme/tiny"))
    assert held(hub, name="acme/tiny") == hashed(FILES)


def test_a_card_that_the_hub_refuses_is_not_pushed(hub, files):
    files["README.md"].write_bytes(b"---\ntags: [\n---\n")
    assert "the YAML header of the card" in str(refusal(files))
    assert held(hub) == {}


def test_a_hub_without_xet_differs_from_an_unreachable_one(tmp_path, monkeypatch, files, waits):
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home", token=ALICE, xet=True)
        assert "set HF_HUB_DISABLE_XET=1" in str(refusal(files))
    assert not waits


def test_invalid_repository_names_are_refused(hub, files):
    with pytest.raises(UserError, match="is not a repository name"):
        pushed(files, to("alice/a--b..c"))


@pytest.mark.parametrize(
    "asked",
    [
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("whoami", COMMIT)),
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("GET /api/models/", "POST .*/preupload/")),
    ],
)
def test_a_silent_hub_times_out_and_the_client_is_restored(hub, files, waits, monkeypatch, asked):
    monkeypatch.setattr(upload, "SILENCE", 0.2)
    monkeypatch.setattr(upload, "WAITS", (0,))
    before = get_session().timeout
    hub.add(NAME, {})
    hub.faults.append(Fault(asked, delay=1, times=ALWAYS))
    assert "cannot be reached" in str(refusal(files))
    assert get_session().timeout == before
    assert "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS" not in os.environ
