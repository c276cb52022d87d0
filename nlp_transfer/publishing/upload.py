"""Upload files to a repository of the Hub in one commit, with a limited number of retries and no duplicate commits.

This module knows files and the Hub's client, but nothing about models.
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

SILENCE = 120  # seconds without a response after which a request is given up
WAITS = (1, 2, 4, 8, 16)  # seconds before each retry, unless the Hub asks for another time
LONGEST_WAIT = 60
# Files of an earlier push that might be loaded instead of, or together with, those of this one.
_STALE = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|unknown\.safetensors|model\.safetensors\.index\.json|config\.json"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"
    r"|(adapter/)?adapter_(config\.json|model\.(safetensors|bin))"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt"
    r"|(spiece|sentencepiece\.bpe|tokenizer)\.model|pooled(_config)?\.py"
)


@dataclass(frozen=True)
class Target:
    """The destination of a push.

    Attributes:
        repository: ``owner/name``; created if it does not exist.
        private: visibility of a new repository; an existing one keeps its own.
        revision: the branch, created if it does not exist; None: main.
        create_pr: open a pull request instead of committing to the branch.
        message: of the commit, and title of the pull request.
    """

    repository: str
    private: bool
    revision: str | None
    create_pr: bool
    message: str


@dataclass(frozen=True)
class Pushed:
    """The result of a push: its URL, and how many files were added, changed or deleted (0: up to date)."""

    url: str
    changed: int


def check_access(settings: HubSettings, *, tell: Callable[[str], None]) -> None:
    """Check that the Hub can be reached and that the token may write, before any work is done.

    Raises:
        PushFailed: if not, saying what to do.
    """
    from huggingface_hub import HfApi

    repository = str(settings.repository)
    with _limited(), _explained(repository):
        _check_access(HfApi(), repository, owned=not settings.create_pr, tell=tell)


def check_before_training(settings: HubSettings, *, tell: Callable[[str], None]) -> None:
    """Check before a training that its model can be pushed.

    Raises:
        UserError: saying what to do; not `PushFailed`, which is for finished runs.
    """
    try:
        check_access(settings, tell=tell)
    except PushFailed as error:
        raise UserError(f"nothing was trained, because hub.push=true would fail: {error}") from error


def push(files: Mapping[str, Path], target: Target, *, tell: Callable[[str], None]) -> Pushed:
    """Commit files, and delete those that an earlier push has left of another model.

    Args:
        files: name in the repository → file.
        target: the destination.
        tell: receives notes about retries and deletions.

    Raises:
        PushFailed: if the Hub cannot be reached or refuses, saying what to do.
    """
    from huggingface_hub import HfApi

    digests = {name: _digests(path) for name, path in files.items()}
    api = HfApi(library_name="nlp_transfer")
    with _limited(), _explained(target.repository):
        _check_access(api, target.repository, owned=not target.create_pr, tell=tell)
        _retried(lambda: _create_target(api, target, tell=tell), tell=tell)
        return _retried(lambda: _push_once(api, files, digests, target, tell=tell), tell=tell)


def _retried(
    request: Callable[[], T], *, tell: Callable[[str], None], is_temporary: Callable[[Exception], bool] | None = None
) -> T:
    """Call a function, and retry after temporary errors a limited number of times."""
    is_temporary = is_temporary or _is_temporary
    for wait in (*WAITS, None):
        try:
            return request()
        except Exception as error:
            if wait is None or not is_temporary(error):
                raise
            seconds = min(_retry_after(error) or wait, LONGEST_WAIT)
            tell(f"the request to the Hub failed {_kind(error)}; trying again in {seconds} s")
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _check_access(api: HfApi, repository: str, *, owned: bool, tell: Callable[[str], None]) -> None:
    """Check the token with a small request, which fails at once; the transport of large files retries for minutes.

    A pull request needs no ownership of the repository.
    """
    # The client caches the answer in this process, because the Hub limits the rate of these requests.
    who = _retried(
        lambda: api.whoami(cache=True),
        tell=tell,
        is_temporary=lambda error: bool(_status(error)) and _is_temporary(error),
    )
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PushFailed(
            f"hub.repository={repository}: the token may only read; create one with write access and give it to "
            "`hf auth login` or HF_TOKEN"
        )
    owners = {who["name"], *(each["name"] for each in who.get("orgs", ()))}
    if owned and (owner := repository.partition("/")[0]) not in owners:
        raise PushFailed(
            f"hub.repository={repository}: {owner} is neither you ({who['name']}) nor an organisation of yours "
            f"({', '.join(sorted(owners - {who['name']})) or 'none'})"
        )


def _create_target(api: HfApi, target: Target, *, tell: Callable[[str], None]) -> None:
    """Create the repository and the branch if they do not exist."""
    from huggingface_hub import errors

    try:
        info = api.model_info(target.repository, timeout=SILENCE)
    except errors.RepositoryNotFoundError:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
    else:
        if target.private and info.private is False:
            tell(f"{target.repository} exists already and is public, and stays so")
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
    """Commit what differs from the current state of the repository, so that no commit is made twice."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = api.model_info(target.repository, revision=target.revision, files_metadata=True, timeout=SILENCE)
    remote = {each.rfilename: _remote_digest(each) for each in info.siblings or ()}
    changed = [name for name in files if remote.get(name) not in digests[name]]
    stale = [name for name in remote if name not in files and _STALE.fullmatch(name)]
    if not changed and not stale:
        return Pushed(f"{api.endpoint}/{target.repository}/tree/{target.revision or 'main'}", 0)
    if target.create_pr and (proposed := _proposed(api, target, digests)):
        return Pushed(proposed, 0)
    if stale:
        tell(f"deleted from {target.repository}, files of another model: {', '.join(stale)}")
    commit: CommitInfo = api.create_commit(
        target.repository,
        [
            *(CommitOperationAdd(name, str(files[name])) for name in changed),
            *(CommitOperationDelete(name, is_folder=False) for name in stale),
        ],
        commit_message=target.message,
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=info.sha,
    )
    return Pushed(str(commit.pr_url or commit.commit_url), len(changed) + len(stale))


