"""Pushed models load everywhere, pulled ones run no code, and failed pushes lose nothing."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest
from huggingface_hub import constants

import nlp_transfer
from nlp_transfer.cli import main
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.publishing import verification
from tests.place import adapt_words
from tests.publishing.hub_repository import read
from tests.publishing.hub_server import ALICE, ALWAYS, READER, Fault, HubServer

pytestmark = pytest.mark.slow

VERIFY = verification.verify
TEXTS = ["where is my card", "the film was good and the card was late"]
RUNS = {
    "finetune": ["strategy=finetune", "encoder.head=native", "training.max_steps=2"],
    "lora": ["strategy=lora", "encoder.head=native", "training.max_steps=2"],
    "probe": ["strategy=probe", "encoder.head=pooled"],
}
# What a stranger does with a repository, in a process of his own: plain transformers, plain PEFT, and ours.
LOADS = """
import json, sys
from pathlib import Path
from unittest.mock import patch
texts = json.loads(sys.argv[1])
found = {}
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from peft import AutoPeftModelForSequenceClassification, PeftModel

def logits(model, tokenizer):
    return model.eval()(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.tolist()

for name in ("alice/finetune", "alice/lora", "alice/probe"):
    trust = name == "alice/probe"
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
    model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=trust)
    found[name] = logits(model, tokenizer)
    found[f"{name} labels"] = list(model.config.id2label.values())
    classify = pipeline("text-classification", name, trust_remote_code=trust, top_k=None)
    found[f"{name} pipeline"] = [{each["label"]: each["score"] for each in row} for row in classify(texts)]
base = AutoModelForSequenceClassification.from_pretrained("alice/encoder", num_labels=3)
found["adapter beside"] = logits(
    PeftModel.from_pretrained(base, "alice/lora", subfolder="adapter"), AutoTokenizer.from_pretrained("alice/lora")
)
alone = AutoPeftModelForSequenceClassification.from_pretrained("alice/adapter", num_labels=3)
found["adapter alone"] = logits(alone, AutoTokenizer.from_pretrained("alice/adapter"))
assert "nlp_transfer" not in sys.modules

from huggingface_hub import ModelCard
code = ModelCard.load("alice/adapter").text.split("```python")[1].split("```")[0]
exec(code)
found["card of the adapter"] = [each["label"] for each in classify(texts)]

import nlp_transfer
from nlp_transfer.training import device
device.multiplies_bf16_fast = lambda _: False  # as where the answers come from that these are compared with
for name in ("alice/finetune", "alice/lora", "alice/probe", "alice/adapter"):
    found[f"{name} ours"] = nlp_transfer.load(name).logits(texts).tolist()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def served(place: Path, tmp_path_factory) -> Iterator[tuple[HubServer, dict[str, Path], Path]]:
    """A Hub with an encoder, three runs that were made from it and pushed, and one adapter alone."""
    folder = tmp_path_factory.mktemp("hub")
    with HubServer(xet=folder / "xet") as hub, pytest.MonkeyPatch.context() as patch:
        hub.add("alice/encoder", read(place / "tiny-bert"))
        hub.attach(patch, folder / "home", token=ALICE, xet=True)
        # Verifying has tests of its own.
        patch.setattr("nlp_transfer.publishing.verification.verify", lambda *_, **__: 0.0)
        runs = {}
        for name, words in RUNS.items():
            runs[name] = folder / "runs" / name
            assert main(adapt_words(place, *words, "encoder.name=alice/encoder", f"output={runs[name]}")) == 0
            (runs[name],) = runs[name].iterdir()
            assert main(["push", str(runs[name]), f"hub.repository=alice/{name}", "hub.license=mit"]) == 0
        alone = ["hub.repository=alice/adapter", "hub.layout=adapter"]
        assert main(["push", str(runs["lora"]), *alone]) == 0
        yield hub, runs, folder


