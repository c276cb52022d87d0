"""Which cells of a matrix CI tries: every row and every column at least once; all are tried before a release."""

from collections.abc import Sequence
from typing import Any

import pytest


def cells(rows: Sequence[str], columns: Sequence[str]) -> list[Any]:
    """Return a matrix as parameters (row, column), some of them slow and the rest exhaustive."""
    often = {(rows[n % len(rows)], columns[n % len(columns)]) for n in range(max(len(rows), len(columns)))}
    marks = {True: pytest.mark.slow, False: pytest.mark.exhaustive}
    return [pytest.param(row, column, marks=marks[(row, column) in often]) for row in rows for column in columns]
