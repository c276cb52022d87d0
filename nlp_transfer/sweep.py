"""One run for every combination of values: Hydra's sweeper in this one process, each run in a process of its own.

Were there a sweeper on every rank, ranks could choose apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.config import is_resolved, user_errors
from nlp_transfer.ending import USER_ERROR
from nlp_transfer.errors import PushFailed, UserError
from nlp_transfer.launch import world_size
from nlp_transfer.plain import leaves
from nlp_transfer.settings import Settings
from nlp_transfer.shipped import CONF, GROUPS, locate_recipe, shipped_names
from nlp_transfer.words import encoder_words, readable, refuse_second_values, with_strategy


class RunFailed(Exception):
    """A run ended with an error, about which its own process has spoken."""


def show(recipe: str | None, overrides: Sequence[str]) -> int:
    """Sweep, name the runs that failed, and return the exit status.

    Raises:
        UserError: see `sweep`; and inside a launcher.
    """
    if world_size() > 1:
        raise UserError(
            "--multirun runs outside the launcher, which it starts once a job: call "
            "`nlp-transfer adapt ... --multirun` without accelerate launch or torchrun"
        )
    failed = sweep(recipe, overrides)
    for words, status in failed.items():
        print(f"nlp-transfer: the run {words} failed with status {status}", file=sys.stderr)  # noqa: T201
    statuses = set(failed.values())
    return statuses.pop() if statuses in ({USER_ERROR}, {PushFailed.status}) else int(bool(failed))


def sweep(recipe: str | None, overrides: Sequence[str]) -> dict[str, int]:
    """Adapt once for every combination of the values that are given with commas, one run after the other.

    Each finished run's JSON line goes to standard output; the figure of its metric goes to the sweeper.

    Returns:
        The exit status of the runs that failed by their key=value words.

    Raises:
        UserError: for overrides that make no configuration; no run has been started then.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    overrides = with_strategy(recipe, [each for word in overrides for each in encoder_words(word)])
    words = [readable(word, sweep=True) for word in overrides]
    refuse_second_values(overrides)
    folder, name = locate_recipe(recipe)
    if is_resolved(folder / f"{name}.yaml"):  # it holds no groups to choose from
        folder, name = locate_recipe(None)
    failed: dict[str, int] = {}
    watched = sys.stdout.isatty() and sys.stderr.isatty()

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name="config")
    def one(_: Any) -> float | None:
        own = OmegaConf.to_container(HydraConfig.get().overrides.task)
        assert isinstance(own, list)
        done = _run([*([recipe] if recipe else []), *own])
        if done.returncode:
            failed[shlex.join(own)] = done.returncode
        if done.returncode not in (0, PushFailed.status):  # what was not pushed is finished all the same
            raise RunFailed
        if not watched:  # a person has the tables
            print(done.stdout, end="", flush=True)  # noqa: T201
        return _figure(done.stdout)

    with user_errors(words):
        _refuse_foreign_code(folder, name, words)
    asked = [sys.argv[0], "--config-dir", str(folder), "--config-name", name, "--multirun", *words]
    with _hydra_in_command(asked), user_errors(words), contextlib.suppress(RunFailed):
        one()
    return failed


def _refuse_foreign_code(folder: Path, name: str, words: Sequence[str]) -> None:
    """Refuse a recipe in whose folder some file changes Hydra's own keys, which name code that Hydra runs.

    Words typed on the command line may: they are the user's own.

    Raises:
        UserError: naming the key of Hydra.
    """
    typed = [word for word in words if word.lstrip("+~").startswith("hydra")]
    wanted = _hydra_keys(*locate_recipe(None), typed)
    for files in _choices(folder, [word for word in words if word not in typed]):
        found = _hydra_keys(folder, name, [*typed, *files])
        for key in wanted.keys() | found.keys():
            if wanted.get(key) != found.get(key):
                raise UserError(
                    f"{folder} changes {key}, a key of Hydra itself; type those of --multirun on the command line"
                )


def _choices(folder: Path, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every combination of files that the words choose (``strategy=probe,lora``); values choose none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    values = {field.name for field in dataclasses.fields(Settings)} - set(GROUPS)
    options: list[list[str]] = []
    for word in OverridesParser.create().parse_overrides(list(words)):
        typed = str(word.input_line)
        key = typed.partition("=")[0]
        group = key.lstrip("+~")
        if "." in group or group in values:
            continue
        if word.is_choice_sweep() and not isinstance(word.value(), Glob):
            options.append([f"{key}={value}" for value in word.sweep_string_iterator()])
        elif word.is_sweep_override():  # whichever of the files there are
            files = {file.stem for file in (folder / group).glob("*.yaml")}
            options.append([f"{key}={each}" for each in sorted(files | set(shipped_names(group)))])
        else:
            options.append([typed])
    yield from itertools.product(*options)


def _hydra_keys(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return Hydra's own keys in the composition of a recipe, dotted, without those that say which one it is."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        composed = compose(name, [f"hydra.searchpath=[pkg://{CONF}]", *words], return_hydra_config=True)
    keys = OmegaConf.to_container(composed.hydra)
    assert isinstance(keys, dict)
    return {
        f"hydra.{key}": value
        for key, value in leaves(keys)
        if not key.startswith(("runtime.", "overrides.", "job.name", "job.config_name", "job.override_dirname"))
    }


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Adapt in a new process; its standard error is ours.

    A terminal interrupts both processes: the run then finishes its step and commits it, for which this one waits.
    """
    command = [sys.executable, "-m", "nlp_transfer", "adapt", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running, _patient():
        output, _ = running.communicate()
    if running.returncode in (128 + signal.SIGINT, -signal.SIGINT):
        raise KeyboardInterrupt
    return subprocess.CompletedProcess(command, running.returncode, output)


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Leave an interrupt to the run for the time of the block."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _figure(output: str) -> float | None:
    """Return the model's figure in a run's JSON line; a rank that is not the first prints none."""
    if not output.strip():
        return None
    report = json.loads(output.splitlines()[-1])["report"]
    return report["rows"][0]["intervals"][report["metric"]]["value"]


@contextlib.contextmanager
def _hydra_in_command(arguments: Sequence[str]) -> Iterator[None]:
    """Give Hydra its command line, and have it raise its errors instead of printing them and leaving.

    Raises:
        UserError: for a folder of the sweep that cannot be made.
    """
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = list(arguments), "1"
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it announces what it raises
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"the sweep's folder {error.filename} cannot be made: {error.strerror}; set output=..."
        ) from error
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
