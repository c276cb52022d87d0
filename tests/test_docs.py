"""What the pages for readers say exists: headings that are linked to, keys that are set, verbs, recipes and targets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_transfer.composing.shipped import shipped_names
from nlp_transfer.verbs import VERBS

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "recipes" / "README.md", ROOT / "CHANGELOG.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def dotted_keys(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted_keys(value or {"*": None}, f"{prefix}{key}.")


def known_keys() -> set[str]:
    """Return every key of conf/, as it is written on a command line."""
    keys: set[str] = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        group = path.parent.relative_to(ROOT / "conf").parts
        if group[:1] != ("launch",):
            keys |= set(dotted_keys(yaml.safe_load(path.read_text()) or {}, "".join(f"{part}." for part in group)))
    return keys


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path):
    for place, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if "://" in place:
            continue
        target = page.parent / place if place else page
        assert target.exists(), place
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_keys_that_are_set_exist(page: Path):
    mentioned = set(re.findall(r"(?<![\w./])\+?([a-z_]+(?:\.[a-z_]+)+)=", page.read_text()))
    known = known_keys()
    assert not {key for key in mentioned - known if f"{key.rpartition('.')[0]}.*" not in known}


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_name_verbs_and_recipes(page: Path):
    blocks = "\n".join(re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    for verb, first in re.findall(r"^(?:nlp-transfer|torchrun .* -m nlp_transfer) (\S+) ?(\S*)", blocks, re.MULTILINE):
        assert verb in VERBS, verb
        is_recipe = verb == "adapt" and re.fullmatch(r"[a-z][a-z_]*", first)
        assert not is_recipe or first in shipped_names("recipes"), first


def test_the_guides_are_read_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[a-z]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {name_of(page) for page in GUIDES[1:]}


def test_makefile_targets_are_the_ones_documented():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert set(
        re.findall(r"^\| `make ([a-z-]+)`", (ROOT / "docs/development.md").read_text(), re.MULTILINE)
    ) == targets - {"demo"}
