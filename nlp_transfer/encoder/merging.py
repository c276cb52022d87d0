"""An adapter becomes part of the weights it was put on, where the method allows that; knows no files."""

from __future__ import annotations

import copy
from typing import Any

import torch

from nlp_transfer.encoder.anatomy import sample_rows
from nlp_transfer.encoder.classifier import forward


class NotMerged(Exception):
    """An adapter that cannot become part of the model's weights; says why."""


def merged(model: Any) -> Any:
    """Return a copy of a model of PEFT with the adapter in its weights.

    Raises:
        NotMerged: where the method cannot be merged, or the merged model answers otherwise.
    """
    rows = sample_rows(model)
    try:
        whole = copy.deepcopy(model).eval().merge_and_unload()
        with torch.inference_mode():
            wanted, found = forward(model.eval(), rows).logits, forward(whole, rows).logits
    except Exception as error:  # methods that cannot be merged say so in many ways
        raise NotMerged(f"PEFT cannot merge this method ({type(error).__name__}: {error})") from error
    if not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise NotMerged(f"merged, it answers otherwise (logits differ by {float((wanted - found).abs().max()):.2g})")
    return whole
