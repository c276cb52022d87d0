"""The verb that makes an encoder for classes that are to come."""

from __future__ import annotations

import argparse
import shlex

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.verbs import emit, one, screen_of_main, unread

# What it reads: groups, and keys of others; of `training` see the checks.
_READ = (
    *("data", "tokens", "encoder", "cache", "checkpoint", "meta"),
    *("name", "seed", "output", "overwrite", "resume", "evaluation.confidence", "evaluation.batch_tokens"),
)


def meta(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Learn an encoder in episodes, and tell whether it is better at classes held out than it was."""
    recipe = one(words, "meta")
    from nlp_transfer.meta.checks import READ_OF_TRAINING, check_meta

    read = (*_READ, *(f"training.{key}" for key in READ_OF_TRAINING))
    if word := unread(overrides, read):
        raise UserError(
            f"{word}: meta would not read it; take it away (it reads {', '.join(read)}). What it makes is adapted with "
            "all that adapt takes: encoder=runs/NAME"
        )
    with permanent_imports():
        from nlp_transfer import config

        settings = config.compose(recipe, overrides)
    if arguments.cfg:
        print(config.to_yaml(settings), end="")  # noqa: T201
        return 0
    from nlp_transfer.checks import check

    check(settings)
    check_meta(settings)
    screen = screen_of_main()
    from nlp_transfer.meta.rows import rows_of

    corpus, division = rows_of(settings, screen)  # and says what is wrong there before torch is needed
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.meta.run import meta_learn
        from nlp_transfer.meta.show import render
    run = meta_learn(settings, corpus, division, screen)
    render(run.outcome, screen.console)
    screen.console.print(f"\nThe encoder lies in {run.folder / 'model'}. Next:", soft_wrap=True, style="bold")
    for verb in ("adapt", "compare"):
        command = f"nlp-transfer {verb} encoder={shlex.quote(str(run.folder))} data=files data.path=NEW.csv"
        screen.console.print(f"  {command}", soft_wrap=True)
    emit({"folder": str(run.folder), "model": str(run.folder / "model"), **run.outcome.to_json()}, screen)
    return 0
