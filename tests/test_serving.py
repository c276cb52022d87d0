"""A served model predicts as in Python, also under concurrency; errors are one sentence."""

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.serving.host import NEEDED
from tests.demo.started import PROBLEMS, Runs
from tests.serving_client import Client, serving, until
from tests.warm import CLI, Process, Warm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TASK = Task("single_label", ("good", "bad"), pair=False)
WORDS = ("where", "is", "my", "late", "card", "the", "good", "film")
SECRET = "the card ends in 4711"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("serving"))


def plain(answers: list[Prediction]) -> list[dict]:
    return [
        {"label": each.label, "probabilities": pytest.approx(each.probabilities, abs=1e-5), "abstains": False}
        for each in answers
    ]


@pytest.mark.parametrize(
    "problem", [pytest.param(each, marks=[pytest.mark.exhaustive] * (each == "ordinal")) for each in PROBLEMS]
)
def test_concurrent_responses_equal_the_predictor(runs: dict[str, Path], problem: str):
    predictor = Predictor(runs[problem])
    task, draw = predictor.record.task, random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=k % 40)) for k in range(120)]
    pairs = texts[::-1] if task.pair else None
    reference = predictor.predict(texts, pairs)
    if problem == "regression":
        expected = [
            {"label": pytest.approx(each.label, abs=1e-5), "probabilities": {}, "abstains": False} for each in reference
        ]
    else:
        expected = plain(reference)
    with serving(predictor.predict, task, batch_tokens=256) as client, ThreadPoolExecutor(12) as pool:
        spans = [(start, start + draw.randint(1, 9)) for start in draw.choices(range(110), k=80)]
        replies = pool.map(lambda s: client.predict(texts[slice(*s)], pairs and pairs[slice(*s)]), spans)
        for span, reply in zip(spans, replies, strict=True):
            assert reply.status == 200
            assert reply.content["predictions"] == expected[slice(*span)]
        info = client.ask("/info").content
        assert (info["problem"], info["labels"], info["pair"]) == (task.problem, list(task.labels), task.pair)
        assert client.predict([], [] if task.pair else None).content == {"predictions": []}
        if task.labels:
            (one,) = client.predict(texts[:1], pairs and pairs[:1], top_k=1).content["predictions"]
            assert list(one["probabilities"]) == [max(reference[0].probabilities, key=reference[0].probabilities.get)]
        other = client.predict(texts[:1], None if task.pair else texts[:1])
        assert other.status == 422
        assert "pairs" in other.content["error"]


