"""Continue with the head of a saved model when labels are added: the outputs of its own labels are kept."""

from __future__ import annotations

import dataclasses

import torch
from safetensors import safe_open
from torch import Tensor

from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.encoder.source import weight_files
from nlp_transfer.errors import UserError


def restore_head(classifier: Classifier, *, known: int) -> Classifier:
    """Copy the saved head of a classifier's folder into its model; of the output layer, the first `known` outputs.

    Args:
        classifier: as loaded, with a head of the same kind for the known labels and possibly new ones after them.
        known: number of labels of the model in the folder.

    Returns:
        The classifier with the same model; `fresh` has the parameters not in the folder, and an output layer that grew.

    Raises:
        UserError: if the folder has another head.
    """
    folder, output = classifier.source.folder, classifier.anatomy.output
    saved = _saved_tensors(classifier)
    grown: set[str] = set()
    with torch.no_grad():
        for name, parameter in classifier.model.named_parameters():
            if name.startswith(f"{classifier.anatomy.base}."):
                continue
            saved_values, rows = saved.get(name), known if name.startswith(f"{output}.") else len(parameter)
            if saved_values is None or saved_values.shape != parameter[:rows].shape:
                raise UserError(f"{folder} holds no {name} for its {known:,} labels, which continual.labels=all keeps")
            parameter[:rows] = saved_values
            grown |= {name} if rows < len(parameter) else set()
    fresh = tuple(name for name in classifier.fresh if name not in saved or name in grown)
    return dataclasses.replace(classifier, fresh=fresh, known=known)


def _saved_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """Return the parameters outside the encoder that the folder has, by name."""
    base = f"{classifier.anatomy.base}."
    head = {name for name, _ in classifier.model.named_parameters() if not name.startswith(base)}
    saved: dict[str, Tensor] = {}
    for file in weight_files(classifier.source.folder):
        with safe_open(file, framework="pt") as tensors:
            saved |= {name: tensors.get_tensor(name) for name in head.intersection(tensors.keys())}
    return saved
