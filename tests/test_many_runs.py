"""A run on memory-mapped rows gives the same bits as one on rows in memory."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from nlp_transfer.data.compact import CompactCells
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.running.run import adapt
from tests.data.many import many
from tests.runs import STRATEGIES, data_for, settings_for, texts_in

TEACHER, UNLABELLED = "objective.distill.teacher", "data.unlabelled"
# What a run reads beside its rows, with a problem and a strategy for which it is read.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "floors": ("pair", STRATEGIES["probe"] | {"evaluation.floors": True, "report.write": True}),
    "teacher": ("multi_label", {"objective": "distill", TEACHER: "", UNLABELLED: ""}),
    "hints": ("soft", STRATEGIES["lora"] | {"objective": "relations", TEACHER: "", UNLABELLED: ""}),
    "domain": ("chunk", {"objective": "mcc", UNLABELLED: "", "evaluation.floors": True}),
    "pretraining": ("regression", {"pretraining.epochs": 1, "pretraining.texts": "all", UNLABELLED: ""}),
    "pairs": ("siamese", {"objective": "contrast"}),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "floors")) for case in CASES])
def test_a_memory_mapped_run_equals_one_in_memory(home: Path, tmp_path: Path, case: str) -> None:
    problem, values = CASES[case]
    values = {"training.epochs": 1, "training.max_steps": 3} | values
    given = {UNLABELLED: str(texts_in(tmp_path / "more.csv", problem))}
    if TEACHER in values:
        teacher = adapt(settings_for(home, problem, output=str(tmp_path / "teacher")), data=data_for(problem))
        given[TEACHER] = str(teacher.folder)
    values |= {name: given[name] for name in given if name in values}
    runs = []
    for name, mode in (("few", nullcontext()), ("many", many())):
        settings = settings_for(home, problem, output=str(tmp_path / name), **values)
        with mode:
            read = load_corpus(settings.data, data=data_for(problem)).splits["train"].texts
            assert isinstance(read, CompactCells) == (name == "many")
            runs.append(adapt(settings, data=data_for(problem)))
    few, again = runs
    assert again.folder.name == few.folder.name
    assert again.metrics == few.metrics
    for weights in few.folder.glob("model/*.safetensors"):
        assert (again.folder / "model" / weights.name).read_bytes() == weights.read_bytes()
    assert again.report.notes == few.report.notes
