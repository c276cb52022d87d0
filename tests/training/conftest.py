"""Every test here starts without what an earlier run told accelerate, which keeps it for the life of the process."""

import pytest
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
