"""What comes from elsewhere is data: hostile recipes, encoders and saved models run nothing and are refused at once."""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nlp_transfer.artefact.folder import RECORD, save
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Lora
from tests.artefact.records import TASK, record_of
from tests.encoder.families import tiny_encoder

ROOT = Path(__file__).parent.parent
CANARY = "value-of-the-environment-7"
MOST_SECONDS = 10
START = "defaults: [config, _self_]\n"
RESOLVED = "resolved:"  # a case that is a run's own config.yaml instead of a recipe
EVIL = "import os\nos.system('touch ran')\n"


def laughs() -> str:
    """Ten to the power of nine values in a few lines."""
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return START + "\n".join(levels)


def doubled() -> str:
    """A text that doubles forty times, each key twice the one before."""
    keys = [f"k{n}: '${{k{n + 1}}}${{k{n + 1}}}'" for n in range(40)]
    return START + "\n".join([*keys, "k40: " + "x" * 1000])


RECIPES = {
    "target": (START + "_target_: os.system\n_args_: [touch ran]\n", "_target_"),
    "target-in-a-group": (START + "training: {_target_: os.system, _partial_: true}\n", "_target_"),
    "target-in-weights": (START + "data: {class_weights: {_target_: os.system}}\n", None),
    "peft-imports": (
        "defaults: [config, override strategy: lora, _self_]\n"
        "strategy: {peft: {megatron_config: {a: 1}, megatron_core: evil}}\n",
        "megatron_config.a names code",
    ),
    "peft-tokenizer": (
        "defaults: [config, override strategy: adapter, _self_]\n"
        "strategy: {peft: {tokenizer_name_or_path: ., tokenizer_kwargs: {trust_remote_code: true}}}\n",
        "tokenizer_kwargs.trust_remote_code names code",
    ),
    "trusts-an-encoder": (START + "encoder: {trust_remote_code: true}\n", "set the key yourself"),
    "environment": (START + "output: '${oc.env:CANARY}'\n", "cannot read the environment"),
    "environment-default": (START + "output: '${oc.env:NOPE,${oc.env:CANARY}}'\n", "cannot read the"),
    "decode": (START + "output: '${oc.decode:${name}}'\n", "or call functions"),
    "create": (START + "data: '${oc.create:{path: x}}'\n", "or call functions"),
    "eval": (START + "seed: '${eval:1+1}'\n", "or call functions"),
    "hydra-resolver": (START + "output: '${hydra:runtime.cwd}'\n", "or call functions"),
    "python-object": (START + "output: !!python/object/apply:os.system ['touch ran']\n", "not YAML"),
    "python-name": (START + "output: !!python/name:os.system\n", "not YAML"),
    "python-module": (START + "output: !!python/object/new:evil.X []\n", "not YAML"),
    "hydra-callback": (START + "hydra: {callbacks: {x: {_target_: evil.X}}}\n", "cannot set keys of Hydra"),
    "hydra-searchpath": (START + "hydra: {searchpath: ['pkg://evil']}\n", "cannot set keys of Hydra"),
    "hydra-launcher": ("defaults: [config, override hydra/launcher: evil, _self_]\n", "cannot set keys of Hydra"),
    "hydra-package": ("# @package hydra.callbacks\nx: {_target_: evil.X}\n" + START, "cannot set keys of Hydra"),
    "hydra-placed": ("defaults: [config, data@hydra.callbacks: files, _self_]\n", "cannot set keys of Hydra"),
    "laughs": (laughs(), "more values than any configuration"),
    "doubled": (doubled(), "references"),
    "alias-of-itself": (START + "data: &a {x: *a}\n", "refers to a value that contains it"),
    "alias-of-nothing": (START + "output: *nothing\n", "not YAML"),
    "ten-megabytes": (START + "output: " + "x" * 10_000_000, "larger than any configuration"),
    "a-megabyte": (START + "output: " + "x" * 1_000_000, None),
    "many-keys": (START + "".join(f"k{n}: 1\n" for n in range(50_000)), "more values than"),
    "deep": (
        START + "output: " + "[" * 10_000,
        "more values than|nesting depth",
    ),  # PyYAML has a bound of its own from 6.0.4 on
    "deep-block": ("".join(f"{' ' * n}k:\n" for n in range(1_000)), "more values than|nesting depth"),
    "recursive": (START + "output: '${name}'\nname: '${output}'\n", "Recursive interpolation"),
    "of-itself": (START + "training: {epochs: '${training}'}\n", "Interpolation to parent node"),
    "anchors": (START + "output: &o here\nname: *o\n", None),
    "merge": (START + "x: &x {seed: 1}\ntokens: {<<: *x}\n", "x is not|seed is not"),
    "two-documents": (START + "---\nseed: 1\n", "not YAML"),
    "binary": (START + "output: !!binary aGVsbG8=\n", "must be a text"),
    "no-utf-8": (START + "output: \udcff\n", "cannot be read"),
    "other-types": (START + "seed: 2020-01-01\ntraining: {epochs: .nan}\n", "seed=.*must be a whole number"),
    "not-a-number": (
        START + "training: {epochs: .nan, weight_decay: .inf}\n",
        "epochs=nan must be positive",
    ),
    "long-key": (START + "? " + "x" * 100_000 + "\n: 1\n", "x{1000}.*known here: name"),
    "null-key": (START + "null: 1\n1: 2\n", "Incompatible key type"),
    "resolved-target": (RESOLVED + "_target_: os.system\n", "_target_ is not a known key"),
}


