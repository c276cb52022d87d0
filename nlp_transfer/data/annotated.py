"""Columns that annotation tools write beside texts and labels: whether an annotator accepted the label of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_transfer.data.labels import is_missing
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError

_COLUMN = "answer"  # Prodigy's, which exports rejected rows too
_ACCEPTED, _NOT_ACCEPTED = "accept", ("reject", "ignore")


def refuse_rejected(table: Table, roles: Mapping[str, str]) -> None:
    """Refuse rows whose suggested label the annotator did not accept.

    A column with any other value was not written by an annotation tool, and a column with a role is used as that role.

    Raises:
        UserError: with the place of the first such row.
    """
    answers = () if _COLUMN in roles.values() else table.columns.get(_COLUMN, ())
    if not all(_normalised(answer) in (_ACCEPTED, *_NOT_ACCEPTED) or is_missing(answer) for answer in answers):
        return
    rejected = [row for row, answer in enumerate(answers) if _normalised(answer) in _NOT_ACCEPTED]
    if rejected:
        raise UserError(
            f"{table.where(rejected[0], _COLUMN)}: {answers[rejected[0]]!r} says that the annotator did not accept the "
            f"label of this row ({len(rejected):,} of {len(table):,} rows say reject or ignore); write a copy with the "
            f"accepted rows alone, or, if the column means something else, call it something else than {_COLUMN}"
        )


def _normalised(answer: Any) -> Any:
    """Return an answer in lower case, as the tool writes it; spreadsheets may change the case."""
    return answer.strip().casefold() if isinstance(answer, str) else answer
