"""Rendering of a document as Markdown for terminals and model cards, without its drawings."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_transfer.markdown import bullets, escaped, table
from nlp_transfer.reporting.document import Beside, Block, Bullets, Cell, Document, Drawing, Facts, Prose, Table

MARK = "<!-- nlp_transfer report -->"


def render(document: Document) -> str:
    """Return the document with all text escaped, and long cells shortened."""
    parts = [MARK, f"# {escaped(document.title)}", *_blocks(document.lead)]
    for section in document.sections:
        if blocks := _blocks(section.blocks):
            parts += [f"## {escaped(section.title)}", *blocks]
    return "\n\n".join([*parts, *map(escaped, document.foot)]) + "\n"


def _blocks(blocks: Sequence[Block]) -> list[str]:
    plain = [block.table if isinstance(block, Beside) else block for block in blocks]
    return [_block(block) for block in plain if not isinstance(block, Drawing | Beside)]


def _block(block: Prose | Bullets | Facts | Table) -> str:
    if isinstance(block, Prose):
        return f"**{escaped(block.text)}**" if block.strong else escaped(block.text)
    if isinstance(block, Bullets):
        return bullets([escaped(item) for item in block.items])
    if isinstance(block, Facts):
        return bullets([f"{escaped(name)}: {escaped(words)}" for name, words in block.items])
    caption = block.caption or block.folded
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in block.rows]
    strong = {(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell.strong}
    lines = table(block.head, [[cell.text for cell in row] for row in cells], strong=strong)
    return f"{escaped(caption)}\n\n{lines}" if caption else lines