def edited(file: str, **values: Any) -> Callable[[Path], None]:
    """Return what puts entries into a JSON file; None: takes them out."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        (folder / file).write_text(json.dumps(content | values))

    return edit


def nested(file: str, group: str, **values: Any) -> Callable[[Path], None]:
    """Return what changes entries of an object in a JSON file."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        content[group] |= values
        (folder / file).write_text(json.dumps(content))

    return edit


class Opens:
    """A pickle that runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def pickled(*names: str, alone: bool = True) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        if alone:
            for path in folder.glob("*.safetensors"):
                path.unlink()
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Opens()))

    return edit


def header(change: Callable[[dict[str, Any]], None], file: str = "model.safetensors") -> Callable[[Path], None]:
    """Return what rewrites the header of a safetensors file, its tensors left as they are."""

    def edit(folder: Path) -> None:
        raw = (folder / file).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        content = json.loads(raw[8 : 8 + length])
        change(content)
        written = json.dumps(content).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(written)) + written + raw[8 + length :])

    return edit


def two_gigabytes(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2 << 30) + raw[8:])


def first(content: dict[str, Any]) -> dict[str, Any]:
    return content[min(name for name in content if name != "__metadata__")]


def overlapping(content: dict[str, Any]) -> None:
    one, other = sorted((entry for name, entry in content.items() if name != "__metadata__"), key=str)[:2]
    one["data_offsets"] = other["data_offsets"]


def with_value(value: float, file: str = "model.safetensors", dtype: Any = np.float32) -> Callable[[Path], None]:
    """Return what sets one weight of the last tensor of a file."""

    def edit(folder: Path) -> None:
        tensors = {name: tensor.copy() for name, tensor in load_file(folder / file).items()}
        name = max(name for name, tensor in tensors.items() if tensor.ndim == 2)
        tensors[name] = tensors[name].astype(dtype)
        tensors[name].flat[-1] = value
        save_file(tensors, folder / file, {"format": "pt"})
        if (folder / RECORD).exists():
            edited(RECORD, sha256=None)(folder)

    return edit


def flipped(folder: Path) -> None:
    """One bit of one weight is another: a number as good as any."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-4] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def elsewhere(folder: Path) -> None:
    """An encoder's weights replaced by a link out of the folder's reach."""
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


