"""conf/data lists every setting with its default."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nlp_transfer.settings import DataSettings

CONF = Path(__file__).parents[2] / "conf"
DIFFERENCES: dict[str, dict[str, Any]] = {
    "base": {},
    "customer_intents": {"embedded": "customer_intents"},
    "files": {},  # the other sources are named on the command line or in a recipe
    "hub": {},
    "object": {},
}


def test_every_choice_is_tested() -> None:
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == set(DIFFERENCES)


@pytest.mark.parametrize("choice", DIFFERENCES)
def test_choices_are_the_defaults_plus_their_differences(choice: str) -> None:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(f"data/{choice}"))
    assert composed == {"data": dataclasses.asdict(DataSettings()) | DIFFERENCES[choice]}


def test_every_key_has_its_comment() -> None:
    for path in (CONF / "data").glob("*.yaml"):
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ")
        if path.stem == "base":
            assert all(" # " in line for line in lines)
