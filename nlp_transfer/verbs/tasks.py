"""The verb `multitask`, which adapts one encoder to several tasks at once."""

from __future__ import annotations

import argparse

from nlp_transfer.composing.shipped import shipped_names
from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.verbs import emit, require_one_process, screen_of_main


def multitask(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Adapt one encoder to several tasks, save and measure a model of each; the first word may be a recipe."""
    recipe = next((word for word in words[:1] if word.endswith(".yaml") or word in shipped_names("recipes")), None)
    tasks = words if recipe is None else words[1:]
    if tasks and any(word.startswith("multitask.tasks=") for word in overrides):
        raise UserError("multitask.tasks names the tasks that the words without = name: give one of the two")
    screen = screen_of_main()
    from nlp_transfer.multitask.task_set import read_tasks

    task_set = read_tasks(recipe, overrides, screen, tasks=tasks)  # before torch, so that errors appear at once
    if task_set.beside != "none":
        require_one_process("multitask with multitask.beside")
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.multitask.beside import compare_with_alone
        from nlp_transfer.multitask.show import render
        from nlp_transfer.multitask.together import adapt_together
    outcome = compare_with_alone(task_set, adapt_together(task_set, screen), screen)
    render(outcome, screen.console)
    emit(outcome.to_json(), screen)
    return 0
