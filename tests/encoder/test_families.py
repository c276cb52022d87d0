"""The contract that every family keeps, under its own head and under ours."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from nlp_transfer.encoder.anatomy import active_output, dissect, linear_targets
from nlp_transfer.encoder.classifier import forward, load_classifier, reads_padding
from nlp_transfer.settings import EncoderSettings

from .conftest import LABELS, TASK, stir
from .families import COMMON, FAMILIES, SEQ2SEQ, TEXTS, tiny_tokenizer

# Where the library itself lets padding reach the text (measured relative change of the logits > 0.1).
PADDING_LEAKS = {
    "convbert": "convolves over padding",
    "fnet": "mixes all positions, takes no mask",
    "mobilebert": "embeds each token with its neighbours",
    "nystromformer": "convolves over padding, landmarks are means of neighbours",
}
PADDING_LEAKS_POOLED = {**PADDING_LEAKS, "funnel": "halves the sequence, padding included"}
# ALBERT shares its layers; SqueezeBERT has convolutions instead of linear layers.
SHARED_LAYERS, NO_LINEAR = {"albert"}, {"squeezebert"}
# Reached by the forward, but with a gradient of exactly zero: only the first token of the last layer is read.
NEVER_MOVE = {
    ("longformer", "native"): {
        f"longformer.encoder.layer.1.attention.self.{x}.weight" for x in ("query", "key", "value")
    },
    ("funnel", "native"): {f"funnel.encoder.blocks.1.0.attention.{x}" for x in ("r_kernel", "seg_embed")},
}
POOLED = ["bert", "xlm-roberta", "deberta-v2", "modernbert", "albert", "xlnet", "funnel", "longformer", "gte"]
POOLED += ["gpt2", "llama", "qwen3", "t5", "bart", "esm", "squeezebert"]
OFTEN = ("bert", "modernbert", "gpt2", "t5", "funnel", "squeezebert")  # the others as well under -m exhaustive
CASES = [(family, "native") for family in FAMILIES]
CASES += [pytest.param(family, "pooled", marks=[] if family in OFTEN else pytest.mark.exhaustive) for family in POOLED]

every_case = pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)


def rows(classifier, texts=TEXTS):
    return dict(classifier.tokenizer(texts, padding=True, return_tensors="pt"))


@every_case
def test_the_head_is_new_and_named_by_the_task(built, family, head):
    classifier = built(family, head)
    config = classifier.model.config
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {name: index for index, name in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"
    assert forward(classifier.model, rows(classifier)).logits.shape == (len(TEXTS), len(LABELS))
    assert f"{classifier.anatomy.output}.weight" in classifier.fresh
    assert {name for name, _ in classifier.model.named_parameters()}.issuperset(classifier.fresh)


@every_case
def test_depth_is_a_partition_in_the_order_of_the_forward(built, family, head):
    classifier = built(family, head)
    anatomy, model = classifier.anatomy, classifier.model
    assert set(anatomy.depth) == {name for name, _ in model.named_parameters()}
    assert set(anatomy.depth.values()) <= set(range(anatomy.layers + 3))
    expected = {"t5": 4, "bart": 4} if head == "native" else {"funnel": 3}
    assert anatomy.layers == (0 if family in SHARED_LAYERS else expected.get(family, 2))
    in_head = {name.split(".")[0] for name in anatomy.depth if not name.startswith(f"{anatomy.base}.")}
    assert in_head == set(anatomy.head)
    assert all(anatomy.depth[name] == anatomy.layers + 2 for name in anatomy.depth if name.split(".")[0] in in_head)
    words = getattr(model, anatomy.base).get_input_embeddings().weight
    assert [anatomy.depth[name] for name, p in model.named_parameters() if p is words] == [0]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", {"bert.pooler.dense.weight": 3}),  # in the checkpoint: above the layers
        ("gte", {"gte.pooler.dense.weight": 4}),  # not in the checkpoint: part of the head
        ("deberta-v2", {"deberta.encoder.rel_embeddings.weight": 0, "pooler.dense.weight": 4}),
        ("mpnet", {"mpnet.encoder.relative_attention_bias.weight": 0}),
        ("electra", {"electra.embeddings_project.weight": 0}),
        ("modernbert", {"model.final_norm.weight": 3, "head.dense.weight": 4}),
        ("xlm", {"transformer.layer_norm_emb.weight": 0, "transformer.ffns.1.lin1.weight": 2}),
        ("opt", {"model.decoder.embed_positions.weight": 0, "model.decoder.final_layer_norm.weight": 3}),
        ("albert", {"albert.encoder.embedding_hidden_mapping_in.weight": 0, "albert.pooler.weight": 1}),
        (
            "t5",
            {
                "transformer.shared.weight": 0,
                "transformer.encoder.final_layer_norm.weight": 2,
                "transformer.decoder.block.0.layer.0.SelfAttention.q.weight": 3,
                "transformer.decoder.final_layer_norm.weight": 5,
            },
        ),
    ],
)
def test_what_lies_between_and_around_the_layers(built, family, expected):
    depth = built(family, "native").anatomy.depth
    assert {name: depth[name] for name in expected} == expected


@every_case
def test_a_cut_in_depth_is_a_cut_in_the_graph(built, family, head):
    """With the parameters up to layer k frozen, nothing below needs a gradient: what enters layer k + 1 is constant."""
    model = copy.deepcopy(built(family, head).model)
    anatomy = built(family, head).anatomy
    for k in range(anatomy.layers):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(anatomy.depth[name] > k)
        entered = {}

        def note(_, args, kwargs, entered=entered):
            entered["layer"] = [*args, *kwargs.values()]

        block = model.get_submodule(anatomy.blocks[k][0])
        part = block if family != "squeezebert" else next(block.children())  # its layers are not called as modules
        hook = part.register_forward_pre_hook(note, with_kwargs=True)
        model(**rows(built(family, head)))
        hook.remove()
        tensors = [value for value in entered["layer"] if isinstance(value, torch.Tensor)]
        assert tensors
        assert not any(tensor.requires_grad for tensor in tensors), (k, anatomy.blocks[k])


@every_case
def test_frozen_layers_stay_bit_identical_and_all_the_rest_moves(build, family, head):
    classifier = build(family, head)
    model, anatomy = classifier.model.train(), classifier.anatomy
    stir(model)
    frozen = {name for name, depth in anatomy.depth.items() if depth <= min(1, anatomy.layers)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    logits = forward(model, rows(classifier)).logits
    torch.nn.functional.cross_entropy(logits, torch.arange(len(TEXTS))).backward()
    optimizer.step()
    unmoved = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    without_gradient = {name for name, p in model.named_parameters() if p.grad is None}
    assert without_gradient == frozen | set(anatomy.unused)
    assert frozen | set(anatomy.unused) <= unmoved
    # A bias before a softmax over keys has gradient zero up to rounding; it may or may not move.
    rest = {name for name in unmoved - frozen - set(anatomy.unused) if "bias" not in name}
    assert rest == NEVER_MOVE.get((family, head), set())


@every_case
def test_features_are_what_enters_the_output_layer(built, family, head):
    classifier = built(family, head)
    batch = rows(classifier)
    with torch.no_grad():
        out = forward(classifier.model, batch)
        again = forward(classifier.model, {"features": out.features})
        plain = classifier.model(**batch).logits
    torch.testing.assert_close(again.logits, out.logits)
    assert torch.equal(out.logits, plain)
    assert not classifier.model.get_submodule(classifier.anatomy.output)._forward_pre_hooks


def test_features_are_those_of_the_token_that_the_head_reads(tmp_path):
    """T5Gemma applies its output layer to every token of the decoder, and takes one that hangs on padding."""
    tokenizer = tiny_tokenizer(SEQ2SEQ)
    part = COMMON | {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(tokenizer), "bos_token_id": 1}
    config = AutoConfig.for_model("t5gemma", encoder=part, decoder=part, vocab_size=len(tokenizer), pad_token_id=0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classifier = load_classifier(EncoderSettings(name=str(tmp_path)), TASK, head="native", seed=0)
    stir(classifier.model)
    batch = rows(classifier)
    with torch.no_grad():
        out = forward(classifier.model, batch)
        again = forward(classifier.model, {"features": out.features})
    torch.testing.assert_close(again.logits, out.logits)
    assert reads_padding(classifier)


@every_case
def test_padding_does_not_change_logits(built, family, head):
    classifier = built(family, head)
    with torch.no_grad():
        together = forward(classifier.model, rows(classifier)).logits
        alone = torch.cat([forward(classifier.model, rows(classifier, [text])).logits for text in TEXTS])
    change = (together - alone).abs().max() / alone.abs().max()
    leaks = family in (PADDING_LEAKS if head == "native" else PADDING_LEAKS_POOLED)
    assert (change > 1e-2) if leaks else (change < 1e-5)
    assert reads_padding(classifier) == leaks


@every_case
def test_saved_and_reloaded_by_plain_transformers(built, tmp_path, family, head):
    classifier = built(family, head)
    classifier.model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**rows(classifier)).logits, classifier.model(**rows(classifier)).logits)
    assert again.config.id2label == dict(enumerate(LABELS))


@every_case
def test_the_longest_input_fits(built, family, head):
    classifier = built(family, head)
    ids = torch.full((1, classifier.max_tokens), 7)
    ids[:, -1] = classifier.tokenizer.eos_token_id or 7  # T5 and BART want an end
    logits = forward(classifier.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    assert torch.isfinite(logits).all()


@every_case
def test_dissecting_leaves_the_model_alone(built, family, head):
    model = built(family, head).model
    kinds = {name: type(module) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = next(model.parameters()).requires_grad_(False)
    random = torch.get_rng_state()
    dissect(model)
    assert not first.requires_grad
    first.requires_grad_(True)
    assert torch.equal(random, torch.get_rng_state())
    assert kinds == {name: type(module) for name, module in model.named_modules()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@every_case
def test_lora_targets_are_in_every_layer_and_nowhere_else(built, family, head):
    classifier = built(family, head)
    depths = {classifier.anatomy.depth[f"{name}.weight"] for name in linear_targets(classifier.anatomy)}
    assert depths == (set() if family in NO_LINEAR else set(range(1, max(classifier.anatomy.layers, 1) + 1)))


@pytest.mark.parametrize(
    ("family", "head"),
    # heads of one layer, of a class, of two children, over every token (two ways), of ours
    [(family, "native") for family in ("bert", "roberta", "distilbert", "deberta-v2", "xlm", "gpt2", "eurobert", "t5")]
    + [("bert", "pooled"), ("qwen3", "pooled")],
)
def test_the_forward_works_when_wrapped_by_peft(build, family, head):
    classifier = build(family, head)
    stir(classifier.model)
    targets = linear_targets(classifier.anatomy)
    base = forward(classifier.model, rows(classifier))
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, modules_to_save=list(classifier.anatomy.head))
    wrapped = get_peft_model(classifier.model, config).eval()
    out = forward(wrapped, rows(classifier))
    torch.testing.assert_close(out.logits, base.logits)
    torch.testing.assert_close(out.features, base.features)
    # The copy of the head that learns is the one that counts.
    with torch.no_grad():
        active_output(wrapped).weight.zero_()
        out = forward(wrapped, rows(classifier))
        assert torch.allclose(out.logits, out.logits[:1], atol=1e-6)
        torch.testing.assert_close(forward(wrapped, {"features": out.features}).logits, out.logits)
        with wrapped.disable_adapter():
            torch.testing.assert_close(forward(wrapped, rows(classifier)).features, base.features)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[] if family in OFTEN else pytest.mark.exhaustive) for family in POOLED]
)
def test_a_spread_reads_several_layers_until_one_is_kept(build, tmp_path, family):
    classifier = build(family, "pooled", layers="spread")
    model = classifier.model
    stir(model)
    layers, width = model.config.layers, model.encoder.config.hidden_size
    assert layers[-1] in (-1, model.config.encoder.num_hidden_layers)
    with torch.no_grad():
        both = forward(model, rows(classifier)).features
        assert both.shape == (len(TEXTS), len(layers) * width)
        model.keep_layer(len(layers) - 1)
        last = forward(model, rows(classifier))
    torch.testing.assert_close(last.features, both[:, -width:])
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**rows(classifier)).logits, last.logits)
