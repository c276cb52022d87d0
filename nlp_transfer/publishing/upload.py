"""One commit of a folder's files to a repository of the Hub, or nothing: tried again within a bound, never twice.

It knows files and the real client; neither what lies in the folder nor who asked.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nlp_transfer.data import hub
from nlp_transfer.errors import PushFailed, UserError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from nlp_transfer.verb_settings import HubSettings

Digests = tuple[str, str]
T = TypeVar("T")

SILENCE = 120  # seconds in which the Hub must say something
WAITS = (1, 2, 4, 8, 16)  # seconds before the second try and those after it, unless the Hub names a time
LONGEST_WAIT = 60
# What an earlier push may have left that would be loaded instead of, or beside, what is pushed now.
_STALE = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|unknown\.safetensors|model\.safetensors\.index\.json|config\.json"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"
    r"|(adapter/)?adapter_(config\.json|model\.(safetensors|bin))"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt"
    r"|(spiece|sentencepiece\.bpe|tokenizer)\.model|pooled(_config)?\.py"
)


@dataclass(frozen=True)
class Target:
    """Where files go.

    Attributes:
        repository: ``owner/name``; made if it is not there.
        private: whether it is made private; one that is there stays as it is.
        revision: the branch, made if it is not there; None: the main one.
        create_pr: propose the commit in a pull request.
        message: of the commit, and the title of the pull request.
    """

    repository: str
    private: bool
    revision: str | None
    create_pr: bool
    message: str


@dataclass(frozen=True)
class Pushed:
    """What a push came to: its address, and how many files it added, changed or took away (0: all was there)."""

    url: str
    changed: int


def check_access(settings: HubSettings, *, tell: Callable[[str], None]) -> None:
    """Ask the Hub, before any work is done, whether it is there and whether the token may write.

    Raises:
        PushFailed: if not, saying what to do.
    """
    from huggingface_hub import HfApi

    repository = str(settings.repository)
    with _limited(), _explained(repository):
        _check_access(HfApi(), repository, owned=not settings.create_pr, tell=tell)


def check_before_training(settings: HubSettings, *, tell: Callable[[str], None]) -> None:
    """Refuse a training whose model could not be pushed when it is done.

    Raises:
        UserError: saying what to do; not `PushFailed`, which tells of a run that is finished.
    """
    try:
        check_access(settings, tell=tell)
    except PushFailed as error:
        raise UserError(f"nothing was trained, for hub.push=true would fail: {error}") from error


def push(files: Mapping[str, Path], target: Target, *, tell: Callable[[str], None]) -> Pushed:
    """Commit files under their names, and take away what an earlier push left of another model.

    Args:
        files: name in the repository → file.
        target: where they go.
        tell: is told when something is tried again.

    Raises:
        PushFailed: if the Hub cannot be reached or refuses, saying what to do.
    """
    from huggingface_hub import HfApi

    digests = {name: _digests(path) for name, path in files.items()}
    api = HfApi(library_name="nlp_transfer")
    with _limited(), _explained(target.repository):
        _check_access(api, target.repository, owned=not target.create_pr, tell=tell)
        _again(lambda: _make_room(api, target, tell=tell), tell=tell)
        return _again(lambda: _push_once(api, files, digests, target, tell=tell), tell=tell)


def _again(
    work: Callable[[], T], *, tell: Callable[[str], None], passes: Callable[[Exception], bool] | None = None
) -> T:
    """Do a work, and what may work a little later again, within a bound."""
    passes = passes or _passes
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:
            if wait is None or not passes(error):
                raise
            seconds = min(_asked_wait(error) or wait, LONGEST_WAIT)
            tell(f"the Hub did not take it {_said(error)}; trying again in {seconds} s")
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _check_access(api: HfApi, repository: str, *, owned: bool, tell: Callable[[str], None]) -> None:
    """Ask in a way that fails at once where nobody answers; the transport of large files would try for minutes.

    Anybody may propose a change to a repository that others own.
    """
    # Kept by the client for the process: the Hub counts these questions.
    who = _again(
        lambda: api.whoami(cache=True), tell=tell, passes=lambda error: bool(_status(error)) and _passes(error)
    )
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PushFailed(
            f"hub.repository={repository}: the token may only read; make one that may write and give it to "
            "`hf auth login` or HF_TOKEN"
        )
    owners = {who["name"], *(each["name"] for each in who.get("orgs", ()))}
    if owned and (owner := repository.partition("/")[0]) not in owners:
        raise PushFailed(
            f"hub.repository={repository}: {owner} is neither you ({who['name']}) nor an organisation of yours "
            f"({', '.join(sorted(owners - {who['name']})) or 'none'})"
        )


def _make_room(api: HfApi, target: Target, *, tell: Callable[[str], None]) -> None:
    """Make the repository and the branch, where they are not there."""
    from huggingface_hub import errors

    try:
        there = api.model_info(target.repository, timeout=SILENCE)
    except errors.RepositoryNotFoundError:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
    else:
        if target.private and there.private is False:
            tell(f"{target.repository} is there already and public, and stays so")
    if target.revision and not target.create_pr:
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)


def _push_once(
    api: HfApi,
    files: Mapping[str, Path],
    digests: Mapping[str, Digests],
    target: Target,
    *,
    tell: Callable[[str], None],
) -> Pushed:
    """Compare with what is there, as it is now: a commit whose answer was lost is found done."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.model_info(target.repository, revision=target.revision, files_metadata=True, timeout=SILENCE)
    remote = {each.rfilename: _digest_there(each) for each in there.siblings or ()}
    changed = [name for name in files if remote.get(name) not in digests[name]]
    stale = [name for name in remote if name not in files and _STALE.fullmatch(name)]
    if not changed and not stale:
        return Pushed(f"{api.endpoint}/{target.repository}/tree/{target.revision or 'main'}", 0)
    if target.create_pr and (proposed := _proposed(api, target, digests)):
        return Pushed(proposed, 0)
    if stale:
        tell(f"taken away from {target.repository}, of another model: {', '.join(stale)}")
    commit: CommitInfo = api.create_commit(
        target.repository,
        [
            *(CommitOperationAdd(name, str(files[name])) for name in changed),
            *(CommitOperationDelete(name, is_folder=False) for name in stale),
        ],
        commit_message=target.message,
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=there.sha,
    )
    return Pushed(str(commit.pr_url or commit.commit_url), len(changed) + len(stale))


