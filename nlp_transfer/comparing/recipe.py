"""The winner of a comparison as a recipe that is ready to run, headed by what was measured."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from nlp_transfer import config
from nlp_transfer.evaluation.formatting import number, shown, title_of

if TYPE_CHECKING:
    from nlp_transfer.comparing.outcome import Outcome
    from nlp_transfer.settings import Settings


def write_recipe(outcome: Outcome, settings: Settings) -> None:
    """Write the recipe of the winner's run on all rows.

    Args:
        outcome: of the comparison.
        settings: of the run.
    """
    duel, cell = outcome.most.duel, outcome.cell(outcome.winner, outcome.most.labels)
    floor = outcome.cell(duel.other, outcome.most.labels)
    assert cell is not None
    assert floor is not None
    lines = [
        f"{outcome.winner}: chosen on the validation rows of {outcome.data}, beside "
        f"{', '.join(dict.fromkeys(each.name for each in outcome.cells if each.name != outcome.winner))}.",
        "",
        f"  nlp-transfer adapt {shlex.quote(str(outcome.recipe))}",
        "",
        f"Measured on {outcome.rows:,} {outcome.split} rows, {cell.rows:,} training rows, mean of {len(cell.values)} "
        f"seeds: {outcome.metric} {shown(cell.figure)} beside {number(floor.figure.value)} of {title_of(duel.other)}; "
        f"{cell.seconds:,.0f} s.",
    ]
    head = "".join(f"# {line}".rstrip() + "\n" for line in " \n".join(lines).split("\n"))
    outcome.folder.mkdir(parents=True, exist_ok=True)
    outcome.recipe.write_text(head + config.to_recipe(settings), encoding="utf-8")
