"""What is shown cannot steer the terminal."""

import io

import pytest
from rich.table import Table

from nlp_transfer.terminal.console import Screen, Terminal

HOSTILE = "a\x1b]0;title\x07b\x9b31mc\u202ed\re"
PLAIN = "a]0;titleb31mcde"


def test_a_table_removes_control_characters_of_its_data():
    out = io.StringIO()
    table = Table(HOSTILE, "β\u200c\u0645")  # a zero-width non-joiner belongs to words
    table.add_row(HOSTILE, "x", style="red")
    Terminal(file=out, force_terminal=True, color_system="standard", width=80).print(table)
    shown = out.getvalue()
    assert shown.count(PLAIN) == 2
    assert "β\u200c\u0645" in shown
    assert "\x1b[31m" in shown
    lines = [line for line in shown.split("\n") if "│" in line or "┃" in line]
    assert len(lines) == 2, "no line end was made of a carriage return"
    assert not any(mark in shown for mark in "\x07\x9b\u202e\r")
    assert "\x1b]" not in shown


@pytest.mark.parametrize("quiet", [False, True])
def test_log_lines_have_no_control_characters(capsys, quiet: bool):
    Screen(quiet=quiet).tell(HOSTILE)
    assert capsys.readouterr().err == f"nlp-transfer: {PLAIN}\n" * (not quiet)
