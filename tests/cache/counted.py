"""What is computed for features, and the files of a run that had them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.run import adapt
from tests.crashes import fingerprint
from tests.runs import data_for, settings_for


def prepared_for(home: Path, problem: str = "single_label", **values: Any) -> Prepared:
    settings = settings_for(home, problem, **{"strategy": "probe", **values})
    return prepare(settings, load_corpus(settings.data, seed=0, data=data_for(problem)), home)


@contextmanager
def counted(prepared: Prepared) -> Iterator[list[int]]:
    """The rows of each pass of the real encoder, as they come."""
    rows: list[int] = []
    model = prepared.classifier.model
    encoder = getattr(model, prepared.classifier.anatomy.base)
    hook = encoder.register_forward_pre_hook(
        lambda _, positional, named: rows.append(len(named["attention_mask"])),
        with_kwargs=True,
    )
    yield rows
    hook.remove()


def bits(home: Path, output: Path, problem: str, **values: Any) -> dict[str, str]:
    short = {"evaluation.floors": False, "evaluation.resamples": 2}
    adapt(settings_for(home, problem, output=str(output), **short, **values), data=data_for(problem))
    return {name: bits for name, bits in fingerprint(output).items() if name not in ("config.yaml", "plan.json")}
