"""Whole runs on tiny encoders: every strategy on every problem type, and what a run promises about its folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CanineConfig,
    CanineModel,
    CanineTokenizer,
    pipeline,
)

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.linear.convex import Head
from nlp_transfer.running import head
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.running.head import cross_validate, solve_head
from nlp_transfer.running.head_choice import resolve_encoder
from nlp_transfer.running.learning import learn
from nlp_transfer.running.measurement import evaluate
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.run import adapt
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.loop import Checkpointing
from nlp_transfer.training.pace import PARTS
from tests.cells import cells
from tests.encoder.families import PREFIXES_FIT, tiny_encoder
from tests.runs import PROBLEMS, STRATEGIES, data_for, digest, rows, settings_for


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        *((strategy, "single_label") for strategy in STRATEGIES),
        *(("finetune", problem) for problem in PROBLEMS if problem != "single_label"),
        *cells(
            [strategy for strategy in STRATEGIES if strategy != "finetune"],
            [problem for problem in PROBLEMS if problem != "single_label"],
        ),
    ],
)
def test_every_strategy_adapts_to_every_problem(home: Path, tmp_path: Path, strategy: str, problem: str):
    # What words alone tell of a problem is the same under every strategy.
    values = STRATEGIES[strategy] | {"evaluation.floors": strategy == "probe"}
    learns = problem == "single_label" and strategy in ("probe", "finetune", "lora")
    values |= {} if learns else {"training.epochs": 1}
    run = adapt(settings_for(home, problem, output=str(tmp_path), **values), data=data_for(problem))
    assert len(run.report.rows) > 1 or not values["evaluation.floors"]
    assert all(np.isfinite(value) for value in run.metrics.values())
    test = data_for(problem)["test"]
    pairs = [row["text_pair"] for row in test] if problem in ("pair", "siamese") else None
    answers = run.predict([row["text"] for row in test], pairs)
    assert len(answers) == len(test)
    if problem in ("single_label", "pair", "siamese", "chunk"):
        right = np.mean([answer.label == row["label"] for answer, row in zip(answers, test, strict=True)])
        # the saved model answers as the trained one was measured
        assert right == pytest.approx(run.metrics["accuracy"])
    if learns:
        assert run.metrics["accuracy"] > 0.6
    if problem != "regression":
        assert all(0 <= p <= 1 for answer in answers for p in answer.probabilities.values())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_means_of_the_labels_are_a_head(home: Path, tmp_path: Path, problem: str):
    values = {"strategy": "probe", "strategy.solver": "prototypes", "output": str(tmp_path)}
    settings = settings_for(home, problem, **values)
    if problem in ("multi_label", "regression"):
        with pytest.raises(UserError, match=rf"needs one label per text, and the problem type is {problem}"):
            adapt(settings, data=data_for(problem))
        return
    run = adapt(settings, data=data_for(problem))
    if problem == "single_label":
        kept = data_for(problem)["train"]
        nothing = [row | {"weight": float(row["label"] == kept[0]["label"])} for row in kept]
        with pytest.raises(UserError, match=r"needs training rows of every label, and those of .* weigh nothing"):
            adapt(settings_for(home, **values | {"name": "nothing"}), data=data_for(problem) | {"train": nothing})
    assert run.metrics["accuracy"] > (0.6 if problem == "single_label" else 0)
    assert all(np.isfinite(value) for value in run.metrics.values())


@pytest.mark.parametrize("strategy", ["finetune", "lora", "ia3"])
@pytest.mark.parametrize("head", ["native", "pooled"])
def test_the_artefact_is_what_transformers_loads(home: Path, tmp_path: Path, strategy: str, head: str):
    run = adapt(
        settings_for(home, output=str(tmp_path), **STRATEGIES[strategy] | {"encoder.head": head, "training.epochs": 1}),
        data=data_for("single_label"),
    )
    folder = run.folder / "model"
    texts = [row["text"] for row in rows("single_label", 8, 9)]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(run.predictor.logits(texts), theirs, atol=1e-5)
    answers = pipeline("text-classification", str(folder))(texts)
    assert [a["label"] for a in answers] == [a.label for a in run.predict(texts)]
    assert (folder / "adapter" / "adapter_config.json").exists() == (strategy != "finetune")
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert names <= {".json", ".safetensors", ".py", ".txt", ".jinja", ".md"}
    record = (folder / RECORD).read_text()
    assert str(home) not in (folder / "config.json").read_text()
    assert json.loads(record)["task"]["labels"] == ["card", "film", "refund"]


def test_an_adapter_that_is_not_merged_still_predicts(home: Path, tmp_path: Path):
    values = STRATEGIES["lora"] | {"strategy.merge": False, "training.epochs": 1}
    run = adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))
    assert not (run.folder / "model" / "model.safetensors").exists()
    test = data_for("single_label")["test"]
    right = np.mean([a.label == r["label"] for a, r in zip(run.predict([r["text"] for r in test]), test, strict=True)])
    assert right == pytest.approx(run.metrics["accuracy"])


# Methods of every kind: additive, multiplicative, orthogonal, spectral, sparse, prompts; with the fields that layers as
# narrow as these need. The saved model must answer as the trained one.
PEFT_TYPES: dict[str, dict[str, int]] = {
    "IA3": {},
    "VERA": {},
    "OFT": {},
    "BOFT": {},
    "LOHA": {},
    "LOKR": {},
    "HRA": {},
    "PREFIX_TUNING": {},
    "PROMPT_TUNING": {},
    "DELORA": {},
    "RANDLORA": {},
    "FOURIERFT": {},
    "OSF": {},
    "C3A": {"block_size": 16},
    "MISS": {"r": 4},
    "SHIRA": {"r": 4},
    "ROAD": {"group_size": 8},
}


@pytest.mark.skipif(PREFIXES_FIT, reason="the installed PEFT and transformers agree on what a prefix is given as")
def test_a_prefix_is_refused_where_the_libraries_disagree(home: Path, tmp_path: Path):
    values = {"strategy": "adapter", "strategy.peft_type": "PREFIX_TUNING"}
    with pytest.raises(UserError, match=r"PEFT cannot put PREFIX_TUNING on .*past key values"):
        adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))


@pytest.mark.slow
@pytest.mark.parametrize("peft_type", [kind for kind in PEFT_TYPES if PREFIXES_FIT or kind != "PREFIX_TUNING"])
def test_every_kind_of_adapter_is_saved_and_restored(home: Path, tmp_path: Path, peft_type: str):
    values = {"strategy": "adapter", "strategy.peft_type": peft_type, "strategy.lr": 2e-2, "training.epochs": 1}
    values |= {"strategy.peft": PEFT_TYPES[peft_type]} if PEFT_TYPES[peft_type] else {}
    run = adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))
    corpus_rows = sorted(data_for("single_label")["test"], key=lambda row: row["id"])
    logits = run.predictor.logits([row["text"] for row in corpus_rows])
    task = run.predictor.record.task
    targets = np.array([task.labels.index(row["label"]) for row in corpus_rows])
    # the log loss hangs on every bit of the model, not on its decisions alone
    assert compute(task, logits, targets)["log_loss"] == pytest.approx(run.metrics["log_loss"], abs=1e-5)


@pytest.mark.parametrize(
    "peft_type", ["CPT", "POLY", "XLORA", "ADALORA", "TRAINABLE_TOKENS", "LN_TUNING", "P_TUNING", "LILY"]
)
def test_methods_that_are_not_for_classifiers_are_refused(home: Path, tmp_path: Path, peft_type: str):
    values = {"strategy": "adapter", "strategy.peft_type": peft_type}
    with pytest.raises(UserError, match=peft_type):
        adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))


def test_all_ranks_take_the_head_and_the_layers_of_the_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = settings_for(home, output=str(tmp_path), strategy="probe", **{"encoder.layers": "spread"})
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data_for("single_label")), tmp_path)
    told = []

    def first(ours: list) -> list:
        told.append(ours)
        if isinstance(ours[0], Head):
            return [dataclasses.replace(ours[0], weight=ours[0].weight * 0 + 7, bias=ours[0].bias * 0 + 8)]
        return [1, True]  # of its layers the second, clearly

    monkeypatch.setattr(head, "broadcast_object_list", first)
    solve_head(prepared)
    model = prepared.classifier.model
    assert len(told) == 2
    assert len(model.config.layers) == 1
    assert (model.classifier.weight == 7).all()
    assert (model.classifier.bias == 8).all()


@pytest.mark.parametrize("strategy", ["probe", "finetune", "lora"])
def test_the_same_settings_give_the_same_bits_and_another_seed_others(home: Path, tmp_path: Path, strategy: str):
    made = [
        adapt(
            settings_for(home, output=str(tmp_path / name), **STRATEGIES[strategy] | {"training.epochs": 2}, seed=seed),
            data=data_for("single_label"),
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
        if name != "c" or strategy != "probe"  # nothing of a probe is drawn
    ]
    assert digest(made[0]) == digest(made[1])
    assert made[0].metrics == made[1].metrics
    if strategy != "probe":
        assert digest(made[0]) != digest(made[2])


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_run_learns_whether_its_caller_wants_gradients_or_not(home: Path, tmp_path: Path, without: Callable):
    with without():
        adapt(
            settings_for(home, output=str(tmp_path), strategy="finetune", **{"training.max_steps": 1}),
            data=data_for("single_label"),
        )
        assert not torch.is_grad_enabled()


def test_a_finished_run_is_not_run_again_and_other_data_is_refused(home: Path, tmp_path: Path):
    settings = settings_for(home, output=str(tmp_path), strategy="probe")
    first = adapt(settings, data=data_for("single_label"))
    written = (first.folder / "metrics.json").stat().st_mtime_ns
    again = adapt(settings, data=data_for("single_label"))
    assert again.metrics == first.metrics
    assert (again.folder / "metrics.json").stat().st_mtime_ns == written
    other = data_for("single_label")
    other["train"] = other["train"][:-1]
    with pytest.raises(UserError, match="other data"):
        adapt(settings, data=other)


def test_the_run_folder_repeats_the_run(home: Path, tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(json.dumps(row | {"split": s}) + "\n" for s, part in data_for("single_label").items() for row in part)
    )
    values = {"data": "files", "data.path": str(path), "strategy": "probe", "evaluation.floors": True}
    first = adapt(settings_for(home, output=str(tmp_path / "one"), **values))
    second = adapt(compose(str(first.folder / "config.yaml"), [f"output={tmp_path / 'two'}"]))
    assert first.folder.name == second.folder.name
    assert digest(first) == digest(second)
    trained = compose(str(first.folder / "config.yaml"))
    assert evaluate(first.folder, trained, trained).rows[0] == first.report.rows[0]


@pytest.mark.parametrize(
    ("strategy", "head_first"),
    [
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("finetune", True), ("lora", False))),
        *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in (("finetune", False), ("lora", True))),
    ],
)
def test_the_unit_of_a_regression_does_not_change_its_training(
    home: Path, tmp_path: Path, strategy: str, head_first: bool
):
    answers, losses = [], []
    for shift, unit in ((0, 1), (5000, 200)):
        data = data_for("regression")
        for row in (row for split in data.values() for row in split):
            row["label"] = shift + unit * row["label"]
        values = {"strategy": strategy, "strategy.lr": 5e-3, "strategy.head_first": head_first}
        run = adapt(settings_for(home, "regression", output=str(tmp_path / str(unit)), **values), data=data)
        predictions = run.predict([row["text"] for row in data["test"]])
        answers.append([(answer.label - shift) / unit for answer in predictions])
        log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in log if "loss" in line])
    assert losses[0][0] < 2  # in units of the targets' spread
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)
    np.testing.assert_allclose(answers[1], answers[0], atol=5e-3)


@pytest.mark.parametrize("problem", ["single_label", "regression"])
@pytest.mark.parametrize(("silent", "kept"), [((), [1, 2]), ((1,), [1]), ((0,), [2]), ((0, 1), [1, 2])])
def test_a_probe_reads_several_layers_or_the_one_that_is_clearly_better(
    home: Path, tmp_path: Path, problem: str, silent: tuple[int, ...], kept: list[int]
):
    data = data_for(problem)
    settings = settings_for(home, problem, output=str(tmp_path), strategy="probe")
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data), tmp_path)
    model, features = prepared.classifier.model, prepared.features("train").copy()
    width = model.config.encoder.hidden_size
    assert features.shape[1] == 2 * width
    if not silent:  # two halves of what is needed
        features = np.repeat(features[:, :1] * 0, 2 * width, axis=1)
        wanted = prepared.corpus.splits["train"].targets.astype(float)
        features[:, 0] = np.random.default_rng(1).normal(size=len(features))
        features[:, width] = wanted - features[:, 0]
    for layer in silent:
        noise = np.random.default_rng(layer).normal(size=(len(features), width))
        features[:, layer * width : (layer + 1) * width] = 10 * features.std() * noise
    with patch.object(Prepared, "features", lambda _, split: features):
        solve_head(prepared)
    assert model.config.layers == kept
    assert model.classifier.weight.shape[1] == width * len(kept)
    assert prepared.logits(prepared.columns["test"]).shape[1] == prepared.corpus.task.outputs


def test_frozen_parameters_stay_bit_identical(home: Path, tmp_path: Path):
    values = {"strategy": "finetune", "strategy.freeze_layers": 1, "encoder.head": "native"}
    run = adapt(settings_for(home, output=str(tmp_path), **values), data=data_for("single_label"))
    before = AutoModelForSequenceClassification.from_pretrained(home / "tiny-bert").state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(run.folder / "model").state_dict()
    frozen = [name for name in after if "embeddings" in name or "layer.0" in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in after if "layer.1" in name and "weight" in name]
    assert all(not torch.equal(before[name], after[name]) for name in moved)


def test_layers_that_sleep_count_for_nothing_in_the_gradient(home: Path, tmp_path: Path):
    norms, weights = [], []
    for name, values in (("asleep", {"strategy.gradual": 0.9}), ("frozen", {"strategy.freeze": ["encoder.*"]})):
        settings = {"strategy": "finetune", "encoder.head": "pooled", "training.max_steps": 3, "training.keep": "last"}
        run = adapt(
            settings_for(home, output=str(tmp_path / name), **settings, **values), data=data_for("single_label")
        )
        log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        norms.append([line["gradient_norm"] for line in log if "gradient_norm" in line])
        weights.append(load_file(run.folder / "model" / "model.safetensors"))
    assert len(norms[0]) == 3
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-5)  # only the head is awake in the first step
    awake = {name for name, tensor in weights[0].items() if not torch.equal(tensor, weights[1][name])}
    assert not any("embeddings" in name for name in awake)


def test_frozen_layers_run_without_dropout_throughout_training(tmp_path: Path):
    tiny_encoder(tmp_path, num_hidden_layers=3, hidden_dropout_prob=0.5)
    values = {
        "strategy": "finetune",
        "strategy.freeze_layers": 2,
        "training.evaluate_every": 0.5,
        "encoder.packed": False,
    }
    data = data_for("single_label")
    for row in data["train"]:
        row["text"] = "my card has not arrived"
    settings = settings_for(tmp_path, **values)
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data), tmp_path)
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    model = prepared.classifier.model
    for number, layer in enumerate(model.bert.encoder.layer):

        def note(_module, _given, out, number=number):
            if model.training:
                seen[number] += list((out[0] if isinstance(out, tuple) else out).detach())

        layer.register_forward_hook(note)
    never = Checkpointing(resumed=None, due=lambda: False, commit=lambda snapshot: None)
    learn(prepared, RunFolder(tmp_path), Screen(quiet=True), never)
    assert len(seen[0]) == 3 * len(data["train"])
    for number, learns in enumerate((False, False, True)):
        spread = max(float((out - seen[number][0]).abs().max()) for out in seen[number])
        assert spread > 1e-2 if learns else spread < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_regression_head_without_a_bias_starts_as_it_was_solved(tmp_path: Path, family: str):
    tiny_encoder(tmp_path, family)
    data = data_for("regression")
    for row in (row for split in data.values() for row in split):
        row["label"] = 1000 + 50 * row["label"]
    targets = np.array([row["label"] for row in data["test"]])
    values = {"strategy": "finetune", "encoder.head": "native", "encoder.name": str(tmp_path / f"tiny-{family}")}
    settings = settings_for(tmp_path, "regression", output=str(tmp_path), **values)
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data), tmp_path)
    features = prepared.features("train")
    solved = cross_validate(prepared, features).fit()
    solve_head(prepared)
    starts = prepared.logits(prepared.columns["train"])
    assert starts.mean() == pytest.approx((features @ solved.weight.T).mean(), rel=1e-4)
    assert abs(starts.mean() - np.mean([row["label"] for row in data["train"]])) < targets.std()
    run = adapt(settings, data=data)
    answers = np.array([answer.label for answer in run.predict([row["text"] for row in data["test"]])])
    assert np.isfinite(answers).all()
    assert abs(answers.mean() - targets.mean()) < 5 * targets.std()


@pytest.mark.parametrize(
    ("strategy", "encoder", "head", "layers"),
    [
        ("finetune", {"encoder.pairs": "joint"}, "native", "auto"),
        ("finetune", {"encoder.pairs": "siamese"}, "pooled", "auto"),
        ("finetune", {"encoder.pairs": "siamese", "encoder.layers": "last"}, "pooled", "last"),
        ("finetune", {}, "native", "auto"),
        ("finetune", {"encoder.layers": "last"}, "native", "last"),
        ("finetune", {"encoder.layers": "last", "encoder.head": "native"}, "native", "last"),
        ("finetune", {"encoder.pooling": "max"}, "pooled", "auto"),
        ("finetune", {"encoder.hidden": 8}, "pooled", "auto"),
        ("finetune", {"encoder.layers": "spread"}, "pooled", "spread"),
        ("lora", {"encoder.layers": [0, -1]}, "pooled", [0, -1]),
        ("probe", {}, "pooled", "spread"),
        ("probe", {"encoder.layers": "last"}, "pooled", "last"),
        ("probe", {"encoder.head": "native"}, "native", "auto"),
    ],
)
def test_the_head_follows_from_what_is_asked_of_it(home: Path, strategy: str, encoder: dict, head: str, layers):
    settings = settings_for(home, strategy=strategy, **encoder)
    resolved = resolve_encoder(settings.encoder, settings.strategy, locate(settings.encoder), pair=True)
    assert (resolved.head, resolved.layers) == (head, layers)


def test_an_architecture_without_a_head_gets_ours(home: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    settings = settings_for(home, strategy="finetune", **{"encoder.head": "auto"})
    source = dataclasses.replace(locate(settings.encoder), folder=tmp_path)
    assert resolve_encoder(settings.encoder, settings.strategy, source, pair=False).head == "pooled"


@pytest.mark.parametrize("strategy", ["probe", "finetune"])
@pytest.mark.parametrize("family", ["canine", "funnel"])
def test_texts_may_be_shorter_than_what_the_encoder_needs_at_least(tmp_path: Path, family: str, strategy: str):
    folder = tmp_path / f"tiny-{family}"
    if family == "canine":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        CanineModel(CanineConfig(**sizes, local_transformer_stride=8)).save_pretrained(folder)  # four characters: one
        CanineTokenizer(model_max_length=64).save_pretrained(folder)
    else:
        tiny_encoder(tmp_path, family, block_sizes=[1, 1, 1])
    letters = [{"text": letter, "label": "ae"[number % 2]} for number, letter in enumerate("abcdefghijklmnop")]
    own = {"strategy": strategy} | ({"training.max_steps": 1} if strategy == "finetune" else {})
    own["encoder.name"] = str(folder)
    run = adapt(settings_for(tmp_path, **own), data={"train": letters, "test": letters})
    (alone,), beside = run.predictor.predict(["a"]), run.predictor.predict(["a", "", "b"])
    assert alone.probabilities == pytest.approx(beside[0].probabilities, abs=1e-6)
    assert sum(beside[1].probabilities.values()) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("strategy", ["finetune", "lora"])
def test_the_pairs_of_a_sentence_encoder_are_read_alone(tmp_path: Path, strategy: str, pooling: str):
    folder = tiny_encoder(tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    values = {"strategy": strategy, "evaluation.floors": False}
    alone = {"strategy.merge": False} if strategy == "lora" else {}
    run = adapt(settings_for(tmp_path, **values, **alone), data=data_for("pair"))
    config = run.predictor.model.config
    assert config.siamese
    assert (config.layers, config.pooling) == ([1, 2], pooling)
    joint = adapt(settings_for(tmp_path, **values, **{"encoder.pairs": "joint"}), data=data_for("pair"))
    assert not getattr(joint.predictor.model.config, "siamese", None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "finetune", "strategy.freeze_layers": 3}, "has 2 identifiable layers"),
        ({"strategy": "finetune", "strategy.freeze": ["*.nothing.*"]}, "matches no parameter"),
        ({"strategy": "lora", "strategy.layers": [7]}, "choose from 0 to 1"),
        ({"strategy": "lora", "strategy.rank": 0}, "rank"),
        ({"strategy": "adapter", "strategy.peft_type": "IA33"}, "did you mean 'IA3'"),
        ({"strategy": "lora", "strategy.peft": {"rr": 1}}, "not a field of LoraConfig"),
        ({"strategy": "lora", "strategy.peft_type": "IA3"}, "strategy=adapter"),
        ({"strategy": "probe", "strategy.solver": "sgd"}, "strategy.solver"),
        ({"strategy": "probe", "encoder.hidden": 8}, "'hidden_layer.weight' of the pooled head random"),
        ({"strategy": "finetune", "encoder.head": "native", "encoder.pooling": "max"}, "encoder.pooling belongs to"),
        ({"training.schedule": "liner"}, "did you mean 'linear'"),
        ({"training.precision": "fp17"}, "precision"),
        ({"training.batch_size": 0}, "batch_size"),
        ({"training.epochs": -1}, "epochs"),
        ({"evaluation.metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"tracking.trackers": ["nonsense"]}, "tracking.trackers='nonsense'"),
        ({"tracking.trackers": ["comet_ml"]}, "comet_ml is not installed; `pip install comet-ml`"),
        ({"tokens.max_length": 4096}, "max_length"),
        ({"encoder.name": "no/such/folder"}, "no such folder|there is no"),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_written(home: Path, tmp_path: Path, values: dict, words: str):
    with pytest.raises(UserError, match=words):
        adapt(settings_for(home, output=str(tmp_path / "runs"), **values), data=data_for("single_label"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_python_api_mirrors_the_command_line(home: Path, tmp_path: Path):
    run = nlp_transfer.adapt(
        None,
        {
            **{"strategy": "probe", "encoder": "custom", "encoder.name": str(home / "tiny-bert")},
            **{"output": str(tmp_path), "verify": False, "report.write": False},
        },
        data=rows("single_label", 60, 5),
    )
    assert run.report.split == "test"  # carved
    assert nlp_transfer.load(run.folder).predict(["good movie"])[0].label == run.predict(["good movie"])[0].label


@pytest.mark.parametrize("strategy", ["probe", "finetune"])
def test_trackers_hear_of_settings_steps_and_figures(home: Path, tmp_path: Path, strategy: str):
    values = {"tracking.trackers": ["tensorboard"], "evaluation.floors": True}
    settings = settings_for(home, output=str(tmp_path), strategy=strategy, **values)
    run = adapt(settings, data=data_for("single_label"))
    events = EventAccumulator(str(run.folder / "nlp_transfer")).Reload()
    told = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert told["test/accuracy"] == [pytest.approx(run.metrics["accuracy"])]
    assert {"test majority/accuracy", "test tfidf/accuracy"} <= set(told)
    log = (
        [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        if strategy != "probe"
        else []
    )
    assert told.get("train/loss", []) == pytest.approx([line["loss"] for line in log if "loss" in line])
    assert len(told.get("validation/accuracy", [])) == sum(line.get("split") == "validation" for line in log)
    paces = [json.loads(line) for line in (run.folder / "pace.jsonl").read_text().splitlines()] if log else []
    assert len(paces) == len(told.get("validation/accuracy", []))
    assert told.get("pace/tokens_per_second", []) == pytest.approx([pace["tokens_per_second"] for pace in paces])
    assert list((run.folder / "nlp_transfer").glob("*/hparams.yml"))


@pytest.mark.slow
def test_a_step_is_recorded_and_changes_nothing(home: Path, tmp_path: Path):
    weights = {}
    for profile in (False, True):
        values = {"strategy": "finetune", "tracking.profile": profile, "report.write": profile}
        settings = settings_for(home, output=str(tmp_path / str(profile)), **values)
        run = adapt(settings, data=data_for("single_label"))
        weights[profile] = (run.folder / "model" / "model.safetensors").read_bytes()
        assert (run.folder / "profile.json").exists() == profile
    assert weights[False] == weights[True]
    events = json.loads((run.folder / "profile.json").read_text())["traceEvents"]
    assert {*PARTS} <= {event["name"] for event in events}
    assert "tokens per second" in (run.folder / "report.md").read_text()


def test_virtual_tokens_take_places_that_texts_then_lack(home: Path, tmp_path: Path):
    """A text longer than the encoder takes is cut so that both fit, in training, when it is saved and afterwards."""
    values = {"strategy": "adapter", "strategy.peft_type": "PROMPT_TUNING", "training.max_steps": 1}
    data = data_for("single_label")
    data["train"][0]["text"] = data["test"][0]["text"] = "where is my card " * 100
    run = adapt(settings_for(home, output=str(tmp_path), **values), data=data)
    plain = adapt(settings_for(home, output=str(tmp_path), **{"training.max_steps": 1}), data=data)
    assert plain.predictor.record.tokens.limit - run.predictor.record.tokens.limit == 16
    assert run.predict(["where is my card " * 100])