def close(found: list[list[float]], expected: list[list[float]]) -> bool:
    pairs = [pair for rows in zip(found, expected, strict=True) for pair in zip(*rows, strict=True)]
    return all(abs(one - other) < 1e-4 for one, other in pairs)


def python(hub: HubServer, home: Path, code: str, *words: str, token: str | None = ALICE) -> str:
    """Run code in a new process that knows the Hub and shares nothing else."""
    environment = hub.environment(home, token=token, xet=True) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ALICE not in done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_pushed_models_can_be_loaded(served, tmp_path: Path):
    hub, runs, _ = served
    found = json.loads(python(hub, tmp_path, LOADS, json.dumps(TEXTS)))
    for name, run in runs.items():
        predictor = Predictor(run)
        expected, labels = predictor.logits(TEXTS).tolist(), list(predictor.record.task.labels)
        assert close(found[f"alice/{name}"], expected), name
        assert close(found[f"alice/{name} ours"], expected), name
        assert found[f"alice/{name} labels"] == labels
        for scores, answer in zip(found[f"alice/{name} pipeline"], predictor.predict(TEXTS), strict=True):
            assert scores == pytest.approx(answer.probabilities, abs=1e-4)
    adapted = Predictor(runs["lora"])
    for name in ("adapter beside", "adapter alone", "alice/adapter ours"):
        assert close(found[name], adapted.logits(TEXTS).tolist()), name
    assert found["card of the adapter"] == [answer.label for answer in adapted.predict(TEXTS)]


def test_files_on_the_hub_equal_those_of_the_run(served):
    hub, runs, _ = served
    for name, run in runs.items():
        repository = hub.repositories[f"alice/{name}"]
        assert repository.private
        assert [commit.title for commit in repository.history("main")][1:] == ["initial commit"]
        local = {str(path.relative_to(run / "model")) for path in (run / "model").rglob("*") if path.is_file()}
        assert set(repository.head.files) == local | {".gitattributes"}
    alone = hub.repositories["alice/adapter"].head.files
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "nlp_transfer.json"} <= set(alone)
    assert not {"model.safetensors", "config.json"} & set(alone)
    card = (hub.repositories["alice/finetune"].head.files["README.md"].content or b"").decode()
    assert 'pipeline("text-classification", "alice/finetune")' in card
    assert "license: mit" in card
    assert "base_model: alice/encoder" in card


def test_a_pulled_model_predicts_and_is_adapted_further(served, place: Path, tmp_path: Path, capfd):
    hub, runs, _ = served
    rows = place / "data" / "test.csv"
    commit = hub.repositories["alice/finetune"].head.oid
    assert main(["predict", str(runs["finetune"]), str(rows)]) == 0
    expected = capfd.readouterr().out
    for words in (["model=alice/finetune", str(rows)], [f"alice/finetune@{commit}", str(rows)]):
        assert main(["predict", *words]) == 0
        assert capfd.readouterr().out == expected
    words = adapt_words(place, "strategy=probe", f"output={tmp_path}", "encoder.head=native")
    words = [word for word in words if not word.startswith("encoder.name=")]
    words[words.index("encoder=custom")] = f"encoder=alice/finetune@{commit}"
    assert main(words) == 0
    (run,) = tmp_path.iterdir()
    record = json.loads((run / "model" / "nlp_transfer.json").read_text())
    assert (record["encoder"]["name"], record["encoder"]["revision"]) == ("alice/finetune", commit)


@pytest.fixture
def cold(served, tmp_path: Path, monkeypatch) -> HubServer:
    """The Hub, and a client with an empty cache."""
    hub, _, _ = served
    hub.attach(monkeypatch, tmp_path / "cold", token=ALICE, xet=True)
    return hub