def _proposed(api: HfApi, target: Target, digests: Mapping[str, Digests]) -> str | None:
    """Return the address of an open pull request that holds the files already."""
    for each in api.get_repo_discussions(target.repository, discussion_type="pull_request", discussion_status="open"):
        if each.title == target.message:
            there = api.model_info(
                target.repository, revision=f"refs/pr/{each.num}", files_metadata=True, timeout=SILENCE
            )
            remote = {file.rfilename: _digest_there(file) for file in there.siblings or ()}
            if all(remote.get(name) in known for name, known in digests.items()):
                return each.url
    return None


def _digest_there(file: Any) -> str | None:
    return file.lfs["sha256"] if file.lfs else file.blob_id


def _digests(path: Path) -> Digests:
    """Return what the Hub may know a file by: its SHA-256, and the name git gives its content.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
                git.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return sha256.hexdigest(), git.hexdigest()


@contextmanager
def _limited() -> Iterator[None]:
    """Have the client give up on a silent Hub; of its own accord it waits for ever, or tries for minutes."""
    from huggingface_hub import get_session

    tries = "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"  # read when the transport of large files starts
    session, given = get_session(), os.environ.get(tries)
    before, session.timeout = session.timeout, SILENCE
    os.environ.setdefault(tries, "2")
    try:
        yield
    finally:
        session.timeout = before
        if given is None:
            os.environ.pop(tries, None)


def _status(error: BaseException) -> int | None:
    """Return the status the Hub answered with, also where another error was made of it."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    if error.__cause__ is not None and (status := _status(error.__cause__)):
        return status
    found = re.search(r"\b(?:HTTP status|status code|Status)\D{0,30}([45]\d\d)\b", str(error))
    return int(found[1]) if found else None


def _passes(error: Exception) -> bool:
    """Return whether the same may work a little later."""
    if isinstance(error, PushFailed):
        return False
    status = _status(error)
    if status is not None:
        return status in (408, 412, 425, 429) or status >= 500  # 412: somebody committed meanwhile
    return isinstance(error, (*hub.client_errors(), RuntimeError))


def _asked_wait(error: BaseException) -> int | None:
    """Return the seconds after which the Hub wants to be asked again."""
    response = getattr(error, "response", None)
    if response is None:
        return _asked_wait(error.__cause__) if error.__cause__ is not None else None
    asked = response.headers.get("Retry-After", "")
    return int(asked) + 1 if asked.isdigit() else None


def _said(error: BaseException) -> str:
    status = _status(error)
    return f"(status {status})" if status else f"({type(error).__name__})"


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn the client's errors into one sentence; its own messages are long and may quote requests."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise PushFailed("the Hub wants to know who you are: `hf auth login`, or set HF_TOKEN") from error
    except errors.OfflineModeIsEnabled as error:
        raise PushFailed("HF_HUB_OFFLINE is set: unset it to push") from error
    except errors.HFValidationError as error:
        raise UserError(f"hub.repository={repository} is no name of a repository: owner/name") from error
    except (*hub.client_errors(), RuntimeError, ValueError) as error:
        raise PushFailed(f"{repository}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    status = _status(error)
    if isinstance(error, ValueError) and "README.md" in str(error):
        return f"the Hub refuses the YAML header of the card, README.md {hub.describe_error(error)}"
    if status == 404 and re.search(r"xet-(read|write)-token", str(error)):
        return "this Hub does not know Xet, by which the client sends large files: set HF_HUB_DISABLE_XET=1"
    known = {
        401: "the Hub does not take the token: `hf auth login` again, or mend HF_TOKEN",
        403: "the Hub does not let you write there: the token needs write access to this repository",
        404: "the Hub knows no such repository, or hides it from you",
        412: "somebody commits there all the time; try again later",
        413: "a file is larger than the Hub takes",
        429: "the Hub has had too many requests of yours; try again later",
    }
    if status in known:
        return known[status]
    if status is not None:
        return f"the Hub answers with status {status}"
    if isinstance(error, ValueError):  # the client's own checks
        return f"the client refuses it {hub.describe_error(error)}"
    return f"the Hub cannot be reached ({type(error).__name__})"
