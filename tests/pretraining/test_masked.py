"""The loss by hand, the head that guesses, which architectures can be pretrained: what they learn is the encoder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding, collate
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.encoder.source import RECORD, locate
from nlp_transfer.errors import UserError
from nlp_transfer.pretraining.folder import read_encoder, write_encoder
from nlp_transfer.pretraining.masked import MaskedStep, logits_at, loss_on, masked_model, summed_loss
from nlp_transfer.pretraining.masks import Masks, Vocabulary
from nlp_transfer.pretraining.planning import check_architecture
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.training.inference import to_device
from tests.encoder.families import FAMILIES, TEXTS, tiny_config, tiny_encoder, tiny_tokenizer

WITHOUT = (
    "xlnet",
    "gpt2",
    "gpt_neox",
    "opt",
    "llama",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "gemma3",
    "ctrl",
    "jamba",
    "t5",
    "bart",
    "eurobert",
)
OFTEN = ("bert", "roberta", "modernbert", "mpnet")
ALIKE = ("xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text")  # each is RoBERTa with another vocabulary


def parts(folder: Path, **values) -> tuple[EncoderSettings, object, Masks, Columns, Padding]:
    """What a pretraining is made of, on a few texts."""
    settings = EncoderSettings(name=str(folder), **values)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, _ = masked_model(settings, locate(settings), seed=0)
    tokens = token_ids.encode_whole(tokenizer, TEXTS, None)
    words = Vocabulary.of(tokenizer, rows=model.get_input_embeddings().num_embeddings)
    masks = Masks(tokens, words, share=0.3, seed=0)
    columns = Columns(tokens, np.zeros(len(TEXTS), np.int64), masks.counts.astype(np.float32))
    return settings, model, masks, columns, Padding.of(tokenizer, positions_per_token=1)


def batch_of(columns: Columns, examples: list[int], padding: Padding) -> dict[str, torch.Tensor]:
    return to_device(collate(columns, np.array(examples), padding=padding), torch.device("cpu"))


class Sure(nn.Module):
    """A model that gives the token 7 probability 1/2 and three others the rest, wherever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.forward = lambda **inputs: type(
            "Out", (), {"last_hidden_state": inputs["input_ids"][..., None]}
        )

    def forward(self, **inputs):
        states = self.base_model(**inputs).last_hidden_state
        logits = torch.full((*states.shape[:2], 10), -1e9)
        logits[..., 6:] = torch.log(torch.tensor([1 / 6, 1 / 2, 1 / 6, 1 / 6]))
        return type("Out", (), {"logits": logits})


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch):
    ids = np.array([2, 7, 8, 3, 2, 9, 7, 7, 3], np.int32)
    tokens = token_ids.Tokens.whole(ids, None, np.array([4, 5], np.int64))
    words = Vocabulary(mask=4, special=np.arange(5), ordinary=np.arange(5, 10))
    masks = Masks(tokens, words, share=0.5, seed=0)
    assert masks.counts.tolist() == [1, 2]
    expected = np.zeros(9, bool)
    expected[[2, 5, 6]] = True  # the words 8, 9 and 7
    monkeypatch.setattr(masks, "of", lambda epoch: (ids, expected))
    columns = Columns(tokens, np.zeros(2, np.int64), masks.counts.astype(np.float32))
    padding = Padding(token=0, type=0, left=False)
    both = summed_loss(Sure(), batch_of(columns, [0, 1], padding), masks, 0)
    assert float(both) == pytest.approx(2 * math.log(6) + math.log(2))
    alone = [summed_loss(Sure(), batch_of(columns, [each], padding), masks, 0) for each in (0, 1)]
    assert [float(loss) for loss in alone] == pytest.approx([math.log(6), math.log(6) + math.log(2)])
    nothing = batch_of(columns, [1], padding) | {"weights": torch.zeros(1)}  # where ranks only meet
    assert float(summed_loss(Sure(), nothing, masks, 0)) == 0.0
    left = summed_loss(Sure(), batch_of(columns, [1, 0], Padding(token=0, type=0, left=True)), masks, 0)
    assert float(left) == pytest.approx(float(both))
    mean = loss_on(Accelerator(cpu=True), Sure(), columns, masks, padding=padding, most_tokens=5)
    assert mean == pytest.approx(float(both) / 3)


