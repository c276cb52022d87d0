"""The run folder: when a finished run may be read back, and what is said where it cannot be written."""

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.running.folder import STEPS, RunFolder
from nlp_transfer.running.reuse import check_encoder
from nlp_transfer.settings import EncoderSettings
from tests.encoder.families import tiny_encoder

STUB: Any = SimpleNamespace(to_json=dict)  # a plan or a report of which only this is asked
DIGEST = "ab" * 32


def run_folder(output: Path, *more: str) -> RunFolder:
    settings = compose(None, [f"output={output}", *more])
    return RunFolder.of(settings, load_corpus(settings.data))


def finished(output: Path, **more: Any) -> RunFolder:
    folder, settings = run_folder(output), compose(None, [f"output={output}"])
    folder.begin(settings, STUB)
    fingerprint = load_corpus(settings.data).fingerprint
    folder.finish(STUB, **{"data": {"fingerprint": fingerprint}, "encoder": {"sha256": DIGEST}} | more)
    return folder


def test_a_run_over_other_encoder_weights_is_not_read_back(tmp_path):
    encoder, told = EncoderSettings(name=str(tiny_encoder(tmp_path))), list[str]()
    folder = finished(tmp_path / "runs", encoder={"sha256": locate(encoder).sha256})
    assert folder.is_finished
    check_encoder(folder, encoder, told.append)
    assert told == []
    other = tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"other weights of the encoder .*sha256 .*, now .*overwrite=true"):
        check_encoder(folder, EncoderSettings(name=str(other)), told.append)
    check_encoder(folder, EncoderSettings(name=str(tmp_path / "gone")), told.append)
    assert len(told) == 1
    assert told[0].startswith("not compared with the encoder, which cannot be found now: ")


def test_a_run_over_other_data_is_not_read_back(tmp_path):
    finished(tmp_path, data={"fingerprint": "0" * 64})
    with pytest.raises(UserError, match=r"other data than customer_intents .*fingerprint 00000000, now .*overwrite"):
        run_folder(tmp_path)
    assert run_folder(tmp_path, "overwrite=true").is_finished


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"data": []}', '{"data": {}}'])
def test_figures_that_cannot_be_read_are_named(tmp_path, content):
    (finished(tmp_path).path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json .*overwrite=true repeats"):
        run_folder(tmp_path)


def test_what_is_no_text_of_ours_is_no_line_and_names_nobody(tmp_path):
    folder = finished(tmp_path)
    folder.log(step=1)
    with (folder.path / STEPS).open("ab") as lines:
        lines.write(b'{"step": 1, "\xff\xfe\x00')  # as a disk left it
    folder.truncate_log(STEPS, after=1)
    assert (folder.path / STEPS).read_text() == '{"step": 1}\n'
    (folder.path / ".owner").write_bytes(b"process \xff")
    with (
        FileLock(folder.path / ".lock"),
        pytest.raises(UserError, match="is being written by process"),
        folder.locked(),
    ):
        pass


def test_what_a_killed_process_was_taking_away_goes_when_the_run_is_read_back(tmp_path):
    folder = finished(tmp_path)
    for name in (".trash-encoder", ".trash-model", "notes"):
        (folder.path / name).mkdir()
        (folder.path / name / "model.safetensors").write_text("large")
    folder.tidy()
    assert {path.name for path in folder.path.iterdir() if path.is_dir()} == {"notes"}


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    folder = run_folder(tmp_path / "file")
    with pytest.raises(UserError, match=rf"the run folder {folder.path} cannot be used: Not a directory"):
        folder.begin(compose(None, []), STUB)
    with pytest.raises(UserError, match="cannot be used: File name too long"):
        run_folder(tmp_path, f"name={'x' * 300}")


def test_a_full_disk_is_said(tmp_path):
    folder = finished(tmp_path)
    (folder.path / "metrics.json").unlink()
    folder.log(step=1)
    settings = compose(None, [f"output={tmp_path}"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))  # as if there were no room left
    try:
        for write in (lambda: folder.log(step=2), lambda: folder.finish(STUB), lambda: folder.begin(settings, STUB)):
            with pytest.raises(UserError, match=rf"the run folder {folder.path} cannot be used"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not folder.is_finished


def test_a_run_done_again_leaves_no_figures_of_the_earlier_one(tmp_path):
    folder = finished(tmp_path)
    folder.log(step=1, loss=0.5)
    for place in ("nlp_transfer", "nlp_transfer/1700000000.1"):
        (folder.path / place).mkdir(parents=True)
        (folder.path / place / "events.out.tfevents.1700000000.host.1.0").write_text("")
    folder.model.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    again = run_folder(tmp_path, "overwrite=true")
    again.begin(compose(None, [f"output={tmp_path}", "overwrite=true"]), STUB)
    files = {path.name for path in folder.path.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "plan.json", "environment.json", "notes.txt"}
    assert not folder.model.exists()
