"""The run folder: the files a run writes, and reading back a finished run. Only the first rank writes."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from nlp_transfer import config
from nlp_transfer.artefact.places import PAGES
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.report import Report
from nlp_transfer.machine.disk import flush, reason, remove, room, write_json, write_whole
from nlp_transfer.machine.launch import is_main
from nlp_transfer.machine.versions import environment
from nlp_transfer.pretraining.folder import remove_spare
from nlp_transfer.running.plan import Plan
from nlp_transfer.settings import Settings
from nlp_transfer.training import checkpoint

PROFILE = "profile.json"
STEPS, PACE = "metrics.jsonl", "pace.jsonl"  # reproducible to the bit; timings, which are not

_Read = TypeVar("_Read")


class Figures(Protocol):
    """The results of a run."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @classmethod
    def of(cls, settings: Settings, corpus: Corpus | None = None) -> RunFolder:
        """Return the folder of a run.

        Args:
            settings: of the run.
            corpus: its rows, to be compared with those of a finished run; None: they cannot be read.

        Raises:
            UserError: if the folder holds a finished run of the same configuration on other data.
        """
        folder = cls(config.run_path(settings))
        if corpus is not None and folder.is_finished and not settings.overwrite:
            folder.check_data(corpus)
        return folder

    @property
    def is_finished(self) -> bool:
        """Whether the run finished, which it does after its model was saved."""
        with self.os_errors_reported():
            return (self.path / "metrics.json").is_file()

    @property
    def is_whole(self) -> bool:
        """Whether the run finished and its model is still there."""
        return self.is_finished and self.model.is_dir()

    def should_read_back(self, settings: Settings) -> bool:
        """Return whether the run should be read back rather than done again."""
        return self.is_whole and not settings.overwrite

    def check_data(self, corpus: Corpus) -> None:
        """Check that a finished run was made from these rows.

        Args:
            corpus: the present rows.

        Raises:
            UserError: if it was made from others.
        """
        self.check_made_from("data", "fingerprint", corpus.fingerprint, f"other data than {corpus.source} holds")

    def check_made_from(self, part: str, key: str, now: str, difference: str) -> None:
        """Check that a digest in the metrics.json of a finished run has its present value.

        Args:
            part: the top-level key of metrics.json.
            key: the key within that part.
            now: its present value.
            difference: what a run with another value was made from, in words.

        Raises:
            UserError: if the value differs or is missing.
        """
        try:
            before = str(self.result()[part][key])
        except (KeyError, TypeError):
            raise UserError(
                f"{self.path / 'metrics.json'} lacks {part}.{key}; overwrite=true repeats the run"
            ) from None
        if before != now:
            raise UserError(
                f"{self.path} was made from {difference} now ({key} {before[:8]}, now {now[:8]}); overwrite=true "
                "replaces it, name=... keeps both"
            )

    @property
    def model(self) -> Path:
        """The folder of the saved model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, while the run is unfinished."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes within the block; a process that dies releases its lock.

        Raises:
            UserError: if another process holds the lock.
        """
        if not is_main():
            yield
            return
        with self.os_errors_reported():
            self.path.mkdir(parents=True, exist_ok=True)
            lock, owner = FileLock(self.path / ".lock", timeout=0), self.path / ".owner"
            try:
                lock.acquire()
            except Timeout:
                writer = owner.read_text(encoding="utf-8", errors="replace") if owner.is_file() else "another process"
                raise UserError(f"{self.path} is being written by {writer}; wait for it, or set output=...") from None
            owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def claim(self, is_done: Callable[[], bool]) -> Iterator[bool]:
        """Lock the folder within the block, and yield whether the run has still to be done.

        Args:
            is_done: returns whether it is done; called under the lock, for another process may have finished it
                meanwhile. The first rank's answer counts.

        Raises:
            UserError: if another process holds the lock.
        """
        with self.locked():
            (done,) = broadcast_object_list([is_done()])
            yield not done

    def begin(self, settings: Settings, plan: Plan, *, resumed: int | None = None) -> None:
        """Write configuration, plan and environment, after deleting what an earlier run left in the folder.

        Args:
            settings: of the run.
            plan: of the run.
            resumed: the step of the checkpoint in this folder from which the run resumes; later checkpoints and log
                lines are deleted. None: it starts anew, or from a checkpoint elsewhere.

        Raises:
            UserError: if the folder cannot be made or written to.
        """
        if not is_main():
            return
        with self.os_errors_reported():
            self.path.mkdir(parents=True, exist_ok=True)
            checkpoint.remove_unfinished(self.checkpoints)
            if resumed is None:
                # Checkpoints first: once metrics.json is gone, they would look like those of an unfinished run.
                remove(self.checkpoints)
                (self.path / "metrics.json").unlink(missing_ok=True)
                remove(self.model)
                for name in (*PAGES, PROFILE):
                    (self.path / name).unlink(missing_ok=True)
                for path in [self.path / STEPS, self.path / PACE, *self.path.rglob("events.out.tfevents.*")]:
                    path.unlink(missing_ok=True)
            else:
                checkpoint.delete_after(self.checkpoints, resumed)
                for name in (STEPS, PACE):
                    self.truncate_log(name, after=resumed)
            (self.path / "config.yaml").write_text(config.to_yaml(settings), encoding="utf-8")
            write_json(self.path / "plan.json", plan.to_json())
            write_json(self.path / "environment.json", environment())

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl; see `log_into`."""
        self.log_into(STEPS, values)

    def log_into(self, name: str, values: Mapping[str, Any]) -> None:
        """Append a line to a JSON Lines file of the run.

        Raises:
            UserError: if it cannot be written.
        """
        if is_main():
            with self.os_errors_reported(), (self.path / name).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({name: _finite(value) for name, value in values.items()}) + "\n")

    def finish(self, report: Figures, **more: Any) -> None:
        """Write metrics.json, which marks the run as finished, and delete the checkpoints.

        Args:
            report: the results.
            more: other parts of metrics.json, such as `data` with its `fingerprint` and `encoder` with its `sha256`.

        Raises:
            UserError: if it cannot be written.
        """
        if is_main():
            with self.os_errors_reported():
                temporary = self.path / ".making-metrics.json"
                write_json(temporary, {"report": report.to_json(), **more})
                # Checkpoints are deleted only after what replaces them is on disk. Flushing fails for the files of
                # `begin` if the folder was deleted and made again meanwhile.
                begun = [self.path / name for name in ("config.yaml", "plan.json", "environment.json")]
                for path in (temporary, *begun, *self.path.glob("model"), *self.model.rglob("*")):
                    flush(path)
                temporary.rename(self.path / "metrics.json")
                flush(self.path)
                self._tidy()

    def tidy(self) -> None:
        """Delete what a finished run no longer needs, in case its process was killed before it did so."""
        if is_main():
            with self.os_errors_reported():
                self._tidy()

    def _tidy(self) -> None:
        remove(self.checkpoints)
        remove_spare(self.path)
        for trash in self.path.glob(".trash-*"):  # of a process that was killed while it deleted a folder
            shutil.rmtree(trash, ignore_errors=True)

    def result(self) -> dict[str, Any]:
        """Return the content of metrics.json.

        Raises:
            UserError: if the file cannot be read.
        """
        path = self.path / "metrics.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}); overwrite=true repeats the run") from error

    def report(self) -> Report:
        """Return the report of a run that was evaluated beside baselines; see `report_of`."""
        return self.report_of(Report.from_json)

    def report_of(self, from_json: Callable[[dict[str, Any]], _Read]) -> _Read:
        """Return the report in metrics.json.

        Args:
            from_json: makes it from plain values.

        Raises:
            UserError: if the file cannot be read, or holds no such report.
        """
        result = self.result()
        try:
            return from_json(result["report"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            problem = f"{self.path / 'metrics.json'} holds no report that can be read ({error})"
            raise UserError(f"{problem}; overwrite=true repeats the run") from error

    @contextmanager
    def os_errors_reported(self) -> Iterator[None]:
        """Turn errors of the file system within the block into a UserError."""
        try:
            yield
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = f"{room(self.path)}; make room or set output=..." if is_full else "; set output=... to another"
            raise UserError(f"the run folder {self.path} cannot be used: {reason(error)}{advice}") from error

    def truncate_log(self, name: str, *, after: int) -> None:
        """Delete the lines of later steps from a JSON Lines file, so that a resumed run logs no step twice."""
        path = self.path / name
        if not path.is_file():  # meta-learning writes no pace
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):  # may be damaged
            try:
                if json.loads(line)["step"] <= after:
                    kept.append(line)
            except (KeyError, TypeError, ValueError):  # a partial line of a process that was killed
                continue
        write_whole(path, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))


def _finite(value: Any) -> Any:
    """Return a value that JSON can represent: null for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
