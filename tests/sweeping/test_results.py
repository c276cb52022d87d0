"""Results of a sweep: the chosen run, tables and pictures."""

import json
import math
import re
from pathlib import Path

import pytest

from nlp_transfer.reporting.html_page import render
from nlp_transfer.sweeping import pictures
from nlp_transfer.sweeping.job import FAILED, FINISHED, PRUNED, STOPPED, Job, ended
from nlp_transfer.sweeping.page import document_of
from nlp_transfer.sweeping.pictures import Axis
from nlp_transfer.sweeping.results import Results, brief, to_csv, to_jsonl
from tests.sweeping.pretended import report_of


def run(number: int, figure: float | None, *, metric: str = "macro_f1", state: str = FINISHED, **more: object) -> Job:
    return Job((f"seed={number}", f"+x={10.0**-number}"), state, metric=metric, figure=figure, **more)


def results(*jobs: Job) -> Results:
    return Results("sweep-1", jobs, ["seed", "x"])


@pytest.mark.parametrize(("metric", "best"), [("macro_f1", 3), ("log_loss", 1), ("mean_absolute_error", 1)])
def test_the_best_run_is_chosen_in_either_direction(metric: str, best: int):
    found = results(*(run(number, number / 10, metric=metric) for number in (2, 1, 3)))
    assert found.chosen == found.ranked[0] == run(best, best / 10, metric=metric)
    assert [job.figure for job in found.ranked] == sorted([0.1, 0.2, 0.3], reverse=best == 3)


def test_failed_and_pruned_runs_are_listed_but_not_chosen():
    jobs = [run(1, 0.9, state=PRUNED), run(2, None, state=FAILED, status=2, said="no & such"), run(3, 0.1)]
    found = results(*jobs)
    assert found.chosen is jobs[2]
    page = render(document_of(found))
    assert "1 pruned, 1 failed, 1 finished" in page
    assert "no &amp; such" in page
    assert to_csv(found).splitlines()[1:] == [
        "finished,macro_f1,0.1,,,3,0.001",
        "pruned,macro_f1,0.9,,,1,0.1",
        "failed,macro_f1,,,,2,0.01",
    ]
    assert [Job.from_json(json.loads(line)) for line in to_jsonl(found).splitlines()] == found.ranked


def test_runs_are_ordered_once_and_not_for_every_row_of_a_table():
    found = results(run(1, 0.1), run(2, 0.2))
    assert found.ranked is found.ranked
    assert found.finished is found.finished


def test_incomparable_runs_are_not_compared():
    assert results(run(1, 0.1), run(2, 0.2, metric="accuracy")).sentences == [
        "No run can be chosen: their metrics differ."
    ]
    assert "none has a figure" in results(run(1, None)).sentences[0]
    changed = results(run(1, 0.1, fingerprint="a"), run(2, 0.2, fingerprint="b")).sentences
    assert "The data changed between runs" in changed[-1]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_chosen_run_is_evaluated_on_test_rows(tmp_path: Path, split: str):
    report = report_of(split)
    result = {"report": report, "validation": {"macro_f1": 0.4}, "seconds": 1, "data": {"fingerprint": "f"}}
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    job = ended(("seed=1",), 0, "noise\n" + json.dumps({"folder": str(tmp_path), "report": report}))
    assert (job.figure, job.value, job.state) == (0.4, 0.4, FINISHED)
    said = " ".join(results(job).sentences)
    assert (".123" in said) == (split == "test")
    assert ("There are no test rows" in said) == (split != "test")
    assert math.isnan(ended(("seed=1",), 0, "no JSON").value)
    assert ended(("seed=1",), 143, "").state == FAILED


@pytest.mark.parametrize(
    ("values", "places", "words"),
    [
        (["1e-5", "1e-4", "1e-3"], [0, 0.5, 1], ["1e-05", "0.0001", "0.001"]),
        (["2", "3", "4"], [0, 0.5, 1], ["2", "3", "4"]),
        (["b", "a", "b"], [0, 1, 0], ["b", "a"]),
        (["7", "7"], [0, 0], ["7"]),
        (["1", "inf", "nan"], [0, 0.5, 1], ["1", "inf", "nan"]),
    ],
)
def test_an_axis_has_numbers_by_size_and_texts_as_they_come(values: list[str], places: list[float], words: list[str]):
    axis = Axis.of("key", values)
    assert axis.positions == pytest.approx(places)
    assert [word.removesuffix(".0") for _, word in axis.ticks] == words


def test_every_picture_has_a_description_and_theme_colours():
    jobs = [run(number, number / 10, state=PRUNED if number == 2 else FINISHED) for number in range(1, 6)]
    page = render(document_of(results(*jobs)))
    assert len(re.findall(r'<svg class="drawn"[^>]* aria-label="[^"]+', page)) == 3
    svg = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}", svg)


def test_only_a_run_that_was_ended_for_its_figure_is_drawn_as_one(monkeypatch: pytest.MonkeyPatch):
    drawn = list[float]()
    monkeypatch.setattr(pictures, "parallel", lambda _, figures, **how: drawn.extend(figures) or "")
    jobs = [run(1, 0.1), run(2, 0.2), run(3, 0.3, state=PRUNED), run(4, None), run(5, None, state=STOPPED)]
    document_of(results(*jobs))
    assert drawn == pytest.approx([0.2, 0.1, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("value", "shown"), [("0.00012345", "0.0001234"), ("16", "16"), ("1e-05", "1e-05"), ("3e.x", "3e.x"), ("", "")]
)
def test_numbers_are_shortened_and_texts_kept(value: str, shown: str):
    assert brief(value) == shown
