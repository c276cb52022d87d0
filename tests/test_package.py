"""The package as it is installed and as it is built: contents, direction of imports, what an import does."""

import ast
import random
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nlp_transfer"
FILES = sorted(PACKAGE.rglob("*.py"))
# Imports run one way, from right to left; files at the top level that belong to no room may use all of them.
ROOMS = (
    "errors",
    "settings",
    "launch",
    "data",
    "encoder",
    "strategies",
    "objectives",
    "config",
    "evaluation",
    "training",
)


def imports_of(path: Path) -> set[str]:
    """Rooms and top-level modules of the package that a file imports, wherever it does; not for type checking only."""
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
    assert not {"_target_", "pickle.load", "torch.load(", "trust_remote_code=True"} & {
        word for word in ("_target_", "pickle.load", "torch.load(", "trust_remote_code=True") if word in text
    }
    assert ast.get_docstring(ast.parse(text)), "every file says what it is responsible for"


def test_every_folder_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for top in ("nlp_transfer", "conf", "recipes") for path in (ROOT / top).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == {name if name.startswith("nlp_transfer") else f"nlp_transfer.{name}" for name in names}


def test_importing_changes_nothing():
    probe = (
        "import os, sys, random, logging\n"
        "before = (dict(os.environ), random.getstate(), list(logging.root.handlers))\n"
        "import nlp_transfer\n"
        "assert before == (dict(os.environ), random.getstate(), list(logging.root.handlers))\n"
        "assert not {'torch', 'transformers', 'numpy', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
    assert random.getstate()


@pytest.mark.slow
def test_the_wheel_holds_everything_and_works_elsewhere(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    inside = set(zipfile.ZipFile(wheel).namelist())
    for top in ("conf", "recipes"):
        for path in (ROOT / top).rglob("*.yaml"):
            assert f"nlp_transfer/{path.relative_to(ROOT)}" in inside
    for path in ("py.typed", "data/embedded/customer_intents.csv", "data/embedded/customer_intents.md"):
        assert f"nlp_transfer/{path}" in inside
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    probe = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import nlp_transfer; from pathlib import Path\n"
        f"assert Path(nlp_transfer.__file__).is_relative_to({str(site)!r}), nlp_transfer.__file__\n"
        "from nlp_transfer.config import compose, shipped_names\n"
        "for recipe in shipped_names('recipes'): compose(recipe, ['data.path=x'])\n"
        "from nlp_transfer.cli import main\n"
        "sys.exit(main(['ls']))"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "recipes\tintent" in done.stdout