ENCODERS = {
    "auto-map": (edited("config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}), "run code"),
    "auto-map-tokenizer": (edited("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}), "run code"),
    "kernel": (edited("config.json", _attn_implementation_internal="evil/kernel"), "code of another repository"),
    "kernel-within": (edited("config.json", sub={"_attn_implementation_internal": "evil/kernel"}), "another repo"),
    "trusts-itself": (edited("config.json", trust_remote_code=True, code_revision="main"), None),
    "trusts-itself-and-asks": (
        edited("config.json", trust_remote_code=True, auto_map={"AutoModel": "evil.Model"}),
        "run code",
    ),
    "architectures": (edited("config.json", architectures=["os.system", "evil.Model", 7]), None),
    "unknown-type": (edited("config.json", model_type="evil"), "evil"),
    "type-is-no-text": (edited("config.json", model_type=["bert"]), "cannot be loaded"),
    "no-sizes": (edited("config.json", hidden_size="evil"), "hidden_size"),
    "negative-sizes": (edited("config.json", num_hidden_layers=-1, vocab_size=-5), r"config\.json: \w+=-\d must be"),
    "endless-layers": (
        edited("config.json", num_hidden_layers=10**9),
        r"config\.json: num_hidden_layers=10{9} must",
    ),
    "quantised": (edited("config.json", quantization_config={"quant_method": "evil"}), None),
    "quantised-known": (edited("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "cannot be"),
    "tokenizer-class": (edited("tokenizer_config.json", tokenizer_class="evil.Tokenizer"), None),
    "length-is-no-number": (edited("tokenizer_config.json", model_max_length="evil"), "model_max_length"),
    "length-of-nothing": (edited("tokenizer_config.json", model_max_length=-3), "model_max_length"),
    "record-of-nothing": (edited(RECORD, max_tokens="evil"), "max_tokens"),
    "template": (edited("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__ }}"), None),
    "pickle-alone": (pickled("pytorch_model.bin"), "pickle"),
    "pickle-beside": (pickled("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", alone=False), None),
    "header-of-two-gigabytes": (two_gigabytes, "header"),
    "overlapping": (header(overlapping), r"model\.safetensors is damaged"),
    "beyond-the-end": (header(lambda h: first(h).update(data_offsets=[0, 1 << 40])), r"model\.safetensors is damaged"),
    "backwards": (header(lambda h: first(h).update(data_offsets=[9, 1])), r"model\.safetensors is damaged"),
    "unknown-dtype": (header(lambda h: first(h).update(dtype="EVIL")), r"model\.safetensors is damaged"),
    "narrow-dtype": (header(lambda h: first(h).update(dtype="F16")), r"model\.safetensors is damaged"),
    "huge-shape": (header(lambda h: first(h).update(shape=[1 << 62, 1 << 62])), r"model\.safetensors is damaged"),
    "negative-shape": (header(lambda h: first(h).update(shape=[-1])), r"model\.safetensors is damaged"),
    "other-dtype": (with_value(1, dtype=np.int8), None),
    "not-a-number": (with_value(np.nan), r"1 of [\d,]+ weights of \S+ are infinite or not a number"),
    "infinite": (with_value(-np.inf, dtype=np.float16), "infinite or not a number"),
    "adapter": (edited("adapter_config.json", auto_mapping={"parent_library": "evil"}), "holds an adapter"),
    "endless-config": (elsewhere, r"config\.json"),
}
RUNS = {
    "auto-map": ("model", edited("config.json", auto_map={"AutoModelForSequenceClassification": "evil.M"}), "run code"),
    "kernel": ("model", edited("config.json", _attn_implementation_internal="evil/kernel"), "run code"),
    "flipped-bit": ("model", flipped, "model.safetensors is not what was saved"),
    "pickle-alone": ("model", pickled("pytorch_model.bin"), "model.safetensors is missing"),
    "not-a-number": ("model", with_value(np.nan), r"model\.safetensors: 1 of .* infinite or not a number"),
    "record-target": ("model", edited(RECORD, _target_="os.system"), None),
    "record-encoder-target": ("model", nested(RECORD, "encoder", _target_="os.system"), "_target_ is not a known key"),
    "record-tokens": ("model", nested(RECORD, "tokens", limit=-1), "no text can be cut"),
    "record-tokens-type": ("model", nested(RECORD, "tokens", limit="${oc.env:CANARY}"), "tokens.limit"),
    "record-truncation": ("model", nested(RECORD, "tokens", truncation_side="evil"), "truncation_side"),
    "record-labels": ("model", nested(RECORD, "task", labels=[["a"], 1]), "cannot be read"),
    "record-labels-twice": ("model", nested(RECORD, "task", labels=["a", "a"]), "cannot be read"),
    "record-problem": ("model", nested(RECORD, "task", problem="evil"), "cannot be read"),
    "record-roles": ("model", edited(RECORD, roles=["text"]), "cannot be read"),
    "record-interpolation": ("model", nested(RECORD, "roles", text="${oc.env:CANARY}"), None),
    "record-deep": ("model", lambda f: (f / RECORD).write_text("[" * 100_000), "not readable as JSON"),
    "record-megabytes": ("model", edited(RECORD, more="x" * 10_000_000), None),
    "adapter-auto-mapping": (
        "adapter",
        edited("adapter_config.json", auto_mapping={"parent_library": "evil", "base_model_class": "X"}),
        "run code",
    ),
    "adapter-megatron": (
        "adapter",
        edited("adapter_config.json", megatron_config={"a": 1}, megatron_core="evil"),
        "run code",
    ),
    "adapter-tokenizer": (
        "adapter",
        edited("adapter_config.json", tokenizer_kwargs={"trust_remote_code": True}),
        "run code",
    ),
    "adapter-base-elsewhere": ("adapter", edited("adapter_config.json", base_model_name_or_path="evil/repo"), None),
    "adapter-type": ("adapter", edited("adapter_config.json", peft_type="EVIL"), "adapter_config.json"),
    "adapter-pickle": ("adapter", pickled("adapter_model.bin"), r"adapter_model\.safetensors is missing"),
    "adapter-not-a-number": (
        "adapter",
        with_value(np.nan, "adapter_model.safetensors"),
        r"adapter_model\.safetensors: 1 of .* infinite or not a number",
    ),
    "adapter-trusts": ("adapter", nested(RECORD, "encoder", trust_remote_code=True), None),
    "adapter-kernel": ("adapter", nested(RECORD, "encoder", attention="evil/kernel"), "encoder.attention"),
    "adapter-package": ("adapter", nested(RECORD, "encoder", package="evil", name="evil"), "adapter|package|evil"),
}


def report(kind: str, folder: Path) -> dict[str, Any]:
    """Open everything below a folder in one process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", kind, str(folder)],
        cwd=ROOT,
        env=os.environ | {"CANARY": CANARY, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["innocent"]["kind"] == "value", found["innocent"]
    return found


def refused_or_data(found: dict[str, Any], words: str | None, folder: Path) -> None:
    assert found["seen"] == [], folder.name
    assert found["seconds"] < MOST_SECONDS, folder.name
    assert CANARY not in found["said"], folder.name
    assert not list(folder.rglob("ran")), folder.name
    if words is None:
        assert found["kind"] == "value", (folder.name, found)
    else:
        assert found["kind"] == "UserError", (folder.name, found)
        assert re.search(words, found["said"]), (folder.name, found)
        assert "\n" not in found["said"], folder.name
        assert len(found["said"]) < 5_000, folder.name


def recipes(folder: Path) -> dict[str, Any]:
    """Write every case and open them all in one process."""
    from nlp_transfer.config import compose, to_yaml

    for name, (content, _) in {**RECIPES, "innocent": (START, None)}.items():
        (folder / name).mkdir()
        content = content.replace(RESOLVED, to_yaml(compose()))
        (folder / name / "recipe.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
        (folder / name / "evil.py").write_text(EVIL)
    return report("recipe", folder)


def encoders(folder: Path) -> dict[str, Any]:
    """Write every case and open them all in one process."""
    made = tiny_encoder(folder.parent)
    for name, (change, _) in {**ENCODERS, "innocent": (lambda _: None, None)}.items():
        shutil.copytree(made, folder / name)
        (folder / name / "evil.py").write_text(EVIL)
        change(folder / name)
    return report("encoder", folder)


def runs(folder: Path) -> dict[str, Any]:
    """Write every case and open them all in one process."""
    made, encoder = {}, tiny_encoder(folder.parent)
    for kind in ("model", "adapter"):
        classifier = load_classifier(EncoderSettings(name=str(encoder)), TASK, head="native", seed=0)
        if kind == "adapter":
            Lora(rank=2).apply(classifier)
        made[kind] = folder.parent / kind / "model"
        save(classifier, record_of(classifier, merged=kind == "model"), made[kind])
    for name, (kind, change, _) in {**RUNS, "innocent": ("adapter", lambda _: None, None)}.items():
        shutil.copytree(made[kind], folder / name)
        (folder / name / "evil.py").write_text(EVIL)
        change(folder / name)
    return report("run", folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opened", "cases"),
    [(recipes, RECIPES), (encoders, ENCODERS), (runs, RUNS)],
    ids=["recipe", "encoder", "saved model"],
)
def test_foreign_files_are_never_executed(
    tmp_path: Path, opened: Callable[[Path], dict[str, Any]], cases: dict[str, Any]
):
    folder = tmp_path / "cases"
    folder.mkdir()
    found, failed = opened(folder), {}
    for name, (*_, words) in cases.items():
        try:
            refused_or_data(found[name], words, folder / name)
        except AssertionError as error:  # the others are told of, too
            failed[name] = str(error)
    assert failed == {}


def test_the_audit_hook_detects_execution(tmp_path: Path):
    """Else the tests above could not fail."""
    (tmp_path / "evil.py").write_text("")
    code = (
        "import os, pickle, runpy, socket, subprocess, sys\nfrom pathlib import Path\nfrom tests import hostile\n"
        f"watch, place = hostile.Watch(), Path({str(tmp_path)!r})\nsys.path.insert(0, str(place))\n"
        "def connect(): socket.create_connection(('127.0.0.1', 9), 1)\n"
        "for call in (lambda: os.system('true'), lambda: subprocess.run(['true']), connect,\n"
        "    lambda: __import__('evil'), lambda: runpy.run_path(str(place / 'evil.py')),\n"
        "    lambda: pickle.loads(pickle.dumps(os.system))):\n"
        "    assert hostile.watched(watch, place, call)['seen'], call\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
