"""Full, broken, closed or deleted disks: one sentence, nothing lost, and the same bits later."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nlp_transfer.artefact import folder as artefact
from nlp_transfer.errors import UserError
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.run import adapt
from nlp_transfer.training import checkpoint
from tests.crashes import fingerprint
from tests.harness import told_by
from tests.runs import data_for, settings_for
from tests.warm import Warm

pytestmark = pytest.mark.slow

PAGE = 4096
ROOM = 64 * 2**20
# All checkpoints are of one size: from the first on they hold the best weights as well.
COMMITTED = {
    "training.max_steps": 4,
    "training.evaluate_every": 0.1,
    "checkpoint.seconds": 0,
    "evaluation.floors": False,
}


def run(home: Path, output: Path, **values) -> Path:
    return adapt(settings_for(home, output=str(output), **COMMITTED | values), data=data_for("single_label")).folder


def bits(output: Path) -> dict[str, str]:
    """The hashes of what a run left, but for the two files that name their own folder."""
    return {name: value for name, value in fingerprint(output).items() if name not in ("config.yaml", "plan.json")}


@pytest.fixture(scope="module")
def wanted(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("undisturbed")
    run(home, output)
    return bits(output)


@pytest.fixture(scope="module")
def largest(home: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of the largest checkpoint of a run."""
    sizes = []

    def measured(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        path = commit(folder, snapshot)
        sizes.append(sum(-(-file.stat().st_size // PAGE) * PAGE for file in path.iterdir()))
        return path

    with pytest.MonkeyPatch.context() as patch:
        commit = checkpoint.commit
        patch.setattr(checkpoint, "commit", measured)
        run(home, tmp_path_factory.mktemp("measured"))
    return max(sizes)


def mounted(folder: Path, *options: str) -> bool:
    """Mount a disk in memory, or say that it is not allowed here."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """A disk of so many bytes, where one may be mounted; yields whether it could be."""
    folder.mkdir(exist_ok=True)
    there = mounted(folder, f"size={size}")
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(folder)], check=True)


def no_room_from(commits: int, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Where nothing can be mounted: no file may be longer than a page from some commit on; return what lifts that."""
    before, commit, done = resource.getrlimit(resource.RLIMIT_FSIZE), checkpoint.commit, iter(range(commits))

    def limited(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        if next(done, None) is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, before[1]))
        return commit(folder, snapshot)

    patch.setattr(checkpoint, "commit", limited)
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.6, *(pytest.param(share, marks=pytest.mark.exhaustive) for share in (1.5, 2.5))])
def test_a_full_disk_is_reported_and_loses_no_checkpoint(
    home: Path, tmp_path: Path, largest: int, wanted: dict[str, str], share: float
):
    place = tmp_path / "disk"
    with (
        disk(place, int(share * largest) + 8 * PAGE) as there,
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        if not there:
            stack.callback(no_room_from(int(share), patch))
        with pytest.raises(
            UserError, match=rf"{place}/.*step-00000\d cannot be written: .*MiB are free.*take 1\.\d MiB"
        ):
            run(home, place / "runs")
        (folder,) = (place / "runs").iterdir()
        whole = sorted((folder / "checkpoints").iterdir())
        assert len(whole) == int(share)
        for path in whole:
            checkpoint.read(path)
        if there:
            make_room(place)
        stack.close()
        patch.undo()
        run(home, place / "runs")
        assert bits(place / "runs") == wanted


def refusal(home: Path, output: Path, **values) -> str | None:
    """The error message of a run; None if there is none."""
    try:
        run(home, output, **values)
    except UserError as error:
        return str(error)
    return None


def used(place: Path) -> int:
    return shutil.disk_usage(place).used


@pytest.mark.parametrize(
    ("strategy", "missing"),
    [
        ("probe", range(1, 400, 9)),
        ("finetune", range(1, 400, 9)),
    ],
)
def test_any_disk_size_gives_an_error_sentence_or_the_same_bits(
    home: Path, tmp_path: Path, strategy: str, missing: range
):
    """The last pages are taken by what each library writes in its own way: the tokenizer, the record, the figures."""
    place = tmp_path / "disk"
    with disk(place, ROOM) as there:
        if not there:
            pytest.skip("no disk can be mounted here; what a file system may refuse is tried by tests.faults as well")
        run(home, place / "runs", strategy=strategy)
        expected, needed = bits(place / "runs"), used(place)
    refused = 0
    for pages in missing:
        size = needed - pages * PAGE
        if size <= 0:
            break
        with disk(place, size):
            message = refusal(home, place / "runs", strategy=strategy)
            if message is not None:
                refused += 1
                assert str(place) in message
                make_room(place)
                run(home, place / "runs", strategy=strategy)
            assert bits(place / "runs") == expected, pages
    assert refused


def test_some_failing_operations_give_a_sentence_and_then_the_same_bits(running: Warm):
    messages = told_by(running, "tests.faults", "probe", "--every", "19")
    assert messages["failures"] == []
    assert messages["tried"] == sum(messages["ended"].values())
    assert messages["ended"]["refused"] >= 2


@pytest.mark.parametrize(
    ("case", "kind", "first", "every"),
    [
        # All of them, in parts that run beside each other; of some cases some.
        *(pytest.param("finetune", "once", first, 4, marks=pytest.mark.exhaustive) for first in (1, 2, 3, 4)),
        ("finetune", "once", 2, 40),
        pytest.param("probe", "once", 1, 12, marks=pytest.mark.exhaustive),
        pytest.param("finetune", "sticky", 1, 16, marks=pytest.mark.exhaustive),
        pytest.param("lora", "once", 1, 16, marks=pytest.mark.exhaustive),
    ],
)
def test_any_failing_operation_gives_a_sentence_and_then_the_same_bits(
    running: Warm, case: str, kind: str, first: int, every: int
):
    messages = told_by(running, "tests.faults", case, "--kind", kind, "--first", str(first), "--every", str(every))
    assert messages["failures"] == []
    assert messages["ended"]["refused"] > messages["tried"] / 2


@pytest.mark.parametrize("moment", ["step", "commit", "save", "finish"])
def test_deleting_a_run_folder_stops_the_run_or_leaves_it_complete(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], moment: str
):
    holder, name = {
        "step": (RunFolder, "log"),
        "commit": (checkpoint, "commit"),
        "save": (artefact, "save"),
        "finish": (RunFolder, "finish"),
    }[moment]
    well, output = getattr(holder, name), tmp_path / "runs"

    def gone(*arguments, **named):
        shutil.rmtree(output)
        return well(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, gone)
        with pytest.raises(UserError, match=rf"{output}/.*No such file or directory"):
            run(home, output)
    assert not list(output.rglob("metrics.json"))
    run(home, output)
    assert bits(output) == wanted


def test_a_full_disk_for_the_tokenizer_is_reported(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Errors of files written from Rust have their own form."""
    before, save = resource.getrlimit(resource.RLIMIT_FSIZE), artefact.save_tokenizer

    def limited(*arguments) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, before[1]))
        try:
            return save(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(artefact, "save_tokenizer", limited)
    with pytest.raises(UserError, match=rf"the model cannot be saved in {tmp_path}/.*File too large"):
        run(home, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "größe-模型-🤖 with  spaces",
        *('it\'s "quoted" $HOME', "a" * 200, "-rf"),
    ],
)
def test_folders_of_any_name_work(home: Path, tmp_path: Path, wanted: dict[str, str], name: str):
    run(home, tmp_path / name)
    assert bits(tmp_path / name) == wanted


def test_an_output_that_is_a_link_is_the_folder_it_leads_to(home: Path, tmp_path: Path, wanted: dict[str, str]):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    run(home, tmp_path / "link")
    assert bits(tmp_path / "elsewhere") == wanted
    written = next((tmp_path / "elsewhere").rglob("metrics.json")).stat().st_mtime_ns
    run(home, tmp_path / "elsewhere")  # the same run, which is finished
    assert next((tmp_path / "elsewhere").rglob("metrics.json")).stat().st_mtime_ns == written


def test_an_inaccessible_output_is_named(home: Path, tmp_path: Path):
    place = tmp_path / "closed"
    place.mkdir()
    there = mounted(place, "ro")
    if not there:
        if os.geteuid() == 0:
            pytest.skip("no disk can be mounted here, and nothing is closed to root")
        place.chmod(0o555)
    try:
        with pytest.raises(UserError, match=rf"{place}/.* cannot be used: (Read-only file system|Permission denied)"):
            run(home, place / "runs")
    finally:
        if there:
            subprocess.run(["umount", str(place)], check=True)


def test_unlistable_checkpoints_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """To glob a folder that is closed is an empty one, and a run that starts again would take its checkpoints away."""

    def closed(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", closed)
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=rf"checkpoints in {tmp_path} cannot be listed: Permission denied"):
        checkpoint.newest(tmp_path)
