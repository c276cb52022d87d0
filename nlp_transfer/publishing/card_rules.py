"""The sentences of a model card about decision rules: thresholds, abstention, unknown texts, prediction sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_transfer.evaluation.formatting import percentage
from nlp_transfer.evaluation.selective import CONFIDENCE


def rules_of(task: Mapping[str, Any]) -> list[str]:
    """Return sentences about the decision rules with which the model was evaluated."""
    if task["problem"] == "multi_label":
        rule = task["threshold"]
        if isinstance(rule, float | int):
            return [f"A label is assigned from a score of {rule:.3g} on."]
        spread = f"{min(rule):.3g} to {max(rule):.3g}"
        return [f"Each label has its own threshold, {spread}: `threshold` in `nlp_transfer.json`."]
    rules = []
    if task["abstain_below"] or task.get("risk"):
        rules.append(_abstention(task))
    if task.get("unknown"):
        share = f"about {task['unknown']:.1%} of the others"
        rules.append(
            f"A text unlike the training texts is called unknown, and so are {share} (`unknown`, only in nlp_transfer)."
        )
    if task.get("coverage"):
        output = "an interval (`low`, `high`)" if task["problem"] == "regression" else "a set of labels (`set`)"
        rules.append(
            f"nlp_transfer also gives {output} that contains the truth for about {task['coverage']:.1%} of the texts."
        )
    return rules


def _abstention(task: Mapping[str, Any]) -> str:
    """Return a sentence about when the model abstains, and the guarantee that goes with it."""
    limit = f"at most {percentage(task.get('risk', 0))} of the labels given are wrong"
    if task["abstain_below"] > 1:
        return f"It abstains on every text (`abstains`): its validation rows do not show that {limit}."
    guarantee = f"for texts like its validation rows, with {CONFIDENCE:.0%} confidence, {limit}"
    if not task["abstain_below"]:
        return f"It abstains on no text: {guarantee}."
    purpose = f", so that, {guarantee}" if task.get("risk") else ""
    rule = f"It abstains if no score reaches {task['abstain_below']:g}{purpose}"
    return f"{rule}: nlp_transfer says so (`abstains`), a pipeline leaves it to you."
