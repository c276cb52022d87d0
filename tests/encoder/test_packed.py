"""The padding-free forward answers as the padded one does, and what it cannot do stays padded and says why."""

import copy
import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.squeezebert import modeling_squeezebert

from nlp_transfer.data.task import Task
from nlp_transfer.encoder import attention, layout, unpadding
from nlp_transfer.encoder.anatomy import is_causal
from nlp_transfer.encoder.classifier import Classifier, forward
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.packed import NotPacked, pack
from nlp_transfer.strategies.adapter import Adapter

from .conftest import LABELS, stir
from .families import FAMILIES, PREFIXES_FIT, TEXTS

HEADS = ("native", "pooled")
PACKED = ["bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "distilbert", "electra"]
PACKED += ["albert", "modernbert", "eurobert", "gte", "nomic_bert", "mobilebert", "ernie", "esm", "gpt2", "gpt_neox"]
PACKED += ["opt", "llama", "qwen2", "qwen3", "gemma3_text", "gemma3", "ctrl", "bart"]
BEFORE_LAYERS = ["albert", "mobilebert", "esm", "gpt2", "ctrl", "bart"]  # the others before the embeddings
# Our own head is the same on every family: of the pairs with it CI tries one of each way to read a text.
OFTEN = {("bert", "pooled"), ("modernbert", "pooled"), ("gpt2", "pooled"), ("bart", "pooled")}
CASES = [
    pytest.param(family, head, marks=[] if head == "native" or (family, head) in OFTEN else pytest.mark.exhaustive)
    for family in PACKED
    for head in HEADS
]
UNEQUAL, LONG = [1, 60, 7, 33, 2, 18], [60, 41, 52, 60, 30]  # the latter longer than every sliding window
LENGTHS = {"unequal": UNEQUAL, "equal": [9, 9, 9], "one row": [17], "one token": [1], "long": LONG}

every_case = pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)


@pytest.fixture(scope="module")
def twins(build):
    """`twins(family, head)` is a packed classifier without dropout whose attention matters, and its padded model."""
    made = {}

    def get(family: str, head: str = "native", **settings) -> tuple[Classifier, torch.nn.Module]:
        key = family, head, str(settings)
        if key not in made:
            classifier = build(family, head, **settings)
            stir(classifier.model)
            without_dropout(classifier.model)
            padded = copy.deepcopy(classifier.model)
            pack(classifier.model, classifier.anatomy, classifier.tokenizer)
            made[key] = classifier, padded
        return made[key]

    return get