class Gate:
    """A model that answers when it may, and notes what it was asked together."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.may = threading.Event()

    def __call__(self, texts, pairs=None) -> list[Prediction]:
        self.passes.append(list(texts))
        assert self.may.wait(20)
        if "worse" in texts:
            raise UserError("memory does not suffice")
        if "bad" in texts:
            raise RuntimeError(f"it cannot be that {SECRET}")
        return [Prediction(text, {"good": 0.75, "bad": 0.25}) for text in texts]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_waiting_requests_are_batched_and_fail_separately(gate: Gate, capfd):
    with serving(gate, TASK) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.predict, ["first"])
        until(lambda: gate.passes)
        later = {text: pool.submit(client.predict, [text, "x"]) for text in ("a", "bad", "b", "worse", "c")}
        until(lambda: client.batcher._waiting == 10)
        gate.may.set()
        assert first.result().status == 200
        for text in "abc":
            assert [each["label"] for each in later[text].result().content["predictions"]] == [text, "x"]
        for text, message in (("bad", "the server's log"), ("worse", "memory does not suffice")):
            assert later[text].result().status == 500
            assert message in later[text].result().content["error"]
        assert len(gate.passes[1]) == 10
        assert client.predict(["after"]).status == 200
    err = capfd.readouterr().err
    assert "a request failed: RuntimeError at tests.test_serving" in err
    assert SECRET not in err
    assert "Traceback" not in err


def test_large_requests_do_not_delay_small_ones(gate: Gate):
    with serving(gate, TASK, batch_tokens=40) as client, ThreadPoolExecutor(4) as pool:
        pool.submit(client.predict, ["first"])
        until(lambda: gate.passes)
        many = pool.submit(client.predict, [f"m{n}" for n in range(100)])
        until(lambda: client.batcher._waiting == 100)
        one = pool.submit(client.predict, ["one"])
        until(lambda: client.batcher._waiting == 101)
        gate.may.set()
        assert one.result().status == 200
        assert "one" in gate.passes[1]
        assert max(map(len, gate.passes)) <= 20
        labels = [each["label"] for each in many.result().content["predictions"]]
    assert labels == [f"m{n}" for n in range(100)]


def test_a_full_queue_refuses_and_recovers(gate: Gate):
    with serving(gate, TASK, queue=4, texts=4) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.predict, ["first"])
        until(lambda: gate.passes)
        waits = pool.submit(client.predict, ["a", "b", "c"])
        until(lambda: client.batcher._waiting == 3)
        refused = client.predict(["d", "e"])
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "too many texts are waiting" in refused.content["error"]
        fits = pool.submit(client.predict, ["d"])
        until(lambda: client.batcher.full)
        assert client.ask("/predict", b"{" * 1000).status == 503  # before it is read
        assert client.ask("/health").status == 200
        gate.may.set()
        assert [first.result().status, waits.result().status, fits.result().status] == [200] * 3
        assert client.predict(["a", "b", "c", "d"]).status == 200


def test_expired_and_abandoned_requests_are_not_computed(gate: Gate):
    with serving(gate, TASK, seconds=3) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.predict, ["first"])
        until(lambda: gate.passes)
        left = client.leave(["left"])
        until(lambda: client.batcher._waiting == 1)
        left.close()
        until(lambda: client.batcher._waiting == 0)
        late = client.predict(["late"])
        assert late.status == 504
        assert "within 3 seconds" in late.content["error"]
        assert first.result().status == 504
        assert client.batcher._waiting == 0
        gate.may.set()
        assert client.predict(["after"]).status == 200
    assert gate.passes == [["first"], ["after"]]


def test_a_missing_body_times_out(gate: Gate):
    with serving(gate, TASK, seconds=0.3) as client, socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "not JSON"),
        (b'{"texts": ["a"', 422, "not JSON"),
        (b'{"texts": ["\xff"]}', 422, "not JSON"),
        (b'{"texts": ["\\ud800"]}', 422, "not JSON"),
        (b'{"top_k": ' + b"9" * 9000 + b', "texts": []}', 422, ""),
        (b"[" * 9000, 422, "not JSON"),
        (b'["a"]', 422, "must be a JSON object"),
        (b"{}", 422, "texts: Field required"),
        ({"texts": "a"}, 422, "texts: "),
        ({"texts": ["a", 1]}, 422, "texts.1: "),
        ({"texts": ["a"], "top_k": 0}, 422, "top_k: "),
        ({"texts": ["a"], "top_k": True}, 422, "top_k: "),
        ({"texts": ["a"], "txts": 1}, 422, "'txts' is not a known key (did you mean 'texts'?)"),
        ({"texts": ["a"], "pairs": ["a"]}, 422, "the model was trained on single texts"),
        (b'{"texts": ["a"], "texts": ["b"]}', 422, "texts is given more than once"),
        ({"texts": ["a"] * 6}, 413, "6 are more than the 5"),
        ({"texts": ["a", "b" * 51]}, 413, "texts.1: 51 characters are more than the 50"),
        ({"texts": ["a" * 10_000]}, 413, "more than 9,500 bytes"),
        (b"[" * 2**25, 413, "more than 9,500 bytes"),  # more than the system holds for who has not read it
    ],
    ids=lambda value: "" if isinstance(value, (bytes, dict)) else None,
)
def test_invalid_requests_get_one_sentence(door: Client, content, status: int, message: str):
    reply = door.ask("/predict", content)
    assert (reply.status, list(reply.content)) == (status, ["error"])
    assert message in reply.content["error"]
    assert len(reply.content["error"]) < 300


@pytest.fixture(scope="module")
def door():
    gate = Gate()
    gate.may.set()
    with serving(gate, TASK, texts=5, characters=50, bytes=9_500) as client:
        yield client


def test_chunked_bodies_have_the_same_limit(door: Client):
    with socket.create_connection(("127.0.0.1", door.port)) as connection:
        head = (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head + b"2000\r\n" + b" " * 0x2000 + b"\r\n2000\r\n" + b" " * 0x2000 + b"\r\n0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("head", [f"Content-Length: {2**40}", f"Content-Length: {2**20}\r\nExpect: 100-continue"])
def test_refused_bodies_are_not_waited_for(door: Client, head: str):
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection:
        asked = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
        connection.sendall(asked.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_other_responses_are_json_too(door: Client):
    assert door.ask("/predict", b"{}", headers={"Content-Type": "text/plain"}).status == 415
    assert door.ask("/nowhere").content == {"error": "Not Found"}
    assert door.ask("/predict").status == 405
    assert door.ask("/health").content == {"live": True, "ready": True}
    described = door.ask("/openapi.json").content
    assert set(described["paths"]) == {"/predict", "/health", "/info"}
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["texts"]["maxItems"] == 5
    info = door.ask("/info").content
    assert (info["model"], info["revision"]) == ("owner/name", "c0ffee")
    assert info["limits"] == {"texts": 5, "characters": 50, "bytes": 9500, "seconds": 30}


def started(running: Warm, run: Path, *words: str) -> tuple[Process, str]:
    process = running.start(CLI, "serve", str(run), "serve.port=0", *words)
    while "\n" not in process.said() and process.poll() is None:
        time.sleep(0.02)
    output = process.said()
    assert "serving" in output
    return process, output


def port_in(line: str) -> int:
    return int(line.split("http://127.0.0.1:")[1].split(",")[0])


def test_an_export_is_served_with_its_rule(running: Warm, runs: dict[str, Path]):
    run = runs["ordinal"]
    assert main(["export", str(run), "decision.abstain_below=0.99"]) == 0
    process, output = started(running, run / "onnx")
    client = Client(port_in(output))
    try:
        answers = client.predict([SECRET, "good film"]).content["predictions"]
        assert client.ask("/info").content["model"] == f"{run.name}/onnx"
    finally:
        process.terminate()
        process.communicate(timeout=20)
    reference = Predictor(run).predict([SECRET, "good film"])
    assert [each["label"] for each in answers] == [each.label for each in reference]
    assert [each["abstains"] for each in answers] == [max(each.probabilities.values()) < 0.99 for each in reference]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_after_pending_responses(running: Warm, runs: dict[str, Path], number: int):
    # A request waits three seconds for company, in which the signal comes.
    process, output = started(running, runs["single_label"], "serve.wait_ms=3000")
    client = Client(port_in(output))
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(client.predict, [SECRET])
        time.sleep(1)
        process.send_signal(number)
        assert answer.result().status == 200
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert (out, err) == ("", output)
    with pytest.raises(ConnectionRefusedError):
        client.ask("/health")


FAILING = """
import asyncio, os, signal, threading, urllib.error, urllib.request
from fastapi import FastAPI
from nlp_transfer.serving.host import bound, listen, run

