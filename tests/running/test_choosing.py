"""What `strategy=auto` stands for: a rule on rows, labels and time, the same run whenever it is asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import nlp_transfer
from nlp_transfer.config import compose, run_id
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.running.choosing import FEW, FEW_PAIRS, FEW_ROWS, MOST_CLASSES, resolve_auto
from nlp_transfer.strategies.finetune import usual_rate
from nlp_transfer.training.length import planned_steps
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, rows


def taken(encoder: Path, count: int, *words: str, problem: str = "single_label", shape: str = ""):
    settings = compose(None, ["data=object", f"data.problem={problem}", "strategy=auto", f"encoder={encoder}", *words])
    corpus = load_corpus(settings.data, data=data_for(shape or problem) | {"train": rows(shape or problem, count, 1)})
    return resolve_auto(settings, corpus)


@pytest.mark.parametrize(
    ("count", "problem", "words", "name"),
    [
        (3 * FEW - 1, "single_label", [], "finetune by comparing texts"),
        (3 * FEW - 1, "single_label", ["strategy.minutes=1e-9"], "probe"),
        (3 * FEW - 1, "single_label", ["strategy.minutes=1000"], "finetune by comparing texts"),
        (3 * FEW, "single_label", [], "finetune, fitted again"),
        (3 * FEW, "single_label", ["strategy.minutes=1e-9"], "probe"),
        (3 * FEW, "single_label", ["strategy.minutes=1000"], "finetune, fitted again"),
        (FEW_ROWS - 1, "single_label", [], "finetune, fitted again"),
        (FEW_ROWS, "single_label", [], "finetune"),
        (60, "regression", [], "finetune"),
        (60, "ordinal", [], "finetune"),
        (60, "multi_label", [], "finetune, fitted again"),
        (60, "single_label", ["objective=contrast"], "finetune"),
        (60, "single_label", ["objective.classify.weight=0.5"], "finetune"),
        (60, "single_label", ["data.class_weights=balanced"], "finetune"),
        (60, "single_label", ["training.batch_size=2"], "finetune, fitted again"),
        (60, "single_label", ["training.patience=2"], "finetune, fitted again"),
        (60, "single_label", ["training.patience=2", "encoder.head=native"], "finetune"),
        (60, "single_label", ["training.patience=2", "encoder.hidden=8"], "finetune"),
        (60, "single_label", ["encoder.pretrained=false"], "finetune"),
    ],
)
def test_the_choice_follows_the_rule_and_says_why(encoder: Path, count: int, problem: str, words: list, name: str):
    settings, why = taken(encoder, count, *words, problem=problem)
    strategy, _, again = name.partition(", ")
    strategy = strategy.split()[0]
    assert type(settings.strategy).__name__.lower() == strategy
    assert why.startswith(f"strategy=auto is {name.partition(', ')[0]}, because ")
    assert settings.name == f"data-{strategy}"
    if "comparing" in name:
        assert settings.objective["classify"].weight == 0
        assert settings.objective["contrast"].weight == 1
        assert settings.strategy.head_last
        assert settings.training.keep == "last"
    else:
        asked = compose(None, [word for word in words if not word.startswith("strategy")])
        assert (settings.objective, settings.training) == (asked.objective, asked.training)
        assert settings.strategy.head_last == bool(again)
        assert ("its head is fitted once more" in why) == bool(again)
    twice, _ = taken(encoder, count, *words, problem=problem)
    assert run_id(twice) == run_id(settings)


@pytest.mark.parametrize(
    ("count", "words", "name"),
    [
        (12, [], "probe"),
        (3 * FEW_PAIRS - 1, [], "probe"),
        (3 * FEW_PAIRS, [], "finetune"),
        (12, ["strategy.minutes=1000"], "probe"),
        (12, ["training.batch_size=2"], "probe"),
        (12, ["training.patience=2"], "finetune"),
        (12, ["training.epochs=3"], "finetune"),
        (12, ["pretraining.epochs=1"], "finetune"),
        (12, ["encoder.depth=1"], "finetune"),
        (12, ["encoder.head=pooled"], "probe"),
        (12, ["encoder.pairs=siamese"], "probe"),
        (12, ["encoder.pairs=joint"], "finetune"),
        (12, ["encoder.head=native"], "finetune"),
        (12, ["encoder.hidden=8"], "finetune"),
        (12, ["encoder.pretrained=false"], "finetune"),
        (12, ["objective=contrast"], "finetune"),
        (12, ["data.class_weights=balanced"], "finetune"),
    ],
)
@pytest.mark.parametrize("sentences", [True, False], ids=["sentence encoder", "encoder"])
def test_few_pairs_that_are_read_alone_are_left_to_the_probe(
    tmp_path: Path, sentences: bool, count: int, words: list, name: str
):
    encoder = tiny_encoder(tmp_path)
    if sentences:
        (encoder / "1_Pooling").mkdir()
        (encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    elif "encoder.pairs=siamese" not in words:
        name = "finetune"
    settings, why = taken(encoder, count, *words, shape="pair")
    assert type(settings.strategy).__name__.lower() == name
    assert why.startswith(f"strategy=auto is {name}, because ")
    asked = compose(None, [word for word in words if not word.startswith("strategy")])  # pairs are never compared
    assert (settings.objective, settings.training, settings.data.label_texts) == (asked.objective, asked.training, None)
    assert not settings.strategy.head_last


@pytest.mark.parametrize(
    ("problem", "count", "name"),
    [
        ("regression", 10 * FEW_PAIRS - 1, "probe"),
        ("regression", 10 * FEW_PAIRS, "finetune"),
        ("ordinal", 12, "finetune"),
        ("multi_label", 48, "finetune"),
    ],
)
def test_few_pairs_with_numbers_are_left_to_the_probe_as_well(tmp_path: Path, problem: str, count: int, name: str):
    encoder = f"encoder={tiny_encoder(tmp_path)}"
    settings = compose(None, ["data=object", f"data.problem={problem}", encoder, "encoder.pairs=siamese"])
    data = {
        split: [row | {"text_pair": row["text"]} for row in rows(problem, size, seed)]
        for split, size, seed in (("train", count, 1), ("validation", 16, 2), ("test", 16, 3))
    }
    found, why = resolve_auto(settings, load_corpus(settings.data, data=data))
    assert type(found.strategy).__name__.lower() == name
    assert name == "finetune" or "training pairs per decile" in why


@pytest.mark.parametrize(("family", "name"), [("bert", "probe"), ("gpt2", "finetune")])
def test_pairs_that_the_tokenizer_joins_for_good_are_read_together(tmp_path: Path, family: str, name: str):
    encoder = tiny_encoder(tmp_path, family)
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    assert type(taken(encoder, 12, shape="pair")[0].strategy).__name__.lower() == name


@pytest.mark.parametrize(
    ("count", "problem", "words", "reason"),
    [
        (3 * FEW, "single_label", [], "100 training rows per class are at least 100"),
        (60, "multi_label", [], "problem multi_label is not learned by comparing texts"),
        (60, "single_label", ["training.batch_size=2"], "training.batch_size=2 is too small"),
        (60, "single_label", ["training.patience=2"], "training.patience is set"),
        (60, "single_label", ["data.class_weights=balanced"], "objective, data.class_weights, "),
    ],
)
def test_the_reason_names_what_rules_out_comparing_texts(
    encoder: Path, count: int, problem: str, words: list, reason: str
):
    assert reason in taken(encoder, count, *words, problem=problem)[1]


@pytest.mark.parametrize(("classes", "weight"), [(MOST_CLASSES, 0), (MOST_CLASSES + 1, 1)])
def test_texts_of_many_classes_are_not_compared_however_few_there_are(encoder: Path, classes: int, weight: float):
    settings = compose(None, ["data=object", "strategy=auto", f"encoder={encoder}"])
    made = [{"text": f"row {number}", "label": f"label {number % classes}"} for number in range(5 * classes)]
    corpus = load_corpus(settings.data, data={"train": made, "validation": made, "test": made})
    taken, why = resolve_auto(settings, corpus)
    assert taken.objective["classify"].weight == weight
    assert ("9 classes are more than 8" in why) == bool(weight)


def test_texts_are_compared_in_more_steps_where_there_are_more_than_a_handful(encoder: Path):
    for words, few, many in (([], 50, 100), (["training.min_steps=170"], 170, 170), (["training.epochs=1"], 4, 4)):
        for rows_, steps in ((57, few), (60, many)):
            training = taken(encoder, rows_, *words)[0].training
            assert planned_steps(rows_, training) == steps


def test_texts_are_compared_at_half_the_rate_that_labels_are_learned_at(encoder: Path):
    width = json.loads((encoder / "config.json").read_text())["hidden_size"]
    settings, _ = taken(encoder, 60)
    assert settings.strategy.lr == usual_rate(width) / 2


def test_more_steps_that_are_asked_for_stay_and_other_strategies_are_left_alone(encoder: Path):
    settings, _ = taken(encoder, 60, "training.min_steps=400", "name=mine")
    assert settings.training.min_steps == 400
    assert settings.name == "mine"
    plain = compose(None, ["strategy=lora"])
    corpus = load_corpus(compose(None, ["data=object"]).data, data=data_for("single_label"))
    assert resolve_auto(plain, corpus) == (plain, "")
    with pytest.raises(UserError, match=r"strategy\.minutes=0"):
        nlp_transfer.adapt(None, ["strategy=auto", "strategy.minutes=0"])


def test_the_run_is_that_of_the_strategy_by_its_own_name(encoder: Path, tmp_path: Path):
    words = [f"encoder={encoder}", f"output={tmp_path}", "training.precision=fp32", "evaluation.resamples=20"]
    data = data_for("single_label")
    auto, named = (
        nlp_transfer.adapt(None, [*words, *own, "verify=false"], data=data)
        for own in (["strategy=auto", "strategy.minutes=1e-9"], ["strategy=probe"])
    )
    assert auto.folder == named.folder
    assert dataclasses.asdict(auto.report) == dataclasses.asdict(named.report)


def test_a_run_fits_its_head_again_and_says_so(encoder: Path, tmp_path: Path):
    words = [f"encoder={encoder}", f"output={tmp_path}", "training.batch_size=2", "evaluation.resamples=20"]
    data = data_for("single_label") | {"train": rows("single_label", 60, 1)}
    auto, named = (
        nlp_transfer.adapt(None, [*words, *own, "verify=false"], data=data)
        for own in ([], ["strategy=finetune", "strategy.head_last=true"])
    )
    assert auto.folder == named.folder
    assert json.loads((auto.folder / "plan.json").read_text())["head_last"]
