"""The verb `meta`, which trains an encoder for classes that come later."""

from __future__ import annotations

import argparse
import shlex

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.verbs import emit, first_unused, first_word, screen_of_main

# The groups, and single keys of other groups, that it reads; for those of `training` see meta.checks.
_READ = (
    *("data", "tokens", "encoder", "cache", "checkpoint", "meta"),
    *("name", "seed", "output", "overwrite", "resume", "evaluation.confidence", "evaluation.batch_tokens"),
)


def meta(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Meta-learn an encoder in episodes, and measure on held-out classes whether it improved."""
    recipe = first_word(words, "meta")
    from nlp_transfer.meta.checks import READ_OF_TRAINING, check_meta

    read = (*_READ, *(f"training.{key}" for key in READ_OF_TRAINING))
    if word := first_unused(overrides, read):
        raise UserError(
            f"{word}: meta does not use this key; remove it (it uses {', '.join(read)}). The encoder that it trains is "
            "adapted with any key of adapt: encoder=runs/NAME"
        )
    with permanent_imports():
        from nlp_transfer import config

        settings = config.compose(recipe, overrides)
    if arguments.cfg:
        print(config.to_yaml(settings), end="")  # noqa: T201
        return 0
    from nlp_transfer.checks import check_settings

    check_settings(settings)
    check_meta(settings)
    screen = screen_of_main()
    from nlp_transfer.meta.rows import rows_of

    corpus, division = rows_of(settings, screen)  # before torch is imported, so that errors appear at once
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.meta.run import meta_learn
        from nlp_transfer.meta.show import render
    run = meta_learn(settings, corpus, division, screen)
    render(run.outcome, screen.console)
    screen.console.print(f"\nThe encoder is in {run.folder / 'model'}. Next:", soft_wrap=True, style="bold")
    for verb in ("adapt", "compare"):
        command = f"nlp-transfer {verb} encoder={shlex.quote(str(run.folder))} data=files data.path=NEW.csv"
        screen.console.print(f"  {command}", soft_wrap=True)
    emit({"folder": str(run.folder), "model": str(run.folder / "model"), **run.outcome.to_json()}, screen)
    return 0
