"""Whether the names of labels say something of texts, by an encoder to which texts with the same words are alike."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.config import compose
from nlp_transfer.data.corpus import Corpus, Examples, load_corpus
from nlp_transfer.running.choosing import LABEL_TEXTS, resolve_auto
from nlp_transfer.running.measurement import evaluate
from nlp_transfer.running.naming import _are_near, names_are_informative
from nlp_transfer.running.plan import plan_of
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import Settings
from tests.runs import TOPICS, data_for

TOLD = dict(zip(TOPICS, TOPICS, strict=True))
"""Names that stand in the texts."""
TURNED = dict(zip(TOPICS, [*list(TOPICS)[1:], next(iter(TOPICS))], strict=True))


def named(encoder: Path, folder: Path, names: dict[str, str], *words: str) -> tuple[Settings, Corpus]:
    """Return a run with 18 training rows whose labels have these names."""
    for split, rows in data_for("single_label").items():
        lines = [json.dumps(row | {"label": names[row["label"]]}) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines[:18] if split == "train" else lines))
    own = ["data=files", f"data.path={folder}", f"encoder={encoder}", f"output={folder / 'runs'}"]
    settings = compose(None, [*own, "evaluation.resamples=20", "verify=false", "report.write=false", *words])
    return settings, load_corpus(settings.data)


@pytest.mark.parametrize(
    ("names", "tell"),
    [
        (TOLD, True),
        ({label: f"my_{label}" for label in TOPICS}, True),
        (TURNED, False),
        ({label: str(number) for number, label in enumerate(TOPICS)}, False),
        ({"card": "card", "refund": "refund", "film": "-card-"}, False),
    ],
    ids=["names", "names among other words", "names of others", "numbers", "names that sound alike"],
)
def test_names_are_informative_where_texts_are_nearer_to_their_own(
    encoder: Path, tmp_path: Path, names: dict[str, str], *, tell: bool
):
    settings, corpus = named(encoder, tmp_path, names)
    assert names_are_informative(settings, corpus, LABEL_TEXTS) == tell
    taken, why = resolve_auto(settings, corpus)
    assert (taken.data.label_texts == list(LABEL_TEXTS)) == tell
    assert ("and from the names of the labels" in why) == tell
    assert not (tmp_path / "runs").exists()  # it is asked before there is a run


@pytest.mark.parametrize("words", [["encoder.hidden=8"], ["encoder.head=native"], ["encoder.layers=all"]])
def test_they_are_asked_about_whatever_the_head_will_be(encoder: Path, tmp_path: Path, words: list[str]):
    settings, corpus = named(encoder, tmp_path, TOLD, *words)
    assert names_are_informative(settings, corpus, LABEL_TEXTS)
    settings, corpus = named(encoder, tmp_path, TURNED, *words)
    assert not names_are_informative(settings, corpus, LABEL_TEXTS)


@pytest.mark.parametrize(("weight", "near"), [(0, True), (1, False)])
def test_rows_without_weight_have_no_say(weight: float, *, near: bool):
    """Nine texts lie at the names of their labels, and thirty at those of others."""
    targets = np.arange(39) % 3
    at = np.where(np.arange(39) < 9, targets, (targets + 1) % 3)
    weights = np.where(np.arange(39) < 9, 1, weight).astype(np.float32)
    train = Examples([""] * 39, None, targets, weights, [""] * 39, None)
    features = np.eye(3, dtype=np.float32)[np.concatenate([at, [0, 1, 2]])]
    assert _are_near(features, train, labels=3, forms=1) == near


@pytest.mark.parametrize(
    "words",
    [
        ["data.label_texts=[]"],
        ["encoder.pretrained=false"],
        ["strategy.minutes=1e-9"],
        ["encoder.trust_remote_code=true", "encoder.head=native"],  # no head of ours can ask it
    ],
)
def test_names_are_not_learned_from_where_something_else_was_asked_for(encoder: Path, tmp_path: Path, words: list[str]):
    settings, corpus = named(encoder, tmp_path, TOLD, *words)
    assert not resolve_auto(settings, corpus)[0].data.label_texts


@pytest.mark.parametrize(
    "words",
    [
        [],
        pytest.param(["pretraining.epochs=1", "pretraining.batch_size=8"], marks=pytest.mark.slow),
        pytest.param(["decision.abstain_below=0.5"], marks=pytest.mark.slow),
    ],
    ids=["plain", "pretrained", "abstaining"],
)
def test_a_run_learns_from_them_and_counts_and_measures_the_rows_alone(encoder: Path, tmp_path: Path, words: list[str]):
    settings, corpus = named(encoder, tmp_path, TOLD, "training.epochs=1", *words)
    run = adapt(settings)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["examples"]["train"] == sum(plan["balance"]["train"].values()) == 18
    alone = dataclasses.replace(settings, data=dataclasses.replace(settings.data, label_texts=[]))
    prepared = prepare(resolve_auto(alone, corpus)[0], corpus, tmp_path)
    assert plan["lengths"] == plan_of(prepared, tmp_path).to_json()["lengths"]
    assert plan["steps"] == 3  # of 18 rows and 18 sentences, 16 a step
    assert "train: 18 texts made from the label names follow its rows (data.label_texts)" in plan["notes"]
    done = compose(str(run.folder / "config.yaml"))
    assert done.data.label_texts == list(LABEL_TEXTS)
    assert json.loads((run.folder / "metrics.json").read_text())["steps"] == 3
    again = evaluate(run.folder, done, done)
    assert again.rows[0].intervals.keys() == run.report.rows[0].intervals.keys()
    assert [row.name for row in again.rows] == [row.name for row in run.report.rows]
    for now, before in zip(again.rows, run.report.rows, strict=True):  # baselines learn from the rows alone
        assert now.intervals["accuracy"].value == before.intervals["accuracy"].value, now.name
    assert adapt(settings).folder == run.folder
