"""A person at a real browser: types, sees, uploads, downloads; and the browser asks this machine alone."""

import csv
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver

from nlp_transfer.exporting.export import export
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.terminal.console import Screen
from tests.composed import settings_of
from tests.demo.started import made_run, started

CSS = "css selector"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with its chromedriver here"),
]
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1600"),
)
TEXTS = ["where is my card", "007", "good movie " * 40 + "film"]


class Person:
    """A browser, and what one does with it."""

    def __init__(self, url: str, downloads: Path, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for word in (*QUIET, f"--user-data-dir={profile}"):
            options.add_argument(word)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.driver.get(url)

    def until(self, look, seconds: float = 30):
        """Wait until something is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(Exception):  # parts of a page come and go
                if found := look():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"it never came to be: {self.driver.find_element(CSS, 'body').text}")

    def all(self, selector: str):
        """What is visible of a kind."""
        return [each for each in self.driver.find_elements(CSS, selector) if each.is_displayed()]

    def one(self, selector: str, containing: str = ""):
        """The first that has these words, when it is there."""
        return self.until(lambda: next(each for each in self.all(selector) if containing in each.text))

    def write(self, text: str) -> None:
        """Type into the first box."""
        box = self.one("textarea")
        box.clear()
        box.send_keys(text)

    def asked(self) -> set[str]:
        """Hosts that something was asked of, whether it came or not."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
        urls += [each["params"]["url"] for each in events if each["method"] == "Network.webSocketCreated"]
        return {urlsplit(url).netloc for url in urls if urlsplit(url).scheme in ("http", "https", "ws", "wss")}


@pytest.fixture
def person(request, tmp_path: Path):
    run = made_run(tmp_path, "single_label")
    if request.param == "exported":
        settings = settings_of({"export.output": str(tmp_path / "onnx")})
        served = export(run, settings, screen=Screen(quiet=True)).folder
    else:
        served = run
    with started(served, tmp_path) as page:
        person = Person(page.url, tmp_path / "downloads", tmp_path / "profile")
        yield person, Predictor(run), urlsplit(page.url).netloc
        person.driver.quit()


@pytest.mark.parametrize("person", ["saved", "exported"], indirect=True)
def test_a_person_types_texts_and_takes_a_file_home(person, tmp_path: Path):
    person, model, host = person
    labels = [answer.label for answer in model.predict(TEXTS)]

    person.one("button", "Label").click()
    assert person.one(".problem").text == "there is no text yet: type or paste one first"

    person.write(TEXTS[0])
    person.one("button", "Label").click()
    assert person.one(".answer").text.startswith(labels[0])
    assert person.one(".words", "card")
    assert not person.all(".problem")

    person.write("\n".join(TEXTS))
    person.one("button", "Label").click()
    rows = person.until(lambda: len(found := person.all(".virtual-row")) == 3 and found)
    assert [row.text.split()[0] for row in rows] == labels
    for text, label in ((TEXTS[1], labels[1]), (TEXTS[2], labels[2])):
        person.one(".virtual-row > *", text[:60]).click()
        person.until(lambda text=text: "".join(person.one(".words .textfield").text.split()) == "".join(text.split()))
        assert person.one(".answer").text.startswith(label)

    number = person.one("input[type=number]")
    number.clear()
    number.send_keys("1\t")
    person.one(".answer", f"abstains: its best label, {labels[2]}")  # of the text that was chosen
    person.until(lambda: all("abstains" in row.text for row in person.all(".virtual-row")))

    person.one("button", "A file").click()
    upload = tmp_path / "tickets.csv"
    for content, message in (("text,id\na,b,c\n", "tickets.csv:2: 3 cells"), (f"id,text\n1,{TEXTS[0]}\n", None)):
        upload.write_text(content)
        for clear in person.all("button[aria-label='Clear']"):
            clear.click()
            person.until(lambda: not person.all("a[download]"))
        person.one("button", "Click to Upload")
        person.driver.find_elements(CSS, "input[type=file]")[-1].send_keys(str(upload))  # tables have one, too
        person.one("a[download]")
        person.one("button", "Label the file").click()
        if message:
            assert message in person.one(".problem").text
    person.one("button", "Download tickets.labelled.csv (1 row)").click()
    home = tmp_path / "downloads" / "tickets.labelled.csv"
    person.until(home.exists)
    (row,) = csv.DictReader(home.open())
    assert (row["text"], row["prediction"]) == (TEXTS[0], labels[0])

    assert person.asked() == {host}
