"""The command-line side of --multirun: check the words, have Hydra execute the sweep, and show its results."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nlp_transfer.composing.shipped import CONF, locate_recipe
from nlp_transfer.composing.words import encoder_words, readable, refuse_second_values, with_strategy
from nlp_transfer.config import is_resolved, user_errors
from nlp_transfer.errors import PushFailed, UserError
from nlp_transfer.machine.launch import world_size
from nlp_transfer.sweeping.foreign import refuse_foreign_code
from nlp_transfer.sweeping.job import PRUNED, STOPPED, Job
from nlp_transfer.sweeping.sweep import Sweep
from nlp_transfer.sweeping.typed import check_hydra_words, for_hydra, swept_keys
from nlp_transfer.sweeping.writing import write_and_show
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.process import USER_ERROR


def show(recipe: str | None, overrides: Sequence[str]) -> int:
    """Run a sweep, report failed runs, and return the exit status.

    Raises:
        UserError: see `sweep`; and under a launcher of several processes.
    """
    if world_size() > 1:
        raise UserError(
            "--multirun starts a launcher for each run itself: call `nlp-transfer adapt ... --multirun` without "
            "accelerate launch or torchrun"
        )
    jobs = sweep(recipe, overrides)
    failed = [job for job in jobs if job.status and job.state not in (PRUNED, STOPPED)]
    for job in failed:
        cause = f": {job.said}" if job.said else ""
        print(f"nlp-transfer: the run {job.name} failed with status {job.status}{cause}", file=sys.stderr)  # noqa: T201
    statuses = {job.status for job in failed}
    return statuses.pop() if statuses in ({USER_ERROR}, {PushFailed.status}) else int(bool(failed))


def sweep(recipe: str | None, overrides: Sequence[str]) -> list[Job]:
    """Adapt once for every combination of comma-separated values, or for those that a search proposes.

    The JSON line of each finished run goes to standard output; its figure on the validation rows goes to the sweeper.

    Returns:
        The runs with their outcomes.

    Raises:
        UserError: for invalid overrides, before any run is started.
    """
    import hydra

    from nlp_transfer.sweeping.plugins import register

    overrides = with_strategy(recipe, [each for word in overrides for each in encoder_words(word)])
    words = [readable(word, sweep=True) for word in overrides]
    refuse_second_values(overrides)
    check_hydra_words(words)
    words = [for_hydra(word) for word in words]
    folder, name = locate_recipe(recipe)
    if is_resolved(folder / f"{name}.yaml"):  # it has no defaults list to choose groups from
        folder, name = locate_recipe(None)
    with user_errors(words):
        refuse_foreign_code(folder, name, words)
    arguments = [sys.argv[0], "--config-dir", str(folder), "--config-name", name, "--multirun", *words]
    screen = Screen(quiet=False)
    with (
        Sweep(recipe, words, screen) as current,
        _results_written(current, swept_keys(words), screen),
        _hydra_command_line(arguments, current),
        user_errors(words),
    ):
        register()
        hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name="config")(current.run_one)()
    return list(current.jobs.values())


@contextlib.contextmanager
def _results_written(current: Sweep, keys: Sequence[str], screen: Screen) -> Iterator[None]:
    """Write the results of the sweep after the block, even if it raises.

    Raises:
        UserError: for files that cannot be written; only a message if the block raises another exception.
    """

    def write() -> None:
        current.hide()
        if current.jobs:
            write_and_show(current.folder, list(current.jobs.values()), keys, screen)

    try:
        yield
    except BaseException:
        try:
            write()
        except UserError as error:
            screen.tell(str(error))
        raise
    write()


@contextlib.contextmanager
def _hydra_command_line(arguments: Sequence[str], current: Sweep) -> Iterator[None]:
    """Give Hydra its command line, and have it raise errors instead of printing them and exiting.

    Raises:
        UserError: for a folder of the sweep that cannot be created.
    """
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = list(arguments), "1"
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # Hydra prints errors that it also raises
            yield
    except OSError as error:
        if error.filename is None or not _in_its_folder(Path(str(error.filename)), current):
            raise
        raise UserError(
            f"the sweep's folder {error.filename} cannot be made: {error.strerror}; set output=..."
        ) from error
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


def _in_its_folder(path: Path, current: Sweep) -> bool:
    """Return whether a path is in the folder of the sweep; until that exists, Hydra creates no other files."""
    return not current.begun or path.absolute().is_relative_to(current.folder.parent.absolute())
