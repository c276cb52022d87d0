"""The installed and the built package: contents, import directions, and effects of an import."""

import ast
import graphlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.encoder.families import tiny_encoder

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nlp_transfer"
FILES = sorted(PACKAGE.rglob("*.py"))
# Imports run one way, from right to left; files at the top level that belong to no room may use all of them.
ROOMS = (
    "secrets",
    "errors",
    "verb_settings",
    "settings",
    "wording",
    "machine",
    "significance",
    "linear",
    "data",
    "encoder",
    "strategies",
    "objectives",
    "composing",
    "config",
    "evaluation",
    "training",
    "cache",
)


def imports_of(path: Path) -> set[str]:
    """Subpackages and top-level modules that a file imports anywhere, except for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nlp_transfer"):
            parts = node.module.split(".")
            modules |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return modules


def modules_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, without the subpackages' public interfaces."""
    known = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, f"{node.module}.__init__", *(f"{node.module}.{name.name}" for name in node.names)}
    return found & known - {"nlp_transfer.__init__"}


def test_there_are_no_import_cycles():
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): modules_of(path) for path in FILES}
    assert graph["nlp_transfer.running.learning"] > {"nlp_transfer.running.prepared", "nlp_transfer.training.loop"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def yamls(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.yaml"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path):
    room = room_of(path)
    allowed = {name for name in ROOMS[: ROOMS.index(room) + 1]} if room in ROOMS else None
    if room == "training":
        allowed -= {"evaluation", "config"}
    if allowed is not None:
        assert imports_of(path) <= allowed, f"{room} imports {imports_of(path) - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small_and_safe(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    for word in ("_target_", "import pickle", "joblib", "torch.load(", "torch.save(", "trust_remote_code=True"):
        assert word not in text
    assert ast.get_docstring(ast.parse(text)), "every file says what it is responsible for"
    assert ("expanduser" in text) == (path.name == "paths.py"), "one function knows what a tilde means"


def test_every_folder_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for top in ("nlp_transfer", "conf", "recipes") for path in (ROOT / top).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == {name if name.startswith("nlp_transfer") else f"nlp_transfer.{name}" for name in names}


def python(code: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)


STATE = """
import logging, os, random, sys, warnings
def state():
    root = logging.root
    return dict(os.environ), random.getstate(), list(root.handlers), root.level, list(warnings.filters), os.getcwd()
"""


def test_importing_has_no_side_effects():
    code = (
        f"{STATE}before = state()\n"
        "import nlp_transfer, nlp_transfer.cli, nlp_transfer.settings\n"
        "assert before == state()\n"
        "assert not {'torch', 'transformers', 'numpy', 'pandas', 'hydra'} & set(sys.modules)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_every_module_changes_nothing_that_libraries_did_not():
    code = (
        f"{STATE}import accelerate, datasets, evaluate, hydra, numpy, peft, scipy.optimize, torch, transformers\n"
        "import transformers.models.auto.modeling_auto, importlib, pkgutil, nlp_transfer, torch.distributed.fsdp\n"
        "import scipy.stats, scipy.sparse, sklearn.linear_model, sklearn.feature_extraction.text\n"
        "before = state(), torch.get_rng_state().tolist(), str(numpy.random.get_state())\n"
        "for found in pkgutil.walk_packages(nlp_transfer.__path__, 'nlp_transfer.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "assert {'nlp_transfer.running.run', 'nlp_transfer.decision.rules'} <= set(sys.modules)\n"
        "assert before == (state(), torch.get_rng_state().tolist(), str(numpy.random.get_state()))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_is_complete_and_works_elsewhere(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "--quiet"]
    source = tmp_path / "source"  # a copy, so that nothing of an earlier build gets in
    for name in ("nlp_transfer", "conf", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"nlp_transfer/{path.relative_to(ROOT)}" for top in ("conf", "recipes") for path in yamls(top)}
    expected |= {str(path.relative_to(ROOT)) for path in FILES}
    expected |= {f"nlp_transfer/{name}" for name in ("py.typed", "recipes/explicit.py", "conf/launch/slurm.sbatch")}
    expected |= {f"nlp_transfer/data/embedded/customer_intents.{ending}" for ending in ("csv", "md")}
    assert expected <= inside
    assert not [name for name in inside if name.startswith(("tests/", "conf/", "recipes/"))]
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    encoder = tiny_encoder(tmp_path)
    command = [sys.executable, str(site / "bin" / "nlp-transfer"), "adapt", "encoder=custom", f"encoder.name={encoder}"]
    done = subprocess.run(
        [*command, "strategy=probe", "data.train_limit=60", "evaluation.resamples=20"],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = elsewhere / json.loads(done.stdout)["folder"]
    assert [path.name for path in elsewhere.iterdir()] == ["runs"]
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    code = (
        "import nlp_transfer; from pathlib import Path\n"
        f"assert Path(nlp_transfer.__file__).is_relative_to({str(site)!r}), nlp_transfer.__file__\n"
        "from nlp_transfer.config import compose\nfrom nlp_transfer.composing.shipped import shipped_names\n"
        "recipes = shipped_names('recipes')\n"
        "assert recipes and all(compose(recipe, ['data.path=x']).name == recipe for recipe in recipes)\n"
        "from nlp_transfer.cli import main\n"
        "assert main(['plan', '--cfg']) == 0\n"
        "assert main(['ls']) == 0\n"
        f"print(nlp_transfer.load({str(run)!r}).predict(['where is my parcel?'])[0].label)"
    )
    done = python(code, cwd=nowhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "embedded: customer_intents" in done.stdout
    assert "recipes\tintent" in done.stdout
    assert not list(nowhere.iterdir())
    assert (
        done.stdout.splitlines()[-1] in json.loads((run / "model" / "nlp_transfer.json").read_text())["task"]["labels"]
    )
