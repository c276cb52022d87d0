"""Saved model folders: they are restored exactly, and damage and foreign code are refused."""

import json
import resource
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from nlp_transfer.artefact.folder import RECORD, load_model, save
from nlp_transfer.artefact.record import read_record
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Lora
from tests.artefact.records import TASK, record_of
from tests.encoder.families import TEXTS

LONG = "my card has not arrived yet please refund the order " * 20


@pytest.fixture(scope="module")
def saved(encoder, tmp_path_factory) -> dict[str, Path]:
    """One folder of each layout: the native head, ours, and an adapter that is not merged."""
    folders = {}
    for kind in ("native", "pooled", "adapter"):
        classifier = load_classifier(
            EncoderSettings(name=str(encoder)), TASK, head="pooled" if kind == "pooled" else "native", seed=0
        )
        if kind == "adapter":
            Lora(rank=2).apply(classifier)
        folders[kind] = tmp_path_factory.mktemp(kind) / "model"
        save(classifier, record_of(classifier, merged=kind != "adapter"), folders[kind])
    return folders


@pytest.fixture
def copied(saved, tmp_path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved[kind], tmp_path / "model"))


def load(folder: Path) -> None:
    load_model(folder, read_record(folder))


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_json(path: Path) -> None:
    path.write_text("[]")


def without_content(path: Path) -> None:
    path.write_text("{}")


def without_tensor(path: Path, name: str = "") -> None:
    tensors = load_file(path)
    del tensors[name or max(tensors)]
    save_file(tensors, path, {"format": "pt"})


def without_lora(path: Path) -> None:
    without_tensor(path, next(name for name in sorted(load_file(path)) if "lora_A" in name))


def with_tensor(path: Path) -> None:
    save_file({**load_file(path), "bert.more": np.zeros(1, np.float32)}, path, {"format": "pt"})


def misshapen(path: Path) -> None:
    tensors = load_file(path)
    name = max(tensors)
    save_file({**tensors, name: np.zeros((3, 3, 3), np.float32)}, path, {"format": "pt"})


ANYHOW = [Path.unlink, half, emptied, zeroed]
DAMAGES = {
    ("native", "config.json"): [*ANYHOW, other_json, without_content],
    ("native", "tokenizer.json"): [*ANYHOW, other_json, without_content],
    ("native", "tokenizer_config.json"): [*ANYHOW, other_json],
    ("native", RECORD): [*ANYHOW, other_json, without_content],
    ("native", "model.safetensors"): [*ANYHOW, without_tensor, with_tensor, misshapen],
    ("pooled", "config.json"): [Path.unlink, half, without_content],
    ("pooled", "model.safetensors"): [half, without_tensor, misshapen],
    ("adapter", "adapter_config.json"): [*ANYHOW, other_json, without_content],
    ("adapter", "adapter_model.safetensors"): [*ANYHOW, without_tensor, without_lora, misshapen],
    ("adapter", "tokenizer_config.json"): [without_content],
}


@pytest.mark.parametrize(
    ("kind", "file", "damage"), [(*where, damage) for where, damages in DAMAGES.items() for damage in damages]
)
def test_a_damaged_file_is_named(copied, kind, file, damage):
    folder = copied(kind)
    damage(folder / file)
    with pytest.raises(UserError) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_folders_are_loaded(saved):
    for folder in saved.values():
        assert len(Predictor(folder).predict(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize(
    ("kind", "file", "key", "value"),
    [
        ("native", "config.json", "auto_map", {"AutoModelForSequenceClassification": "evil.Model"}),
        ("native", "config.json", "attn_implementation", "other/repo"),
        ("pooled", "tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Tokenizer", None]}),
        ("adapter", "tokenizer_config.json", "auto_map", {"AutoTokenizer": "other/repo--evil.Tokenizer"}),
    ],
)
def test_code_in_a_saved_folder_is_refused(copied, kind, file, key, value):
    folder = copied(kind)
    (folder / "evil.py").write_text("raise RuntimeError('ran')")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {key: value}))
    with pytest.raises(UserError, match=rf"{file} asks to run code .*which is never run from a saved model"):
        load(folder)


def test_the_code_of_our_own_head_is_never_taken_from_the_folder(copied):
    folder = copied("pooled")
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for name in ("pooled.py", "pooled_config.py"):
        (folder / name).write_text("raise RuntimeError('ran')")
    load(folder)


