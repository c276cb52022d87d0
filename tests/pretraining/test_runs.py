"""Runs that begin with a pretraining: which texts it reads, what it leaves behind, and that nothing of it is lost."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nlp_transfer.artefact.places import run_of
from nlp_transfer.artefact.record import read_record
from nlp_transfer.cache.store import Store, folder_of
from nlp_transfer.config import compose, run_id, to_plain, words_of
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.pretraining import further
from nlp_transfer.pretraining.folder import ENCODER
from nlp_transfer.pretraining.masked import MaskedStep
from nlp_transfer.pretraining.planning import chosen_texts
from nlp_transfer.running import resume
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import checkpoint
from nlp_transfer.training.signals import Stopped
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.pretraining.made import FIRST, QUICK, run_of_them, same, settings_of, weights
from tests.runs import data_for, settings_for
from tests.warm import Warm


def kept_encoder() -> Path:
    """The one encoder that is in the cache."""
    store = Store(folder_of(None), 1e9)
    (entry,) = (entry for entry in store.entries() if entry.about["what"] == "pretrained encoder")
    return store.folder / entry.key


@pytest.mark.slow
def test_a_run_after_pretraining_equals_one_on_the_saved_encoder(home: Path, tmp_path: Path):
    run = run_of_them(home, tmp_path / "a")
    copied = shutil.copytree(kept_encoder(), tmp_path / "copied")
    plain = settings_for(home, output=str(tmp_path / "b"), **{"encoder.name": str(copied)} | QUICK)
    other = adapt(plain, data=data_for("single_label"))
    assert same(weights(run), weights(other))
    assert run.metrics == other.metrics
    untouched = adapt(settings_for(home, output=str(tmp_path / "c"), **QUICK), data=data_for("single_label"))
    assert not same(weights(run), weights(untouched))


@pytest.mark.slow
def test_a_run_records_its_pretraining(home: Path, tmp_path: Path):
    run = run_of_them(home, tmp_path)
    assert not [path for path in run.folder.iterdir() if path.name in (further.CHECKPOINTS, ENCODER)]
    record, result = read_record(run.folder / "model"), json.loads((run.folder / "metrics.json").read_text())
    base = load_corpus(settings_of(home, tmp_path).data, data=data_for("single_label"))
    assert record.pretrained is not None
    assert record.pretrained.texts + record.pretrained.held_out == len(
        {key for key in base.splits["train"].keys}
        - {key for s in ("validation", "test") for key in base.splits[s].keys}
    )
    assert record.encoder.name == "tiny-bert"
    plain = adapt(settings_for(home, output=str(tmp_path / "b"), **QUICK), data=data_for("single_label"))
    assert record.encoder.sha256 == read_record(plain.folder / "model").encoder.sha256
    assert result["encoder"]["sha256"] == record.encoder.sha256
    assert result["pretrained"] == dataclasses.asdict(record.pretrained)
    assert read_record(plain.folder / "model").pretrained is None
    text_shown = f"masked-language modelling on {record.pretrained.texts} texts for 3 epochs"
    assert sum(text_shown in note for note in run.report.notes) == 1
    card = (run.folder / "model" / "README.md").read_text()
    assert f"tiny-bert, after {text_shown}, was adapted by" in card.replace("\\", "")
    assert adapt(compose(str(run.folder / "config.yaml")), data=data_for("single_label")).folder == run.folder
    again = compose(str(run.folder / "config.yaml"), [f"output={tmp_path / 'again'}"])
    assert same(weights(adapt(again, data=data_for("single_label"))), weights(run))


@pytest.mark.slow
def test_pretraining_lowers_the_loss_on_the_domain(home: Path, tmp_path: Path):
    file = tmp_path / "more.csv"
    words = ["my card is late", "please refund the order", "good movie film", "cancel my account password"]
    lines = {f"{one} {other} {word}" for one in words for other in words for word in ("not", "thanks", "again")}
    file.write_text("\n".join(["text", *sorted(lines)]))
    values = {"data.unlabelled": str(file), "pretraining.texts": "unlabelled", "pretraining.epochs": 20}
    values["pretraining.lr"] = 3e-3
    run = run_of_them(home, tmp_path, **values)
    found = read_record(run.folder / "model").pretrained
    assert found is not None
    assert found.texts + found.held_out == len(lines)
    assert found.after < 0.8 * found.before
    (note,) = (note for note in run.report.notes if note.startswith("pretraining"))
    assert f"{found.before:.3f} → {found.after:.3f}" in note
    assert "nothing" not in note
    assert "head was new" in note


@pytest.mark.slow
def test_pretraining_never_reads_measured_texts(home: Path, tmp_path: Path):
    rows = data_for("single_label")
    own, test, validation = (rows[split][0]["text"] for split in ("train", "test", "validation"))
    file = tmp_path / "more.csv"
    others = ["a new text", f" {test.upper()} ", validation, own, "a new text", "another one"]
    file.write_text("\n".join(["text", *others]))
    settings = settings_of(home, tmp_path, **{"data.unlabelled": str(file)})
    corpus = load_corpus(settings.data, data=rows)
    found = {}
    for texts in ("all", "train", "unlabelled"):
        own_settings = settings_of(home, tmp_path, **{"data.unlabelled": str(file), "pretraining.texts": texts})
        chosen = chosen_texts(own_settings, corpus)
        found[texts] = [*chosen.read.texts, *chosen.held_out.texts]
        assert len(set(found[texts])) == len(found[texts])
        assert not {text.strip().lower() for text in found[texts]} & {
            row["text"].lower() for split in ("test", "validation") for row in rows[split]
        }
        assert len(chosen.held_out.texts) == max(1, round(0.05 * len(found[texts])))
    assert "a new text" in found["all"]
    assert "a new text" not in found["train"]
    assert set(found["unlabelled"]) <= {"a new text", "another one", own}
    assert set(found["all"]) == {*found["train"], *found["unlabelled"]}
    notes = prepare(settings, corpus, tmp_path).notes
    assert any("pretraining first: masked-language modelling on" in note and "left out" in note for note in notes)
    one, other = (chosen_texts(dataclasses.replace(settings, seed=seed), corpus).held_out.texts for seed in (0, 1))
    assert one != other


@pytest.mark.slow
def test_a_second_run_uses_the_cached_encoder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = run_of_them(home, tmp_path / "a")
    monkeypatch.setattr(further, "fit", None)
    again = run_of_them(home, tmp_path / "b", **{"evaluation.resamples": 10})
    assert same(weights(first), weights(again))
    other = run_of_them(home, tmp_path / "c", **{"training.weight_decay": 0.3})  # of the training that follows
    assert read_record(other.folder / "model").pretrained == read_record(first.folder / "model").pretrained
    for values in (
        {"seed": 1},
        {"pretraining.mask": 0.3},
        {"pretraining.lr": 1e-4},
        {"pretraining.epochs": 2},
        {"tokens.max_length": 8},
        {"encoder.depth": 1},
        {"encoder.pretrained": False},
    ):
        with pytest.raises(TypeError, match="not callable"):
            run_of_them(home, tmp_path / "d", **values)
    weight = kept_encoder() / "model.safetensors"
    weight.write_bytes(weight.read_bytes()[:-1] + b"\0")  # damaged
    with pytest.raises(TypeError, match="not callable"):
        run_of_them(home, tmp_path / "e")


@pytest.mark.slow
def test_without_a_cache_the_encoder_is_in_the_run_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept, own = run_of_them(home, tmp_path / "a"), run_of_them(home, tmp_path / "b", **{"cache.gib": 0})
    assert same(weights(kept), weights(own))
    assert (own.folder / ENCODER / "model.safetensors").is_file()
    monkeypatch.setattr(further, "fit", None)
    again = run_of_them(home, tmp_path / "b", **{"cache.gib": 0, "overwrite": True})
    assert same(weights(again), weights(own))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_a_stopped_run_resumes_to_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
):
    values = {"cache.gib": 0, "checkpoint.seconds": 0}
    plain = run_of_them(home, tmp_path / "plain", **values)
    forward, seen = MaskedStep.forward, []

    def stopping(self: MaskedStep, batch: dict, progress: float) -> torch.Tensor:
        seen.append(progress)
        if len(seen) == 4:
            if number is None:
                raise KeyboardInterrupt  # at once: what was committed is all there is
            os.kill(os.getpid(), number)
        return forward(self, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedStep, "forward", stopping)
        with pytest.raises(Stopped if number else KeyboardInterrupt):
            run_of_them(home, tmp_path / "parts", **values)
    (folder,) = (tmp_path / "parts").iterdir()
    found = checkpoint.newest(folder / further.CHECKPOINTS)
    assert found is not None
    assert found.snapshot.step == (4 if number else 3)
    assert not (folder / "metrics.json").exists()
    other = data_for("single_label") | {"train": data_for("single_label")["train"][1:]}
    with pytest.raises(UserError, match=r"belongs to another run, .*texts was"):
        adapt(settings_of(home, tmp_path / "parts", **values), data=other)
    messages: list[str] = []
    settings = settings_of(home, tmp_path / "parts", **values)
    resumed = adapt(settings, data=data_for("single_label"), screen=Screen(quiet=False, on_message=messages.append))
    assert any("resuming from" in sentence and further.CHECKPOINTS in sentence for sentence in messages)
    assert same(weights(plain), weights(resumed))
    assert not (folder / further.CHECKPOINTS).exists()
    told_of = {
        run.folder: [json.loads(line) for line in (run.folder / further.STEPS).read_text().splitlines()]
        for run in (plain, resumed)
    }
    losses = [[(line["step"], line["loss"]) for line in lines if "loss" in line] for lines in told_of.values()]
    assert losses[0] == losses[1]  # each step once
    assert [step for step, _ in losses[0]] == list(range(1, len(losses[0]) + 1))


@pytest.mark.slow
def test_finished_pretraining_is_not_repeated_by_a_resumed_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = run_of_them(home, tmp_path / "plain", **{"checkpoint.seconds": 0})
    with monkeypatch.context() as patch:
        patch.setattr(
            resume.CheckpointWriter, "commit", lambda self, snapshot: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run_of_them(home, tmp_path / "parts", **{"checkpoint.seconds": 0})
    monkeypatch.setattr(further, "fit", None)
    assert same(weights(run_of_them(home, tmp_path / "parts", **{"checkpoint.seconds": 0})), weights(plain))


@pytest.mark.slow
def test_a_resumed_run_caches_its_pretrained_encoder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_of_them(home, tmp_path / "a")
    monkeypatch.setattr(further, "fit", None)
    run = run_of_them(home, tmp_path / "a")
    assert not (run.folder / ENCODER).exists()
    assert (kept_encoder() / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("values", [{"strategy": "probe"}, {"encoder.pretrained": False}, {"encoder.depth": 1}])
def test_pretraining_precedes_every_strategy(home: Path, tmp_path: Path, values: dict):
    run = run_of_them(home, tmp_path, **values)
    record = read_record(run.folder / "model")
    assert record.pretrained is not None
    kept = load_file(kept_encoder() / "model.safetensors")
    if values == {"strategy": "probe"}:
        learned = {name.partition(".")[2]: tensor for name, tensor in weights(run).items()}
        assert all(torch.equal(learned[name], tensor) for name, tensor in kept.items() if "pooler" not in name)
    assert record.encoder.pretrained is values.get("encoder.pretrained", True)
    card = (run.folder / "model" / "README.md").read_text()
    assert ("with random weights, after masked" in card) is not record.encoder.pretrained


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [*("pair", "chunk"), *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("regression", "multi_label"))],
)
def test_pretraining_supports_every_data_format(home: Path, tmp_path: Path, problem: str):
    settings = settings_for(home, problem, output=str(tmp_path), **FIRST)
    run = adapt(settings, data=data_for(problem))
    assert read_record(run.folder / "model").pretrained is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretraining.epochs": -1}, r"pretraining\.epochs=-1"),
        ({"pretraining.mask": 0}, r"pretraining\.mask=0"),
        ({"pretraining.mask": 1.0}, r"pretraining\.mask=1"),
        ({"pretraining.lr": 0}, r"pretraining\.lr=0"),
        ({"pretraining.batch_size": 0}, r"pretraining\.batch_size=0"),
        ({"pretraining.texts": "test"}, r"pretraining\.texts='test' is not known.*choose from: all, train, unlabelled"),
        ({"pretraining.texts": "unlabelled"}, r"needs data\.unlabelled=FILE"),
        ({"pretraining.texts": "train", "data.unlabelled": "more.csv"}, "not read by this objective"),
        ({"pretraining.epochs": 0, "data.unlabelled": "more.csv"}, "not read by this objective"),
        ({"pretraining.texts": "unlabelled", "data.unlabelled": "one.csv"}, "has 1 text besides those of measured"),
        ({"encoder.depth": 0}, r"encoder\.depth=0 leaves no layer"),
        (
            {"hub.push": True, "hub.layout": "adapter", "hub.repository": "a/b", "strategy": "lora"},
            "hub.layout=adapter",
        ),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values, message):
    monkeypatch.chdir(tmp_path)
    Path("more.csv").write_text("text\none\ntwo\n")
    Path("one.csv").write_text(f"text\none\n{data_for('single_label')['test'][0]['text']}\n")
    with pytest.raises(UserError, match=message):
        run_of_them(home, tmp_path / "runs", **values)
    assert not (tmp_path / "runs").exists()


def test_encoders_without_masked_language_modelling_are_refused(tmp_path: Path):
    folder = tiny_encoder(tmp_path, "gpt2")
    with pytest.raises(UserError, match="transformers has no masked-language modelling for 'gpt2'"):
        run_of_them(tmp_path, tmp_path / "runs", **{"encoder.name": str(folder)})
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_other_texts_in_the_same_file_are_another_run(home: Path, tmp_path: Path):
    file = tmp_path / "more.csv"
    file.write_text("text\none\ntwo\nthree\n")
    run_of_them(home, tmp_path / "runs", **{"data.unlabelled": str(file)})
    assert run_of_them(home, tmp_path / "runs", **{"data.unlabelled": str(file)})
    file.write_text("text\none\ntwo\nfour\n")
    with pytest.raises(UserError, match="other unlabelled texts"):
        run_of_them(home, tmp_path / "runs", **{"data.unlabelled": str(file)})


@pytest.mark.slow
def test_a_run_without_pretraining_is_unchanged():
    plain = to_plain(compose())
    assert plain["pretraining"]["epochs"] == 0
    assert run_id(compose(None, ["pretraining.mask=0.2"])) == run_id(compose())  # of which nothing is made
    assert run_id(compose(None, ["pretraining.epochs=1"])) != run_id(compose())
    settings = compose(None, ["pretraining.epochs=1", "pretraining.mask=0.2"])
    assert run_id(settings) != run_id(compose(None, ["pretraining.epochs=1"]))
    assert run_id(compose(None, words_of(settings))) == run_id(settings)


def test_a_run_of_an_earlier_version_is_read(home: Path, tmp_path: Path):
    run = adapt(settings_for(home, output=str(tmp_path), **QUICK), data=data_for("single_label"))
    path = run.folder / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    start = lines.index("pretraining:\n")
    end = next(place for place in range(start + 1, len(lines)) if not lines[place].startswith(" "))
    path.write_text("".join(lines[:start] + lines[end:]))
    assert run_id(compose(str(path))) == run.folder.name.rpartition("-")[2]
    assert run_of(run.folder) == run.folder


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path):
    folder = tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    words = ["adapt", "data=files", f"data.path={tmp_path}", f"encoder={folder}", "encoder.head_dropout=0"]
    words += ["strategy=finetune", "training.precision=fp32", "evaluation.floors=false", "report.write=false"]
    words += ["training.max_steps=2", "verify=false", "cache.gib=0", "pretraining.epochs=4", "pretraining.batch_size=8"]
    found, encoders = [], []
    for processes in (1, 2):
        printed_by(running, [*words, f"output={tmp_path / str(processes)}"], processes=processes)
        (run,) = (tmp_path / str(processes)).iterdir()
        found.append(json.loads((run / "metrics.json").read_text())["pretrained"])
        encoders.append(load_file(run / ENCODER / "model.safetensors"))
    for name in ("before", "after"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3)
    assert found[0]["texts"] == found[1]["texts"]
    for name, tensor in encoders[0].items():
        torch.testing.assert_close(encoders[1][name], tensor, rtol=1e-3, atol=1e-3)