@pytest.fixture(autouse=True)
def _several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches as small as these would always be one group."""
    monkeypatch.setattr(layout, "TRAINING", replace(layout.TRAINING, group=1000))


def without_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def rows(classifier: Classifier, lengths: list[int], *, left: bool = False) -> dict[str, torch.Tensor]:
    """Random ordinary tokens; where there is a decoder, each text ends as T5 and BART insist."""
    tokenizer, generator = classifier.tokenizer, torch.Generator().manual_seed(0)
    ordinary = torch.tensor([token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids])
    ids = torch.full((len(lengths), max(lengths)), tokenizer.pad_token_id)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        own = slice(max(lengths) - length, None) if left else slice(0, length)
        ids[row, own] = ordinary[torch.randint(len(ordinary), (length,), generator=generator)]
        mask[row, own] = 1
        types[row, own] = torch.arange(length) * 2 // length
        if getattr(classifier.model.config, "is_encoder_decoder", False):
            ids[row, own.stop or -1 if left else length - 1] = tokenizer.eos_token_id
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"token_type_ids": types} if "token_type_ids" in tokenizer.model_input_names else {})


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / one.norm()).item()


def answers_apart(padded, packed, batch) -> float:
    with torch.no_grad():
        both = forward(padded, batch), forward(packed, batch)
    return max(map(apart, *both))


def gradients(model, batch, *, half: bool = False) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        out = forward(model, batch)
    weights = torch.randn(out.logits.shape, generator=torch.Generator().manual_seed(1))
    (out.logits.float() * weights).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients_agree(padded, packed, batch, *, tolerance: float = 1e-4) -> None:
    wanted, found = gradients(padded, batch), gradients(packed, batch)
    assert wanted.keys() == found.keys()
    # Some are zero but for rounding: the bias of keys, say, which a softmax over keys does not feel.
    rounding = 1e-6 * torch.stack([gradient.norm() for gradient in wanted.values()]).max()
    wrong = {n for n, g in wanted.items() if not (g - found[n]).norm() <= tolerance * g.norm() + rounding}
    assert wrong == set()


@pytest.mark.parametrize("head", ["native", pytest.param("pooled", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in PACKED])
def test_what_is_not_packed_says_why_and_stays_as_it_was(built, family, head):
    classifier = copy.deepcopy(built(family, head))
    with pytest.raises(NotPacked, match="without padding") as refused:
        pack(classifier.model, classifier.anatomy, classifier.tokenizer)
    assert family in str(refused.value)
    batch = rows(classifier, [9, 4])
    with torch.no_grad():
        assert torch.equal(forward(classifier.model, batch).logits, forward(built(family, head).model, batch).logits)


def test_layers_that_no_hook_reaches_are_not_called_packed(built, monkeypatch):
    """SqueezeBERT's are not called as modules; with a mask of its own it answers as before, and is padded."""
    classifier = copy.deepcopy(built("squeezebert", "native"))
    monkeypatch.setattr(
        modeling_squeezebert,
        "create_bidirectional_mask",
        lambda *, attention_mask, **_: (1.0 - attention_mask[:, None, None]) * torch.finfo(torch.float32).min,
    )
    with pytest.raises(NotPacked, match=r"the layers of squeezebert do not run without padding \(RuntimeError\)"):
        pack(classifier.model, classifier.anatomy, classifier.tokenizer)


@every_case
def test_answers_are_those_of_the_padded_model(twins, family, head):
    classifier, padded = twins(family, head)
    for name, lengths in LENGTHS.items():
        assert answers_apart(padded, classifier.model, rows(classifier, lengths)) < 1e-5, name


# The heads of encoders read the first column, whatever stands there; those of decoders find the last token.
@pytest.mark.parametrize("family", PACKED)
def test_padding_may_stand_on_the_left(twins, family):
    """Where the tokenizer puts it there: that is tried when a model is packed."""
    decoder = is_causal(twins(family)[0].model.config) and family != "bart"
    for head in HEADS if decoder else HEADS[1:]:
        classifier, padded = twins(family, head)
        packed, tokenizer = copy.deepcopy(padded), copy.copy(classifier.tokenizer)
        tokenizer.padding_side = "left"
        pack(packed, classifier.anatomy, tokenizer)
        for lengths in (UNEQUAL, LONG):
            assert answers_apart(padded, packed, rows(classifier, lengths, left=True)) < 1e-5


@pytest.mark.parametrize("family", PACKED)
def test_embeddings_see_no_padding_either_where_positions_can_be_given(twins, family):
    classifier, _ = twins(family)
    seen = []
    with ExitStack() as hooks:
        for module in classifier.model.modules():
            if isinstance(module, torch.nn.Embedding):  # the first that is called looks up words
                hooks.enter_context(module.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel())))
        forward(classifier.model, rows(classifier, [9, 4, 2]))
    assert seen[0] == (27 if family in BEFORE_LAYERS else 15)


@every_case
def test_gradients_are_those_of_the_padded_model(twins, family, head):
    classifier, padded = twins(family, head)
    for mode, lengths in ((True, UNEQUAL), (False, LONG), (True, [5])):
        batch = rows(classifier, lengths)
        assert_gradients_agree(padded.train(mode), classifier.model.train(mode), batch)
    padded.eval()
    classifier.model.eval()


