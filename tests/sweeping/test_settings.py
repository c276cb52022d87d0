"""Overrides of Hydra's launcher and sweeper: known and refused ones."""

import importlib.util
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nlp_transfer.composing.shipped import locate_recipe
from nlp_transfer.errors import UserError
from nlp_transfer.sweeping.settings import LauncherSettings, SearchSettings, of_hydra
from nlp_transfer.sweeping.typed import check_hydra_words, swept_keys

LAUNCHER, SEARCH = "hydra/launcher=accelerate", "hydra/sweeper=optuna"


@pytest.mark.parametrize("kind", [LauncherSettings, SearchSettings])
def test_conf_has_every_key_with_its_default(kind: type):
    group = kind.prefix.removesuffix(".").replace(".", "/")
    content = OmegaConf.to_container(OmegaConf.load(locate_recipe(None)[0] / group / f"{kind.name}.yaml"))
    assert list(content.pop("_target_").split(".")[:2]) == ["hydra_plugins", "nlp_transfer"]
    assert content == asdict(kind())
    assert list(content) == list(asdict(kind()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=joblib"], "use hydra/launcher=accelerate"),
        (["hydra.launcher.jobs=2"], "hydra.launcher.jobs is a key of hydra/launcher=accelerate; add that"),
        (["hydra.sweeper.n_trials=2"], "hydra.sweeper.n_trials is a key of hydra/sweeper=optuna; add that"),
        ([LAUNCHER, "hydra.launcher.job=2"], "hydra.launcher.job is not a known key (did you mean 'jobs'?)"),
        ([SEARCH, "hydra.sweeper.trials=2"], "hydra.sweeper.trials is not a known key (did you mean 'n_trials'?)"),
        (["training.epochs=interval(1,2)"], "all values of an interval cannot be tried; add hydra/sweeper=optuna"),
    ],
)
def test_unknown_overrides_are_refused(words: list[str], message: str):
    with pytest.raises(UserError) as refused:
        check_hydra_words(words)
    assert message in str(refused.value)


def test_known_overrides_are_accepted():
    check_hydra_words([LAUNCHER, "hydra.launcher.slurm.account=a", "hydra.sweeper.max_batch_size=2", "seed=1,2"])
    assert swept_keys(["seed=1,2", "+x=range(0,2)", "strategy=lora", SEARCH]) == ["seed", "x"]


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (LauncherSettings, {"jobs": "some"}, "hydra.launcher.jobs=some must be a whole number, or null"),
        (LauncherSettings, {"processes": 0}, "hydra.launcher.processes=0 must be at least 1"),
        (LauncherSettings, {"where": "moon"}, "hydra.launcher.where='moon' is not known"),
        (LauncherSettings, {"partition": "a"}, "hydra.launcher.partition is for hydra.launcher.where=slurm"),
        (LauncherSettings, {"gpus": 2}, "hydra.launcher.gpus is for hydra.launcher.where=slurm or ray"),
        (LauncherSettings, {"config_file": "no.yaml"}, "hydra.launcher.config_file=no.yaml: there is no such file"),
        (LauncherSettings, {"config_file": "~no.yaml"}, "hydra.launcher.config_file=~no.yaml: there is no such file"),
        (LauncherSettings, {"gpus": 1}, "hydra.launcher.gpus is for hydra.launcher.where=slurm or ray"),
        (LauncherSettings, {"gpus": -1}, "hydra.launcher.gpus=-1 must not be negative"),
        (LauncherSettings, {"cpus": 1}, "hydra.launcher.cpus is for hydra.launcher.where=slurm or ray"),
        (LauncherSettings, {"minutes": 5}, "hydra.launcher.minutes is for hydra.launcher.where=slurm"),
        (LauncherSettings, {"slurm": {"account": "a"}}, "hydra.launcher.slurm is for hydra.launcher.where=slurm"),
        (SearchSettings, {"sampler": "cmaes"}, "hydra.sweeper.sampler='cmaes' is not known"),
        (SearchSettings, {"pruner": "wilcoxon"}, "hydra.sweeper.pruner='wilcoxon' is not known"),
        (SearchSettings, {"seed": -1}, "hydra.sweeper.seed=-1 must not be negative"),
    ],
)
def test_invalid_sweep_values_are_refused(kind: type, keys: dict, message: str):
    with pytest.raises(UserError) as refused:
        of_hydra(kind, keys)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gpus: 2", "is not a file of `accelerate config`"),
        ("num_processes: 1", "is for one process or for CPUs"),
        ("{num_processes: 2, use_cpu: true}", "where hydra.launcher.processes=2 without a config_file does"),
        ("{num_processes: 2, num_machines: 2}", "is for several machines"),
    ],
)
def test_a_config_file_that_would_start_something_else_is_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(UserError) as refused:
        LauncherSettings(config_file=str(tmp_path / "a.yaml"))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("library", "make"), [("optuna", SearchSettings), ("submitit", lambda: LauncherSettings(where="slurm"))]
)
def test_a_missing_library_is_named_with_its_install_command(monkeypatch, library: str, make):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(UserError, match=f'{library} is not installed: pip install "nlp-transfer.sweep.'):
        make()
