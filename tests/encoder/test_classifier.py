"""Loading a classifier and its one forward pass: what does not depend on the family."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CanineConfig,
    CanineModel,
    CanineTokenizer,
    pipeline,
)
from transformers.models.bert.modeling_bert import BertLayer
from transformers.utils import logging

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import disposable
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.encoder.heads import suggested_pooling
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.running.plan import encoder_notes
from nlp_transfer.settings import EncoderSettings

from .conftest import LABELS, TASK
from .families import TEXTS, tiny_encoder, tiny_tokenizer

TASKS = {
    "single_label": (TASK, "single_label_classification", LABELS),
    "multi_label": (Task("multi_label", LABELS[:3], pair=False), "multi_label_classification", LABELS[:3]),
    "ordinal": (Task("ordinal", ("low", "high"), pair=False), "single_label_classification", ("low", "high")),
    "regression": (Task("regression", (), pair=False), "regression", ("score",)),
}


SEGMENTS_ASKED = ("bert", "xlnet", "funnel", "distilbert", "gpt2", "xlm", "modernbert", "deberta-v2", "roberta")


def load(folder, task=TASK, *, head="native", seed=0, **settings):
    return load_classifier(EncoderSettings(name=str(folder), **settings), task, head=head, seed=seed)


def save(classifier, folder):
    classifier.model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("problem", TASKS)
def test_a_pipeline_names_the_labels_of_every_kind_of_task(tmp_path, problem, head):
    task, problem_type, names = TASKS[problem]
    classifier = load(tiny_encoder(tmp_path), task, head=head)
    folder = save(classifier, tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    assert (config["problem_type"], tuple(config["id2label"].values())) == (problem_type, names)
    answer = pipeline("text-classification", str(folder))(TEXTS[0], top_k=None)
    with torch.no_grad():
        logits = forward(classifier.model, classifier.tokenizer(TEXTS[:1], return_tensors="pt")).logits[0]
    scores = {"regression": logits, "multi_label": logits.sigmoid()}.get(problem, logits.softmax(dim=0))
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in answer} == dict(
        zip(names, scores.tolist(), strict=True)
    )


def test_every_kind_of_task_replaces_the_head_of_every_other(tmp_path):
    base = tiny_encoder(tmp_path)
    for first, (task, _, _) in TASKS.items():
        folder = save(load(base, task), tmp_path / first)
        for second, (other, problem_type, names) in TASKS.items():
            model = load(folder, other)
            assert model.model.config.problem_type == problem_type
            assert model.model.classifier.out_features == len(names)
            kept = first == second and second != "regression"  # which does not say what it was tuned for
            assert model.fresh == (() if kept else ("classifier.weight", "classifier.bias"))


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "gpt2", "xlm"])
def test_a_head_tuned_for_other_labels_is_replaced_even_if_it_fits(tmp_path, family):
    tuned = load(tiny_encoder(tmp_path, family))
    folder = save(tuned, tmp_path / "tuned")
    renamed = Task("single_label", tuple(f"new {name}" for name in LABELS), pair=False)
    again, new = load(folder, seed=1), load(folder, renamed, seed=1)
    output = f"{tuned.anatomy.output}.weight"
    old_weights = dict(tuned.model.named_parameters())
    assert all(torch.equal(old_weights[name], p) for name, p in again.model.named_parameters())
    assert again.fresh == ()
    changed = {name for name, p in new.model.named_parameters() if not torch.equal(old_weights[name], p)}
    assert changed == {output}
    assert output in new.fresh
    assert 0.2 < new.model.get_parameter(output).std() / old_weights[output].std() < 5


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_the_seed_decides_the_head_and_nothing_else_does(tmp_path, head):
    folder = tiny_encoder(tmp_path, "roberta")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load(folder, head=head, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    same, other = load(folder, head=head, seed=1), load(folder, head=head, seed=2)
    weights = first.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.model.state_dict().items())
    changed = {name for name, tensor in other.model.state_dict().items() if not torch.equal(weights[name], tensor)}
    assert changed
    assert changed <= set(first.fresh)


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_without_pretraining_the_encoder_is_as_its_architecture_starts(tmp_path, head):
    settings = EncoderSettings(name=str(tiny_encoder(tmp_path)), pretrained=False)
    state = torch.get_rng_state()
    one, same, other = (load_classifier(settings, TASK, head=head, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    known = load_classifier(dataclasses.replace(settings, pretrained=True), TASK, head=head, seed=0)
    base = f"{known.anatomy.base}."
    for name, weight in known.model.named_parameters():
        random = one.model.get_parameter(name)
        assert torch.equal(random, same.model.get_parameter(name))
        if weight.ndim == 2 and name.startswith(base):
            assert not torch.equal(random, weight)
            assert not torch.equal(random, other.model.get_parameter(name))
            assert random.std().item() == pytest.approx(
                getattr(known.model, known.anatomy.base).config.initializer_range, rel=0.5
            )


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_half_precision_checkpoints_are_loaded_and_saved_in_float32(tmp_path, head):
    folder = tiny_encoder(tmp_path)
    whole = AutoModelForSequenceClassification.from_pretrained(folder, dtype="bfloat16")
    whole.bert.save_pretrained(folder)
    classifier = load(folder, head=head)
    assert {parameter.dtype for parameter in classifier.model.parameters()} == {torch.float32}
    saved = AutoModelForSequenceClassification.from_pretrained(save(classifier, tmp_path / "saved"))
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("head", ["native", "pooled"])
def test_head_dropout_reaches_the_head_and_only_the_head(build, family, head):
    classifier = build(family, head, head_dropout=0.37)
    dropouts = {n: m.p for n, m in classifier.model.named_modules() if isinstance(m, torch.nn.Dropout)}
    base = classifier.anatomy.base
    assert {p for name, p in dropouts.items() if not name.startswith(f"{base}.")} == {0.37}
    assert 0.37 not in {p for name, p in dropouts.items() if name.startswith(f"{base}.")}


def test_a_head_without_dropout_says_so(build):
    with pytest.raises(UserError, match="no dropout"):
        build("llama", "native", head_dropout=0.1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_decoders_get_a_padding_token_that_survives_saving(build, tmp_path, family):
    classifier = build(family, "native")
    assert classifier.tokenizer.pad_token == classifier.tokenizer.eos_token
    assert classifier.model.config.pad_token_id == classifier.tokenizer.pad_token_id
    folder = save(classifier, tmp_path)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, forward(classifier.model, batch).logits)


@pytest.mark.parametrize(
    ("family", "segments"),
    [(family, family in ("bert", "xlnet", "funnel")) for family in SEGMENTS_ASKED],
)
def test_segments_are_given_to_the_models_that_have_them(tmp_path, family, segments):
    folder = tiny_encoder(tmp_path, family)
    generic = json.loads((folder / "tokenizer_config.json").read_text())
    generic["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]  # a generic tokenizer's default
    (folder / "tokenizer_config.json").write_text(json.dumps(generic))
    classifier = load(folder)
    tokenizer = AutoTokenizer.from_pretrained(save(classifier, tmp_path / "saved"))
    for made in (classifier.tokenizer, tokenizer):
        batch = made("my card", "has not arrived", return_tensors="pt")
        assert ("token_type_ids" in batch) == segments
        forward(classifier.model, batch)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("roberta", 64), ("mpnet", 64), ("bert", 66), ("bart", 66), ("longformer", 64), ("t5", 1 << 30)],
)
def test_max_tokens_is_the_models_where_the_tokenizer_does_not_know(tmp_path, family, expected):
    folder = tiny_encoder(tmp_path, family)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    classifier = load(folder)
    assert classifier.max_tokens == expected
    if expected < 1 << 30:
        ids = torch.full((1, expected), 7)
        ids[:, -1] = classifier.tokenizer.eos_token_id or 7
        forward(classifier.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.mark.parametrize(("family", "head"), [("bert", "native"), ("bert", "pooled"), ("gpt2", "native")])
def test_windows_of_a_document_are_averaged(built, family, head):
    classifier = built(family, head)
    batch = dict(classifier.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    rows = forward(classifier.model, batch)
    out = forward(classifier.model, batch | {"document": torch.tensor([1, 0, 1, 1])})
    for whole, parts in zip(out, rows, strict=True):
        torch.testing.assert_close(whole, torch.stack([parts[1], parts[[0, 2, 3]].mean(dim=0)]))
    # Averaging commutes with the output layer, so cached document features are exact as well.
    torch.testing.assert_close(forward(classifier.model, {"features": out.features}).logits, out.logits)


def test_gradients_flow_through_features_and_through_averages(build):
    classifier = build("bert", "native")
    batch = dict(classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")) | {
        "document": torch.tensor([0, 0, 1, 1])
    }
    forward(classifier.model, batch).features.square().sum().backward()
    with_gradient = {name for name, p in classifier.model.named_parameters() if p.grad is not None}
    assert with_gradient == set(classifier.anatomy.depth) - {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("config", "expected", "other"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean", []),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, "cls", []),
        ({"pooling_mode_lasttoken": True}, "last", []),
        ({"pooling_mode": "max"}, "max", []),
        ({"pooling_mode": "lasttoken"}, "last", []),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            None,
            ["pooling by mean_tokens and max_tokens"],
        ),
        ({"pooling_mode": "weightedmean"}, None, ["pooling by weightedmean"]),
        (None, None, []),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_pooling_is_what_sentence_transformers_trained_or_is_said(tmp_path, config, expected, other, dense):
    folder = tiny_encoder(tmp_path)
    if config is not None:
        (folder / "2_Pool").mkdir()
        (folder / "2_Pool" / "config.json").write_text(json.dumps(config))
        modules = [
            {"path": "", "type": "x.Transformer"},
            {"path": "2_Pool", "type": "sentence_transformers.models.Pooling"},
            *([{"path": "3_Dense", "type": "sentence_transformers.models.Dense"}] if dense else []),
            {"path": "4", "type": "sentence_transformers.models.Normalize"},
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        other = [*other, "Dense"] if dense else other
    assert suggested_pooling(folder) == expected
    classifier = load(folder, head="pooled")
    assert classifier.model.config.pooling == (expected or "mean")
    told = f"sentence-transformers reads this encoder by what is not used here: {', '.join(other)}"
    assert encoder_notes(EncoderSettings(), classifier) == [told] * bool(other)
    assert not encoder_notes(EncoderSettings(), load(folder, head="native"))


def test_decoders_pool_the_last_token_unless_told(build):
    assert build("gpt2", "pooled").model.config.pooling == "last"
    assert build("gpt2", "pooled", pooling="mean").model.config.pooling == "mean"


def test_the_library_stays_as_loud_as_it_was(tmp_path, capfd):
    folder = tiny_encoder(tmp_path)
    capfd.readouterr()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_that_does_not_fit_its_architecture_is_refused(tmp_path):
    folder, other = tiny_encoder(tmp_path / "a", "bert"), tiny_encoder(tmp_path / "b", "roberta")
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(UserError, match=r"no fitting weights for \d+ parameters of BertForSequenceClassification"):
        load(folder)


def test_a_checkpoint_without_the_last_norm_is_refused_but_it_may_lack_a_pooler(tmp_path):
    folder = tiny_encoder(tmp_path, "modernbert")
    weights = load_file(folder / "model.safetensors")
    del weights["final_norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"no fitting weights for 1 parameters .*final_norm"):
        load(folder, head="native")
    bert = tiny_encoder(tmp_path)
    weights = load_file(bert / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "pooler" not in n}, bert / "model.safetensors", {"format": "pt"})
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= set(load(bert, head="native").fresh)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", lambda content: content[:-100], r"is damaged or truncated .*fetch it again"),
        ("model.safetensors", lambda content: content[:5], r"is damaged or truncated .*fetch it again"),
        ("model.safetensors", lambda _: POINTER, r"is what Git LFS puts in the place of a file; .*git lfs pull"),
        ("model.safetensors", lambda _: b"<!DOCTYPE html>", r"is a page of the web; download the file itself"),
        ("tokenizer.json", lambda _: POINTER, r"is what Git LFS puts in the place of a file; .*git lfs pull"),
        ("tokenizer.json", lambda content: content[:-100], "not readable as JSON"),
    ],
)
@pytest.mark.parametrize("head", ["native", "pooled"])
def test_a_file_that_is_not_whole_is_named(tmp_path, head, name, change, said):
    folder = tiny_encoder(tmp_path)
    (folder / "modules.json").write_text("[]")  # which nobody reads, as whatever else lies there
    (folder / "pytorch_model.bin").write_bytes(POINTER)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(UserError, match=rf"{name}:? {said}") as error:
        load(folder, head=head)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("others", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path, others):
    folder = tiny_encoder(tmp_path)
    for name in ("tokenizer.json", *others):
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds no vocabulary"):
        load(folder)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_tokens_that_were_added_to_the_tokenizer_alone_are_refused(tmp_path, family):
    folder = tiny_encoder(tmp_path, family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = len(tokenizer)
    tokenizer.add_tokens(["<here>"], special_tokens=True)  # no text is given it
    tokenizer.save_pretrained(folder)
    load(folder)
    tokenizer.add_tokens(["parcel"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"such as 'parcel' \(id {words + 1}, of {words} word embeddings\); save"):
        load(folder)


def test_a_tokenizer_that_cannot_pad_is_refused_with_what_to_do(tmp_path):
    folder = tiny_encoder(tmp_path)
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text())
    del told["pad_token"]
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"tokenizer_config\.json names neither a padding nor an end token; .*add one"):
        load(folder)


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_a_model_that_no_text_goes_through_is_refused(tmp_path, monkeypatch, head):
    folder = tiny_encoder(tmp_path)
    monkeypatch.setattr(BertLayer, "forward", lambda *given, **more: torch.ones(2, 3) @ torch.ones(2, 3))
    with pytest.raises(UserError, match=r"cannot read a text \(RuntimeError: mat1.*\): .*config\.json does not fit"):
        load(folder, head=head)


def test_what_reads_texts_of_one_length_alone_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16, "feed_forward_size": 32}
    sizes |= {"attn_layers": ["local"], "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "vocab_size": 500}
    AutoModel.from_config(AutoConfig.for_model("reformer", **sizes, is_decoder=False)).save_pretrained(tmp_path)
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path)
    for head in ("native", "pooled"):
        with pytest.raises(UserError, match=r"a Reformer learns from texts of one length alone, .*another encoder"):
            load(tmp_path, head=head)


def test_characters_may_be_hashed_and_have_no_table_of_words(tmp_path):
    config = CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, local_transformer_stride=8
    )
    CanineModel(config).save_pretrained(tmp_path)
    CanineTokenizer(model_max_length=64).save_pretrained(tmp_path)
    classifier = load(tmp_path, head="pooled")
    batch = dict(classifier.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with occurring_words(classifier.model, np.arange(10)):
        assert forward(classifier.model, batch).logits.shape == (len(TEXTS), len(LABELS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [5]}, r"encoder.layers=\[5\].*0 \(embeddings\) to 2"),
        ({"layers": [-4]}, r"-1 \(last layer\) to -3"),
        ({"layers": []}, r"encoder.layers=\[\]"),
        ({"pooling": "mena"}, "did you mean 'mean'"),
        ({"combine": "sum", "layers": [0, 1]}, "encoder.combine='sum'"),
        ({"attention": "evil/kernels"}, "encoder.attention='evil/kernels'"),
        ({"attention": "flash_attention_2"}, "flash_attention_2 is not installed for this device"),
        ({"head_dropout": 2}, r"encoder.head_dropout=2 must lie in \[0, 1\)"),
        ({"layers": "spred"}, "encoder.layers=spred: choose last, spread"),
    ],
)
def test_settings_that_cannot_be_are_refused(build, settings, message):
    with pytest.raises(UserError, match=message):
        build("bert", "pooled", **settings)


def test_attention_is_the_one_asked_for(build):
    for head in ("native", "pooled"):
        for attention in ("eager", "sdpa"):
            model = build("bert", head, attention=attention).model
            assert getattr(model, model.base_model_prefix).config._attn_implementation == attention


def test_a_disposable_copy_is_made_of_a_model_that_keeps_what_it_computed():
    model = torch.nn.Linear(2, 2)
    model.last_states = model(torch.ones(1, 2))  # as RecurrentGemma does
    copied = disposable(model)
    copied.last_states = None
    assert copied.weight is model.weight
    assert model.last_states is not None


def test_families_without_a_head_of_their_own_point_to_ours(tmp_path):
    from transformers import AutoModel, BertGenerationConfig

    config = BertGenerationConfig(
        vocab_size=160, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no classification head of its own; use encoder\.head=pooled"):
        load(tmp_path)
    assert load(tmp_path, head="pooled").anatomy.layers == 2
