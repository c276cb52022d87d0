"""Locate YAML files: the shipped configuration and recipes, and recipes of the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError, one_of

CONF = "nlp_transfer.conf"
RECIPES = "nlp_transfer.recipes"
GROUPS = ("data", "encoder", "strategy", "objective")


def locate_recipe(recipe: str | None) -> tuple[Path, str]:
    """Return the folder and the stem of the YAML file of a recipe, given by name or path.

    Raises:
        UserError: for a missing file, an unknown name, or a value that is neither name nor path.
    """
    if recipe is None:
        return Path(str(resources.files(CONF))), "config"
    if not isinstance(recipe, str | Path):
        raise UserError(f"recipe={recipe!r} is not the name of a recipe or file; overrides are the second argument")
    path = expanded(recipe)
    if path.suffix == ".yaml":
        if not path.is_file():
            raise UserError(f"recipe {recipe!r}: there is no such file")
        return path.resolve().parent, path.stem
    known = shipped_names("recipes")
    if recipe not in known and (path.suffix or path.exists()):
        run = path / "config.yaml"
        hint = (
            f"the settings of that run are {run}"
            if run.is_file()
            else f"rows: data=files {shell_word('data.path', recipe)}"
        )
        raise UserError(f"{recipe} is not a recipe, whose name would end in .yaml; {hint}")
    return Path(str(resources.files(RECIPES))), one_of(recipe, known, "recipe")


def launch_file(name: str) -> str:
    """Return the path of a file for ``accelerate launch --config_file``."""
    return str(resources.files(CONF) / "launch" / name)


def shipped_names(what: str) -> list[str]:
    """Return the shipped names of "recipes", or of a group of conf/ ("data", "encoder", "strategy", "objective")."""
    folder = Path(str(resources.files(RECIPES if what == "recipes" else CONF))) / ("" if what == "recipes" else what)
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base")