def _proposed(api: HfApi, target: Target, digests: Mapping[str, Digests]) -> str | None:
    """Return the URL of an open pull request that already contains the files."""
    for each in api.get_repo_discussions(target.repository, discussion_type="pull_request", discussion_status="open"):
        if each.title == target.message:
            info = api.model_info(
                target.repository, revision=f"refs/pr/{each.num}", files_metadata=True, timeout=SILENCE
            )
            remote = {file.rfilename: _remote_digest(file) for file in info.siblings or ()}
            if all(remote.get(name) in known for name, known in digests.items()):
                return each.url
    return None


def _remote_digest(file: Any) -> str | None:
    return file.lfs["sha256"] if file.lfs else file.blob_id


def _digests(path: Path) -> Digests:
    """Return both digests by which the Hub may identify a file: its SHA-256 and its git blob id.

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
    """Set a timeout for the Hub's client, which otherwise waits forever, or retries for minutes."""
    from huggingface_hub import get_session

    attempts = "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"  # read when the transport of large files starts
    session, given = get_session(), os.environ.get(attempts)
    before, session.timeout = session.timeout, SILENCE
    os.environ.setdefault(attempts, "2")
    try:
        yield
    finally:
        session.timeout = before
        if given is None:
            os.environ.pop(attempts, None)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, also if it is only in its cause or message."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    if error.__cause__ is not None and (status := _status(error.__cause__)):
        return status
    match = re.search(r"\b(?:HTTP status|status code|Status)\D{0,30}([45]\d\d)\b", str(error))
    return int(match[1]) if match else None


def _is_temporary(error: Exception) -> bool:
    """Return whether a retry may succeed."""
    if isinstance(error, PushFailed):
        return False
    status = _status(error)
    if status is not None:
        return status in (408, 412, 425, 429) or status >= 500  # 412: another commit came first
    return isinstance(error, (*hub.client_errors(), RuntimeError))


def _retry_after(error: BaseException) -> int | None:
    """Return the seconds to wait according to the Retry-After header."""
    response = getattr(error, "response", None)
    if response is None:
        return _retry_after(error.__cause__) if error.__cause__ is not None else None
    seconds = response.headers.get("Retry-After", "")
    return int(seconds) + 1 if seconds.isdigit() else None


def _kind(error: BaseException) -> str:
    status = _status(error)
    return f"(status {status})" if status else f"({type(error).__name__})"


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn errors of the client into one sentence; their own messages are long and may quote requests."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise PushFailed("the Hub needs a token: run `hf auth login`, or set HF_TOKEN") from error
    except errors.OfflineModeIsEnabled as error:
        raise PushFailed("HF_HUB_OFFLINE is set: unset it to push") from error
    except errors.HFValidationError as error:
        raise UserError(f"hub.repository={repository} is not a repository name: write owner/name") from error
    except (*hub.client_errors(), RuntimeError, ValueError) as error:
        raise PushFailed(f"{repository}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    status = _status(error)
    if isinstance(error, ValueError) and "README.md" in str(error):
        return f"the Hub refuses the YAML header of the card, README.md {hub.describe_error(error)}"
    if status == 404 and re.search(r"xet-(read|write)-token", str(error)):
        return "this Hub does not support Xet, by which the client sends large files: set HF_HUB_DISABLE_XET=1"
    reasons = {
        401: "the Hub rejects the token: run `hf auth login` again, or correct HF_TOKEN",
        403: "the Hub does not let you write there: the token needs write access to this repository",
        404: "there is no such repository on the Hub, or you may not see it",
        412: "there were other commits to the repository at the same time; try again later",
        413: "a file is larger than the Hub allows",
        429: "the Hub received too many requests from you; try again later",
    }
    if status in reasons:
        return reasons[status]
    if status is not None:
        return f"the Hub answers with status {status}"
    if isinstance(error, ValueError):  # a check of the client itself
        return f"the client refuses it {hub.describe_error(error)}"
    return f"the Hub cannot be reached ({type(error).__name__})"
