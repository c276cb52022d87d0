"""Merge a PEFT adapter into the weights of its model, if the method allows that."""

from __future__ import annotations

import copy
from typing import Any

import torch

from nlp_transfer.encoder.anatomy import sample_rows
from nlp_transfer.encoder.classifier import forward


class NotMerged(Exception):
    """An adapter cannot be merged into the model's weights; the message says why."""


def merged(model: Any) -> Any:
    """Return a copy of a PEFT model with the adapter merged into its weights.

    Raises:
        NotMerged: if the method cannot be merged, or the merged model gives other logits.
    """
    rows = sample_rows(model)
    try:
        whole = copy.deepcopy(model).eval().merge_and_unload()
        with torch.inference_mode():
            wanted, found = forward(model.eval(), rows).logits, forward(whole, rows).logits
    except Exception as error:  # methods that cannot be merged raise many types
        raise NotMerged(f"PEFT cannot merge this method ({type(error).__name__}: {error})") from error
    if not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise NotMerged(
            f"the merged model gives other outputs (logits differ by {float((wanted - found).abs().max()):.2g})"
        )
    return whole
