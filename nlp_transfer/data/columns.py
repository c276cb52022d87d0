"""The column of each role (text, label, id, ...): set by the user, or found by name where that is unambiguous."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from nlp_transfer.data.hints import quoted, shell_word
from nlp_transfer.data.jsonl import one_object
from nlp_transfer.data.label_columns import holds_flags
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.settings import ColumnSettings
from nlp_transfer.wording import listed

# Names in use in public data sets. A column is found by its name only if no other column has a name of the same role.
ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        "text",
        "text1",
        "text_a",
        "sentence",
        "sentence1",
        "sentence_a",
        "content",
        "document",
        "review",
        "review_text",
        "review_body",
        "comment",
        "comment_text",
        "message",
        "utterance",
        "tweet",
        "query",
        "question",
        "question1",
        "headline",
        "abstract",
        "body",
        "premise",
    ),
    "text_pair": (
        "text_pair",
        "text2",
        "text_b",
        "sentence2",
        "sentence_b",
        "question2",
        "hypothesis",
    ),
    "label": (
        "label",
        "labels",
        "class",
        "classes",
        "category",
        "categories",
        "target",
        "intent",
        "sentiment",
        "emotion",
        "topic",
        "tag",
        "tags",
    ),
    "id": ("id", "example_id", "row_id", "uid", "guid", "idx"),
    "domain": ("domain",),
    "weight": ("weight", "sample_weight", "example_weight"),
    "split": ("split", "partition"),
}
REQUIRED = ("text", "label")
_FLAGS = ("0", "1", "0.0", "1.0", "false", "true")


def find_roles(table: Table, settings: ColumnSettings, *, labelled: bool = True) -> dict[str, str]:
    """Return role → column for the roles a table has, except `split`, which is applied while reading.

    Args:
        table: its columns decide; for a corpus the training rows.
        settings: the user's choices; None: found by name, an empty string: the role is not used.
        labelled: whether a label column is needed; otherwise only texts and ids are looked for.

    Raises:
        UserError: for a chosen column that does not exist, and where no column or more than one fits.
    """
    if len(table) == 1 and table.columns and all(isinstance(cells[0], dict | list) for cells in table.columns.values()):
        raise UserError(one_object(table.origin, table.columns))  # no cell could be a text
    wanted = ("text", "text_pair", "label", "id", "domain", "weight") if labelled else ("text", "text_pair", "id")
    found = {role: find_column(table, role, getattr(settings, role)) for role in wanted}
    for role in REQUIRED:
        if role in found and found[role] is None:
            raise UserError(_not_found(table, role, getattr(settings, role)))
    roles = {role: column for role, column in found.items() if column is not None}
    for role, column in roles.items():
        other = next((name for name, used in roles.items() if used == column and name != role), None)
        if other is not None:
            raise UserError(
                f"{table.origin}: column {column!r} cannot be both data.columns.{role} and data.columns.{other}"
            )
    return roles


def with_columns_of(
    chosen: ColumnSettings, table: Table, roles: Mapping[str, str], training: ColumnSettings
) -> ColumnSettings:
    """Return the choices for a table, completed by those for the rows that a model was trained on.

    Args:
        chosen: for the table.
        table: its columns. A column of the training rows that it lacks is not chosen.
        roles: role → column of the training rows, for texts and labels also those that were found by name.
        training: what was chosen for them; a role that was not used there is not used for the table either.
    """
    taken, completed = set(dataclasses.asdict(chosen).values()), {}
    for role, column in dataclasses.asdict(training).items():
        if column is None and role in ("text", "text_pair", "label"):
            column = roles.get(role)
        is_free = column == "" or column in table.columns.keys() - taken
        if getattr(chosen, role) is None and is_free and role != "split":  # splits are assigned while reading
            completed[role] = column
    return dataclasses.replace(chosen, **completed)


def find_column(table: Table, role: str, chosen: str | None) -> str | None:
    """Return the column of one role, or None where there is none.

    Raises:
        UserError: for a chosen column that does not exist, and where more than one fits.
    """
    if chosen == "":
        return None
    if chosen is not None:
        if chosen not in table.columns:
            raise UserError(
                f"{table.origin} has no column data.columns.{role}={chosen!r}{did_you_mean(chosen, table.columns)}; "
                f"its columns: {_listed(table)}"
            )
        return chosen
    candidates = [column for column in table.columns if column.strip().casefold() in ROLE_NAMES[role]]
    if len(candidates) > 1:
        off = "" if role in REQUIRED else f", or none with data.columns.{role}=''"
        raise UserError(
            f"{table.origin}: more than one column can be the {role} ({', '.join(map(repr, candidates))}); choose one "
            f"with {shell_word(f'data.columns.{role}', candidates[0])}{off}"
        )
    return candidates[0] if candidates else None


def _not_found(table: Table, role: str, chosen: str | None) -> str:
    """Say which role is missing and how to name its column."""
    if not table.columns:
        return f"{table.origin} is empty"
    if chosen == "":
        return f"data.columns.{role} cannot be empty: every task needs a {role}"
    known = {name for names in ROLE_NAMES.values() for name in names}
    if not any(column.strip().casefold() in known for column in table.columns):
        none = f"{table.origin}: none of its columns ({_listed(table)}) has a known name"
        if table.header is None:
            return f"{none}: set data.columns.text and data.columns.label"
        return (
            f"{none}. If {table.origin}:{table.header} is a row of data, the file has no header: add one, for example "
            "text,label. Otherwise set data.columns.text and data.columns.label"
        )
    spare = [column for column in table.columns if column.strip().casefold() not in known]
    close = next((column for column in spare if did_you_mean(column, ROLE_NAMES[role])), "…")
    flags = [column for column in spare if role == "label" and holds_flags(table.columns[column])]
    if len(flags) > 1:
        return (
            f"{table.origin}: no column is known as the label; {listed(flags, repr)} hold 0 and 1 only. If each is a "
            f"label, set {_label_columns(flags)}; otherwise choose one with {shell_word('data.columns.label', '…')}"
        )
    return (
        f"{table.origin}: no column is known as the {role}; its columns: {_listed(table)}; choose one with "
        f"{shell_word(f'data.columns.{role}', close)}"
    )


def _label_columns(names: Sequence[str]) -> str:
    """Return the override that declares these columns to be labels, as one types it in a shell."""
    are_plain = all(name.isidentifier() and name.isascii() for name in names)
    values = names if are_plain else [quoted(name) for name in names]
    return shlex.quote(f"data.label_columns=[{','.join(values)}]")


def _listed(table: Table) -> str:
    return ", ".join(repr(column[:40]) for column in table.columns)
