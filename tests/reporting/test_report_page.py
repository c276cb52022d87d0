"""Report pages for every problem type: contents, escaping, and reproducibility."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nlp_transfer.errors import UserError
from nlp_transfer.reporting import html_page, markdown_page
from nlp_transfer.reporting.document import Document
from nlp_transfer.reporting.files import check_target, write
from nlp_transfer.reporting.report_page import document_of
from tests.reporting.tasks import HOSTILE, evidence

MANY = tuple(f"label {number}" for number in range(150))
CASES = {
    "one label": {"steps": 40, "domains": True},
    "two labels": {"names": ("no", "yes"), "soft": True, "weighted": True},
    "many labels": {"names": MANY, "rows": 400},
    "several labels": {"problem": "multi_label"},
    "one of several": {"problem": "multi_label", "names": ("spam",), "baselines": False},
    "ordinal": {"problem": "ordinal", "names": ("1", "2", "3"), "soft": True},
    "number": {"problem": "regression", "pair": True, "weighted": True},
    "little": {"rows": 6, "baselines": False, "train": False, "split": "validation"},
    "hostile": {"names": HOSTILE, "domains": True, "text": HOSTILE[0] + " {} \x00 " + HOSTILE[1] + "x" * 400},
}
# What is in the page of which kinds alone.
PARTS = {
    "Confusions": {"single_label", "ordinal"},
    "Label by label": {"single_label", "ordinal", "multi_label"},
    "Confidence": {"single_label", "ordinal", "multi_label"},
    "Area under the curve": {"single_label", "ordinal"},
    "Average precision": {"single_label", "ordinal", "multi_label"},
    "Numbers": {"regression"},
    "The hardest rows": {"single_label", "ordinal", "multi_label", "regression"},
}


class Seen(HTMLParser):
    """Parses a page: its tags, ids and references, and whether each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value] * (name == "id")
            assert not name.startswith("on"), name
            if name in ("href", "xlink:href", "src"):
                self.refers.append(value)
            self.refers += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Pages(dict[str, tuple[str, str]]):
    """Both forms of every case, each drawn once, when it is asked for."""

    def __missing__(self, name: str) -> tuple[str, str]:
        document = document_of(evidence(**CASES[name]))
        self[name] = (html_page.render(document), markdown_page.render(document))
        return self[name]


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_self_contained(pages, name: str):
    html, markdown = pages[name]
    seen = Seen(html)
    assert not seen.open
    assert not {"script", "link", "iframe", "img", "object", "style\n"} & set(seen.tags)
    assert len(set(seen.ids)) == len(seen.ids)
    assert all(each.startswith("#") and each[1:] in seen.ids for each in seen.refers)
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"#01010[1-8]", html), "a stand-in for a colour was left"
    assert "mathdefault" not in html
    assert "DejaVu" not in html
    assert "\x00" not in html + markdown
    assert markdown.startswith(markdown_page.MARK)
    problem = CASES[name].get("problem", "single_label")
    for part, problems in PARTS.items():
        assert (part in html) == (problem in problems), part
    assert "This page quotes texts of the data" in html
    assert "This page quotes texts of the data" in markdown
    assert markdown.count("| **") == html.count("<strong>"), "bold cells, of which captions speak"


@pytest.mark.parametrize("name", ["hostile"])
def test_the_same_evidence_gives_the_same_bytes_in_any_order_of_the_rows(pages, name: str):
    document = document_of(evidence(**CASES[name], shuffled=True))
    assert (html_page.render(document), markdown_page.render(document)) == pages[name]


def test_texts_of_the_data_are_escaped(pages):
    html, markdown = pages["hostile"]
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in markdown
    assert HOSTILE[1] in html
    assert "👩‍👩‍👧 $x^2$ &amp;" in html
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", line)) > 2 for line in lines)


def test_the_hardest_rows_are_shortened(pages):
    html, _ = pages["hostile"]
    assert "x" * 250 in html
    assert "x" * 301 not in html


@pytest.mark.parametrize(("name", "output"), [("train-78", True), ("validation-2", True), ("train-a", False)])
def test_generated_row_ids_are_explained(name: str, output: bool):
    measured = evidence(rows=30)
    names = [name] * len(measured.examples)
    measured = dataclasses.replace(measured, examples=dataclasses.replace(measured.examples, ids=names))
    html = html_page.render(document_of(measured))
    assert ("are named by the split they were read from" in html) == output


def test_only_significant_figures_are_bold():
    alike = evidence(rows=30)
    against = alike.report.comparison
    assert against is not None
    html = html_page.render(document_of(alike))
    line = re.search(r"<tr><td><bdi>macro_f1</bdi></td>.*?</tr>", html)
    assert line
    assert ("<strong>" in line[0]) == (against.outcome != "no evidence")


def test_labels_are_ordered_by_score(pages):
    html, _ = pages["many labels"]
    assert "All 150 labels" in html
    table = html[html.index("<h2>Label by label") : html.index("<h2>Confidence")]
    found = [float(each) for each in re.findall(r"--share: ([\d.]+)%", table)]
    assert found == sorted(found)


def test_a_page_of_many_labels_is_small(pages):
    assert all(len(html.encode()) < 1_500_000 for html, _ in pages.values())


def test_every_figure_has_a_text_alternative(pages):
    for html, _ in pages.values():
        drawn = re.findall(r"<svg[^>]*>", html)
        assert drawn
        assert all('role="img"' in each and re.search(r'aria-label="[^"]+"', each) for each in drawn)
        assert html.count("<figcaption>") == len(drawn)


@pytest.mark.parametrize("ending", ["html", "md"])
def test_a_page_replaces_only_a_page(tmp_path: Path, ending: str):
    path = tmp_path / f"report.{ending}"
    check_target(path)
    write(Document("one", [], []), path)
    first = path.read_bytes()
    check_target(path)
    write(Document("another", [], []), path)
    assert path.read_bytes() != first
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    path.write_text("mine")
    with pytest.raises(UserError, match="is not a report of nlp-transfer; it is not overwritten"):
        check_target(path)


@pytest.mark.parametrize(
    ("name", "message"), [("report.pdf", "must end in .html or .md"), ("none/report.html", "there is no folder")]
)
def test_a_file_that_cannot_become_a_page_is_refused(tmp_path: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        check_target(tmp_path / name)


def test_an_unwritable_page_is_reported_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        write(Document("one", [], []), tmp_path / "file" / "report.html")
