"""The winner of a comparison as a ready-to-run recipe, with its measured scores in a comment."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from nlp_transfer import config
from nlp_transfer.comparing.grid import ALL
from nlp_transfer.data.paths import expanded
from nlp_transfer.evaluation.formatting import format_interval, number, title_of
from nlp_transfer.settings import DATA_FILES

if TYPE_CHECKING:
    from nlp_transfer.comparing.outcome import ComparisonOutcome
    from nlp_transfer.settings import DataSettings, Settings


def recipe_of(outcome: ComparisonOutcome, settings: Settings) -> str:
    """Return the recipe of the winner's run on all rows, as YAML.

    Args:
        outcome: of the comparison.
        settings: of the run.
    """
    test, cell = outcome.most.duel, outcome.cell(outcome.winner, outcome.most.labels)
    baseline = outcome.cell(test.other, outcome.most.labels)
    assert cell is not None
    assert baseline is not None
    others = dict.fromkeys(title_of(each.name) for each in outcome.cells if each.name != outcome.winner)
    seeds = "one seed" if len(cell.values) == 1 else f"mean of {len(cell.values)} seeds"
    lines = [
        f"{outcome.winner}: chosen on the validation rows of {outcome.data}; compared with {', '.join(others)}.",
        "",
        f"  nlp-transfer adapt {shlex.quote(str(outcome.recipe))}",
        "",
        f"Measured on {outcome.rows:,} test rows {cell.said}, {seeds}: {outcome.metric} "
        f"{format_interval(cell.figure)} against {number(baseline.figure.value)} of {title_of(test.other)}; "
        f"{cell.seconds:,.0f} s.",
    ]
    if outcome.most.labels != ALL:
        lines.append("It trains on all training rows; candidates were compared on fewer, so another may be better.")
    if not settings.data.source:
        lines.append("The rows came from Python, as data=...; give them again: nlp_transfer.adapt(recipe, data=...).")
    # Names and paths may contain line breaks, which would end the comment.
    head = "".join(f"# {' '.join(line.splitlines())}".rstrip() + "\n" for line in lines)
    objective = {
        name: dataclasses.replace(term, teacher=str(expanded(term.teacher).absolute())) if name == "distill" else term
        for name, term in settings.objective.items()
    }
    return head + config.to_recipe(dataclasses.replace(settings, data=_absolute(settings.data), objective=objective))


def _absolute(data: DataSettings) -> DataSettings:
    """Return the settings with absolute paths."""
    files = {name: getattr(data, name) for name in DATA_FILES}
    absolute: dict[str, Any] = {name: str(expanded(file).absolute()) for name, file in files.items() if file}
    return dataclasses.replace(data, **absolute)
