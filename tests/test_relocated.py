"""The config.yaml of a run used from another folder, and a stopped run whose folder was moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.config import compose, run_path, to_yaml
from nlp_transfer.errors import UserError
from nlp_transfer.verbs.relocated import check_not_moved
from tests.place import adapt_words, run_of


def test_relative_names_in_a_config_are_said_to_be_of_the_folder_it_was_made_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
):
    monkeypatch.chdir(place)
    assert main(adapt_words(place, "data.path=data", "output=here/runs")) == 0
    run = Path(run_of(place / "here"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text((place / "data" / "test.csv").read_text())
    started = f"relative to the folder in which the run was started, {place}: call it from there"
    for words in (
        ["evaluate", str(run)],
        ["evaluate", str(run), "data.path=other.csv"],
        ["plan", f"{run}/config.yaml"],
    ):
        assert main(words) == 2
        assert started in capfd.readouterr().err
    assert main(["plan", f"{run}/config.yaml", "data.path=none.csv"]) == 2  # typed here
    assert "started" not in capfd.readouterr().err
    moved = shutil.copytree(run, tmp_path / "moved")
    assert main(["evaluate", str(moved)]) == 2
    assert "the run was started, which is not this one" in capfd.readouterr().err


def test_a_stopped_run_that_was_moved_is_not_begun_again_unasked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = [word for word in adapt_words(place, "output=runs")[1:] if not word.startswith("output=")]
    settings = compose(None, [*words, "output=runs"])
    folder = tmp_path / "moved" / run_path(settings).name
    (folder / "checkpoints" / "step-000003").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(settings))
    moved = r"holds checkpoints .* moved or .* stands for runs/\S+; output=\S+/moved continues .*, resume=never begins"
    with pytest.raises(UserError, match=moved):
        check(folder)
    check(folder, "output=runs")
    check(folder, "resume=never")
    check(folder, "seed=3")
    (tmp_path / "runs").mkdir()
    renamed = folder.rename(tmp_path / "runs" / "other")
    with pytest.raises(UserError, match=r"was moved or .*; move it to runs/\S+ to continue it"):
        check(renamed)
    (renamed / "metrics.json").write_text("{}")  # a finished run is done again under its own name
    check(renamed)
    (renamed / "metrics.json").unlink()
    check(renamed.rename(tmp_path / run_path(settings)))


def check(folder: Path, *words: str) -> None:
    config = folder / "config.yaml"
    check_not_moved(config, compose(str(config), words), words)
