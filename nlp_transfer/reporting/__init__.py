"""Reports as one self-contained HTML file, and the same in Markdown.

`document`, `palette`, `drawing`, `figures`, `matrix`, `html_page`, `markdown_page` and `files` serve any page;
`evidence`, `measures`, `rows`, `report_page` and the modules of its sections make the report of a run.
"""
