"""Write the results of a sweep: a table at the terminal, and CSV, JSON lines and a report page in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.artefact.places import PAGES
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.formatting import number
from nlp_transfer.evaluation.tables import simple_table
from nlp_transfer.machine.disk import reason, write_whole
from nlp_transfer.sweeping.job import FINISHED
from nlp_transfer.sweeping.results import Results, brief, to_csv, to_jsonl

if TYPE_CHECKING:
    from rich.table import Table

    from nlp_transfer.sweeping.job import Job
    from nlp_transfer.terminal.console import Screen

_MAX_SHOWN = 20  # runs in the table at the terminal


def write_and_show(folder: Path, jobs: Sequence[Job], keys: Sequence[str], screen: Screen) -> None:
    """Write the files and show the table.

    Args:
        folder: of the sweep.
        jobs: its runs.
        keys: the keys that differ between runs.
        screen: the terminal.

    Raises:
        UserError: for files that cannot be written.
    """
    from nlp_transfer.reporting.files import write_pages
    from nlp_transfer.sweeping.page import document_of

    results = Results(folder.name, jobs, keys)
    try:
        for name, content in (("results.csv", to_csv(results)), ("results.jsonl", to_jsonl(results))):
            write_whole(folder / name, partial(Path.write_text, data=content, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {reason(error)}") from error
    if not any(job.state == FINISHED for job in jobs):
        return
    with screen.busy("drawing"):
        write_pages(document_of(results), folder)
    screen.console.print(_table(results))
    for index, sentence in enumerate(results.sentences):
        screen.console.print(sentence, style="bold" if index == 0 else "", soft_wrap=True)
    if results.chosen is not None:
        screen.console.print(f"Its folder is {results.chosen.folder}.", soft_wrap=True)
    screen.console.print(f"All runs, with charts: {folder / PAGES[0]}", soft_wrap=True)


def _table(results: Results) -> Table:
    table = simple_table()
    for key in results.keys:
        table.add_column(key, overflow="fold")
    for name in (f"validation {results.metric}" if results.metric else "validation", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for job in results.ranked[:_MAX_SHOWN]:
        cells = [
            "–" if job.figure is None else number(job.figure),
            "–" if job.seconds is None else f"{job.seconds:,.1f}",
        ]
        state = "" if job.state == FINISHED else job.state
        style = "bold" if job is results.chosen else "" if job.state == FINISHED else "dim"
        table.add_row(*map(brief, results.values(job).values()), *cells, state, style=style)
    if len(results.jobs) > _MAX_SHOWN:
        table.caption = f"the best {_MAX_SHOWN} of {len(results.jobs)}"
    return table