def test_without_the_hub_models_are_loaded_from_the_cache(cold: HubServer, monkeypatch):
    expected = nlp_transfer.load("alice/finetune").logits(TEXTS)
    cache = Path(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (nlp_transfer.load("alice/finetune").logits(TEXTS) == expected).all()
    modes = {path: path.stat().st_mode for path in cache.rglob("*") if path.is_dir()}
    for path in modes:
        path.chmod(0o555)
    try:
        assert (nlp_transfer.load("alice/finetune").logits(TEXTS) == expected).all()
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    with pytest.raises(UserError, match="alice/lora is not a local folder and cannot be fetched"):
        nlp_transfer.load("alice/lora")


def test_unknown_model_names_are_refused(cold: HubServer, capfd):
    for name, message in (
        ("alice/nowhere", "is not a repository on the Hub"),
        ("alice/finetune@nowhere", "has no such revision"),
        ("alice/encoder", "has no nlp_transfer.json"),
        ("a/b/c", "there is no such folder"),
    ):
        assert main(["predict", name, "rows.csv"]) == 2
        assert message in capfd.readouterr().err


def spoilt(files: Mapping[str, bytes], name: str, **changes) -> dict[str, bytes]:
    content = json.loads(files[name]) | changes
    return {**files, name: json.dumps(content).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: {**files, "../../evil.json": b"{}"}, "would lie elsewhere"),
        (lambda files: {**files, "/etc/evil.json": b"{}"}, "would lie elsewhere"),
        (lambda files: {**files, "C:\\evil.json": b"{}"}, "would lie elsewhere"),
        (
            lambda files: (
                {key: value for key, value in files.items() if key != "model.safetensors"}
                | {"pytorch_model.bin": b"pickle"}
            ),
            "model.safetensors is missing",
        ),
        (lambda files: spoilt(files, "config.json", auto_map={"AutoConfig": "evil.Config"}), "asks to run code"),
        (lambda files: spoilt(files, "config.json", _attn_implementation_internal="evil/kernel"), "asks to run code"),
        (lambda files: {**files, "model.safetensors": (1 << 40).to_bytes(8, "little") + b"{}"}, "is damaged"),
        (lambda files: {**files, "model.safetensors": files["model.safetensors"] + b"0"}, "is damaged"),
    ],
    ids=["up", "root", "drive", "pickle", "auto_map", "kernel", "header", "tail"],
)
def test_a_hostile_repository_is_refused_with_the_reason(cold: HubServer, change, message: str, request, capfd):
    _, runs, _ = request.getfixturevalue("served")
    name = f"alice/evil-{request.node.callspec.id}"
    cold.add(name, change(read(runs["finetune"] / "model")))
    assert main(["predict", name, str(runs["finetune"] / "metrics.jsonl")]) == 2
    assert message in capfd.readouterr().err
    assert not [path for path in Path(constants.HF_HUB_CACHE).parent.rglob("evil*") if path.is_file()]


def words_to_push(place: Path, output: Path, *more: str) -> list[str]:
    words = ["strategy=finetune", "encoder.head=native", "training.max_steps=1", f"output={output}"]
    return adapt_words(place, *words, "hub.push=true", "hub.repository=alice/new", *more)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home", token=ALICE)
        monkeypatch.setattr("nlp_transfer.publishing.verification.verify", lambda *_, **__: 0.0)
        monkeypatch.setattr("nlp_transfer.publishing.upload.WAITS", (0,))
        yield server


def test_a_run_is_pushed_when_it_is_finished_and_not_twice(hub: HubServer, place: Path, tmp_path: Path, capfd):
    for changed in (True, False):
        assert main(words_to_push(place, tmp_path / "runs")) == 0
        (line,) = capfd.readouterr().out.splitlines()
        assert (json.loads(line)["changed"] > 0) == changed
    assert len(hub.repositories["alice/new"].history("main")) == 2


