"""An encoder of which the lowest layers are kept, in every family: the same weights, fewer of them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import nlp_transfer
from nlp_transfer.encoder.classifier import HEADS, forward, load_classifier
from nlp_transfer.encoder.depth import entries_of
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.errors import UserError
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EncoderSettings
from tests.runs import data_for, settings_for

from .conftest import TASK
from .families import FAMILIES, SEQ2SEQ, TEXTS, tiny_encoder
from .test_families import POOLED, SHARED_LAYERS, every_case, rows

# Their layers are counted in blocks, of which each halves the sequence.
IN_BLOCKS = {"funnel"}
WITH_DECODER = {family for family, (style, _) in FAMILIES.items() if style == SEQ2SEQ} | {"bart"}
WITH_IMAGES = {"gemma3"}
# The libraries' code for these asks how many layers there are before it asks for none.
NEVER_BARE = {"deberta-v2", "longformer", "modernbert", "funnel"}


@pytest.mark.slow
@every_case
def test_the_lowest_layer_is_kept_as_it_was_and_saved_without_the_others(build, tmp_path, family, head):
    if family in IN_BLOCKS:
        with pytest.raises(UserError, match=r"encoder\.depth=1: .* cannot be shortened"):
            build(family, head, depth=1)
        return
    if head == "native" and family in WITH_DECODER:
        with pytest.raises(UserError, match=r"has a decoder too; use encoder\.head=pooled"):
            build(family, head, depth=1)
        return
    if head == "native" and family in WITH_IMAGES:
        with pytest.raises(UserError, match=r"has an encoder of images too; use encoder\.head=pooled"):
            build(family, head, depth=1)
        return
    whole, short = build(family, head), build(family, head, depth=1)
    before, kept = (dict(classifier.model.named_parameters()) for classifier in (whole, short))
    assert set(kept) < set(before) or family in SHARED_LAYERS
    for name in set(kept) - set(short.fresh):
        assert torch.equal(kept[name], before[name]), name
    if family not in SHARED_LAYERS:
        assert short.anatomy.layers == whole.anatomy.layers - 1
    short.model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**rows(short)).logits, short.model(**rows(short)).logits)
    assert dict(again.named_parameters()).keys() == kept.keys()


@pytest.mark.parametrize("family", POOLED)
def test_the_embeddings_alone_tell_texts_apart(build, family):
    asked = {"depth": 0, "pooling": "mean"}
    if family in NEVER_BARE:
        with pytest.raises(UserError, match=r"encoder\.depth=0"):
            build(family, "pooled", **asked)
        return
    classifier = build(family, "pooled", **asked)
    assert classifier.anatomy.layers == 0
    logits = forward(classifier.model, rows(classifier)).logits
    assert len(torch.unique(logits, dim=0)) == len(TEXTS)


@pytest.mark.parametrize("family", [family for family in POOLED if family not in NEVER_BARE])
def test_without_layers_nothing_tells_where_a_token_stands_and_nothing_learns_to(build, family):
    model = build(family, "pooled", depth=0, pooling="mean").model
    ids = torch.arange(5, 21).reshape(2, 8)
    with torch.no_grad():
        for turned in (ids.flip(1), ids.roll(3, dims=1)):
            assert torch.allclose(model(input_ids=ids).logits, model(input_ids=turned).logits, atol=1e-6)
    tables = [name for name, p in model.named_parameters() if "position" in name or "wpe" in name]
    assert not [name for name in tables if model.get_parameter(name).requires_grad]
    whole = build(family, "pooled", pooling="mean").model
    assert all(p.requires_grad for p in whole.parameters())


@pytest.mark.parametrize("asked", [{"head": "native"}, {"pooling": "cls"}, {"pooling": "last"}])
def test_no_token_that_has_not_seen_the_text_is_read_alone(tmp_path, asked):
    tiny_encoder(tmp_path)
    values = {f"encoder.{key}": value for key, value in asked.items()} | {"encoder.depth": 0}
    with pytest.raises(UserError, match=r"has not seen the text"):
        adapt(settings_for(tmp_path, **values), data=data_for("single_label"))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("merge", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_an_adapter_is_put_on_as_many_layers_as_it_was_trained_on(tmp_path, merge):
    folder = tiny_encoder(tmp_path)
    tensors = load_file(folder / "model.safetensors")  # the upper layer shows where it runs
    tensors = {name: tensor * (15 if ".layer.1." in name else 1) for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    words = {"strategy": "lora", "strategy.merge": merge, "encoder.depth": 1, "encoder.head": "native", "verify": True}
    run = adapt(settings_for(tmp_path, **words, **{"evaluation.floors": False}), data=data_for("single_label"))
    assert (run.folder / "metrics.json").is_file()


@pytest.mark.parametrize("strategy", ["probe", "finetune"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_run_of_fewer_layers_is_saved_loaded_and_measured_again(tmp_path, strategy, depth):
    tiny_encoder(tmp_path)
    settings = settings_for(tmp_path, strategy=strategy, **{"encoder.depth": depth, "evaluation.floors": False})
    run = adapt(settings, data=data_for("single_label"))
    assert encoder_config(run.predictor.model.config).num_hidden_layers == depth
    rows = data_for("single_label")["test"]
    answers = nlp_transfer.load(run.folder).predict([row["text"] for row in rows])
    right = [answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(run.metrics["accuracy"])


@pytest.mark.parametrize("depth", [-1, 3])
def test_a_depth_that_an_encoder_does_not_have_is_refused(build, depth):
    with pytest.raises(UserError, match=rf"encoder\.depth={depth}: .*tiny-bert has 2 layers"):
        build("bert", "native", depth=depth)


def test_what_is_listed_layer_by_layer_is_cut_and_nothing_else():
    by_layer = {"layer_types": ["full", "local", "full"], "no_rope_layers": [1, 1, 0], "attention_window": [8, 8, 4]}
    other = {"mlp_only_layers": [2], "eos_token_id": [1, 2, 3], "hidden_size": 32}
    found = entries_of({"num_hidden_layers": 3} | by_layer | other, 2)
    assert found == {"num_hidden_layers": 2} | {name: told[:2] for name, told in by_layer.items()}


def test_all_layers_are_those_of_no_depth(build):
    assert len(FAMILIES) > 20
    for head in ("native", "pooled"):
        whole, same = (build("bert", head, **asked).model.state_dict() for asked in ({}, {"depth": 2}))
        assert all(torch.equal(whole[name], same[name]) for name in whole)
        assert whole.keys() == same.keys()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("family", "entry", "before"),
    [
        ("bert", "num_hidden_layers", "encoder.layer."),
        ("distilbert", "n_layers", "transformer.layer."),
        ("xlnet", "n_layer", "layer."),
        ("xlm", "n_layers", "attentions."),
        ("opt", "num_hidden_layers", "decoder.layers."),
        ("gemma3", "num_hidden_layers", "language_model.layers."),
        ("t5", "num_layers", "encoder.block."),
        ("t5", "num_decoder_layers", "decoder.block."),
    ],
)
@pytest.mark.parametrize("configured", [1, 3])
def test_a_configuration_with_another_number_of_layers_than_the_weights_is_refused(
    tmp_path, family, entry, before, configured, head
):
    folder = with_layers(tiny_encoder(tmp_path, family), entry, configured)
    fewer = "; correct the number, or set encoder.depth" if configured < 2 and "decoder_layers" not in entry else ""
    message = rf"config\.json: {entry}={configured}, but .* hold 2 layers \({before}\*\){fewer}"
    with pytest.raises(UserError, match=message):
        load_classifier(EncoderSettings(name=str(folder)), TASK, head=head, seed=0)


def test_a_smaller_number_of_layers_is_taken_when_it_is_asked_for(tmp_path):
    folder = with_layers(tiny_encoder(tmp_path), "num_hidden_layers", 1)
    classifier = load_classifier(EncoderSettings(name=str(folder), depth=1), TASK, head="native", seed=0)
    assert classifier.anatomy.layers == 1


def test_layers_of_other_parts_in_the_file_do_not_matter(tmp_path):
    """A head of another task and an encoder of images may have numbered layers of their own."""
    path = tiny_encoder(tmp_path) / "model.safetensors"
    weights = load_file(path)
    of_layer = {name: tensor for name, tensor in weights.items() if ".layer.1." in name}
    for prefix in ("vision_model.", "mtp."):
        weights |= {f"{prefix}{name}".replace(".1.", ".7."): tensor.clone() for name, tensor in of_layer.items()}
    save_file(weights | {"classifier.3.weight": torch.zeros(2, 2)}, path, {"format": "pt"})
    for head in HEADS:
        assert load_classifier(EncoderSettings(name=str(path.parent)), TASK, head=head, seed=0).anatomy.layers == 2


def test_a_parameter_that_only_some_layers_have_is_no_layer(tmp_path):
    """T5 reads relative positions in its first layer alone; a file may have them in each."""
    path = tiny_encoder(tmp_path, "t5") / "model.safetensors"
    weights = load_file(path)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    weights[name.replace("block.0", "block.1")] = weights[name].clone()
    save_file(weights, path, {"format": "pt"})
    assert load_classifier(EncoderSettings(name=str(path.parent)), TASK, head="pooled", seed=0).anatomy.layers == 2


def with_layers(folder, entry, count):
    """Set the number of layers in the configuration of a folder, and shorten or lengthen what it lists by layer."""
    config = json.loads((folder / "config.json").read_text())
    part = config.get("text_config", config)
    part[entry] = count
    part |= {key: (2 * part[key])[:count] for key in ("layer_types",) if key in part}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
