"""What a card says of how a model decides: its thresholds, where it abstains, what it calls unknown, its sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_transfer.evaluation.formatting import percentage
from nlp_transfer.evaluation.selective import CONFIDENCE


def rules_of(task: Mapping[str, Any]) -> list[str]:
    """Return what one must know to decide as the model did when it was measured."""
    if task["problem"] == "multi_label":
        rule = task["threshold"]
        if isinstance(rule, float | int):
            return [f"A label is chosen from a score of {rule:.3g} on."]
        spread = f"{min(rule):.3g} to {max(rule):.3g}"
        return [f"Each label is chosen from a score of its own on, {spread}: `threshold` in `nlp_transfer.json`."]
    rules = []
    if task["abstain_below"] or task.get("risk"):
        rules.append(_abstention(task))
    if task.get("unknown"):
        share = f"about {task['unknown']:.1%} of the others"
        rules.append(
            f"A text unlike all it knows is called unknown, and so are {share} (`unknown`, nlp_transfer alone)."
        )
    if task.get("coverage"):
        what = "an interval (`low`, `high`)" if task["problem"] == "regression" else "a set of labels (`set`)"
        rules.append(f"nlp_transfer gives {what} that is to hold the truth in {task['coverage']:.1%} of the texts.")
    return rules


def _abstention(task: Mapping[str, Any]) -> str:
    """Return where the model abstains, and what that is to keep."""
    wrong = f"at most {percentage(task.get('risk', 0))} of the labels given are wrong"
    if task["abstain_below"] > 1:
        return f"It abstains on every text (`abstains`): its validation rows do not show that {wrong}."
    sure = f"for texts like its validation rows, with {CONFIDENCE:.0%} confidence, {wrong}"
    if not task["abstain_below"]:
        return f"It abstains on no text: {sure}."
    promised = f", so that, {sure}" if task.get("risk") else ""
    least = f"It abstains where no score reaches {task['abstain_below']:g}{promised}"
    return f"{least}: nlp_transfer says so (`abstains`), a pipeline leaves it to you."