def test_a_run_from_python_is_pushed_too(hub: HubServer, place: Path, tmp_path: Path):
    words = words_to_push(place, tmp_path / "runs")[1:]
    run = nlp_transfer.adapt(None, words)
    assert "model.safetensors" in hub.repositories["alice/new"].head.files
    hub.stop()
    with pytest.raises(UserError, match="cannot be reached"):
        nlp_transfer.adapt(None, words)
    assert (run.folder / "metrics.json").is_file()


def test_the_command_line_overrides_the_run(hub: HubServer, place: Path, tmp_path: Path):
    """hub.private on the command line overrides the run's setting."""
    hub.faults.append(Fault("POST .*/commit/", status=413, times=ALWAYS))
    assert main(words_to_push(place, tmp_path / "runs", "hub.private=false", "hub.license=mit")) == 3
    hub.faults.clear()
    (run,) = (tmp_path / "runs").iterdir()
    for words, private in ((["alice/typed", "hub.private=true"], True), (["alice/kept"], False)):
        assert main(["push", str(run / "model"), *words]) == 0
        assert hub.repositories[words[0]].private == private
        assert b"license: mit" in hub.repositories[words[0]].head.files["README.md"].content


def test_a_push_that_fails_leaves_a_finished_run_and_the_command_to_try_again(
    hub: HubServer, place: Path, tmp_path: Path, capfd
):
    hub.faults.append(Fault("POST .*/commit/", status=503, times=2))
    assert main(words_to_push(place, tmp_path / "runs")) == 3
    out, err = capfd.readouterr()
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads(out)["folder"] == str(run)
    assert (run / "metrics.json").is_file()
    command = err.split("to push it again: nlp-transfer ")[1].strip()
    assert ALICE not in out + err
    assert main([word.strip("'") for word in command.split()]) == 0
    assert len(hub.repositories["alice/new"].history("main")) == 2


@pytest.mark.parametrize(
    ("token", "more", "status", "message"),
    [
        (
            READER,
            [],
            2,
            "nothing was trained, because hub.push=true would fail: hub.repository=alice/new: the token may only",
        ),
        (ALICE, ["hub.repository=bob/new"], 2, "bob is neither you"),
        (ALICE, ["hub.repository=new"], 2, "is not a repository name"),
        (ALICE, ["hub.layout=odd"], 2, "hub.layout='odd' is not known"),
    ],
)
def test_a_push_that_would_fail_is_refused_before_the_training(
    hub: HubServer, place: Path, tmp_path: Path, monkeypatch, capfd, token, more, status, message
):
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(words_to_push(place, tmp_path / "runs", *more)) == status
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "sub/evil.Evil"]}}),
        ("config.json", {"auto_map": {"AutoConfig": "sub/evil.Evil"}}),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}),
    ],
)
@pytest.mark.parametrize("kind", ["finetune", "probe"])
def test_a_folder_that_asks_for_code_is_neither_loaded_nor_pushed(
    served, hub: HubServer, tmp_path: Path, monkeypatch, capfd, file: str, change: dict, kind: str
):
    monkeypatch.setattr("nlp_transfer.publishing.verification.verify", VERIFY)
    _, runs, _ = served
    model = Path(shutil.copytree(runs[kind] / "model", tmp_path / "elsewhere"))
    (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | change))
    with patch("subprocess.Popen", side_effect=AssertionError):
        assert main(["push", str(model), "alice/new", "--dry-run"]) == 2
    assert re.search("asks to run code|is not the code of this version", capfd.readouterr().err)


