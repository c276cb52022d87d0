"""What a tool for annotating writes beside texts and labels: whether the label of a row is one at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_transfer.data.labels import is_missing
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError

_COLUMN = "answer"  # of Prodigy, which exports rows whatever was answered
_ACCEPTED, _OTHERS = "accept", ("reject", "ignore")


def refuse_rejected(table: Table, roles: Mapping[str, str]) -> None:
    """Refuse rows whose labels were offered to an annotator who did not accept them.

    A column of other words is none of a tool's, and one that has a role means what the role does.

    Raises:
        UserError: with the place of the first of them.
    """
    answers = () if _COLUMN in roles.values() else table.columns.get(_COLUMN, ())
    if not all(_word(answer) in (_ACCEPTED, *_OTHERS) or is_missing(answer) for answer in answers):
        return
    rejected = [row for row, answer in enumerate(answers) if _word(answer) in _OTHERS]
    if rejected:
        raise UserError(
            f"{table.where(rejected[0], _COLUMN)}: {answers[rejected[0]]!r} says that the annotator did not accept the "
            f"label of this row ({len(rejected):,} of {len(table):,} rows say reject or ignore); write a copy with the "
            f"accepted rows alone, or, if the column means something else, call it something else than {_COLUMN}"
        )


def _word(answer: Any) -> Any:
    """Return an answer as the tool writes it, whatever a spreadsheet made of its case."""
    return answer.strip().casefold() if isinstance(answer, str) else answer
