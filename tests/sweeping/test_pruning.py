"""Reading evaluations of a run while it is running."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping.pruning import PruningMonitor, _Watched


def line(figure: float | None, split: str = "validation") -> str:
    return json.dumps({"split": split, "accuracy": figure, "macro_f1": 0.5, "step": 1}) + "\n"


def trial_after(evaluations: dict[int, float]) -> Any:
    return SimpleNamespace(number=0, study=SimpleNamespace(trials=[SimpleNamespace(intermediate_values=evaluations)]))


def test_evaluations_are_read_as_they_are_written_and_anew_where_the_run_went_back(tmp_path: Path):
    watched, path = _Watched(tmp_path, trial_after({1: 0.5})), tmp_path / "metrics.jsonl"
    assert watched.reported == 1
    assert watched.figures("accuracy") == []
    path.write_text(line(0.1) + '{"step": 2, "loss": 1.0}\n' + line(0.2)[:20])
    assert watched.figures("accuracy") == [0.1]
    path.write_text(line(0.1) + '{"step": 2, "loss": 1.0}\n' + line(0.2) + line(None))
    assert watched.figures("accuracy") == [0.1, 0.2]
    assert watched.figures("auto") == []  # nobody knows the problem type
    (tmp_path / "plan.json").write_text('{"problem": "single_label"}')
    assert watched.figures("auto") == [0.5] * 3
    (tmp_path / "making").write_text(line(0.1))
    (tmp_path / "making").rename(path)
    assert watched.figures("accuracy") == [0.1]


def test_runs_without_evaluations_are_refused_unless_others_are_searched_with_them():
    def watch(*words: str, searched: str) -> None:
        PruningMonitor(None, "accuracy", {searched: None}).watch([words], [trial_after({})])

    with pytest.raises(UserError, match=r"pruner .* strategy\.solver=adamw"):
        watch("strategy=probe", searched="seed")
    watch("strategy=probe", "strategy.solver=adamw", searched="seed")
    watch("strategy=probe", searched="strategy")
    watch("strategy=probe", searched="strategy.solver")