def test_other_keys_and_impossible_layouts_are_refused(served, hub, tmp_path, capfd):
    _, runs, _ = served
    for words, message in (
        (["push", str(runs["probe"]), "alice/new", "seed=3"], "push takes hub.key=value words only; remove 'seed=3'"),
        (["push", str(runs["probe"]), "alice/new", "hub.layout=adapter"], "holds no adapter"),
        (["push", str(runs["probe"]), "alice/new", "hub.revision=refs/pr/1"], "is not a branch name"),
        (["push", str(runs["probe"]), "alice/new", "more"], "is too much"),
        (
            ["adapt", "hub.push=true", "hub.repository=a/b", "hub.layout=adapter"],
            "needs a strategy that makes an adapter",
        ),
        (["adapt", "hub.push=true", "hub.repository=a/b", "seed=1,2", "--multirun"], "would push every run over"),
        (["predict", "runs/moved-12345678", "rows.csv"], "there is no such folder"),
    ):
        assert main(words) == 2, words
        assert message in capfd.readouterr().err
    assert not hub.asked("POST|GET .*moved")


def test_a_model_folder_of_a_run_is_described_as_the_run_and_an_own_card_stays(
    served, hub: HubServer, tmp_path: Path, capfd
):
    _, runs, _ = served
    assert main(["push", str(runs["finetune"] / "model"), "alice/new", "hub.license=mit"]) == 0
    assert b"license: mit" in hub.repositories["alice/new"].head.files["README.md"].content
    run = Path(shutil.copytree(runs["finetune"], tmp_path / "run"))
    (run / "model" / "README.md").write_text("---\nlicense: gpl\n---\nmine\n")
    (run / "model" / "adapter").mkdir()
    (run / "model" / "adapter" / ".env").write_text("secret")
    assert main(["push", str(run), "alice/own", "hub.license=mit"]) == 0
    assert "is pushed as you changed it" in capfd.readouterr().err
    files = hub.repositories["alice/own"].head.files
    assert files["README.md"].content == b"---\nlicense: gpl\n---\nmine\n"
    assert "adapter/.env" not in files


def test_a_dry_run_lists_every_file_without_requests(hub: HubServer, served, capfd):
    _, runs, _ = served
    capfd.readouterr()
    hub.log.clear()
    assert main(["push", str(runs["lora"]), "hub.repository=alice/new", "--dry-run"]) == 0
    lines = capfd.readouterr().out.splitlines()
    names = {line.split()[1] for line in lines[:-1]}
    model = runs["lora"] / "model"
    assert names == {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert not hub.log


def test_a_model_with_other_outputs_is_not_pushed(served, tmp_path: Path, monkeypatch, capfd):
    """The one push here that asks a fresh process."""
    hub, runs, _ = served
    run = Path(shutil.copytree(runs["finetune"], tmp_path / "run"))
    answers = json.loads((run / "model" / "answers.json").read_text())
    answers["logits"][0][0] += 0.1
    (run / "model" / "answers.json").write_text(json.dumps(answers))
    environment = hub.environment(tmp_path / "home", token=ALICE) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "nlp_transfer", "push", str(run), "hub.repository=alice/wrong"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "a logit of the model differs by 0.1" in done.stderr
    assert "alice/wrong" not in hub.repositories


# Verifying has tests of its own, and comes before what a push is killed at here.
UNVERIFIED = """
import sys
from nlp_transfer.cli import main
from nlp_transfer.publishing import verification
verification.verify = lambda *_, **__: 0.0
sys.exit(main())
"""


def test_a_killed_push_is_completed_by_the_next_one(served, tmp_path: Path):
    hub, runs, _ = served
    environment = hub.environment(tmp_path, token=ALICE) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["push", str(runs["finetune"]), "hub.repository=alice/killed"]
    for place in ("POST .*/objects/batch", "POST .*/commit/"):
        hub.faults.append(Fault(place, delay=4))
        hub.log.clear()
        killed = [sys.executable, "-c", UNVERIFIED, *words]
        process = subprocess.Popen(killed, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not hub.asked(place) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        repository = hub.repositories["alice/killed"]
        assert set(repository.head.files) == {".gitattributes"}
    time.sleep(5)  # in which a server does what it was asked for last
    command = [sys.executable, "-m", "nlp_transfer", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["pushed"]
    assert len(hub.repositories["alice/killed"].history("main")) == 2