app = FastAPI()

@app.get("/fails")
async def fails():
    raise ValueError("SECRET")

@app.get("/lasts")
async def lasts():
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    await asyncio.sleep(60)

def ask(url):
    for name in ("fails", "lasts"):
        try:
            urllib.request.urlopen(f"{url}/{name}")
        except OSError:
            pass

with bound("serve", "127.0.0.1", 0) as door:
    threading.Thread(target=ask, args=[listen(door)], daemon=True).start()
    run(app, door, on_stop=lambda: None, grace_seconds=1)
"""


def test_failures_at_shutdown_are_reported_without_traceback():
    done = subprocess.run(
        [sys.executable, "-c", FAILING.replace("SECRET", SECRET)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "nlp-transfer: a request failed: ValueError at __main__:10",
        "Cancel 1 running task(s), timeout graceful shutdown exceeded",
    ]


def test_invalid_settings_are_refused_before_the_model_is_loaded(runs: dict[str, Path], monkeypatch, capfd):
    run = str(runs["single_label"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, message in (
            ([run, f"serve.port={port}"], "choose another port"),
            ([run, "serve.port=70000"], "serve.port=70000 must lie between"),
            ([run, "serve.host=no.such.host.invalid"], "is not an address of this machine"),
            ([run, "serve.queue=3"], "serve.queue=3 is less than serve.texts=256"),
            ([run, "serve.seconds=0"], "serve.seconds=0.0 must be positive"),
            ([run, "serve.prot=1"], "serve.prot is not a known key"),
            ([], "serve needs the folder of a run"),
            (["no/such/run"], "no such folder"),
        ):
            assert main(["serve", *words]) == 2
            assert message in capfd.readouterr().err
    monkeypatch.setitem(NEEDED, "serve", ("fastapi_of_nobody",))
    assert main(["serve", run]) == 2
    assert 'pip install "nlp-transfer[serve]"' in capfd.readouterr().err


def test_generated_requests_find_nothing(door: Client, tmp_path: Path):
    """Every answer is one that the description has."""
    pytest.importorskip("schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = ["-m", "schemathesis.cli", "run", f"http://127.0.0.1:{door.port}/openapi.json", "--checks", checks]
    done = subprocess.run(
        [sys.executable, *command, "--max-examples", "80", "--seed", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert door.ask("/health").content["ready"]
