"""From what was typed on the page to texts for a model, within the limits; what is wrong is said in a sentence."""

from __future__ import annotations

from nlp_transfer.errors import UserError
from nlp_transfer.verb_settings import DemoSettings

Texts = list[str]


def read_texts(typed: str, pairs: str | None, limits: DemoSettings, *, lines: bool) -> tuple[Texts, Texts | None]:
    """Return the texts that were typed and, where the model reads two, their second texts.

    Args:
        typed: what the box holds.
        pairs: what the second box holds, or None where there is none.
        limits: of the number of texts and of the characters of one.
        lines: whether each line is a text of its own; lines with nothing on them are none.

    Raises:
        UserError: if nothing was typed, the boxes do not match, or something is over a limit.
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
            f"{len(rows):,} texts are more than the {limits.texts:,} that can be labelled here at once: take fewer, or "
            "upload them as a file"
        )
    for number, row in enumerate(rows, 1):
        if (longest := max(map(len, row))) > limits.characters:
            raise UserError(
                f"text {number:,} has {longest:,} characters, more than the {limits.characters:,} of one text here: "
                "shorten it"
            )
    return [row[0] for row in rows], None if pairs is None else [row[1] for row in rows]


def _split(typed: str, lines: bool) -> list[str]:
    return [line.rstrip("\r") for line in typed.rstrip().split("\n")] if lines else [typed]
