"""Pages about what was measured: one self-contained HTML file, and the same in Markdown.

Of any page know `document`, `palette`, `drawing`, `figures`, `matrix`, `page`, `plain_text` and `files`; of a run know
`evidence`, `measures`, `rows`, `report_page` and what it is made of.
"""
