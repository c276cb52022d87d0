"""Every YAML that is shipped makes a run: a recipe as its header calls it, and every choice of the groups of conf/."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from nlp_transfer.composing.shipped import GROUPS, shipped_names
from nlp_transfer.config import compose
from nlp_transfer.objectives.settings import TERM_SETTINGS
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import Settings
from tests.encoder.families import tiny_encoder
from tests.publishing.hub_repository import read
from tests.publishing.hub_server import HubServer
from tests.runs import data_for, rows

RECIPES = Path(__file__).parent.parent / "recipes"
PAIRED = ("pairs", "regression")  # recipes whose data has two texts
DRAWN = "intent"
ENCODERS_ALONE = ("new_classes",)  # recipes that make an encoder, see tests/meta
CLASS_FOLDERS = ("topic",)  # recipes whose data is one folder per class
CHOICES = [(group, choice) for group in GROUPS for choice in shipped_names(group)]
# Of which architecture the encoders of conf/ are; E5 is a BERT with the vocabulary of XLM-R.
FAMILIES = {
    "sentence-transformers/all-MiniLM-L6-v2": "bert",
    "intfloat/multilingual-e5-small": "bert",
    "google-bert/bert-base-uncased": "bert",
    "FacebookAI/roberta-base": "roberta",
    "FacebookAI/xlm-roberta-base": "xlm-roberta",
    "answerdotai/ModernBERT-base": "modernbert",
    "jhu-clsp/mmBERT-base": "modernbert",
}
SENTENCES = ("all-MiniLM-L6-v2", "multilingual-e5-small")  # they say how token vectors become one
LONGEST = 300  # tokens the tiny encoders read: more than a window of `long_documents` has
BASE = "encoder=runs/"
TEACHER = "objective.distill.teacher="
UNLABELLED = "data.unlabelled="
ADAPT_TO_A_DOMAIN = {name for name, term in TERM_SETTINGS.items() if term.aligns}
TAUGHT = {name for name, term in TERM_SETTINGS.items() if term.taught}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny encoder of the same architecture for every encoder of conf/."""
    folders = {}
    for name, family in FAMILIES.items():
        home = tmp_path_factory.mktemp("encoder")
        folders[name] = tiny_encoder(home, family, max_position_embeddings=LONGEST + 2)
        described = json.loads((folders[name] / "tokenizer_config.json").read_text())
        (folders[name] / "tokenizer_config.json").write_text(json.dumps(described | {"model_max_length": LONGEST}))
        if name.endswith(SENTENCES):
            (folders[name] / "1_Pooling").mkdir()
            (folders[name] / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    return folders


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with one label, a file a split."""
    return written(tmp_path_factory.mktemp("rows"), compose())


def written(folder: Path, settings: Settings) -> Path:
    """Write the rows a recipe asks for: its kind of label under its name of the column, in its encoding."""
    data = settings.data
    for split, part in data_for("single_label" if data.problem == "auto" else data.problem).items():
        lines = []
        for number, row in enumerate(part):
            if data.order:
                row["label"] = data.order[number % len(data.order)]
            if settings.name in PAIRED:
                row["text2"] = part[number - 1]["text"]
            if settings.tokens.long == "chunk":
                row["text"] = f"{row['text']} " * (LONGEST // 4)
            if settings.name in CLASS_FOLDERS:
                (folder / split / row["label"]).mkdir(parents=True, exist_ok=True)
                (folder / split / row["label"] / f"{number}.txt").write_text(row["text"], encoding=data.encoding)
            row[data.columns.label or "label"] = row.pop("label")
            lines.append(json.dumps(row))
        if settings.name not in CLASS_FOLDERS:
            (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding=data.encoding)
    return folder


def words_of(recipe: str) -> list[str]:
    """The words of the command in a recipe's header, but for where its data lies."""
    header = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    (command,) = re.findall(rf"^#   .*\badapt {recipe}\b(.*)$", header, re.MULTILINE)
    return [word for word in shlex.split(command) if not word.startswith("data.path=")]


def with_teacher(encoders: dict[str, Path], output: Path, words: list[str]) -> list[str]:
    """Replace the teacher in overrides by a model adapted to the same rows."""
    if not any(word.startswith(TEACHER) for word in words):
        return words
    (rows,) = (word for word in words if word.startswith("data.path="))
    teacher = check_two_steps(encoders, output / "teacher", None, ["data=files", rows, "strategy=probe"])
    return [word for word in words if not word.startswith(TEACHER)] + [f"{TEACHER}{teacher}"]


def with_base(encoders: dict[str, Path], output: Path, words: list[str]) -> list[str]:
    """Replace the model in overrides that continue one by a model adapted to other rows."""
    if not any(word.startswith(BASE) for word in words):
        return words
    file = output / "earlier.jsonl"
    file.write_text("\n".join(map(json.dumps, rows("single_label", 48, 7))))
    made = check_two_steps(encoders, output / "base", None, ["data=files", f"data.path={file}", "strategy=finetune"])
    return [word for word in words if not word.startswith(BASE)] + [f"encoder={made}"]


def with_texts(folder: Path, words: list[str]) -> list[str]:
    """Replace the file of unlabelled texts in overrides by an existing one."""
    if not any(word.startswith(UNLABELLED) for word in words):
        return words
    file = folder / "unlabelled.jsonl"
    file.write_text("\n".join(json.dumps({"text": row["text"]}) for row in data_for("single_label")["test"]))
    return [word for word in words if not word.startswith(UNLABELLED)] + [f"{UNLABELLED}{file}"]


def check_two_steps(
    encoders: dict[str, Path], output: Path, recipe: str | None, words: list[str], data: Any = None
) -> Path:
    """Two steps on a tiny encoder make a report and a model that answers; nothing else of the recipe is changed.

    Baselines are learned and a page is drawn for the recipe `DRAWN` alone: they are the same whatever is chosen.
    """
    settings = compose(recipe, words)
    name = settings.encoder.name  # of an encoder of conf/, or of a run to go on from
    tiny = {"name": str(encoders.get(name, name)), "package": None, "sha256": None, "revision": None}
    settings = dataclasses.replace(
        settings,
        encoder=dataclasses.replace(settings.encoder, **tiny),
        training=dataclasses.replace(settings.training, max_steps=2),
        evaluation=dataclasses.replace(
            settings.evaluation, resamples=2, floors=settings.evaluation.floors and recipe == DRAWN
        ),
        report=dataclasses.replace(settings.report, write=settings.report.write and recipe == DRAWN),
        output=str(output),
        verify=False,
    )
    run = adapt(settings, data=data)
    assert run.metrics
    assert np.isfinite(list(run.metrics.values())).all()
    texts = ["where is my card", "the film was good"]
    logits = run.predictor.logits(texts, texts[::-1] if run.predictor.record.task.pair else None)
    assert np.isfinite(logits).all()
    done = json.loads((run.folder / "metrics.json").read_text())["steps"]
    assert done == (2 if settings.strategy.trains else 0)
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()] if done else []
    assert sum(np.isfinite(line["loss"]) for line in logged if "loss" in line) == done
    return run.folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in shipped_names("recipes") if name not in ENCODERS_ALONE])
