"""Configuration: conf/ mirrors the dataclasses, everything unknown is refused with a hint, and it is quick."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nlp_transfer.config import GROUPS, compose, from_mapping, from_plain, run_id, shipped_names, to_plain, to_yaml
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import TERM_SETTINGS
from nlp_transfer.settings import ColumnSettings, DataSettings, EncoderSettings, Settings
from nlp_transfer.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent


def written(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    ("path", "kind"),
    [("conf/data/base.yaml", DataSettings), ("conf/encoder/base.yaml", EncoderSettings)]
    + [(f"conf/strategy/{name}.yaml", kind) for name, kind in STRATEGIES.items()],
)
def test_every_field_is_a_key_with_a_comment_and_the_same_default(path: str, kind: type):
    keys = written(path)
    assert set(keys) - {"name" if "strategy" in path else ""} == fields(kind)
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        assert (
            not line.strip() or line.startswith("#") or "#" in line or line.startswith(("name:", "defaults:", "  - "))
        ), line
    if kind is not STRATEGIES["adapter"]:  # its file is an example of another method
        defaults = kind()
        for name in fields(kind) - {"columns"}:
            assert keys[name] == getattr(defaults, name), name


def test_the_other_groups_mirror_too():
    conf = written("conf/config.yaml")
    plain = to_plain(Settings(strategy=STRATEGIES["finetune"](), objective={}))
    for group in ("tokens", "training", "evaluation", "tracking", "predict"):
        assert {k: float(v) if isinstance(v, str) and "e-" in v else v for k, v in conf[group].items()} == plain[
            group
        ], group
    assert set(conf) - {"defaults", "hydra"} == fields(Settings) - {*GROUPS}
    assert set(written("conf/data/base.yaml")["columns"]) == fields(ColumnSettings)
    for name, kind in TERM_SETTINGS.items():
        assert set(written(f"conf/objective/{name}.yaml")[name]) == fields(kind)


def test_yaml_round_trip_keeps_the_run(tmp_path: Path):
    settings = compose(None, ["strategy=lora", "strategy.rank=4", "training.epochs=2.5", "seed=3"])
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    again = compose(str(path))
    assert again == settings
    assert run_id(again) == run_id(settings)
    assert from_plain(to_plain(settings)) == settings


def test_a_resolved_file_takes_group_choices(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(compose(None, ["strategy=probe", "training.epochs=2", "seed=5"])), encoding="utf-8")
    changed = compose(
        str(path), ["strategy=lora", "strategy.rank=4", "data=files", "data.path=x.csv", "training.batch_size=8"]
    )
    wanted = ["strategy=lora", "strategy.rank=4", "data=files", "data.path=x.csv", "training.epochs=2", "seed=5"]
    assert changed == compose(None, [*wanted, "training.batch_size=8"])
    assert changed.name == "x-lora"


def test_files_that_are_no_configuration_are_refused(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not YAML"):
        compose(str(tmp_path / "broken.yaml"))
    (tmp_path / "other.yaml").write_text("defaults: [config, _self_]\nsead: 1\n")
    with pytest.raises(UserError, match="sead"):
        compose(str(tmp_path / "other.yaml"))


def test_identity_ignores_where_and_how_it_is_shown():
    plain = run_id(compose())
    assert (
        run_id(compose(None, ["output=elsewhere", "name=x", "tracking.trackers=[tensorboard]", "overwrite=true"]))
        == plain
    )
    assert run_id(compose(None, ["seed=1"])) != plain
    assert run_id(compose(None, ["strategy.lr=1e-4"])) != plain


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["strategy=lorra"], r"strategy=lorra.*did you mean 'lora'"),
        (["encoder=minilmm"], r"encoder=minilmm.*did you mean 'minilm'"),
        (["strategy.lrr=1"], r"strategy\.lrr.*did you mean 'strategy\.lr'"),
        (["training.epoch=1"], r"training\.epoch .*did you mean 'training\.epochs'"),
        (["trainning.epochs=1"], r"trainning"),
        (["training.epochs=many"], r"training\.epochs"),
        (["training.batch_size=2.5"], r"training\.batch_size"),
        (["strategy.lr=fast"], r"strategy\.lr"),
        (["+strategy.new=1"], r"strategy\.new is not a known key"),
        (["+objective.classifi={}"], r"classifi.*did you mean 'classify'"),
        (["objective.classify.label_smoothing=x"], r"objective\.classify\.label_smoothing"),
        (["seed="], r"seed"),
        (["a b=c"], r"a b"),
        (["strategy.name=nope"], r"strategy\.name.*nope"),
        (["data.columns.txt=a"], r"data\.columns\.txt.*did you mean 'data\.columns\.text'"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], words: str):
    with pytest.raises(UserError, match=words):
        compose(None, overrides)


def test_unknown_recipes_are_refused():
    with pytest.raises(UserError, match="did you mean 'intent'"):
        compose("intnet")
    with pytest.raises(UserError, match="no such file"):
        compose("my/intent.yaml")


def test_a_users_own_recipe_and_groups(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [base, _self_]\npath: here.csv\n")
    (tmp_path / "mine.yaml").write_text("defaults: [config, {override data: mine}, _self_]\nseed: 7\n")
    settings = compose(str(tmp_path / "mine.yaml"), ["training.epochs=1"])
    assert (settings.name, settings.seed, settings.data.path, settings.training.epochs) == ("mine", 7, "here.csv", 1)


def test_mappings_become_overrides():
    values = {
        "strategy": "lora",
        "training": {"epochs": 3},
        "data.columns.text": "it's",
        "data.order": ["very bad", "ok"],
        "seed": 2,
    }
    settings = compose(None, from_mapping(values))
    assert settings.training.epochs == 3
    assert settings.data.columns.text == "it's"
    assert settings.data.order == ["very bad", "ok"]
    assert settings.seed == 2
    nested = compose(None, from_mapping({"strategy": {"name": "lora", "rank": 4}, "data": {"class_weights": {"a": 2}}}))
    assert nested.strategy.rank == 4
    assert nested.data.class_weights == {"a": 2}


@pytest.mark.parametrize("recipe", shipped_names("recipes"))
def test_every_recipe_composes_and_has_a_header(recipe: str):
    settings = compose(recipe, [] if recipe == "x" else ["data.path=FOLDER"])
    assert settings.name == recipe
    header = (ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    for word in (f"adapt {recipe}", "Data:", "Hardware:"):
        assert word in header, word


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["plan", "--cfg"], 0),
        (["adapt", "training.epoch=1"], 2),
        (["adapt", "strategy=lorra"], 2),
        (["ls"], 0),
    ],
)
def test_light_answers_import_no_torch_and_are_quick(words: list[str], status: int):
    probe = (
        "import sys\nfrom nlp_transfer.cli import main\n"
        "try: status = main(sys.argv[1:])\nexcept SystemExit as e: status = e.code or 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 6  # generous: the machine may be busy; the promise is 1 s and 2 s
