"""Where a run goes on: which checkpoint, whether it and all processes are of the same run, and when the next is due."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from nlp_transfer.composing.plain import dotted
from nlp_transfer.config import identity
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.machine.launch import is_restarted
from nlp_transfer.machine.versions import environment
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.training import checkpoint
from nlp_transfer.training.checkpoint import Found, Snapshot
from nlp_transfer.training.loop import Saving
from nlp_transfer.training.signals import Stopped
from nlp_transfer.wording import listed

# What may differ where a checkpoint is named: it changes how long, how well cut and how well watched a run is.
CHANGEABLE = (
    *("training.epochs", "training.min_steps", "training.max_steps", "training.patience", "training.evaluate_every"),
    *("training.micro_batch_size", "training.micro_batch_tokens", "training.gradient_checkpointing"),
    *("training.max_skipped", "evaluation.floors", "evaluation.resamples", "evaluation.confidence"),
    *("evaluation.batch_tokens", "evaluation.source_only"),
)
_ROWS, _WEIGHTS, _PRECISION = "rows of the data", "weights of the encoder", "precision of the machine"
_LESSONS = "teacher and texts beside the rows"
_MOST_SHARE = 0.05  # of the time that commits may take


def origin(settings: Settings, corpus: Corpus, sha256: str, *, precision: str, lessons: str | None) -> dict[str, Any]:
    """Return all that the bits of a run depend on, as dotted keys with plain values.

    Args:
        settings: of the run.
        corpus: its data.
        sha256: of the encoder's weights.
        precision: that was chosen; `auto` may choose another one elsewhere.
        lessons: see ``teaching.lessons``.
    """
    own = identity(settings)
    if lessons is not None:
        own[_LESSONS] = lessons
    return dotted(
        {**own, _ROWS: corpus.fingerprint, _WEIGHTS: sha256, _PRECISION: precision, "versions": environment()}
    )


def check_alike(made_from: dict[str, Any]) -> None:
    """Refuse to begin where processes would learn different things. All ranks ask.

    Args:
        made_from: the `origin` of the run as this process sees it.

    Raises:
        UserError: on all ranks, naming what differs.
    """
    first, *others = gather_object([made_from])
    number, other = next((each for each in enumerate(others, start=1) if each[1] != first), (0, first))
    if not number:
        return
    keys = _differing(first, other)
    said = listed(keys, lambda key: f"{key} ({_brief(key, first)} and {_brief(key, other)})")
    raise UserError(
        f"processes 0 and {number} were given different runs: {said}; all processes of a run take the same command, "
        "data, encoder and versions"
    )


@contextmanager
def stoppable(folder: Path, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Say what becomes of a training, by its checkpoints, that a signal stops; yield what to call when one is heard."""
    try:
        yield partial(tell, "finishing this step; a second signal stops at once and loses what is not committed")
    except Stopped:
        tell(f"stopped and written to {folder}; the same command goes on from there")
        raise


def find(settings: Settings, folder: Path, made_from: dict[str, Any]) -> Found | None:
    """Return the checkpoint that a run goes on from, or None where it starts from nothing.

    That is its own newest one, also where another was named and the run went on from that already.

    Args:
        settings: of the run.
        folder: of its checkpoints.
        made_from: the run's `origin`.

    Raises:
        UserError: for a checkpoint that is damaged, or that another run made.
    """
    if starts_anew(settings):
        return None
    named = None if settings.resume in ("auto", "never") else expanded(settings.resume)
    own = checkpoint.newest(folder) if named is None else _gone_on_from(named, folder)
    if own is not None:
        check_same(own, made_from)
    if own is not None or named is None:
        return own
    if not (named / "manifest.json").is_file():
        raise UserError(
            f"resume={settings.resume}: there is no checkpoint{_meant(settings.resume, named)}; give auto, "
            "never or a folder such as runs/NAME/checkpoints/step-000123"
        )
    found = Found(named, checkpoint.read(named))
    check_same(found, made_from, CHANGEABLE)
    found.snapshot.state["resumed_from"] = str(named.resolve())
    return found


def starts_anew(settings: Settings) -> bool:
    """Return whether checkpoints are left alone: as asked, but not where the launcher starts a failed run again."""
    return settings.resume == "never" and not is_restarted()


