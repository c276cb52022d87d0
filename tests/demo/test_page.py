"""The page answers as the model does, for every kind of model; a started one keeps to this machine and to itself.

Gradio takes as long to import as all else together: only the tests that need it do, not every process that collects.
"""

import csv
import http.client
import json
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.demo import demo
from nlp_transfer.demo.files import label_file
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.serving.host import NEEDED
from nlp_transfer.settings import Settings
from nlp_transfer.verb_settings import DemoSettings
from tests.demo.started import PROBLEMS, Page, Runs, started

SECRET = "the card ends in 4711"
SETTINGS = Settings(demo=DemoSettings(texts=5, characters=200))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("demo"))


class Handlers:
    """Calls the functions of the page; returns the shown values by the component's label or kind."""

    def __init__(self, model, folder: Path) -> None:
        from nlp_transfer.demo.page import make_page

        page = make_page(model, SETTINGS, name="model", folder=folder)
        self.task = model.record.task
        wrapped = [each.fn for each in page.fns.values() if each.fn.__name__ == "wrapped"]
        self.label, self.detail, self.explain, *_, self.file = wrapped

    @staticmethod
    def seen(found: dict) -> dict:
        shown = {
            getattr(part, "label", None) or type(part).__name__: value
            for part, value in found.items()
            if not is_update(value)
        }
        return shown | {
            part.label: value["value"] for part, value in found.items() if is_update(value) and "value" in value
        }


def is_update(value) -> bool:
    return isinstance(value, dict) and "__type__" in value


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem", [pytest.param(each, marks=[pytest.mark.exhaustive] * (each == "ordinal")) for each in PROBLEMS]
)
def test_every_kind_of_model_has_a_page(runs: dict[str, Path], tmp_path: Path, problem: str):
    model = Predictor(runs[problem])
    page, task = Handlers(model, tmp_path), model.record.task
    texts = ["where is my card", "good movie & <b>film</b>"]
    pairs = [["refund the order", "love it"]] if task.pair else []
    expected = model.predict(texts, *pairs)
    table = page.seen(page.label(0.0, True, "\n".join(texts), *map("\n".join, pairs)))
    rows = table["Answers: choose a row to see more of it below"]
    assert [row[-1 - len(pairs)] for row in rows] == texts
    if problem in ("single_label", "ordinal", "pair"):
        assert [row[0] for row in rows] == [answer.label for answer in expected]
    abstains = problem in ("single_label", "ordinal", "pair")
    shown = page.seen(page.detail(float(abstains), texts[0], *(each[0] for each in pairs)))
    assert ("abstains: its best label" in shown["HTML"]) == abstains
    assert (shown["Most probable labels"] or {}) == pytest.approx(expected[0].probabilities, abs=1e-6)
    about = shown["Which words mattered for"]
    assert (about is None) == (problem == "regression")
    words = page.seen(page.explain(about, texts[0], *(each[0] for each in pairs)))
    (marked, *second) = [words[name] for name in words if "ext" in name]
    assert "".join(text for text, _ in marked) == texts[0]
    assert len(second) == len(pairs)
    assert max(abs(score or 0) for part in (marked, *second) for _, score in part) == 1


@pytest.mark.slow
def test_errors_replace_results_by_a_sentence(runs: dict[str, Path], tmp_path: Path, capfd):
    model = Predictor(runs["single_label"])
    page = Handlers(model, tmp_path)

    def said(found: dict) -> str:
        visible = {type(part).__name__: value["visible"] for part, value in found.items() if isinstance(value, dict)}
        assert visible in ({"Column": False, "HTML": True}, {"DownloadButton": False, "HTML": True})
        return next(value["value"] for part, value in found.items() if type(part).__name__ == "HTML")

    assert "there is no text yet" in said(page.label(0.0, True, ""))
    assert "6 texts are more than the 5" in said(page.label(0.0, True, "a\n" * 6))
    assert "there is no file yet" in said(page.file(0.0, None))
    model.logits = lambda *_: 1 / 0
    assert "the model failed on this" in said(page.label(0.0, True, SECRET))
    err = capfd.readouterr().err
    assert "a request failed: ZeroDivisionError at tests.demo.test_page" in err
    assert SECRET not in err


