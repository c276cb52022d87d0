"""One sweep: which runs it is, what became of them, and what they leave; Hydra's parts call it for each of them.

The sweeper is in this one process, and every run in processes of its own. Were there a sweeper on every rank, ranks
could choose apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nlp_transfer.composing.shipped import locate_recipe
from nlp_transfer.config import NOT_IDENTITY
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import reason
from nlp_transfer.sweeping.job import FINISHED, PRUNED, Job
from nlp_transfer.sweeping.local import Here
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.sweeping.work import Place, Words, work
from nlp_transfer.training.signals import Stopped

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Bar, Screen

# Words that change how much of a sweep is done, or where, and not what it is.
_NOT_OF_IT = ("hydra.launcher.", "hydra/launcher=", "hydra.sweeper.n_trials=", "hydra.sweep.")


class Sweep:
    """A sweep that is going on.

    Args:
        recipe: of all runs.
        words: of the command line: what all runs share, what differs, and what is for Hydra.
        screen: where progress is shown.

    Attributes:
        jobs: what became of the runs that have ended, in the order in which they were begun.
        total: how many runs there will be; None: as many as are begun.
        lags: returns whether a run is to be ended early.
    """

    def __init__(self, recipe: str | None, words: Sequence[str], screen: Screen) -> None:
        self.recipe, self._screen = recipe, screen
        self.jobs: dict[Words, Job] = {}
        self.total: int | None = None
        self.lags: Callable[[Words], bool] = lambda words: False
        self._id, self._speech = _id(recipe, words), sys.stderr
        self._open, self._shown = contextlib.ExitStack(), contextlib.ExitStack()
        self._folder: Path | None = None
        self._unused = list[Path]()  # folders that were made for it and go again if no run is begun
        self._bar: Bar | None = None

    @property
    def folder(self) -> Path:
        """Where its figures lie; a function of what it is, so that the same command finds them."""
        assert self._folder is not None
        return self._folder

    @property
    def begun(self) -> bool:
        """Whether it has a folder, which it gets with its first run."""
        return self._folder is not None

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()
        for folder in self._unused[:1]:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something there
            for above in self._unused[1:]:
                above.rmdir()
        self._open.close()

    def hide(self) -> None:
        """Show no more how far it is."""
        self._shown.close()
        self._bar = None

    def begin(self, config: Any) -> None:
        """Take its folder, which nobody else uses meanwhile.

        Args:
            config: as Hydra composed it.

        Raises:
            UserError: for a folder that cannot be made, or is in use.
        """
        if self.begun:
            return
        folder = Path(str(config.hydra.sweep.dir)) / self._id
        above = [each for each in folder.parents if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open.enter_context(FileLock(folder / ".lock", timeout=0))
            is_new = [each.name for each in folder.iterdir()] == [".lock"]
        except Timeout:
            raise UserError(f"the sweep {folder} is being done by another process; wait for it") from None
        except OSError as error:
            raise UserError(f"the sweep's folder {folder} cannot be made: {reason(error)}; set output=...") from error
        self._folder, self._unused = folder, [folder, *above] if is_new else []

    def one(self, _: Any) -> float:
        """Do the run that Hydra's own launcher is at; return the validation figure, nan where there is none."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        config = HydraConfig.instance().cfg
        self.begin(config)
        own = OmegaConf.to_container(HydraConfig.get().overrides.task)
        assert isinstance(own, list)
        (done,) = self.work([tuple(map(str, own))], Here(LauncherSettings(jobs=1)), apart=False)
        return done.value

    def work(self, runs: Sequence[Words], place: Place, *, apart: bool = True) -> list[Job]:
        """Do runs and remember what became of them.

        Args:
            runs: their words.
            place: where.
            apart: whether what each says goes into a file, and the sweep shows how far it is.
        """
        self._unused.clear()
        watched = sys.stdout.isatty() and self._speech.isatty()

        def on_end(job: Job, output: str) -> None:
            self.jobs[job.words] = job
            if job.state == FINISHED and not watched:  # a person has the tables
                print(output, end="", flush=True)  # noqa: T201
            elif job.state == PRUNED:
                self._screen.tell(f"ended early, for it lags behind others: {' '.join(job.words)}")
            self._show(len(runs))

        with contextlib.redirect_stderr(self._speech):  # which Hydra's errors do not reach
            if apart:
                self._show(len(runs), begin=True)
            log_of = self.log_of if apart else lambda words: None
            try:
                done = work(runs, place, recipe=self.recipe, log_of=log_of, lags=self.lags, on_end=on_end)
            except Stopped:
                if apart:  # else the run has said so
                    self._screen.tell(
                        "stopped; what each run reached is committed, the same command goes on from there"
                    )
                raise
        return [done[words] for words in runs]

    def log_of(self, words: Words) -> Path:
        """Return the file for what a run says."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}.txt"

    def _show(self, runs: int, *, begin: bool = False) -> None:
        if begin and self._bar is None:
            self._bar = self._shown.enter_context(self._screen.bar("sweeping"))
        if self._bar is not None:
            self._bar.show(len(self.jobs), self.total or runs)


def _id(recipe: str | None, words: Sequence[str]) -> str:
    """Return what a sweep's folder is called: its recipe or "sweep", and eight hex digits of what it is."""
    digest = hashlib.sha256()
    if recipe is not None:
        folder, name = locate_recipe(recipe)
        digest.update((folder / f"{name}.yaml").read_bytes())
    for word in sorted(words):
        group = word.lstrip("+~").partition("=")[0].partition(".")[0]
        if group not in NOT_IDENTITY and not word.lstrip("+").startswith(_NOT_OF_IT):
            digest.update(f"\0{word}".encode())
    return f"{'sweep' if recipe is None else Path(recipe).stem}-{digest.hexdigest()[:8]}"


def sweep_of(task: Any) -> Sweep:
    """Return the sweep whose `one` Hydra was given to do."""
    found = task.__self__
    assert isinstance(found, Sweep)
    return found