def test_the_step_derives_the_epoch_from_progress():
    asked = []

    class Noting(Masks):
        def of(self, epoch):
            asked.append(epoch)
            return super().of(epoch)

    tokens = token_ids.Tokens.whole(np.array([2, 7, 3] * 5, np.int32), None, np.full(5, 3, np.int64))
    masks = Noting(tokens, Vocabulary(4, np.arange(5), np.arange(5, 10)), share=0.5, seed=0)
    columns = Columns(tokens, np.zeros(5, np.int64), masks.counts.astype(np.float32))
    for steps, in_epoch in ((9, 3), (8, 3), (1000, 7)):
        asked.clear()
        step = MaskedStep(Sure(), masks, steps=steps, in_epoch=in_epoch)
        for index in range(steps):
            step(batch_of(columns, [0], Padding(token=0, type=0, left=False)), (index + 0.5) / steps)
        assert asked == [index // in_epoch for index in range(steps)]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[] if name in OFTEN else pytest.mark.exhaustive if name in ALIKE else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_every_architecture_learns_or_is_refused(tmp_path: Path, family: str):
    folder = tiny_encoder(tmp_path, family)
    if family in WITHOUT:
        with pytest.raises(UserError, match=r"cannot be pretrained: .*(masked-language|has a decoder|no mask token)"):
            check_architecture(locate(EncoderSettings(name=str(folder))), AutoTokenizer.from_pretrained(folder))
        return
    check_architecture(locate(EncoderSettings(name=str(folder))), AutoTokenizer.from_pretrained(folder))
    settings, model, masks, columns, padding = parts(folder)
    inside = f"{model.base_model_prefix}."
    new = {name: p for name, p in model.named_parameters() if name.endswith("bias") and not name.startswith(inside)}
    assert new
    assert not any(p.any() for p in new.values())  # whatever was in memory
    batch = batch_of(columns, [0, 1, 2, 3], padding)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    expected = batch["attention_mask"].bool() & (torch.arange(inputs["input_ids"].shape[1]) % 3 == 1)
    with torch.inference_mode():
        every = model(**inputs).logits
        torch.testing.assert_close(logits_at(model, inputs, expected), every[expected], atol=1e-5, rtol=0)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(learning, lr=2e-3), []
    for _ in range(8):
        losses.append(summed_loss(model, batch, masks, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in learning)
        optimizer.step()
    assert losses[-1] < losses[0]
    output = {"texts": 4, "epochs": 8.0, "new_head": True, "held_out": 1, "before": 2.0, "after": 1.0}
    source = locate(settings)
    write_encoder(tmp_path / "made", model, settings, source, key="k", origin="o", **output)
    made = read_encoder(tmp_path / "made", source, key="k")
    assert made is not None
    assert (made.name, made.sha256, made.weights != source.sha256) == (source.name, source.sha256, True)
    again, info = AutoModel.from_pretrained(made.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(model.state_dict().keys() >= {name} for name in info["unexpected_keys"])  # a head for two tasks
    model.eval()
    # One text, without padding: the library gives that zeros, which Funnel reads.
    batch = batch_of(columns, [2], padding)
    inputs = {name: batch[name] for name in inputs}
    with torch.inference_mode():
        ours, theirs = model.base_model(**inputs).last_hidden_state, again.eval()(**inputs).last_hidden_state
    torch.testing.assert_close(ours, theirs)
    assert AutoTokenizer.from_pretrained(made.folder)(TEXTS) == AutoTokenizer.from_pretrained(folder)(TEXTS)
    assert read_encoder(tmp_path / "made", source, key="other") is None
    weights = made.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\1")
    assert read_encoder(tmp_path / "made", source, key="k") is None


@pytest.mark.parametrize(("family", "message"), [("bart", "'bart' has a decoder"), ("gpt2", "modelling for 'gpt2'")])
def test_refusals_name_the_reason(tmp_path: Path, family: str, message: str):
    folder = tiny_encoder(tmp_path, family)
    with pytest.raises(UserError, match=message):
        check_architecture(locate(EncoderSettings(name=str(folder))), AutoTokenizer.from_pretrained(folder))


def test_a_model_of_ours_with_a_pooled_head_is_refused(tmp_path: Path):
    settings = EncoderSettings(name=str(tiny_encoder(tmp_path)))
    classifier = load_classifier(settings, Task("single_label", ("a", "b"), pair=False), head="pooled", seed=0)
    classifier.model.save_pretrained(tmp_path / "model")
    classifier.tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="a model with our pooled head"):
        check_architecture(locate(EncoderSettings(name=str(tmp_path / "model"))), classifier.tokenizer)


def test_a_head_is_the_checkpoint_s_own_where_there_is_one(tmp_path: Path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        whole = BertForMaskedLM(tiny_config("bert"))
    with torch.no_grad():
        whole.cls.predictions.bias.uniform_()
    whole.save_pretrained(tmp_path / "with")
    tiny_tokenizer().save_pretrained(tmp_path / "with")
    settings, *_ = parts(tmp_path / "with")
    for seed in (0, 1):
        model, new = masked_model(settings, locate(settings), seed=seed)
        found = model.state_dict()
        assert not new
        assert found.keys() == whole.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in whole.state_dict().items())
    folder = tiny_encoder(tmp_path)
    settings = EncoderSettings(name=str(folder))
    (one, new), (same, _), (other, _) = (masked_model(settings, locate(settings), seed=seed) for seed in (0, 0, 1))
    assert new
    dense = [model.cls.predictions.transform.dense.weight for model in (one, same, other)]
    assert torch.equal(dense[0], dense[1])
    assert not torch.equal(dense[0], dense[2])
    assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
    words = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(one.get_input_embeddings().weight, words)


def test_a_new_last_layer_is_the_word_embeddings_also_where_the_configuration_does_not_tie_them(tmp_path: Path):
    folder = tiny_encoder(tmp_path, tie_word_embeddings=False)
    settings = EncoderSettings(name=str(folder))
    model, _ = masked_model(settings, locate(settings), seed=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    own = AutoModelForMaskedLM.from_pretrained(folder)
    own.save_pretrained(tmp_path / "own")  # with a last layer of its own
    settings = EncoderSettings(name=str(tmp_path / "own"))
    model, _ = masked_model(settings, locate(settings), seed=0)
    assert torch.equal(model.get_output_embeddings().weight, own.get_output_embeddings().weight)


def test_a_pooler_stays_and_what_was_never_there_is_not_made_up(tmp_path: Path):
    folder = tiny_encoder(tmp_path)
    settings, model, *_ = parts(folder)
    output = {"texts": 1, "epochs": 1.0, "new_head": True, "held_out": 1, "before": 2.0, "after": 1.0}
    write_encoder(tmp_path / "a", model, settings, locate(settings), key="k", origin="o", **output)
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "a"))
    assert torch.equal(before["pooler.dense.weight"], after["pooler.dense.weight"])
    save_file({name: t for name, t in before.items() if "pooler" not in name}, folder / "model.safetensors")
    write_encoder(tmp_path / "b", model, settings, locate(settings), key="k", origin="o", **output)
    assert not any("pooler" in name for name in load_file(tmp_path / "b" / "model.safetensors"))


def test_a_head_for_classification_stays_and_what_it_shares_was_trained(tmp_path: Path):
    """ModernBERT's two heads share a layer; those of the others have nothing in common."""
    output = {"texts": 1, "epochs": 1.0, "new_head": True, "held_out": 1, "before": 2.0, "after": 1.0}
    task = Task("single_label", ("a", "b", "c"), pair=False)
    for family in ("modernbert", "bert", "roberta"):
        settings = EncoderSettings(name=str(tiny_encoder(tmp_path, family)))
        before = load_classifier(settings, task, head="native", seed=1)
        old = tmp_path / f"{family}-model"
        before.model.save_pretrained(old)
        before.tokenizer.model_max_length = 9
        before.tokenizer.save_pretrained(old)
        (old / RECORD).write_text(json.dumps({"max_tokens": 30}))
        (old / "answers.json").write_text("{}")
        settings, model, *_ = parts(old)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5
        source = locate(settings)
        write_encoder(tmp_path / family, model, settings, source, key="k", origin="o", **output)
        made = read_encoder(tmp_path / family, source, key="k", origin="o")
        assert made is not None
        assert not {RECORD, "answers.json"} & {path.name for path in made.folder.iterdir()}
        again = load_classifier(settings, task, head="native", seed=2, source=made)
        assert not again.fresh
        assert again.max_tokens == 30
        found, was, trained = again.model.state_dict(), before.model.state_dict(), model.state_dict()
        shared = {name for name in found.keys() & trained.keys() if name.startswith("head.")}
        assert bool(shared) is (family == "modernbert")
        for name, tensor in found.items():
            assert torch.equal(tensor, trained.get(name, was[name])), name
        other = load_classifier(settings, Task("single_label", ("x", "y", "z"), pair=False), head="native", seed=2)
        assert any(name.startswith("classifier") for name in other.fresh)


def test_from_random_weights_nothing_of_the_checkpoint_is_left(tmp_path: Path):
    folder = tiny_encoder(tmp_path)
    settings, model, *_ = parts(folder, pretrained=False)
    output = {"texts": 1, "epochs": 1.0, "new_head": True, "held_out": 1, "before": 2.0, "after": 1.0}
    write_encoder(tmp_path / "a", model, settings, locate(settings), key="k", origin="o", **output)
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "a"))
    assert "pooler.dense.weight" not in after
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], after[name])


def test_the_lowest_layers_alone_are_pretrained_where_they_alone_are_used(tmp_path: Path):
    folder = tiny_encoder(tmp_path, num_hidden_layers=3)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    settings, model, *_ = parts(folder, depth=1)
    output = {"texts": 1, "epochs": 1.0, "new_head": True, "held_out": 1, "before": 2.0, "after": 1.0}
    write_encoder(tmp_path / "a", model, settings, locate(settings), key="k", origin="o", **output)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["num_hidden_layers"] == 1
    assert (tmp_path / "a" / "1_Pooling" / "config.json").is_file()
    assert not any("layer.1." in name for name in load_file(tmp_path / "a" / "model.safetensors"))
