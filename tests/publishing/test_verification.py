"""What is saved answers plain transformers as it answered when it was saved, and whatever changed it is found out."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nlp_transfer.artefact.folder import RECORD, save
from nlp_transfer.artefact.record import Record, read_record
from nlp_transfer.cli import main
from nlp_transfer.data.task import Task
from nlp_transfer.encoder import answers
from nlp_transfer.encoder.answers import ANSWERS
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.errors import UserError
from nlp_transfer.publishing import verification
from nlp_transfer.publishing.verification import OUR_CODE, Mismatch, Unanswered, fresh_process, verify
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Adapter, Lora
from tests.artefact.records import TASK, record_of
from tests.place import adapt_words, furnish
from tests.publishing.forked import Plain

PAIRS = Task("multi_label", ("card", "film", "late"), pair=True)
NUMBER = Task("regression", (), pair=False)
# name -> task, head, strategy
KINDS = {
    "native": (TASK, "native", None),
    "native pairs": (PAIRS, "native", None),
    "native number": (NUMBER, "native", None),
    "pooled": (TASK, "pooled", None),
    "pooled siamese": (PAIRS, "pooled", None),
    "lora": (TASK, "native", Lora(rank=2)),
    "lora on ours": (PAIRS, "pooled", Lora(rank=2)),
    "prompts": (TASK, "native", Adapter(peft_type="PROMPT_TUNING", peft={"num_virtual_tokens": 2})),
    "adapter on ours": (TASK, "pooled", Lora(rank=2)),
}
COLD = ("pooled siamese",)
CODED = ("pooled", "lora on ours")  # our head's code lies in the folder
UNMERGED = ("prompts", "adapter on ours")


def saved(encoder: Path, folder: Path, kind: str = "native") -> tuple[Path, Record]:
    """Save a model of a kind whose answers differ, whose adapter is not the zero it starts from."""
    task, head, strategy = KINDS[kind]
    settings = EncoderSettings(name=str(encoder), pairs="siamese" if "siamese" in kind else "auto")
    classifier = load_classifier(settings, task, head=head, seed=0)
    if strategy:
        strategy.apply(classifier)
    for number, (name, parameter) in enumerate(classifier.model.named_parameters()):
        if parameter.requires_grad:  # of the encoder, too, unless it is below an adapter
            # A low-rank product is scaled up: with more, its attention is so sharp that roundings decide.
            size = 0.05 if "lora_" in name else 0.3
            noise = np.random.default_rng(number).normal(0, size, parameter.shape).astype(np.float32)
            parameter.data += parameter.data.new_tensor(noise)
    record = replace(record_of(classifier, merged=kind not in UNMERGED), task=task)
    return folder, save(classifier, record, folder)


def check(encoder: Path, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    with ExitStack() as processes:
        asked = {}
        for kind in kinds:
            folder, record = saved(encoder, tmp_path / kind, kind)
            asked[kind] = processes.enter_context(fresh_process(folder, record, base=encoder)), record.merged
        for kind, (process, merged) in asked.items():
            assert process.result() < 1e-4, kind
            assert merged == (kind not in UNMERGED), kind


@pytest.mark.slow
def test_saved_models_give_the_same_outputs(encoder: Path, tmp_path: Path):
    check(encoder, tmp_path, COLD)


@pytest.mark.slow
def test_saved_models_with_code_give_the_same_outputs(encoder: Path, tmp_path: Path, forked: Plain):
    check(encoder, tmp_path, CODED)
    assert forked.modules.exists()


@pytest.mark.slow
def test_other_saved_models_give_the_same_outputs_without_code(encoder: Path, tmp_path: Path, forked: Plain):
    check(encoder, tmp_path, tuple(kind for kind in KINDS if kind not in COLD + CODED))
    assert not forked.modules.exists()


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += np.float32(0.01)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "film", "1": "card"}
    (folder / "config.json").write_text(json.dumps(config))


def other_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["order"], vocabulary["late"] = vocabulary["late"], vocabulary["order"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_adapter(folder: Path) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: value * np.float32(1.1) for name, value in weights.items()}, path, {"format": "pt"})


# change -> kind, what is said
CHANGES: dict[Callable[[Path], None], tuple[str, str]] = {
    other_weights: ("native", "a logit of the model differs by 0.01"),
    other_labels: ("native", r"its config.json names the labels \('film', 'card'\), not \('card', 'film'\)"),
    other_tokenizer: ("native", "a logit of the model differs"),
    no_weights: ("native", "it cannot be loaded: .*model.safetensors"),
    other_adapter: ("lora", "a logit of the adapter differs"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_changes_to_a_saved_model_are_detected(encoder: Path, tmp_path: Path):
    with ExitStack() as processes:
        asked = []
        for change, (kind, message) in CHANGES.items():
            folder, record = saved(encoder, tmp_path / change.__name__, kind)
            change(folder)
            asked.append((processes.enter_context(fresh_process(folder, record, base=encoder)), message))
        for process, message in asked:
            with pytest.raises(Mismatch, match=message):
                process.result()


@pytest.mark.parametrize(
    ("kind", "file", "content", "message"),
    [
        ("native", ANSWERS, None, "answers.json is missing, so the model cannot be verified"),
        ("native", ANSWERS, '{"texts": ["a"], "logits": [[1, 2], [3, 4]]}', "answers.json cannot be read"),
        ("native", ANSWERS, '{"texts": ["a"], "logits": [["x"]]}', "answers.json cannot be read"),
        ("pooled", "pooled.py", "print('evil')", "pooled.py is not the code of this version"),
        ("pooled", "more.py", "print('evil')", "more.py is not the code of this version"),
        ("pooled", "sub/more.py", "print('evil')", "more.py is not the code of this version"),
    ],
)
def test_unverifiable_or_foreign_code_is_not_loaded(
    encoder: Path, tmp_path: Path, kind: str, file: str, content: str | None, message: str
):
    folder, record = saved(encoder, tmp_path / "model", kind)
    (folder / file).unlink(missing_ok=True)
    (folder / file).parent.mkdir(exist_ok=True)
    if content:
        (folder / file).write_text(content)
    with (
        patch.object(verification.subprocess, "Popen", side_effect=AssertionError),
        pytest.raises(UserError, match=message),
    ):
        verify(folder, record, base=None)


@pytest.mark.parametrize("value", ["evil/repo--pooled_config.PooledConfig", "sub/evil.Evil", None])
def test_code_of_other_repositories_is_not_loaded(encoder: Path, tmp_path: Path, value: str | None):
    folder, record = saved(encoder, tmp_path / "model", "pooled")
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == OUR_CODE
    config["auto_map"] = config["auto_map"] | {"AutoConfig": value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"auto_map in .* is not the code of this version"):
        verify(folder, record, base=None)


def test_a_killed_verification_says_nothing_about_the_model(encoder: Path, tmp_path: Path):
    folder, record = saved(encoder, tmp_path / "model")
    with fresh_process(folder, record, base=None) as process:
        process._process.kill()
        with pytest.raises(Unanswered, match="was killed"):
            process.result()


def test_a_hanging_verification_is_stopped(encoder: Path, tmp_path: Path, monkeypatch):
    folder, record = saved(encoder, tmp_path / "model")
    monkeypatch.setattr(verification, "SECONDS", 0.1)
    with fresh_process(folder, record, base=None) as process, pytest.raises(Unanswered, match="no fresh process"):
        process.result()
    assert process._process.returncode is not None


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_run_whose_model_cannot_be_loaded_elsewhere_is_not_finished(tmp_path: Path, capfd):
    """The trained model is kept."""
    place = furnish(tmp_path)
    words = adapt_words(place, "verify=true", "strategy=finetune", "training.max_steps=1", "encoder.head=native")
    write = answers.write_answers

    def wrongly(folder: Path, *given, **named) -> None:
        write(folder, *given, **named)
        content = json.loads((folder / ANSWERS).read_text())
        content["logits"][0][0] += 0.5
        (folder / ANSWERS).write_text(json.dumps(content))

    with patch("nlp_transfer.artefact.folder.write_answers", wrongly):
        assert main(words) == 2
    assert "a logit of the model differs by 0.5" in capfd.readouterr().err
    (run,) = (place / "runs").iterdir()
    assert not (run / "metrics.json").exists()
    assert read_record(run / "model").sha256
    assert main(words) == 0
    assert (run / "metrics.json").is_file()
    assert (run / "model" / RECORD).is_file()
