"""List and copy what is shipped: recipes and the choices of every group."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nlp_transfer.composing.shipped import CONF, GROUPS, RECIPES, locate_recipe, shipped_names
from nlp_transfer.errors import UserError, did_you_mean

KINDS = {
    "recipes": "recipes",
    "data": "data",
    "encoders": "encoder",
    "strategies": "strategy",
    "objectives": "objective",
}


def purpose(path: Path) -> str:
    """Return the first paragraph of the comment at the top of a YAML file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#") and line.strip("# "), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def entries(what: str) -> dict[str, str]:
    """Return name → purpose of the shipped recipes, or of a group of conf/."""
    folder = Path(str(resources.files(RECIPES if what == "recipes" else f"{CONF}.{what}")))
    return {name: purpose(folder / f"{name}.yaml") for name in shipped_names(what)}


def show(what: str | None) -> int:
    """List everything shipped, or one kind of it; when piped, as lines of `kind<TAB>name<TAB>purpose`."""
    if what and what not in (*KINDS, *GROUPS):
        raise UserError(f"ls shows {', '.join(KINDS)}; {what!r} is none of them{did_you_mean(what, KINDS)}")
    console = Console(highlight=False, markup=False)
    for kind in (KINDS.get(what, what),) if what else KINDS.values():
        if not console.is_terminal:
            for name, words in entries(kind).items():
                print(kind, name, words, sep="\t")  # noqa: T201
            continue
        title = "recipes: nlp-transfer adapt RECIPE data.path=FILE" if kind == "recipes" else f"{kind}=NAME"
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, words in entries(kind).items():
            table.add_row(name, words)
        console.print(table)
        console.print()
    return 0


def copy(words: Sequence[str]) -> int:
    """Copy a shipped recipe to a new file.

    Raises:
        UserError: for an unknown recipe or an existing target.
    """
    if not 1 <= len(words) <= 2:
        raise UserError(
            "cp takes a RECIPE and, if you like, the file to copy it to: nlp-transfer cp intent my_intent.yaml"
        )
    folder, name = locate_recipe(words[0])
    target = Path(words[1] if len(words) == 2 else f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.suffix != ".yaml":
        raise UserError(f"{target}: a recipe's name ends in .yaml")
    if target.exists():
        raise UserError(f"{target} exists already; name another file: nlp-transfer cp {words[0]} OTHER.yaml")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent} is not a folder")
    shutil.copyfile(folder / f"{name}.yaml", target)
    Console(stderr=True, highlight=False).print(
        f"{target} can be edited; what it would do: nlp-transfer plan {shlex.quote(str(target))} data.path=FILE",
        soft_wrap=True,
        markup=False,
    )
    return 0
