"""One sweep: its folder, its runs and their outcomes. Hydra's sweeper and launcher call it for every run.

The sweeper runs in this process only, and every run in processes of its own: with a sweeper on every rank, the ranks
could choose different values.
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
from nlp_transfer.sweeping.execution import Executor, Words, run_jobs
from nlp_transfer.sweeping.job import FINISHED, PRUNED, Job
from nlp_transfer.sweeping.local import LocalExecutor
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.training.signals import Stopped

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Bar, Screen

# Words that change how many runs of a sweep are done, or where, but not its identity.
_NOT_IDENTITY_WORDS = ("hydra.launcher.", "hydra/launcher=", "hydra.sweeper.n_trials=", "hydra.sweep.")


class Sweep:
    """A sweep in progress.

    Args:
        recipe: of all runs.
        words: the words of the command line, including those for Hydra.
        screen: where progress is shown.

    Attributes:
        jobs: the runs that have ended, in the order in which they were started.
        total: how many runs there will be; None: as many as were started.
        should_prune: returns whether to end a run early.
    """

    def __init__(self, recipe: str | None, words: Sequence[str], screen: Screen) -> None:
        self.recipe, self._screen = recipe, screen
        self.jobs: dict[Words, Job] = {}
        self.total: int | None = None
        self.should_prune: Callable[[Words], bool] = lambda words: False
        self._id, self._stderr = _id(recipe, words), sys.stderr
        self._lock, self._progress = contextlib.ExitStack(), contextlib.ExitStack()
        self._folder: Path | None = None
        self._unused = list[Path]()  # new folders, which are removed if no run is started
        self._bar: Bar | None = None

    @property
    def folder(self) -> Path:
        """The folder of its results, which depends on its identity, so that the same command finds it again."""
        assert self._folder is not None
        return self._folder

    @property
    def begun(self) -> bool:
        """Whether it has a folder, which is created for its first run."""
        return self._folder is not None

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()
        for folder in self._unused[:1]:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may have put files there
            for parent in self._unused[1:]:
                parent.rmdir()
        self._lock.close()

    def hide(self) -> None:
        """Remove the progress bar."""
        self._progress.close()
        self._bar = None

    def begin(self, config: Any) -> None:
        """Create and lock the folder, unless that has been done.

        Args:
            config: as composed by Hydra.

        Raises:
            UserError: for a folder that cannot be created, or is in use.
        """
        if self.begun:
            return
        folder = Path(str(config.hydra.sweep.dir)) / self._id
        new_parents = [each for each in folder.parents if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(FileLock(folder / ".lock", timeout=0))
            is_new = [each.name for each in folder.iterdir()] == [".lock"]
        except Timeout:
            raise UserError(f"the sweep {folder} is being done by another process; wait for it") from None
        except OSError as error:
            raise UserError(f"the sweep's folder {folder} cannot be made: {reason(error)}; set output=...") from error
        self._folder, self._unused = folder, [folder, *new_parents] if is_new else []

    def run_one(self, _: Any) -> float:
        """Execute one run for Hydra's basic launcher; return its validation figure, nan if there is none."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        config = HydraConfig.instance().cfg
        self.begin(config)
        overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)
        assert isinstance(overrides, list)
        (job,) = self.run([tuple(map(str, overrides))], LocalExecutor(LauncherSettings(jobs=1)), logs=False)
        return job.value

    def run(self, runs: Sequence[Words], executor: Executor, *, logs: bool = True) -> list[Job]:
        """Execute runs and record their outcomes.

        Args:
            runs: the words of each.
            executor: executes them.
            logs: whether messages of the runs go to log files, and a progress bar is shown instead.
        """
        self._unused.clear()
        at_terminal = sys.stdout.isatty() and self._stderr.isatty()

        def on_end(job: Job, output: str) -> None:
            self.jobs[job.words] = job
            if job.state == FINISHED and not at_terminal:  # at a terminal tables are shown instead
                print(output, end="", flush=True)  # noqa: T201
            elif job.state == PRUNED:
                self._screen.tell(f"ended early, because it lags behind others: {' '.join(job.words)}")
            self._show(len(runs))

        with contextlib.redirect_stderr(self._stderr):  # the caller has redirected it to hide Hydra's messages
            if logs:
                self._show(len(runs), begin=True)
            log_of = self.log_of if logs else lambda words: None
            try:
                jobs = run_jobs(
                    runs, executor, recipe=self.recipe, log_of=log_of, should_prune=self.should_prune, on_end=on_end
                )
            except Stopped:
                if logs:  # otherwise the run has said so itself
                    self._screen.tell(
                        "stopped; every run has written a checkpoint, the same command continues from there"
                    )
                raise
        return [jobs[words] for words in runs]

    def log_of(self, words: Words) -> Path:
        """Return the log file of a run."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}.txt"

    def _show(self, runs: int, *, begin: bool = False) -> None:
        if begin and self._bar is None:
            self._bar = self._progress.enter_context(self._screen.bar("sweeping"))
        if self._bar is not None:
            self._bar.show(len(self.jobs), self.total or runs)


def _id(recipe: str | None, words: Sequence[str]) -> str:
    """Return the name of a sweep's folder: its recipe or "sweep", and eight hex digits of its identity."""
    digest = hashlib.sha256()
    if recipe is not None:
        folder, name = locate_recipe(recipe)
        digest.update((folder / f"{name}.yaml").read_bytes())
    for word in sorted(words):
        group = word.lstrip("+~").partition("=")[0].partition(".")[0]
        if group not in NOT_IDENTITY and not word.lstrip("+").startswith(_NOT_IDENTITY_WORDS):
            digest.update(f"\0{word}".encode())
    return f"{'sweep' if recipe is None else Path(recipe).stem}-{digest.hexdigest()[:8]}"


def sweep_of(task: Any) -> Sweep:
    """Return the sweep whose method `run_one` is Hydra's task function."""
    sweep = task.__self__
    assert isinstance(sweep, Sweep)
    return sweep
