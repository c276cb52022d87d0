"""The verdict follows from its figures and does not contradict itself."""

from __future__ import annotations

import dataclasses
from io import StringIO

import pytest
from rich.console import Console

from nlp_transfer.comparing.show import render
from tests.comparing.outcomes import SURE, UNSURE, cell, duel, outcome


def test_candidates_that_differ_row_by_row_are_not_called_as_good():
    first = duel("probe", "majority", SURE, 0.001)
    quick = (cell("probe", "64", 9.0), cell("lora", "64"), cell("majority", "64"))
    for p, expected in ((0.001, False), (0.4, True)):
        output = outcome(first, duel("probe", "lora", UNSURE, p), cells=quick).verdict
        assert any("seeds that probe is better than lora" in each for each in output) == expected


def test_the_corrected_test_decides_over_the_interval():
    corrected = dataclasses.replace(duel("probe", "majority", SURE, 0.001), adjusted=0.08, outcome="no evidence")
    output = outcome(corrected).verdict
    assert output[0].startswith("No evidence")
    assert "difference +.200 [+.100, +.300], p .080 after Holm's correction" in output[0]
    assert not any("compare.seeds" in each or "No evidence on these rows" in each for each in output)
    assert not any("Holm" in each for each in outcome(duel("probe", "majority", SURE, 0.001)).verdict)


def test_disagreement_of_metric_and_rows_is_noted():
    agreeing = duel("probe", "majority", SURE, 0.001)
    apart = dataclasses.replace(duel("probe", "lora", SURE, 0.001), wins=5, losses=10)
    assert not outcome(agreeing).at_odds
    for metric, odd, others in (("macro_f1", apart, agreeing), ("log_loss", agreeing, apart)):
        (message,) = dataclasses.replace(outcome(agreeing, apart), metric=metric).at_odds
        assert f"probe and {odd.other}" in message
        assert others.other not in message


def test_the_terminal_shows_differences_without_tests_of_rows():
    near = dataclasses.replace(duel("probe", "lora", UNSURE, 0.0123), rows_adjusted=0.0456)
    made = outcome(duel("probe", "majority", SURE, 0.001), near)
    console = Console(width=80, file=StringIO(), force_terminal=False)
    render(made, console)
    text = console.file.getvalue()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    costs = text.partition("cost, ")[2]
    assert "-.200" in costs
    assert "[-.500, +.100]" in costs  # of lora, seen from it
    assert not any(message in text for message in (".046", ".012", "Holm"))


@pytest.mark.parametrize("width", [80, 63, 62, 40, 24])
def test_every_name_and_figure_is_whole_on_a_narrow_terminal(width: int):
    made = outcome(duel("probe", "majority", SURE, 0.001), duel("probe", "lora", UNSURE, 0.0123))
    console = Console(width=width, file=StringIO(), force_terminal=False)
    render(made, console)
    text = console.file.getvalue()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    words = " ".join(text.split())
    assert "…" not in words
    assert words.count("majority") >= 2
    assert "[-.500, +.100]" in words
    for name in ("accuracy", "against the winner", "seconds", "learning"):
        assert f"{name}: " in words or width >= 63
        assert name in words
    for labels in ("8 labels: .500 .400–.600", "64 labels: .500 .400–.600"):
        assert words.count(labels) == (3 if width < 32 else 0)


def test_differences_by_row_but_not_by_seed_are_noted():
    certain, near = duel("probe", "majority", SURE, 0.001), duel("probe", "majority", UNSURE, 0.001, "8")
    output = [each for each in outcome(certain, few=near).verdict if "compare.seeds=4" in each]
    assert len(output) == 1
    assert "probe and majority with 8 labels per class" in output[0]
    for few in (duel("probe", "majority", UNSURE, 0.3, "8"), dataclasses.replace(near, seeds=1)):
        assert not any("compare.seeds" in each for each in outcome(certain, few=few).verdict)


def test_candidates_not_tried_with_the_most_labels_are_named():
    certain = duel("probe", "majority", SURE, 0.001)
    assert not any("Not tried" in each for each in outcome(certain).verdict)
    cells = (cell("probe", "8"), cell("lora", "8"), cell("probe", "64"), cell("majority", "64"))
    output = outcome(certain, cells=cells).verdict
    assert "Not tried with 64 labels per class: lora." in output
    nowhere = outcome(certain, cells=tuple(each for each in cells if each.name != "lora")).verdict
    assert "Not tried with 64 labels per class: lora." in nowhere


def test_the_verdict_names_a_skipped_baseline():
    certain = outcome(duel("probe", "majority", SURE, 0.001))
    assert "scratch" not in " ".join(certain.verdict)
    few, most = certain.transfers
    unfinished = dataclasses.replace(certain, transfers=[few, dataclasses.replace(most, untried=["scratch"])])
    assert unfinished.verdict[0].startswith("POSITIVE")
    assert "not tried: scratch" in unfinished.verdict[0]