def test_a_pickled_adapter_is_never_opened(copied):
    folder = copied("adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        load(folder)


def test_the_record_of_another_format_is_refused(copied):
    folder = copied("native")
    content = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UserError, match=r"format 99, not.*another version"):
        read_record(folder)


@pytest.mark.parametrize("group", [{"nmae": "x"}, [], None])
def test_a_record_with_another_encoder_group_is_refused(copied, group):
    folder = copied("adapter")
    content = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(content | {"encoder": group}))
    with pytest.raises(UserError, match=rf"{RECORD} cannot be read"):
        read_record(folder)


def test_nothing_is_printed_of_what_the_libraries_are_about_to_change(saved, recwarn):
    load_model(saved["adapter"], read_record(saved["adapter"]))
    assert [str(warning.message) for warning in recwarn] == []


def test_an_adapter_is_put_on_the_weights_it_was_made_for_alone(saved, encoder):
    record = read_record(saved["adapter"])
    assert record.encoder.sha256 == locate(EncoderSettings(name=str(encoder))).sha256
    for digest, message in (("ab" * 32, "not the expected"), (None, "does not say which weights")):
        with pytest.raises(UserError, match=message):
            load_model(saved["adapter"], replace(record, encoder=replace(record.encoder, sha256=digest)))


def test_mixed_files_of_two_models_are_refused(copied):
    folder = copied("native")
    content = json.loads((folder / RECORD).read_text())
    content["task"]["labels"].append("more")
    (folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"2 outputs, the task in {RECORD} 3"):
        load(folder)


def test_a_folder_that_is_no_saved_model_is_not_replaced(encoder, tmp_path):
    classifier = load_classifier(EncoderSettings(name=str(encoder)), TASK, head="native", seed=0)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a saved model; it is not overwritten"):
        save(classifier, record_of(classifier), tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").is_file()


@pytest.mark.parametrize("chunk", [False, True])
def test_a_readapted_model_may_use_another_length(encoder, tmp_path, chunk):
    classifier = load_classifier(EncoderSettings(name=str(encoder)), TASK, head="native", seed=0)
    folder = tmp_path / "model"
    save(classifier, record_of(classifier, limit=16, chunk=chunk), folder)
    assert read_record(folder).tokens.limit == 16
    again = load_classifier(EncoderSettings(name=str(folder)), TASK, head="native", seed=0)
    assert again.max_tokens == classifier.max_tokens == 64
    # and anybody's pipeline cuts where this model was measured
    reader = pipeline("text-classification", str(folder))
    assert reader.tokenizer.model_max_length == 16
    assert reader(LONG, truncation=True)[0]["label"] in TASK.labels


def test_a_folder_that_cannot_be_written_is_named_and_the_old_model_stays(saved, encoder, tmp_path):
    classifier = load_classifier(EncoderSettings(name=str(encoder)), TASK, head="native", seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"the model cannot be saved in {tmp_path}/file/model"):
        save(classifier, record_of(classifier), tmp_path / "file" / "model")
    folder = Path(shutil.copytree(saved["native"], tmp_path / "model"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the weights are larger: as if the disk were full
    try:
        with pytest.raises(UserError, match=rf"the model cannot be saved in {folder}"):
            save(classifier, record_of(classifier), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    load(folder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".making")] == []


@pytest.mark.parametrize("merged", [True, False])
def test_saving_an_adapter_makes_no_requests(encoder, tmp_path, monkeypatch, recwarn, merged: bool):
    """A name that could be one of the Hub's is no reason to look there."""
    tried: list[object] = []

    def refuse(_socket: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network here")

    def resolve(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    classifier = load_classifier(EncoderSettings(name=str(encoder)), TASK, head="native", seed=0)
    Lora(rank=2).apply(classifier)
    classifier.source = replace(classifier.source, name="acme/tiny-bert", origin="Hub revision 0")
    recwarn.clear()
    save(classifier, record_of(classifier, merged=merged), tmp_path / "model")
    assert tried == []
    assert [str(warning.message) for warning in recwarn] == []
    named = tmp_path / "model" / ("adapter" if merged else ".") / "adapter_config.json"
    assert json.loads(named.read_text())["base_model_name_or_path"] == "acme/tiny-bert"
