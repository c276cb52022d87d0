"""The run folder: what a run writes about itself, and how a finished one is read back. Only the first rank writes."""

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
from nlp_transfer.pretraining.made import remove_spare
from nlp_transfer.running.plan import Plan
from nlp_transfer.settings import Settings
from nlp_transfer.training import checkpoint

PROFILE = "profile.json"
STEPS, PACE = "metrics.jsonl", "pace.jsonl"  # what a run repeats to the bit, and what it does not


_Read = TypeVar("_Read")


class Figures(Protocol):
    """What a run came to."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""


@dataclass(frozen=True)
class RunFolder:
    """Files of one run."""

    path: Path

    @classmethod
    def of(cls, settings: Settings, corpus: Corpus | None = None) -> RunFolder:
        """Return the folder of a run.

        Args:
            settings: of the run.
            corpus: its rows; None: they cannot be read, and are compared with nothing.

        Raises:
            UserError: if it holds a run of the same configuration over other data.
        """
        folder = cls(config.run_path(settings))
        if corpus is not None and folder.is_finished and not settings.overwrite:
            folder.check_data(corpus)
        return folder

    @property
    def is_finished(self) -> bool:
        """Whether the run ended, after its model was saved."""
        with self.reached():
            return (self.path / "metrics.json").is_file()

    @property
    def is_whole(self) -> bool:
        """Whether the run ended and has its model."""
        return self.is_finished and self.model.is_dir()

    def is_there(self, settings: Settings) -> bool:
        """Return whether the run is read back instead of done."""
        return self.is_whole and not settings.overwrite

    def check_data(self, corpus: Corpus) -> None:
        """Refuse to read a finished run back for other rows.

        Args:
            corpus: the rows that there are now.

        Raises:
            UserError: if the run was made from others.
        """
        self.check_made_from("data", "fingerprint", corpus.fingerprint, f"other data than {corpus.source} holds")

    def check_made_from(self, part: str, key: str, now: str, difference: str) -> None:
        """Refuse to read a finished run back that was made from something else than there is now.

        Args:
            part: of metrics.json.
            key: of that part.
            now: what the key would say of a run that was made now.
            difference: what the run was made from, in words.

        Raises:
            UserError: saying so, or that the key is missing.
        """
        try:
            before = str(self.result()[part][key])
        except (KeyError, TypeError):
            raise UserError(f"{self.path / 'metrics.json'} lacks {part}.{key}; overwrite=true does it again") from None
        if before != now:
            raise UserError(
                f"{self.path} was made from {difference} now ({key} {before[:8]}, now {now[:8]}); overwrite=true "
                "replaces it, name=... keeps both"
            )

    @property
    def model(self) -> Path:
        """Where the artefact lies."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints of a run that is not finished lie."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder for the time of the block; the lock of a dead process is none.

        Raises:
            UserError: if another process is at it.
        """
        if not is_main():
            yield
            return
        with self.reached():
            self.path.mkdir(parents=True, exist_ok=True)
            lock, owner = FileLock(self.path / ".lock", timeout=0), self.path / ".owner"
            try:
                lock.acquire()
            except Timeout:
                who = owner.read_text(encoding="utf-8", errors="replace") if owner.is_file() else "another process"
                raise UserError(f"{self.path} is being written by {who}; wait for it, or set output=...") from None
            owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def turn(self, is_there: Callable[[], bool]) -> Iterator[bool]:
        """Lock the folder for the time of the block, look again, and yield whether the run is still to be done.

        Args:
            is_there: whether it is read back instead; by now another process may have ended it. All ranks take what the
                first one sees.

        Raises:
            UserError: if another process is at it.
        """
        with self.locked():
            (there,) = broadcast_object_list([is_there()])
            yield not there

    def begin(self, settings: Settings, plan: Plan, *, resumed: int | None = None) -> None:
        """Write what the run is; what an earlier run left in the folder is taken away first.

        Args:
            settings: of the run.
            plan: what is going to happen.
            resumed: the step of its own checkpoint from which it goes on; what it did and said later is taken away.
                None: it has nothing to go on from in this folder.

        Raises:
            UserError: if there can be no such folder, or nothing can be written there.
        """
        if not is_main():
            return
        with self.reached():
            self.path.mkdir(parents=True, exist_ok=True)
            checkpoint.sweep(self.checkpoints)
            if resumed is None:
                # First the checkpoints: without figures beside them they would be taken for those of an unfinished run.
                remove(self.checkpoints)
                (self.path / "metrics.json").unlink(missing_ok=True)
                remove(self.model)
                for name in (*PAGES, PROFILE):
                    (self.path / name).unlink(missing_ok=True)
                for path in [self.path / STEPS, self.path / PACE, *self.path.rglob("events.out.tfevents.*")]:
                    path.unlink(missing_ok=True)
            else:
                checkpoint.forget_after(self.checkpoints, resumed)
                for name in (STEPS, PACE):
                    self.forget_after(resumed, into=name)
            (self.path / "config.yaml").write_text(config.to_yaml(settings), encoding="utf-8")
            write_json(self.path / "plan.json", plan.to_json())
            write_json(self.path / "environment.json", environment())

    def log(self, **values: Any) -> None:
        """Add one line to metrics.jsonl; see `log_into`."""
        self.log_into(STEPS, values)

    def log_into(self, name: str, values: Mapping[str, Any]) -> None:
        """Add one line to a file of the run.

        Raises:
            UserError: if it cannot be written.
        """
        if is_main():
            with self.reached(), (self.path / name).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({name: _finite(value) for name, value in values.items()}) + "\n")

    def finish(self, report: Figures, **more: Any) -> None:
        """Write the figures; the run counts as finished from here on.

        Args:
            report: the figures.
            more: what they hang on, by name; `data` with its `fingerprint` and `encoder` with its `sha256` among them.

        Raises:
            UserError: if they cannot be written.
        """
        if is_main():
            with self.reached():
                making = self.path / ".making-metrics.json"
                write_json(making, {"report": report.to_json(), **more})
                # The checkpoints go only when the disk holds what replaces them; a folder that was taken away and made
                # again on the way lacks what `begin` wrote.
                begun = [self.path / name for name in ("config.yaml", "plan.json", "environment.json")]
                for written in (making, *begun, *self.path.glob("model"), *self.model.rglob("*")):
                    flush(written)
                making.rename(self.path / "metrics.json")
                flush(self.path)
                self._tidy()

    def tidy(self) -> None:
        """Take away what a finished run needs no more and its process was killed before it could."""
        if is_main():
            with self.reached():
                self._tidy()

    def _tidy(self) -> None:
        remove(self.checkpoints)
        remove_spare(self.path)
        for left in self.path.glob(".trash-*"):  # by a process that was killed while it took a folder away
            shutil.rmtree(left, ignore_errors=True)

    def result(self) -> dict[str, Any]:
        """Return what `finish` wrote.

        Raises:
            UserError: if the file cannot be read.
        """
        path = self.path / "metrics.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}); overwrite=true does the run again") from error

    def report(self) -> Report:
        """Return the figures that `finish` wrote of a run that was measured beside floors; see `report_of`."""
        return self.report_of(Report.from_json)

    def report_of(self, from_json: Callable[[dict[str, Any]], _Read]) -> _Read:
        """Return the figures that `finish` wrote.

        Args:
            from_json: makes them of plain values.

        Raises:
            UserError: if the file cannot be read, or holds something else.
        """
        result = self.result()
        try:
            return from_json(result["report"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            said = f"{self.path / 'metrics.json'} holds no report that can be read ({error})"
            raise UserError(f"{said}; overwrite=true does the run again") from error

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what the file system refuses into one sentence."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = f"{room(self.path)}; make room or set output=..." if full else "; set output=... to another"
            raise UserError(f"the run folder {self.path} cannot be used: {reason(error)}{advice}") from error

    def forget_after(self, step: int, *, into: str) -> None:
        """Leave in a file of the run what was said up to a step, so that what goes on says nothing twice."""
        path = self.path / into
        if not path.is_file():  # a meta-learning tells no pace
            return
        kept = []
        # Whatever a disk made of it.
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (KeyError, TypeError, ValueError):  # half a line, cut off when the process was killed
                continue
        write_whole(path, lambda making: making.write_text("".join(kept), encoding="utf-8"))


def _finite(value: Any) -> Any:
    """Return a value JSON has: nan and infinity are null there."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