@every_case
@pytest.mark.parametrize("lengths", [UNEQUAL, [3, 2]], ids=["filled", "filled in part"])
def test_tokens_that_fill_the_packed_row_change_nothing(twins, monkeypatch, family, head, lengths):
    """As they do in bfloat16, where it would be seen less well."""
    classifier, padded = twins(family, head)
    sizes = set()
    monkeypatch.setattr(unpadding, "_in_half", lambda _: True)
    of = layout.Layout.of
    monkeypatch.setattr(layout.Layout, "of", lambda *given, **more: seen(sizes, of(*given, **more)))
    batch = rows(classifier, lengths)
    assert answers_apart(padded, classifier.model, batch) < 1e-5
    assert_gradients_agree(padded, classifier.model, batch)
    assert sizes == ({128} if lengths is UNEQUAL else {8})


def seen(sizes: set[int], found: layout.Layout) -> layout.Layout:
    sizes.add(len(found.places))
    return found


def shifted(group: layout.PaddedGroup) -> layout.PaddedGroup:
    return group if group.gather is None else dataclasses.replace(group, gather=group.gather.roll(1))


@pytest.mark.parametrize("family", PACKED)
def test_a_wrong_attention_would_show(twins, monkeypatch, family):
    """What the comparisons above rest on: their models are such that each of these mistakes is seen."""
    classifier, padded = twins(family)
    batch = rows(classifier, UNEQUAL)
    compare = partial(answers_apart, padded, classifier.model, batch)
    with monkeypatch.context() as patch:  # padding is seen, and so is what comes later
        patch.setattr(attention._Hidden, "of", lambda *_: None)
        assert compare() > 1e-3
    with monkeypatch.context() as patch:  # each text sees a token of the one before it
        patch.setattr(layout, "_group", lambda *given, group=layout._group: shifted(group(*given)))
        assert compare() > 1e-3
    assert compare() < 1e-5


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text"])
def test_a_token_that_spells_padding_is_not_counted_where_the_library_does_not(twins, family):
    classifier, padded = twins(family)
    batch = rows(classifier, [9, 4, 6])
    batch["input_ids"][0, 3] = classifier.tokenizer.pad_token_id
    assert answers_apart(padded, classifier.model, batch) < 1e-5


def test_padding_is_put_back_for_hidden_states_that_are_read_alone(twins, monkeypatch):
    classifier, _ = twins("bert", "pooled")
    unpacked = []
    put_back = layout.Layout.unpack
    monkeypatch.setattr(layout.Layout, "unpack", lambda *given: unpacked.append(1) or put_back(*given))
    batch = rows(classifier, [9, 4])
    states = classifier.model.encoder(**batch, output_hidden_states=True).hidden_states
    assert (len(states), len(unpacked)) == (3, 1)  # what leaves the last layer
    assert states[1].shape == (2, 9, 32)
    assert [state.shape for state in states[:2]] == [(2, 9, 32)] * 2
    assert len(unpacked) == 4


def test_hidden_states_of_every_layer_are_padded_again(twins):
    for family in ("bert", "albert", "modernbert", "llama"):
        classifier, padded = twins(family, "pooled", layers="spread")
        assert len(classifier.model.config.layers) > 1
        assert_gradients_agree(padded, classifier.model, rows(classifier, UNEQUAL))
        batch = rows(classifier, UNEQUAL)
        encoders = padded.encoder, classifier.model.encoder
        with torch.no_grad():
            states = [encoder(**batch, output_hidden_states=True).hidden_states for encoder in encoders]
        real = batch["attention_mask"].bool()
        for one, other in zip(*states, strict=True):
            assert one.shape == other.shape
            assert apart(one[real], other[real]) < 1e-5


def test_layers_may_be_listed_and_mixed(twins):
    classifier, padded = twins("bert", "pooled", layers=[0, -1, 1], pooling="max")
    assert_gradients_agree(padded, classifier.model, rows(classifier, UNEQUAL))


def test_windows_and_texts_read_alone_are_packed_too(twins):
    classifier, padded = twins("bert")
    windows = rows(classifier, UNEQUAL) | {"document": torch.tensor([0, 0, 1, 1, 1, 2])}
    assert_gradients_agree(padded, classifier.model, windows)
    siamese, padded = twins("bert", "pooled", pairs="siamese", task=Task("single_label", LABELS, pair=True))
    batch = dict(siamese.tokenizer(TEXTS, TEXTS[1:] + TEXTS[:1], padding=True, return_tensors="pt"))
    assert answers_apart(padded, siamese.model, batch) < 1e-5
    assert_gradients_agree(padded, siamese.model, batch)


