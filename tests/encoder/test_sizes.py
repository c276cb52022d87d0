"""A configuration that asks for more than its weights hold is refused by file and key before it is built."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.encoder.sizes import limit_model_size, weights_per_token
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

from .families import tiny_encoder

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
MOST_SECONDS = 10
MOST_BYTES = 1 << 30  # beyond what the imports take
BILLION = 10**9
LABELS = {str(index): f"label {index}" for index in range(200_000)}


def case(family: str, **values: Any) -> tuple[str, dict[str, Any]]:
    return family, values


# What is said must hold `key=value`; other cases say which words.
NAMED = [
    *(case("bert", num_hidden_layers=value) for value in (BILLION, 10**30, 0, -1, "two", 2.0, 1e308, True, 1001)),
    *(case("bert", hidden_size=value) for value in (BILLION, 20_000, 0, -32, "wide", 32.0)),
    *(case("bert", vocab_size=value) for value in (10**12, 0, -5, "many")),
    *(case("bert", max_position_embeddings=value) for value in (10**12, 0, -1, "all", 66.5)),
    *(case("bert", intermediate_size=value) for value in (10**10, 0)),
    *(case("bert", num_attention_heads=value) for value in (BILLION, 0)),
    *(case("bert", num_labels=value) for value in (BILLION, -3, "three")),
    case("qwen2", num_hidden_layers=BILLION, layer_types=None),  # the library would make a list of as many texts
    case("qwen2", max_position_embeddings=10**12),
    case("gpt2", n_layer=BILLION),
    case("t5", num_layers=BILLION),
    case("t5", num_decoder_layers=BILLION),
    case("bart", decoder_layers=BILLION),
    case("distilbert", n_layers=BILLION),
    case("albert", num_hidden_layers=BILLION),
]
# Keys that nothing here knows, and sizes that rotary positions could have: the model is counted while it is built.
BUILT = [
    case("albert", inner_group_num=BILLION),
    case("mobilebert", num_feedforward_networks=BILLION),
    case("bert", type_vocab_size=BILLION),
    case("bert", max_position_embeddings=10_000_000),
    case("distilbert", max_position_embeddings=10_000_000, sinusoidal_pos_embds=True),
    case("bert", hidden_size=1000, num_hidden_layers=1000),
    case("funnel", block_sizes=[BILLION, 1]),
]
OTHER = {"labels": case("bert", id2label=LABELS)}
CHILD = """
import json, pathlib, resource, sys, time
from tests.encoder import test_sizes
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + test_sizes.MOST_BYTES,) * 2)
print(json.dumps({place.name: test_sizes.told(place) for place in sorted(pathlib.Path(sys.argv[1]).iterdir())}))
"""


def told(folder: Path) -> list[dict[str, Any]]:
    """How the loading of a folder under each head ends, and after how long."""
    found = []
    for head in ("native", "pooled"):
        started, kind, said = time.monotonic(), "value", ""
        try:
            load(folder, head)
        except Exception as error:
            kind, said = type(error).__name__, str(error)
        found.append({"kind": kind, "said": said, "seconds": time.monotonic() - started})
    return found


def load(folder: Path, head: str) -> Any:
    task = Task("single_label", ("card", "film"), pair=False)
    return load_classifier(EncoderSettings(name=str(folder)), task, head=head, seed=0)


def changed(folder: Path, values: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def key_of(family: str, values: dict[str, Any]) -> str:
    return f"{family} " + " ".join(f"{key}={str(value)[:20]}" for key, value in values.items())


def said_of_all(home: Path, made: Path) -> dict[str, list[dict[str, Any]]]:
    """What one process with little memory says of all of them; one that loops for ever is ended."""
    cases = [*NAMED, *BUILT, *OTHER.values()]
    places = {str(place): key_of(*each) for place, each in enumerate(cases)}
    encoders = {family: tiny_encoder(made, family) for family, _ in cases}
    for place, (family, values) in enumerate(cases):
        shutil.copytree(encoders[family], home / str(place))
        changed(home / str(place), values)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(home)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {places[place]: result for place, result in json.loads(done.stdout.splitlines()[-1]).items()}


def said_of(found: dict[str, list[dict[str, Any]]], family: str, values: dict[str, Any]) -> list[str]:
    key = key_of(family, values)
    for each in found[key]:
        assert each["kind"] == "UserError", (key, each)
        assert each["seconds"] < MOST_SECONDS, key
        assert "config.json: " in each["said"], key
        assert "\n" not in each["said"], key
        assert len(each["said"]) < 600, key
    return [each["said"] for each in found[key]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads how much memory a process has")
def test_a_size_that_cannot_be_is_named_and_nothing_built(tmp_path: Path):
    """All in one process and one test: a process takes far longer to import transformers than to refuse them."""
    (tmp_path / "cases").mkdir()
    found = said_of_all(tmp_path / "cases", tmp_path)
    for family, values in NAMED:
        key, value = next(iter(values.items()))
        for said in said_of(found, family, values):
            assert f"config.json: {key}={value} must be a whole number" in said
    for family, values in BUILT:
        key, value = next(iter(values.items()))
        entry = f"{key}.0={value[0]}" if isinstance(value, list) else f"{key}={value}"
        for said in said_of(found, family, values):
            assert "far larger than its weights" in said
            assert entry in said
    for said in said_of(found, *OTHER["labels"]):
        assert "id2label names 200,000 labels" in said


def test_labels_may_be_called_like_sizes(tmp_path: Path):
    folder = tiny_encoder(tmp_path)
    names = {"hidden_size": 0, "dim": 1, "num_layers": 2}
    changed(folder, {"label2id": names, "id2label": {str(index): name for name, index in names.items()}})
    assert load(folder, "native").head == "native"


def test_layers_that_share_their_weights_may_be_more_than_the_tensors(tmp_path: Path):
    folder = tiny_encoder(tmp_path, "albert", num_hidden_layers=48)
    assert load(folder, "native").model.config.num_hidden_layers == 48


def test_nothing_is_counted_afterwards(tmp_path: Path):
    folder = tiny_encoder(tmp_path)

    def build() -> torch.nn.Module:
        return torch.nn.Linear(1 << 20, 1 << 20, device="meta")

    with limit_model_size(folder):
        torch.nn.Module().register_parameter("w", torch.nn.Parameter(torch.empty(1 << 25)))  # no part of a new model
        with pytest.raises(UserError, match="far larger"):
            build()
    assert build().weight.is_meta


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "t5", "deberta-v2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weights_that_tokens_meet_are_counted_without_tables_of_words(
    tmp_path: Path, family: str, dtype: torch.dtype
):
    folder = tiny_encoder(tmp_path, family, vocab_size=211)
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(folder)
    stored = {parameter.data_ptr(): parameter for parameter in model.parameters()}.values()
    own = sum(parameter.numel() for parameter in stored if parameter.shape[0] != 211)
    assert weights_per_token(folder) == own > 0


def test_the_one_layer_of_albert_is_met_as_often_as_it_is_called(tmp_path: Path):
    counted = {
        layers: weights_per_token(tiny_encoder(tmp_path / str(layers), "albert", num_hidden_layers=layers))
        for layers in (1, 2, 4)
    }
    assert counted[4] - counted[2] == 2 * (counted[2] - counted[1]) > 0
    assert weights_per_token(tmp_path / "4" / "tiny-albert", depth=2) == counted[2]


def test_of_an_encoder_that_is_cut_the_lowest_layers_count(tmp_path: Path):
    deep, cut = (
        weights_per_token(tiny_encoder(tmp_path / str(layers), num_hidden_layers=layers), depth=depth)
        for layers, depth in ((3, 1), (1, None))
    )
    assert deep == cut
