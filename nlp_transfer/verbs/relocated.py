"""Messages for the config.yaml of a run that is used from another folder, or after the run was moved."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DATA_FILES, Settings


def config_of_run(recipe: str | None) -> Path | None:
    """Return the path of a run's config.yaml, if a recipe is one."""
    from nlp_transfer import config

    path = None if recipe is None else expanded(recipe)
    is_one = path is not None and path.name == "config.yaml" and path.is_file() and config.is_resolved(path.resolve())
    return path if is_one else None


@contextmanager
def explaining_relative_names(config: Path | None) -> Iterator[None]:
    """Say, where data are not found, to which folder their relative names in the config.yaml of a run refer.

    Args:
        config: the config.yaml; None: nothing is said.

    Raises:
        UserError: that of the block, followed by that folder.
    """
    from nlp_transfer.config import compose

    try:
        yield
    except UserError as error:
        if config is None:
            raise
        settings = compose(str(config))
        names = [expanded(name) for key in DATA_FILES if (name := getattr(settings.data, key))]
        if not any(f"{name} does not exist" in str(error) for name in names if not name.is_absolute()):
            raise
        start = _started_in(config, settings.output)
        where = ", which is not this one" if start is None else f", {start}: call it from there"
        raise UserError(
            f"{error}; in {config} it is relative to the folder in which the run was started{where}"
        ) from error


def check_not_moved(config: Path | None, settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse to begin again a run that was stopped, if it was moved since or was started in another folder.

    Args:
        config: the config.yaml that the settings come from; None: that of no run.
        settings: of the run, with the overrides.
        overrides: the user's; one of `output` says where the run is to be.

    Raises:
        UserError: saying how to continue it, and how to begin again.
    """
    from nlp_transfer.config import compose, run_id, run_path

    if config is None or settings.resume == "never" or any(word.startswith("output=") for word in overrides):
        return
    folder, expected = config.resolve().parent, run_path(settings)
    is_unfinished = any(folder.glob("checkpoints/step-*")) and not (folder / "metrics.json").exists()
    if not is_unfinished or folder == expected.resolve() or run_id(settings) != run_id(compose(str(config))):
        return
    here = f"output={shlex.quote(str(folder.parent))} continues it where it is now"
    back = f"move it to {shlex.quote(str(expected))} to continue it"
    raise UserError(
        f"{config.parent} holds checkpoints of a run that was not finished, and was moved or started in another "
        f"folder: here its config.yaml stands for {expected}; {here if folder.name == expected.name else back}, "
        "resume=never begins again"
    )


def _started_in(config: Path, output: str) -> Path | None:
    """Return the folder in which a run was started, as its own place tells; None if it does not.

    Args:
        config: of the run.
        output: what it says about the folder of the run.
    """
    folder, below = config.resolve().parent.parent, expanded(output)
    if below.is_absolute() or ".." in below.parts or folder.parts[-len(below.parts) :] != below.parts:
        return None
    return Path(*folder.parts[: len(folder.parts) - len(below.parts)])
