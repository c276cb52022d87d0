"""Sweeps from the command line to their files, with runs that only pretend; Hydra, Optuna and all of ours are real."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from nlp_transfer.cli import main
from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import execution, multirun, plugins
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.training.signals import Stopped
from tests.sweeping.pretended import Place, drawn

LAUNCHER = "hydra/launcher=accelerate"
SEARCH = [LAUNCHER, "hydra/sweeper=optuna", "strategy=finetune"]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Place]:
    """Have sweeps do their runs at a place that pretends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "_PAUSE", 0)

    def at(figures: Callable[[dict[str, str]], list[float]] = drawn, **how: Any) -> Place:
        place = Place(figures, **how)
        monkeypatch.setattr(plugins, "executor_of", lambda settings, folder: place)
        return place

    return at


def swept(*words: str) -> int:
    return main(["adapt", *words, "--multirun"])


def results() -> list[dict[str, str]]:
    (path,) = Path("runs/sweep").glob("*/results.csv")
    return list(csv.DictReader(path.open()))


def trials(place: Place, key: str = "strategy.lr") -> list[str]:
    return [values[key] for values in place.started]


@pytest.mark.slow
def test_every_combination_is_run_beside_others_and_a_failure_loses_none(at: Callable[..., Place], capfd):
    place = at(lambda values: [] if values["seed"] == "2" else [int(values["seed"]) / 10], slots=3)
    assert swept(LAUNCHER, "strategy=probe,lora", "seed=1,2,3") == 2
    assert place.most == 3
    assert len(place.started) == 6
    found = results()
    assert [row["state"] for row in found] == ["finished"] * 4 + ["failed"] * 2
    assert [row["seed"] for row in found] == ["3", "3", "1", "1", "2", "2"]
    assert {row["validation"] for row in found} == {"0.3", "0.1", ""}
    out, err = capfd.readouterr()
    assert [json.loads(line)["report"]["split"] for line in out.splitlines()] == ["test"] * 4
    named = "nlp-transfer: the run strategy={} seed=2 failed with status 2: it was to fail"
    assert err.splitlines() == [named.format(each) for each in ("probe", "lora")]


@pytest.mark.slow
def test_only_the_chosen_run_shows_test_figures(at: Callable[..., Place]):
    at(lambda values: [int(values["seed"]) / 10])
    assert swept(LAUNCHER, "seed=1,2,3") == 0
    (folder,) = Path("runs/sweep").glob("sweep-*")
    for name in ("results.csv", "results.jsonl"):
        assert "0.123" not in (folder / name).read_text()
    page = (folder / "report.md").read_text()
    assert page.count(".123") == 1
    assert "Best of 3 finished runs by validation macro_f1, .300: seed=3." in page
    assert "on 7 test rows, which chose nothing: .123 [.100, .200]" in page
    assert "optimistic" in page
    assert 'aria-label="Runs through the values of 1 keys' in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["hydra.launcher.slurm={account: lab}"], ["hydra.launcher.slurm.account=lab"]])