def check_room(folder: Path, model: nn.Module, settings: TrainingSettings) -> str | None:
    """Return a warning where the disk has no room for the checkpoints of a long training, or None.

    Args:
        folder: of the checkpoints, in that of the run; what they take already counts as free.
        model: as it will be trained and saved.
        settings: the `training` group.

    Raises:
        UserError: where there is no room for the saved model, which every run ends in.
    """
    learning = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    saved = sum(p.nbytes for p in model.parameters())
    one = learning * (4 + bool(settings.ema))  # the weights, two moments, the kept weights, their average
    needed = max((checkpoint.KEPT + 1) * one, checkpoint.KEPT * one + saved)
    taken = sum(file.stat().st_size for file in folder.glob("*/*"))
    free = shutil.disk_usage(folder.parent).free + taken
    said = f"{folder.parent} lies on a disk with {free / 2**20:,.1f} MiB free"
    if free < saved:
        raise UserError(f"{said}, the saved model takes {saved / 2**20:,.1f} MiB; make room or set output=...")
    if free < needed:
        return f"{said}; with its checkpoints a long run takes {needed / 2**20:,.1f} MiB and would stop when it is full"
    return None


def _meant(given: str, named: Path) -> str:
    """Return what may have been meant by a name under which there is no checkpoint, in brackets."""
    below = [*named.glob("step-*"), *named.glob("checkpoints/step-*")]
    return f" (below it lies {max(below)})" if below else did_you_mean(given, ("auto", "never"))


def _gone_on_from(named: Path, folder: Path) -> Found | None:
    """Return the run's own newest checkpoint if the run went on from the named one already."""
    try:
        own = checkpoint.newest(folder)
    except UserError:  # all of them are damaged: the named one is the way out
        return None
    return own if own and own.snapshot.state["resumed_from"] == str(named.resolve()) else None


def check_same(found: Found, made_from: dict[str, Any], may_differ: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint of another run.

    Args:
        found: the checkpoint.
        made_from: all that the bits of the run depend on.
        may_differ: keys that need not be the same.

    Raises:
        UserError: naming what differs.
    """
    before = found.snapshot.state["made_from"]
    if not (differing := [key for key in _differing(before, made_from) if key not in may_differ]):
        return
    said = listed(differing, lambda key: _difference(key, _brief(key, before), _brief(key, made_from)), between="; ")
    allowed = f"; only these may: {', '.join(may_differ)}" if may_differ else ""
    raise UserError(
        f"{found.path} is of another run, which would not go on to the same result: {said}{allowed}; "
        "resume=never starts again from nothing"
    )


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the keys in which the origins of two runs differ, the most telling first."""
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return sorted(differing, key=lambda key: (not key.endswith(".name"), key))  # another strategy has other keys, too


def _brief(key: str, made_from: dict[str, Any]) -> str:
    """Return a value of a run's `origin` as it is told."""
    value = made_from.get(key)
    return str(value)[:8] if key in (_ROWS, _WEIGHTS) else repr(value)


def _difference(key: str, before: str, now: str) -> str:
    if key in (_ROWS, _WEIGHTS):
        return f"the {key} changed ({before} was, {now} is)"
    return f"{key} was {before}, is {now}"


@dataclass
class Commits:
    """The commits of one run: when the next is due, and how they are written. Every rank has one.

    Attributes:
        accelerator: the ranks; the first writes, the others wait.
        folder: of the checkpoints.
        seconds: between two commits; 0: one after every step.
        made_from: the run's `origin`.
    """

    accelerator: Accelerator
    folder: Path
    seconds: float
    made_from: dict[str, Any]
    _resumed_from: str | None = None
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def saving(self, resumed: Snapshot | None) -> Saving:
        """Return what the loop needs to know."""
        self._resumed_from = resumed.state["resumed_from"] if resumed else None
        return Saving(resumed, self.due, self.commit)

    def due(self) -> bool:
        """Return whether enough time has gone by since the last commit, measured by what that one took."""
        wait = max(self.seconds, self._cost / _MOST_SHARE) if self.seconds else 0.0
        return time.monotonic() - self._last >= wait

    def commit(self, snapshot: Snapshot) -> None:
        """Write a snapshot.

        Raises:
            UserError: if that is not possible.
        """
        started = time.monotonic()
        if self.accelerator.is_main_process:
            state = {**snapshot.state, "made_from": self.made_from, "resumed_from": self._resumed_from}
            checkpoint.commit(self.folder, Snapshot(snapshot.step, state, snapshot.tensors))
        self.accelerator.wait_for_everyone()
        self._last = time.monotonic()
        self._cost = self._last - started
