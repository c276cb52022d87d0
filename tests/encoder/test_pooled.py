"""The head of ours: what it pools, and that its folder loads with and without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.encoder.heads import joining
from nlp_transfer.encoder.pooled import pool, texts_apart
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Finetune, Lora, Probe
from tests.publishing.forked import Plain

from .conftest import TASK, stir
from .families import TEXTS, tiny_encoder

PAIR = Task("single_label", TASK.labels, pair=True)
ROOT = Path(__file__).parent.parent.parent


def naive(states, mask, how):
    kept = [row[flags.bool()] for row, flags in zip(states, mask, strict=True)]
    choose = {
        "mean": lambda row: row.mean(dim=0),
        "max": lambda row: row.max(dim=0).values,
        "cls": lambda row: row[0],
        "last": lambda row: row[-1],
    }[how]
    return torch.stack([choose(row) for row in kept])


@pytest.mark.parametrize("how", ["mean", "max", "cls", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_reads_the_tokens_that_are_not_padding(how, dtype):
    generator = torch.Generator().manual_seed(0)
    states = (torch.randn(5, 7, 3, generator=generator) - 5).to(dtype)  # all negative: zeros would win a maximum
    mask = torch.tensor([[1] * 7, [1] * 3 + [0] * 4, [0] * 4 + [1] * 3, [1] + [0] * 6, [0] * 6 + [1]])
    poisoned = states.masked_fill(mask.unsqueeze(-1) == 0, 1e4)
    torch.testing.assert_close(pool(poisoned, mask, how), naive(states, mask, how))


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 32),
        ({"layers": [1]}, 32),
        ({"layers": [0, 1, -1]}, 32),
        ({"layers": [-1, 0], "combine": "concat"}, 64),
        ({"hidden": 8}, 8),
        ({"layers": [0, 2], "combine": "concat", "hidden": 8, "pooling": "max"}, 8),
    ],
)
def test_features_follow_from_the_encoders_hidden_states(build, settings, width):
    classifier = build("bert", "pooled", **settings)
    model = classifier.model
    stir(model)
    batch = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = forward(model, batch)
        states = model.encoder(**batch, output_hidden_states=True).hidden_states
        how, layers = settings.get("pooling", "mean"), settings.get("layers", [-1])
        vectors = [naive(states[layer], batch["attention_mask"], how) for layer in layers]
        if settings.get("combine") == "concat":
            expected = torch.cat(vectors, dim=-1)
        else:
            shares = model.mix.weight.softmax(dim=0) if model.mix is not None else [1.0]
            expected = sum(share * vector for share, vector in zip(shares, vectors, strict=True))
        if "hidden" in settings:
            expected = torch.nn.functional.gelu(model.hidden_layer(expected))
    torch.testing.assert_close(out.features, expected)
    assert model.classifier.in_features == width


def test_a_new_mix_is_the_plain_mean(build):
    mix = build("bert", "pooled", layers=[0, 1, 2]).model.mix
    vectors = torch.randn(3, 4, 5)
    torch.testing.assert_close(mix(vectors), vectors.mean(dim=0))


def test_the_last_layer_alone_keeps_no_other(build):
    asked = []
    for settings in ({}, {"layers": [0, -1]}):
        model = build("bert", "pooled", **settings).model
        model.encoder.register_forward_hook(lambda *args: asked.append(args[-1].hidden_states))
        model(torch.tensor([[2, 7, 3]]))
    assert asked[0] is None
    assert len(asked[1]) == 3


PAIRS = [("my card", "has not arrived"), ("refund", "refund"), ("", "where is the order?"), ("good movie", "")]
# One family for each way in which tokenizers join two texts; decoders put nothing between them, XLNet ends with two.
SIAMESE = {"bert": 1, "roberta": 2, "t5": 1}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", SIAMESE)
def test_a_siamese_model_reads_each_text_as_if_it_were_alone(build, family, side):
    model, tokenizer = (getattr(build(family, "pooled", task=PAIR), part) for part in ("model", "tokenizer"))
    tokenizer.padding_side = side
    how = joining(tokenizer)
    assert how["between"] == SIAMESE[family]
    firsts, seconds = zip(*PAIRS, strict=True)
    joined = tokenizer(firsts, seconds, padding=True, return_tensors="pt")
    ids, mask = texts_apart(joined["input_ids"], joined["attention_mask"], **how)
    found = [row[flags.bool()].tolist() for row, flags in zip(ids, mask, strict=True)]
    assert found == tokenizer([*firsts, *seconds])["input_ids"]
    assert ids.shape[1] == max(map(len, found))

    siamese = build(family, "pooled", task=PAIR, pairs="siamese", layers=[1, -1], combine="concat")
    stir(siamese.model)
    with torch.no_grad():
        features = forward(siamese.model, joined).features
        states = [
            siamese.model.encoder(**tokenizer([text], return_tensors="pt"), output_hidden_states=True).hidden_states
            for text in [*firsts, *seconds]
        ]
    u, v = (
        [torch.stack([state[layer][0].mean(dim=0) for state in half]) for layer in (1, -1)]
        for half in (states[: len(PAIRS)], states[len(PAIRS) :])
    )
    parts = [part for a, b in zip(u, v, strict=True) for part in ((a - b) / 2, (a - b).abs(), a * b)]
    expected = torch.cat(parts, dim=-1)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert not features[1, :64].any()  # a text and itself differ in nothing
    assert (ids[mask == 0] == how["separator"]).all()  # nothing of the other text is left
    turned = tokenizer(seconds, firsts, padding=True, return_tensors="pt")
    with torch.no_grad():  # which text is the first can be told
        assert not torch.allclose(siamese.model(**turned).logits[0], siamese.model(**joined).logits[0], atol=1e-3)
    assert model.config.siamese is None  # the tiny encoder was not trained on sentences


def test_one_text_is_compared_with_itself(build):
    classifier = build("bert", "pooled", task=PAIR, pairs="siamese")
    features = forward(classifier.model, classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")).features
    assert not features[:, :64].any()
    assert features[:, 64:].any()


def test_sentence_encoders_are_siamese_where_their_tokenizer_allows_it(tmp_path):
    def config(family, task=PAIR, **settings):
        folder = tiny_encoder(tmp_path / family, family)
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
        return load_classifier(EncoderSettings(name=str(folder), **settings), task, head="pooled", seed=0).model.config

    assert config("bert").siamese == {"start": 1, "separator": 3, "between": 1}
    assert (config("bert").layers, config("bert").combine) == ([1, 2], "concat")
    assert config("bert", layers="last").layers == [-1]
    assert config("bert", pairs="joint").siamese is None
    for other in (config("bert", TASK), config("bert", pairs="joint"), config("gpt2"), config("xlnet")):
        assert (other.siamese, other.layers) == (None, [-1])
    with pytest.raises(UserError, match="cannot be taken apart"):
        config("gpt2", pairs="siamese")
    with pytest.raises(UserError, match="this data has one"):
        config("bert", TASK, pairs="siamese")
    with pytest.raises(UserError, match="'apart' is not known"):
        config("bert", pairs="apart")


def test_a_siamese_model_of_ours_is_an_encoder_again(build, tmp_path):
    first = build("bert", "pooled", task=PAIR, pairs="siamese")
    stir(first.model)
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    settings = EncoderSettings(name=str(tmp_path))
    again = load_classifier(settings, PAIR, head="native", seed=0)
    assert again.fresh == ()
    rows = first.tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    torch.testing.assert_close(forward(again.model, rows), forward(first.model, rows))
    renewed = load_classifier(settings, PAIR, head="pooled", seed=0).model.config
    assert (renewed.siamese, renewed.layers) == (first.model.config.siamese, [1, 2])
    assert load_classifier(settings, TASK, head="pooled", seed=0).model.config.siamese is None
    joint = EncoderSettings(name=str(tmp_path), pairs="joint")
    assert load_classifier(joint, PAIR, head="pooled", seed=0).model.config.siamese is None
    for asked, task in ((settings, TASK), (joint, PAIR)):
        with pytest.raises(UserError, match="compares two texts, each read alone"):
            load_classifier(asked, task, head="native", seed=0)


def test_the_encoders_weights_are_the_checkpoints(build):
    classifier = build("bert", "pooled")
    checkpoint = load_file(classifier.source.folder / "model.safetensors")
    mine = classifier.model.encoder.state_dict()
    assert all(torch.equal(tensor, checkpoint[name]) for name, tensor in mine.items())
    assert set(checkpoint) - set(mine) == {"pooler.dense.weight", "pooler.dense.bias"}  # nothing trains it
    assert set(classifier.fresh) == {"classifier.weight", "classifier.bias"}


def test_the_library_computes_its_loss_for_those_who_give_labels(build):
    model = build("bert", "pooled").model
    ids, labels = torch.tensor([[2, 7, 3], [2, 9, 3]]), torch.tensor([1, 4])
    out = model(ids, labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))


def test_gradient_checkpointing_changes_no_gradient(build):
    def gradients(model):
        model.train()
        model(torch.tensor([[2, 7, 8, 3]])).logits.square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, saving = (build("llama", "pooled", head_dropout=0.0).model for _ in range(2))
    saving.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(saving), gradients(plain))


def test_a_model_of_ours_is_an_encoder_again(build, tmp_path):
    first = build("bert", "pooled", pooling="max", hidden=4)
    stir(first.model)
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    other = Task("multi_label", ("x", "y"), pair=False)
    states = first.model.encoder.state_dict()
    # Under a new head the encoder is read as it was trained, unless told otherwise.
    expectations = [("native", "auto", ("max", 4)), ("pooled", "auto", ("max", 0)), ("pooled", "last", ("last", 0))]
    for head, pooling, expected in expectations:
        settings = EncoderSettings(name=str(tmp_path), pooling=pooling)
        again = load_classifier(settings, other, head=head, seed=0)
        assert all(torch.equal(states[name], tensor) for name, tensor in again.model.encoder.state_dict().items())
        assert (again.model.config.pooling, again.model.config.hidden) == expected
        assert again.model.config.id2label == {0: "x", 1: "y"}
        assert set(again.fresh) == {"classifier.weight", "classifier.bias"}
    same = load_classifier(EncoderSettings(name=str(tmp_path)), TASK, head="native", seed=0)
    assert same.fresh == ()


def without(folder: Path, *names: str) -> Path:
    """Delete tensors from the checkpoint in `folder`."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name not in names}
    assert len(kept) == len(weights) - len(names)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pooled_over(folder: Path, **settings):
    return load_classifier(EncoderSettings(name=str(folder), **settings), TASK, head="pooled", seed=0)


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("bert", "encoder.layer.1.output.dense.weight"),
        ("t5", "encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("t5", "encoder.final_layer_norm.weight"),
        ("t5", "shared.weight"),
        ("bart", "encoder.layers.0.fc1.weight"),
        ("bart", "shared.weight"),
    ],
)
def test_a_checkpoint_that_lacks_a_weight_of_the_encoder_is_refused(tmp_path, family, missing):
    folder = tiny_encoder(tmp_path, family)
    assert set(pooled_over(folder).fresh) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(UserError, match="no fitting weights for 1 parameters"):
        pooled_over(without(folder, missing))