def test_parameters_of_sbatch_are_taken_as_the_file_says(
    at: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    place, asked = at(), list[LauncherSettings]()
    monkeypatch.setattr(plugins, "executor_of", lambda settings, folder: asked.append(settings) or place)
    assert swept(LAUNCHER, "hydra.launcher.where=slurm", *words, "seed=1,2") == 0
    assert [each.slurm for each in asked] == [{"account": "lab"}]
    assert len(results()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", pytest.param("halving", marks=pytest.mark.slow)])
def test_pruned_runs_are_not_repeated(at: Callable[..., Place], capfd, pruner: str):
    place = at(lambda values: [1 / int(values["seed"]) for _ in range(6)], watched=True)
    words = ["seed=range(1,5)", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=4", "hydra.sweeper.startup=1"]
    assert swept(*SEARCH, *words, f"hydra.sweeper.pruner={pruner}") == 0
    found = {row["seed"]: row for row in results()}
    states = [found[seed]["state"] for seed in trials(place, "seed")]
    assert states[0] == "finished"
    assert found["1"]["state"] == "finished"
    assert 1 <= states.count("pruned") <= 3
    assert capfd.readouterr().err.count("ended early, because it lags behind others: ") == states.count("pruned")
    assert all(found[seed]["validation"] for seed in found)  # that of the last evaluation, for those
    place = at()
    assert swept(*SEARCH, *words, f"hydra.sweeper.pruner={pruner}") == 0
    assert not place.started
    assert {row["seed"]: row for row in results()} == found


@pytest.mark.parametrize("n_jobs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_repeated_proposals_are_not_run_again(at: Callable[..., Place], n_jobs: int):
    place = at()
    words = ["strategy=probe,lora", f"hydra.sweeper.n_jobs={n_jobs}"]
    assert swept(*SEARCH[:2], *words) == 0
    assert sorted(trials(place, "strategy")) == ["lora", "probe"]
    assert len(results()) == 2


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ([], "it was to fail"),
        pytest.param([-1.0], "it has no figure on validation rows", marks=pytest.mark.slow),
    ],
)
def test_a_search_in_which_nothing_succeeds_ends_soon(
    at: Callable[..., Place], capfd, figures: list[float], message: str
):
    place = at(lambda values: figures)
    assert swept(*SEARCH, "seed=range(0,50)") == 2
    assert len(place.started) == 3
    assert capfd.readouterr().err.count(f"failed with status 2: {message}") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([LAUNCHER, "hydra.launcher.jobs=some"], "hydra.launcher.jobs=some must be a whole number, or null"),
        ([LAUNCHER, "hydra.launcher.where=slurm"], "hydra.launcher.where=slurm cannot be used here"),
        ([*SEARCH, "hydra.launcher.jobs=4"], "add hydra.sweeper.n_jobs=4"),
        ([*SEARCH, "hydra.launcher.jobs=some"], "hydra.launcher.jobs=some must be a whole number, or null"),
        pytest.param([*SEARCH, "evaluation.metric=accuracy,macro_f1"], "give it one value", marks=pytest.mark.slow),
        pytest.param(
            *([*SEARCH[:-1], "hydra.sweeper.pruner=median"], "needs strategies by their names"), marks=pytest.mark.slow
        ),
        pytest.param(
            [*SEARCH[:-1], "strategy=finetune,auto", "hydra.sweeper.pruner=median"],
            "needs strategies by their names",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [*SEARCH[:-1], "strategy=probe", "hydra.sweeper.pruner=median"],
            "a probe that is solved has none",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_invalid_sweeps_are_refused_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd, words: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    assert swept("seed=1,2", *words) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def broken(_: dict[str, str]) -> list[float]:
    raise FileNotFoundError(2, "No such file or directory", "/gone")


@pytest.mark.slow
def test_only_a_folder_that_cannot_be_made_is_called_one(at: Callable[..., Place], capfd):
    at(broken)
    assert swept(LAUNCHER, "seed=1,2") == 70
    assert "cannot be made" not in capfd.readouterr().err
    Path("full").touch()
    for launcher in ([LAUNCHER], []):
        assert swept(*launcher, "output=full", "seed=1,2") == 2
        assert "the sweep's folder full/sweep" in (message := capfd.readouterr().err)
        assert "cannot be made: Not a directory; set output=..." in message


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[LAUNCHER], []])
def test_a_sweep_lies_in_the_home_folder_where_a_tilde_means_it(
    at: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launcher: list[str]
):
    at()
    monkeypatch.setattr("nlp_transfer.sweeping.sweep.LocalExecutor", lambda settings: Place(drawn))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert swept(*launcher, "output=~/found", "seed=1,2") == 0
    assert len(list((tmp_path / "home" / "found" / "sweep").glob("*/results.csv"))) == 1
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_a_sweep_that_ends_early_is_not_said_to_have_ended_for_want_of_room(
    at: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, capfd
):
    def full(*_: Any) -> None:
        raise UserError("no space left")

    def stopped(values: dict[str, str]) -> list[float]:
        if values["seed"] == "2":
            raise Stopped(2)
        return [0.1]

    at(stopped)
    monkeypatch.setattr(multirun, "write_and_show", full)
    assert swept(LAUNCHER, "seed=1,2") == 130
    assert "no space left" in capfd.readouterr().err
    at()
    assert swept(LAUNCHER, "seed=1,3") == 2


@pytest.mark.slow
def test_a_sweep_is_done_by_one_process_at_a_time(at: Callable[..., Place], capfd):
    at()
    assert swept(LAUNCHER, "seed=1,2") == 0
    (folder,) = Path("runs/sweep").glob("sweep-*")
    with FileLock(folder / ".lock"):
        assert swept(LAUNCHER, "seed=1,2") == 2
    assert "is being done by another process" in capfd.readouterr().err
