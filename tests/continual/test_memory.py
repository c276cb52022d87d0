"""Forgetting is measured on rows that both models can predict and that the new run does not train on."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nlp_transfer.config import compose
from nlp_transfer.continual import forgetting
from nlp_transfer.continual.base import Base
from nlp_transfer.data.corpus import Examples, divide_corpus, load_corpus, read_corpus
from nlp_transfer.data.task import Task
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import DataSettings
from tests.continual.tasks import continuing, old_run, rows_with_labels
from tests.runs import data_for


def recalled(folder: Path) -> list[dict]:
    return json.loads((folder / "metrics.json").read_text())["continual"]["tasks"]


def test_only_measured_rows_of_earlier_tasks_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
):
    data = DataSettings()
    rows = divide_corpus(read_corpus(data, data=rows_with_labels({"card", "film"})), data, seed=0)
    corpus = load_corpus(data, data=rows_with_labels({"card", "film", "refund"}))
    encode, encoded, hashed = Task.encode, [], []
    keys = Examples.keys.fget
    monkeypatch.setattr(forgetting, "_tasks", lambda *_: [("one", rows), ("other", rows)])
    monkeypatch.setattr(forgetting.Base, "of", lambda _: Base("old", Path(), rows.task))
    monkeypatch.setattr(
        forgetting, "load_predictor", lambda *_: SimpleNamespace(logits=lambda texts, _: np.zeros((len(texts), 2)))
    )
    monkeypatch.setattr(Task, "encode", lambda *given: encoded.append(len(given[1])) or encode(*given))
    monkeypatch.setattr(Examples, "keys", property(lambda part: hashed.append(len(part)) or keys(part)))
    settings = compose(None, ["strategy=finetune", "continual.labels=all"])
    found = forgetting.Forgetting.of(settings, corpus)
    assert [each.name for each in found.tasks] == ["one", "other"]
    assert encoded == [len(each.examples) for each in found.tasks]
    assert hashed == [len(corpus.splits["train"])]


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_labels_unknown_to_the_new_model_are_left_out(home: Path, tmp_path: Path, problem: str):
    old = old_run(home, {"card", "film", "refund"}, problem)
    some = {split: [row for row in part if "refund" not in row["label"]] for split, part in data_for(problem).items()}
    folder = home / f"{problem}-others"
    folder.mkdir()
    for split, part in data_for(problem).items():
        kept = [row | {"text": f"once {row['text']}"} for row in (part if split == "test" else some[split])]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, kept)))
    values = {"continual.labels": "data", "continual.replay": 4, "continual.data": str(folder)}
    run = adapt(continuing(home, old, problem, output=str(tmp_path), **values), data=some)
    (found,) = recalled(run.folder)
    labels = [row["label"] for row in data_for(problem)["test"]]
    with_it = sum("refund" in label for label in labels)
    assert with_it
    assert found["left_out"] == {"taught": 0, "foreign": with_it}
    assert found["rows"] == len(labels) - with_it
    assert f"without {with_it} with a label that one of the models lacks" in run.report.notes[0]


@pytest.mark.slow
def test_rows_trained_on_now_are_not_measured_as_earlier_ones(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    test, later = rows_with_labels({"card", "film"})["test"], rows_with_labels({"refund"})
    run = adapt(continuing(home, old, output=str(tmp_path)), data=later | {"train": later["train"] + test[:3]})
    (found,) = recalled(run.folder)
    learned = {row["text"] for row in test[:3]}
    taught = sum(row["text"] in learned for row in test)
    assert (found["rows"], found["left_out"]) == (len(test) - taught, {"taught": taught, "foreign": 0})
    assert f"; without {taught} that this run trains on)" in run.report.notes[0]
    settings = continuing(home, old, output=str(tmp_path), overwrite=True)
    run = adapt(settings, data=later | {"train": later["train"] + test})
    assert recalled(run.folder) == []
    assert f"no test row is left; without {len(test)} that this run trains on." in run.report.notes[0]


@pytest.mark.slow
def test_rows_known_to_both_models_are_all_measured(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    run = adapt(continuing(home, old, output=str(tmp_path)), data=rows_with_labels({"refund"}))
    assert recalled(run.folder)[0]["left_out"] == {"taught": 0, "foreign": 0}
    assert run.report.notes[0].startswith(f"Earlier task {old.name} (")
    assert "without" not in run.report.notes[0]