def test_the_decoder_that_a_pooled_head_leaves_out_may_be_missing(tmp_path):
    folder = without(tiny_encoder(tmp_path, "t5"), "decoder.block.0.layer.0.SelfAttention.q.weight")
    assert set(pooled_over(folder).fresh) == {"classifier.weight", "classifier.bias"}


def test_a_probe_does_not_mind_a_pooler_that_nothing_reads(tmp_path):
    folder = without(tiny_encoder(tmp_path, "squeezebert"), "pooler.dense.weight", "pooler.dense.bias")
    classifier = pooled_over(folder)
    assert "encoder.pooler.dense.weight" in classifier.fresh
    Probe().apply(classifier)
    learning = {name for name, parameter in classifier.model.named_parameters() if parameter.requires_grad}
    assert learning == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "roberta", "electra"])
def test_nothing_but_adapters_learns_inside_an_encoder_below_a_hidden_layer(build, family):
    classifier = build(family, "pooled", hidden=8, layers=[0, -1])
    Lora(rank=2).apply(classifier)
    learning = {name for name, parameter in classifier.model.named_parameters() if parameter.requires_grad}
    inside = {name for name in learning if name.startswith("base_model.model.encoder.")}
    assert inside
    assert all(".lora_" in name for name in inside)
    assert {name.removeprefix("base_model.model.").split(".")[0] for name in learning - inside} == {
        "classifier",
        "hidden_layer",
        "mix",
    }


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_layers_start_anew_as_the_encoder_would_make_them(tmp_path, head):
    folder = tiny_encoder(tmp_path, initializer_range=0.5)
    classifier = load_classifier(EncoderSettings(name=str(folder)), TASK, head=head, seed=0)
    layers = getattr(classifier.model, classifier.anatomy.base).encoder.layer
    before = [layer.output.dense.weight.detach().clone() for layer in layers]
    Finetune(reinit_layers=1).apply(classifier)
    assert torch.equal(layers[0].output.dense.weight, before[0])
    assert not torch.equal(layers[1].output.dense.weight, before[1])
    assert layers[1].output.dense.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert not layers[1].output.dense.bias.any()
    assert (layers[1].output.LayerNorm.weight == 1).all()