# A prefix lengthens the keys alone, with states of its own for every row; Lily routes by the mean over all tokens.
NOT_PACKED = ("PREFIX_TUNING", "LILY")
KINDS = ["LORA", "IA3", "OFT", "LOHA", "OSF", "PROMPT_TUNING", *NOT_PACKED]
KINDS = [kind for kind in KINDS if PREFIXES_FIT or kind != "PREFIX_TUNING"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_packed_right_or_not_at_all(build, kind):
    padded, packed = (build("bert", "native") for _ in range(2))
    for classifier in (padded, packed):
        torch.manual_seed(2)
        stir(classifier.model)
        Adapter(peft_type=kind).apply(classifier)
        without_dropout(classifier.model)
        with torch.no_grad():
            for parameter in classifier.model.parameters():
                if parameter.requires_grad and parameter.is_floating_point():  # most begin as if they were not there
                    parameter.add_(torch.randn_like(parameter) * 0.02)
    with pytest.raises(NotPacked) if kind in NOT_PACKED else nullcontext():
        costs = pack(packed.model, packed.anatomy, packed.tokenizer)
        # A soft prompt stands before the embedded text, whose padding is there already.
        assert costs == (8 if kind in ("PROMPT_TUNING", "P_TUNING") else 32)
    for lengths in ([5, 30, 2], [4]):
        assert_gradients_agree(padded.model.train(), packed.model.train(), rows(packed, lengths))


@pytest.mark.parametrize(("side", "why"), [("left", "ValueError"), ("right", "gives other outputs")])
def test_prompts_of_a_decoder_are_not_packed(build, side, why):
    """On the left, padding stands between prompt and text; on the right, the library reads its state as the text's."""
    classifier = build("llama", "native")
    classifier.tokenizer.padding_side = side
    Adapter(peft_type="PROMPT_TUNING").apply(classifier)
    with pytest.raises(NotPacked, match=why):
        pack(classifier.model, classifier.anatomy, classifier.tokenizer)


@pytest.mark.parametrize(("family", "around_hooks"), [("bert", False), ("llama", False), ("bert", True)])
def test_layers_that_run_twice_for_memory_have_the_same_gradients(twins, build, monkeypatch, family, around_hooks):
    _, padded = twins(family)
    classifier = build(family, "native")
    stir(classifier.model)
    make_dropout_cheap(classifier.model)
    without_dropout(classifier.model)
    classifier.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pack(classifier.model, classifier.anatomy, classifier.tokenizer)
    runs = []
    product = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given: runs.append(torch._C._current_graph_task_id()) or product(*given))
    if around_hooks:  # as transformers did it once: what is run again are the hooks as well

        def call(layer, *args, **kwargs):
            return layer._gradient_checkpointing_func(partial(torch.nn.Module.__call__, layer, **kwargs), *args)

        monkeypatch.setattr(BertLayer, "__call__", call)
        monkeypatch.setattr(BertLayer, "gradient_checkpointing", False, raising=False)
        for layer in classifier.model.bert.encoder.layer:
            layer.gradient_checkpointing = False
        padded = copy.deepcopy(padded)
        for layer in padded.bert.encoder.layer:
            layer._gradient_checkpointing_func = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    batch = rows(classifier, UNEQUAL)
    gradients(classifier.model.train(), batch)
    # bmm: two a group forward, two a group where the layer is run again, and four a group backward
    assert sum(task != -1 for task in runs) == 3 * sum(task == -1 for task in runs)
    assert_gradients_agree(padded.train(), classifier.model, batch)


def test_threads_may_ask_one_model_at_once(twins):
    classifier, _ = twins("bert")
    batches = [rows(classifier, lengths) for lengths in (UNEQUAL, [3, 20], [8], LONG)]
    with torch.no_grad():
        wanted = [classifier.model(**batch).logits for batch in batches]
    barrier = threading.Barrier(len(batches))

    def ask(batch: dict[str, torch.Tensor], logits: torch.Tensor) -> bool:
        barrier.wait()
        with torch.no_grad():
            return all(torch.equal(classifier.model(**batch).logits, logits) for _ in range(25))

    with ThreadPoolExecutor(len(batches)) as threads:
        assert all(threads.map(ask, batches, wanted))


