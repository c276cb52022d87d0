"""The section of a model card about its exports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nlp_transfer.markdown import table

_HEADING, LIMITS = "## Exports", "## Limits"  # the second heads the section that follows
_NOTE = (
    "The model in float32 → its export by `nlp-transfer export`, which is not in this repository; one text at a time "
    "on a CPU."
)
# The keys of export.json that are shown.
SHOWN = {
    *("format", "opset", "on", "rows", "metrics", "equal_decisions", "largest_difference"),
    *("milliseconds", "threads", "megabytes"),
}


def exports_section(exports: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of the card that compares each export with the model."""
    head = ["", "rows", "accuracy", "equal decisions", "largest difference of a logit", "ms per text, threads", "MB"]
    rows = [
        [
            f"{each['format']}, opset {each['opset']}" if each["opset"] else each["format"],
            f"{each['rows']:,} {'of validation' if each['on'] == 'validation' else 'fixed sentences'}",
            _both(each["metrics"].get("accuracy"), "{:.4f}"),
            f"{each['equal_decisions']:.2%}",
            f"{each['largest_difference']:.2g}",
            f"{_both(each['milliseconds'].get('1'), '{:.2f}')}, {each['threads']}",
            _both(each["megabytes"], "{:.1f}"),
        ]
        for each in exports
    ]
    return f"{_HEADING}\n\n{table(head, rows)}\n\n{_NOTE}"


def _both(figure: Mapping[str, float | None] | None, form: str) -> str:
    sides = [figure and figure[side] for side in ("model", "export")]
    return "–" if None in sides else " → ".join(map(form.format, sides))


def without_exports(text: str) -> str:
    """Return a card without its section about exports; a section that the user has extended is kept."""
    table = r"\n\n\|[^\n]*\n[|-]+\n(?:\| [^\n]*, opset \d+ \|[^\n]*\n)+"
    return re.sub(f"^{_HEADING}{table}\n{re.escape(_NOTE)}\n\n(?={LIMITS}$)", "", text, flags=re.MULTILINE)
