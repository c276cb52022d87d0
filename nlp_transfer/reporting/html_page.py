"""Rendering of a document as one self-contained HTML page, without scripts, fonts or requests; all text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from markupsafe import Markup

from nlp_transfer.reporting.document import Beside, Block, Bullets, Cell, Document, Drawing, Facts, Prose, Table
from nlp_transfer.reporting.palette import variables

MARK = '<meta name="generator" content="nlp_transfer report">'
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_STYLE = f"""
:root {{ color-scheme: light dark; {variables(dark=False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word }}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem }}
h2 {{ font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line) }}
p, ul, dl, figure {{ margin: .75rem 0 }}
.strong {{ border-left: 4px solid var(--blue); padding: .25rem 0 .25rem .75rem; font-weight: 600; font-size: 1.05rem }}
ul {{ padding-left: 1.2rem; color: var(--muted) }}
dl {{ display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .2rem 1rem }}
dt {{ color: var(--muted) }}
dd {{ margin: 0; min-width: 0; overflow-wrap: anywhere }}
.scroll {{ overflow-x: auto; margin: .75rem 0 }}
.scroll:focus-visible, summary:focus-visible {{ outline: 2px solid var(--blue); outline-offset: 2px }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }}
th {{ color: var(--muted); font-weight: 500; white-space: nowrap }}
td bdi {{ display: inline-block; max-width: 14rem; overflow-wrap: break-word }}
td.long {{ min-width: 15rem }}
td.long bdi {{ max-width: 34rem }}
.number {{ text-align: right; white-space: nowrap }}
.bar {{ background: linear-gradient(to right, color-mix(in srgb, var(--blue) 22%, transparent) var(--share),
  transparent var(--share)) }}
figcaption, caption {{ color: var(--muted); font-size: .9rem; text-align: left; caption-side: top; padding: .25rem 0 }}
.note {{ color: var(--muted); font-size: .9rem; margin: .75rem 0 0 }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem 2rem }}
.figures figure {{ max-width: 28rem }}
.beside {{ display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: start }}
.beside > * {{ min-width: 0; max-width: 100% }}
.beside figure {{ max-width: 30rem }}
summary {{ cursor: pointer; color: var(--blue); padding: .25rem 0 }}
.drawn {{ display: block; max-width: 100%; height: auto; font-family: inherit; stroke-linejoin: round;
  stroke-linecap: butt }}
.drawn text {{ fill: var(--ink) }}
.matrix {{ max-width: none }}
.matrix .grid {{ stroke: var(--line); stroke-width: .6; fill: none }}
.matrix .right {{ fill: var(--blue) }}
.matrix .wrong {{ fill: var(--orange) }}
.matrix .on {{ fill: var(--paper) }}
.matrix .axis {{ fill: var(--muted) }}
footer {{ margin-top: 3rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .9rem }}
@media (max-width: 30rem) {{ td.long {{ min-width: 11rem }} td bdi {{ max-width: 9rem }} }}
@media print {{ .scroll {{ overflow: visible }} }}
"""
_FRAME = Markup("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{mark}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<main>
{lead}
{sections}
</main>
<footer>
{foot}
</footer>
</body>
</html>
""")


def render(document: Document) -> str:
    """Return the page. `Markup.format` escapes every string that is put into it."""
    sections = [
        Markup("<section>\n<h2>{}</h2>\n{}\n</section>").format(_clean(section.title), _blocks(section.blocks))
        for section in document.sections
        if section.blocks
    ]
    return str(
        _FRAME.format(
            mark=Markup(MARK),
            title=_clean(document.title),
            style=Markup(_STYLE),
            lead=_blocks(document.lead),
            sections=_joined(sections),
            foot=_joined(Markup("<p>{}</p>").format(_clean(each)) for each in document.foot),
        )
    )


def _blocks(blocks: Sequence[Block]) -> Markup:
    """Return all blocks; consecutive small drawings are put side by side if there is room."""
    parts: list[Markup] = []
    for is_small, group in groupby(blocks, key=lambda block: isinstance(block, Drawing) and not block.wide):
        markup = _joined(map(_block, group))
        parts.append(Markup('<div class="figures">\n{}\n</div>').format(markup) if is_small else markup)
    return _joined(parts)


def _block(block: Block) -> Markup:
    if isinstance(block, Prose):
        return Markup("<p{}>{}</p>").format(Markup(' class="strong"' if block.strong else ""), _clean(block.text))
    if isinstance(block, Bullets):
        items = _joined(Markup("<li>{}</li>").format(_clean(item)) for item in block.items)
        return Markup("<ul>{}</ul>").format(items)
    if isinstance(block, Facts):
        pairs = [Markup("<dt>{}</dt><dd>{}</dd>").format(_clean(name), _clean(text)) for name, text in block.items]
        return Markup("<dl>{}</dl>").format(_joined(pairs))
    if isinstance(block, Beside):
        return Markup('<div class="beside">\n{}\n<div>{}</div>\n</div>').format(
            _figure(block.drawing), _table(block.table)
        )
    return _table(block) if isinstance(block, Table) else _figure(block)


def _figure(drawing: Drawing) -> Markup:
    box = Markup('<div class="scroll" tabindex="0">{}</div>' if drawing.wide else "{}")
    form = Markup("<figure>{}<figcaption>{}</figcaption></figure>")
    return form.format(box.format(Markup(drawing.svg)), _clean(drawing.caption))


def _table(table: Table) -> Markup:
    head = [
        Markup('<th scope="col"{}>{}</th>').format(_classes(table, place), _clean(name))
        for place, name in enumerate(table.head)
    ]
    rows = [
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(table, place, each) for place, each in enumerate(row)))
        for row in table.rows
    ]
    markup = Markup(
        '{}<div class="scroll" tabindex="0"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>'
    ).format(
        Markup('<p class="note">{}</p>').format(_clean(table.caption)) if table.caption else "",
        Markup("").join(head),
        _joined(rows),
    )
    if table.folded is None:
        return markup
    return Markup("<details><summary>{}</summary>{}</details>").format(_clean(table.folded), markup)


def _cell(table: Table, place: int, value: str | Cell) -> Markup:
    cell = value if isinstance(value, Cell) else Cell(value)
    # Text from the data may run from right to left, which must not affect its surroundings.
    words = Markup("<bdi>{}</bdi>" if place < table.words else "{}").format(_clean(cell.text))
    if cell.strong:
        words = Markup("<strong>{}</strong>").format(words)
    bar = Markup("" if cell.share is None else f' style="--share: {100 * cell.share:.1f}%"')
    return Markup("<td{}{}>{}</td>").format(_classes(table, place, bar=bool(bar)), bar, words)


def _classes(table: Table, place: int, *, bar: bool = False) -> Markup:
    names = ["long"] * (place in table.long_words) + ["number"] * (place >= table.words) + ["bar"] * bar
    return Markup(f' class="{" ".join(names)}"' if names else "")


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def _clean(words: str) -> str:
    """Replace characters that HTML does not allow."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", words)