def test_a_failed_pass_leaves_nothing_behind(twins):
    classifier, padded = twins("bert")
    broken = rows(classifier, [9, 4])
    broken["input_ids"][0, 0] = 10**6
    with pytest.raises(IndexError):
        forward(classifier.model, broken)
    with pytest.raises(RuntimeError, match="needs an attention mask"):
        classifier.model(input_ids=broken["input_ids"][1:])
    assert answers_apart(padded, classifier.model, rows(classifier, UNEQUAL)) < 1e-5


def test_a_copy_is_packed_and_independent(twins):
    classifier, padded = twins("modernbert")
    batch = rows(classifier, LONG)
    twin = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    changed = copy.deepcopy(padded)
    changed.load_state_dict(twin.state_dict())
    assert answers_apart(changed, twin, batch) < 1e-5
    assert answers_apart(padded, classifier.model, batch) < 1e-5


@pytest.mark.parametrize(("family", "head"), [("bert", "native"), ("modernbert", "pooled"), ("gemma3_text", "native")])
def test_what_is_saved_does_not_say_that_it_was_packed(twins, tmp_path, family, head):
    classifier, padded = twins(family, head)
    classifier.model.save_pretrained(tmp_path / "packed")
    padded.save_pretrained(tmp_path / "padded")
    names = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in ("packed", "padded")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "padded" / name).read_bytes()
    assert attention.NAME not in json.dumps(json.loads((tmp_path / "packed" / "config.json").read_text()))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "packed").eval()
    assert answers_apart(padded, again, rows(classifier, UNEQUAL)) < 1e-6


# Rotated queries and keys are float32 where values are bfloat16; T5 softens nothing, so that rounding counts most.
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt_neox", "llama", "gemma3_text"])
def test_half_precision_is_close(twins, family):
    classifier, padded = twins(family, "pooled")
    batch = rows(classifier, UNEQUAL)
    exact = gradients(padded, batch)
    with torch.no_grad():
        logits = forward(padded, batch).logits
    far = []
    for model in (padded, classifier.model):
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            far.append(apart(logits, forward(model, batch).logits.float()))
        found = gradients(model, batch, half=True)
        far.append(apart(*(torch.cat([g[n].flatten() for n in exact]) for g in (exact, found))))
    assert far[2] < 0.03
    assert far[2] < 2 * far[0]  # no farther than the padded model
    assert far[3] < 2 * far[1]


def test_dropout_of_attention_is_drawn_by_the_seed_and_while_training_alone(build):
    classifier = build("bert", "native", head_dropout=0.0)
    without_dropout(classifier.model)
    for layer in classifier.model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    stir(classifier.model)
    pack(classifier.model, classifier.anatomy, classifier.tokenizer)
    model, batch, made = classifier.model.train(), rows(classifier, UNEQUAL), []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(forward(model, batch).logits)
        still = [forward(model.eval(), batch).logits for _ in range(2)]
    assert torch.equal(made[0], made[1])
    assert apart(made[0], made[2]) > 1e-3
    assert torch.equal(*still)


@pytest.mark.parametrize(("rows_", "longest", "most"), [(32, 30, 14), (64, 128, 16), (128, 64, 25), (256, 64, 45)])
def test_packed_rows_in_bfloat16_have_few_sizes_and_little_is_filled_up(rows_, longest, most):
    random, sizes = np.random.default_rng(0), set()
    for _ in range(200):
        lengths = torch.tensor([longest, *random.integers(longest // 4, longest, rows_ - 1)])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        packed = layout.Layout.of(mask, multiple=unpadding._token_multiple(mask), half=True)
        assert packed.filling < max(16, lengths.sum() / 32)
        sizes.add(len(packed.places))
    assert len(sizes) <= most
    with torch.inference_mode():
        assert unpadding._token_multiple(mask) == 16