def test_no_path_of_this_machine_is_saved(build, tmp_path):
    classifier = load_classifier(
        EncoderSettings(name=str(build("bert", "native").source.folder)), TASK, head="pooled", seed=0
    )
    classifier.model.config._name_or_path = classifier.model.config.encoder._name_or_path = "acme/tiny"
    classifier.model.save_pretrained(tmp_path)
    assert "/" not in (tmp_path / "config.json").read_text().replace("acme/tiny", "")


LOAD = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
found, remote = [], json.loads(sys.argv[2])
given = {"trust_remote_code": True} if remote else {}
for folder, columns, again in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained(folder, **given)  # first: it reads the configuration as well
    model = AutoModelForSequenceClassification.from_pretrained(folder, **given).eval()
    with torch.no_grad():
        logits = model(**tokenizer(**columns, padding=True, return_tensors="pt")).logits.tolist()
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    classify = pipeline("text-classification", folder, **given)
    answer = [classify(row) for row in rows]
    if remote:  # saved again by somebody who has never heard of us
        model.save_pretrained(again)
    found.append([type(model).__module__, logits, answer])
print("RESULT" + json.dumps([found, "nlp_transfer" in sys.modules]))
"""


def loaded(cases: list[list], folder: Path, plain: Plain | None) -> tuple[list, bool]:
    """What a process of its own says of saved folders, and whether it knows this package: only a cold one does."""
    words = json.dumps(cases), json.dumps(plain is not None)
    if plain:
        code = "import sys\nassert 'nlp_transfer' not in sys.modules\nsys.modules['nlp_transfer'] = None\n"
        code += LOAD.replace('"nlp_transfer" in sys.modules', "False")
        done = plain.warm.run(code, *words, cwd=folder, env=os.environ | plain.given)
    else:
        code = "import nlp_transfer\nimport sys\nassert 'torch' not in sys.modules\n" + LOAD
        environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *words],
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found, ours = json.loads(done.stdout.split("RESULT")[1])
    return found, ours


@pytest.mark.slow
def test_the_saved_folder_loads_with_and_without_this_package(build, tmp_path, plain: Plain):
    """Of all families at once: a process takes longer to import transformers than to load a model."""
    cases, wanted = [], []
    for family, pairs in (("bert", "joint"), ("qwen3", "joint"), ("roberta", "siamese")):
        task, columns = TASK, {"text": TEXTS}
        if pairs == "siamese":
            task, columns = PAIR, {"text": TEXTS, "text_pair": TEXTS[::-1]}
        classifier = build(family, "pooled", task=task, pairs=pairs, layers=[0, -1], hidden=8)
        stir(classifier.model)
        folder = tmp_path / f"model-{family}"
        classifier.model.save_pretrained(folder)
        classifier.tokenizer.save_pretrained(folder)
        with torch.no_grad():
            batch = classifier.tokenizer(**columns, padding=True, return_tensors="pt")
            logits = forward(classifier.model, batch).logits
        labels = [classifier.model.config.id2label[i] for i in logits.argmax(dim=1).tolist()]
        cases.append([str(folder), columns, str(tmp_path / f"again-{family}")])
        wanted.append((logits, labels))
    for remote in (False, True):
        found, ours = loaded(cases, tmp_path, plain if remote else None)
        assert ours != remote
        for (module, there, answer), (logits, labels) in zip(found, wanted, strict=True):
            assert module.startswith("transformers_modules." if remote else "nlp_transfer.")
            torch.testing.assert_close(torch.tensor(there), logits)
            assert [entry["label"] for entry in answer] == labels
    for before, _, after in cases:
        folder, again = Path(before), Path(after)
        assert load_file(again / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
        assert {"pooled.py", "pooled_config.py"} <= {file.name for file in again.iterdir()}
