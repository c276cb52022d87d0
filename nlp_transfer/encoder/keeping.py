"""The head of a saved model in one for more labels: what it knows of the labels that it had stays as it is."""

from __future__ import annotations

import dataclasses

import torch
from safetensors import safe_open
from torch import Tensor

from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.encoder.source import weight_files
from nlp_transfer.errors import UserError


def keep_head(classifier: Classifier, *, known: int) -> Classifier:
    """Give a classifier the head that lies in its folder; of the output layer that is the first `known` outputs.

    Args:
        classifier: as it was loaded, with a head of the same kind for these labels and maybe others behind them.
        known: labels of the model in the folder.

    Returns:
        The same model; `fresh` names what the folder does not hold, the output layer among it where it grew.

    Raises:
        UserError: for a folder with another head.
    """
    folder, output = classifier.source.folder, classifier.anatomy.output
    saved = _saved_tensors(classifier)
    grown: set[str] = set()
    with torch.no_grad():
        for name, parameter in classifier.model.named_parameters():
            if name.startswith(f"{classifier.anatomy.base}."):
                continue
            before, rows = saved.get(name), known if name.startswith(f"{output}.") else len(parameter)
            if before is None or before.shape != parameter[:rows].shape:
                raise UserError(f"{folder} holds no {name} for its {known:,} labels, which continual.labels=all keeps")
            parameter[:rows] = before
            grown |= {name} if rows < len(parameter) else set()
    fresh = tuple(name for name in classifier.fresh if name not in saved or name in grown)
    return dataclasses.replace(classifier, fresh=fresh, known=known)


def _saved_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """Return by name what the folder holds of the model's parameters outside the encoder."""
    own = {n for n, _ in classifier.model.named_parameters() if not n.startswith(f"{classifier.anatomy.base}.")}
    found: dict[str, Tensor] = {}
    for file in weight_files(classifier.source.folder):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in own.intersection(tensors.keys())}
    return found