def test_a_file_is_labelled_like_predict_without_its_path(runs: dict[str, Path], tmp_path: Path):
    model = Predictor(runs["single_label"])
    upload = tmp_path / "up" / "tickets.tsv"
    upload.parent.mkdir()
    upload.write_text("id\ttext\n1\twhere is my card\n")
    made, count = label_file(model, upload, Settings(), tmp_path)
    assert (made.name, count) == ("tickets.labelled.tsv", 1)
    (row,) = csv.DictReader(made.open(), delimiter="\t")
    assert row["prediction"] == model.predict(["where is my card"])[0].label
    upload.write_text("id\ttext\n1\twhere\tis\n")
    with pytest.raises(UserError, match=r"^tickets\.tsv:2: 3 cells"):
        label_file(model, upload, Settings(), tmp_path)
    with pytest.raises(UserError, match=r"^tickets\.tsv has 19 bytes, more than the 9"):
        label_file(model, upload, Settings(demo=DemoSettings(bytes=9)), tmp_path)
    lines = upload.with_name("lines.txt")
    lines.write_text("where is my card\ngood movie\n")
    made, count = label_file(model, lines, Settings(), tmp_path)
    assert (made.name, count) == ("lines.labelled.csv", 2)
    assert sorted(path.name for path in upload.parent.iterdir()) == ["lines.txt", "tickets.tsv"]


@pytest.mark.slow
def test_a_long_file_does_not_delay_shutdown(runs: dict[str, Path], tmp_path: Path):
    from nlp_transfer.demo.site import StoppableLabeller

    model = StoppableLabeller(Predictor(runs["single_label"]))
    rows = tmp_path / "rows.txt"
    rows.write_text("where is my card\n" * 1000)
    inner = model._labeller.logits

    def answer_and_end(texts, pairs=None):
        model.ended.set()
        return inner(texts, pairs)

    model._labeller.logits = answer_and_end
    with pytest.raises(UserError, match="the page is being stopped"):
        label_file(model, rows, Settings(), tmp_path)


@pytest.fixture
def page(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "temporary").mkdir()
    with started(runs["single_label"], tmp_path / "temporary") as page:
        yield page


@pytest.mark.slow
def test_a_started_page_answers_keeps_to_this_host_and_ends_for_a_signal(
    page: Page, runs: dict[str, Path], tmp_path: Path
):
    with urllib.request.urlopen(page.url) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    from gradio_client import Client, handle_file

    client = Client(page.url, verbose=False, download_files=str(tmp_path))
    found = client.predict(0.0, True, SECRET, api_name="/label")
    assert Predictor(runs["single_label"]).predict([SECRET])[0].label in json.dumps(found)
    upload = tmp_path / "tickets.csv"
    upload.write_text(f"text\n{SECRET}\n")
    _, labelled = client.predict(1.0, handle_file(upload), api_name="/label_file")
    written = Path(labelled["value"] if isinstance(labelled, dict) else labelled).read_text()
    (row,) = csv.DictReader(written.splitlines())
    assert (row["prediction"], row["abstains"]) == (Predictor(runs["single_label"]).predict([SECRET])[0].label, "true")
    host, port = page.url.removeprefix("http://").split(":")
    wrong = http.client.HTTPConnection(host, int(port))  # what the page never sends
    wrong.request("POST", "/gradio_api/run/label", json.dumps({"data": [SECRET]}), {"Content-Type": "application/json"})
    assert wrong.getresponse().status >= 400
    kept = tmp_path / "temporary"
    assert {path.name for path in kept.rglob("*.csv")} == {"tickets.csv", "tickets.labelled.csv"}
    with socket.create_connection((host, int(port))) as left_open:  # as every page in a browser does
        left_open.sendall(b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert left_open.recv(20).startswith(b"HTTP/1.1 200")
        status, out, err, seconds = page.end(signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert out == ""
    assert SECRET not in err
    assert "Traceback" not in err
    assert seconds < 5
    assert not list(kept.glob("nlp-transfer-*"))


def test_invalid_settings_are_refused_before_the_model_is_loaded(runs: dict[str, Path], monkeypatch, capfd):
    run = str(runs["single_label"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, said in (
            ([run, f"demo.port={taken.getsockname()[1]}"], "choose another port"),
            ([run, "demo.port=70000"], "demo.port=70000 must lie between"),
            ([run, "demo.texts=0"], "demo.texts=0 must be at least 1"),
            ([run, "demo.effort=0"], "demo.effort=0 must be at least 1"),
            ([run, "demo.prot=1"], "demo.prot is not a known key"),
            ([], "demo needs the folder of a run"),
            (["no/such/run"], "no such folder"),
        ):
            assert main(["demo", *words]) == 2
            assert said in capfd.readouterr().err
    monkeypatch.setitem(NEEDED, "demo", ("gradio_of_nobody",))
    assert main(["demo", run]) == 2
    assert 'pip install "nlp-transfer[demo]"' in capfd.readouterr().err


def test_a_browser_is_opened_only_on_a_desktop(monkeypatch):
    class Screen:
        is_interactive = True

    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert [demo._opens_browser(expected, Screen) for expected in (None, True, False)] == [False, True, False]
    monkeypatch.setenv("DISPLAY", ":0")
    assert demo._opens_browser(None, Screen)
    Screen.is_interactive = False
    assert not demo._opens_browser(None, Screen)
