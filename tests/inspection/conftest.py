"""What the tests of this folder look at: a corpus without defects, and one that a tiny encoder can read."""

from __future__ import annotations

import pytest

from tests.inspection.defects import Splits, clean
from tests.runs import rows


@pytest.fixture(scope="module")
def sound() -> Splits:
    return clean()


@pytest.fixture(scope="module")
def known() -> Splits:
    """Rows whose words the tiny tokenizer knows."""
    return {"train": rows("single_label", 200, 1), "test": rows("single_label", 60, 2)}
