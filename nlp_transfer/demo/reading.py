"""Split the input of the page into texts, and check the limits."""

from __future__ import annotations

from nlp_transfer.errors import UserError
from nlp_transfer.verb_settings import DemoSettings

Texts = list[str]


def read_texts(typed: str, pairs: str | None, limits: DemoSettings, *, lines: bool) -> tuple[Texts, Texts | None]:
    """Return the texts that were typed and, for pairs, the second texts.

    Args:
        typed: the content of the first box.
        pairs: the content of the second box, or None if there is none.
        limits: the number of texts and the characters per text.
        lines: whether each line is a text; empty lines are skipped.

    Raises:
        UserError: if nothing was typed, the boxes differ in their number of texts, or a limit is exceeded.
    """
    columns = [_split(box, lines) for box in ([typed] if pairs is None else [typed, pairs])]
    if len({len(column) for column in columns}) > 1:
        raise UserError(
            f"the first box has {len(columns[0]):,} texts and the second {len(columns[1]):,}: write as many in each"
        )
    rows = [row for row in zip(*columns, strict=True) if any(map(str.strip, row))]
    if not rows:
        raise UserError("there is no text yet: type or paste one first")
    if len(rows) > limits.texts:
        raise UserError(
            f"{len(rows):,} texts are more than the {limits.texts:,} that can be labelled here at once: enter fewer, "
            "or upload a file"
        )
    for number, row in enumerate(rows, 1):
        if (longest := max(map(len, row))) > limits.characters:
            raise UserError(
                f"text {number:,} has {longest:,} characters, more than the {limits.characters:,} allowed here: "
                "shorten it"
            )
    return [row[0] for row in rows], None if pairs is None else [row[1] for row in rows]


def _split(typed: str, lines: bool) -> list[str]:
    return [line.rstrip("\r") for line in typed.rstrip().split("\n")] if lines else [typed]