def test_every_recipe_runs_as_its_header_says(encoders: dict[str, Path], tmp_path: Path, recipe: str):
    words = with_base(encoders, tmp_path, words_of(recipe))
    folder = written(tmp_path, compose(recipe, words))
    (tmp_path / "beside").mkdir()
    words = with_texts(tmp_path / "beside", words)
    words = with_teacher(encoders, tmp_path, [*words, f"data.path={folder}"])
    check_two_steps(encoders, tmp_path / "runs", recipe, words)


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        # Strategies and objectives are named in the runs of a hundred other tests.
        pytest.param(group, choice, marks=pytest.mark.slow if group == "encoder" else pytest.mark.exhaustive)
        for group, choice in CHOICES
        if group != "data"
    ],
)
def test_every_choice_runs(encoders: dict[str, Path], files: Path, tmp_path: Path, group: str, choice: str):
    words = [f"data.path={files}", f"{group}={choice}"] + [TEACHER] * (choice in TAUGHT)
    words = with_texts(tmp_path, words + [UNLABELLED] * (choice in ADAPT_TO_A_DOMAIN))
    check_two_steps(encoders, tmp_path, None, ["data=files", *with_teacher(encoders, tmp_path, words)])


@pytest.mark.slow
@pytest.mark.parametrize("choice", shipped_names("data"))
def test_every_source_of_data_runs(encoders: dict[str, Path], files: Path, tmp_path: Path, monkeypatch, choice: str):
    words = {"files": [f"data.path={files}"], "hub": ["data.hub=acme/tiny"]}.get(choice, [])
    given = data_for("single_label") if choice == "object" else None
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    with HubServer() as hub:
        hub.attach(monkeypatch, tmp_path / "home")
        hub.add("acme/tiny", read(files), kind="datasets")
        check_two_steps(encoders, tmp_path / "runs", None, [f"data={choice}", "strategy=probe", *words], given)
