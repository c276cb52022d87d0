"""Rows that a model cannot answer are never measured."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from nlp_transfer.errors import UserError
from nlp_transfer.training import inference
from tests.training.test_normalisation import parts


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    step, columns, padding = parts(tmp_path, "single_label", 6)
    rows = inference.run(Accelerator(cpu=True), step.model, columns, padding=padding, most_tokens=64)
    assert rows.shape == (6, 3)
    with torch.no_grad():
        next(p for name, p in step.model.named_parameters() if name.endswith("classifier.bias"))[1] = value
    with pytest.raises(UserError, match=r"infinite or not a number for 6 of 6 rows \(of these the 1\. first\)"):
        inference.run(Accelerator(cpu=True), step.model, columns, padding=padding, most_tokens=64)
