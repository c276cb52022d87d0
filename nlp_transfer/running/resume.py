"""Resuming a run: finding its checkpoint, checking that it is of the same run, and scheduling the next ones."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from nlp_transfer.composing.plain import dotted
from nlp_transfer.config import identity
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.machine.launch import is_main, is_restarted
from nlp_transfer.machine.versions import environment
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.training import checkpoint
from nlp_transfer.training.checkpoint import LoadedCheckpoint, Snapshot
from nlp_transfer.training.loop import Checkpointing
from nlp_transfer.training.signals import Interrupted, Stopped, interrupted_by_signals
from nlp_transfer.wording import listed

if TYPE_CHECKING:
    from nlp_transfer.running.folder import RunFolder

# Settings that may differ from those of a checkpoint that is named: they change the length of a run, its micro-batches
# and its evaluation only.
CHANGEABLE = (
    *("training.epochs", "training.min_steps", "training.max_steps", "training.patience", "training.evaluate_every"),
    *("training.micro_batch_size", "training.micro_batch_tokens", "training.gradient_checkpointing"),
    *("training.max_skipped", "evaluation.floors", "evaluation.resamples", "evaluation.confidence"),
    *("evaluation.batch_tokens", "evaluation.source_only"),
)
_ROWS, _WEIGHTS, _PRECISION = "rows of the data", "weights of the encoder", "precision of the machine"
_AUXILIARY = "teacher and texts beside the rows"
_MOST_SHARE = 0.05  # of the running time that writing checkpoints may take


def origin(settings: Settings, corpus: Corpus, sha256: str, *, precision: str, auxiliary: str | None) -> dict[str, Any]:
    """Return all that the result of a run depends on, bit for bit, as dotted keys with plain values.

    Args:
        settings: of the run.
        corpus: its data.
        sha256: of the encoder's weights.
        precision: the one in use; `auto` may choose another on another machine.
        auxiliary: see ``auxiliary.auxiliary_digest``.
    """
    values = identity(settings)
    if auxiliary is not None:
        values[_AUXILIARY] = auxiliary
    return dotted(
        {**values, _ROWS: corpus.fingerprint, _WEIGHTS: sha256, _PRECISION: precision, "versions": environment()}
    )


def check_alike(made_from: dict[str, Any]) -> None:
    """Check that all ranks were given the same run; called on all of them.

    Args:
        made_from: the `origin` of the run on this rank.

    Raises:
        UserError: on all ranks, naming what differs.
    """
    first, *others = gather_object([made_from])
    differing = [(number, other) for number, other in enumerate(others, start=1) if other != first]
    if not differing:
        return
    number, other = differing[0]
    keys = _differing(first, other)
    differences = listed(keys, lambda key: f"{key} ({_brief(key, first)} and {_brief(key, other)})")
    raise UserError(
        f"processes 0 and {number} were given different runs: {differences}; all processes of a run take the same "
        "command, data, encoder and versions"
    )


@contextmanager
def stoppable(folder: Path, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Tell the user what happens when a signal stops the training in the block; yield the callback for signals."""
    try:
        yield partial(tell, "finishing this step; a second signal stops at once and loses what is not saved")
    except Stopped:
        tell(f"stopped; a checkpoint is in {folder}, the same command continues from it")
        raise


@contextmanager
def interruptible(folder: RunFolder, tell: Callable[[str], None]) -> Iterator[None]:
    """Tell the user what is kept when a signal ends a run in the block, except where `stoppable` has told it.

    Args:
        folder: of the run; begun in the block.
        tell: prints a sentence.

    Raises:
        Interrupted: by SIGINT, SIGTERM or SIGUSR1, on the first rank; others end as by default, since they may be
            waiting for it, which no handler can interrupt.
    """
    try:
        with interrupted_by_signals() if is_main() else nullcontext():
            yield
    except Interrupted:
        if folder.is_finished:
            tell(f"stopped; the run in {folder.path} is finished")
        elif any(folder.checkpoints.glob("step-*")):
            tell(f"stopped; the same command continues from the last checkpoint in {folder.checkpoints}")
        else:
            tell("stopped; this training has no checkpoint yet, and the same command starts it again")
        raise


def find(settings: Settings, folder: Path, made_from: dict[str, Any]) -> LoadedCheckpoint | None:
    """Return the checkpoint to resume from, or None to start from scratch.

    It is the run's own newest one, even if another is named, once the run has resumed from that.

    Args:
        settings: of the run.
        folder: of its checkpoints.
        made_from: the run's `origin`.

    Raises:
        UserError: for a checkpoint that is damaged or of another run.
    """
    if starts_anew(settings):
        return None
    named = None if settings.resume in ("auto", "never") else expanded(settings.resume)
    newest = checkpoint.newest(folder) if named is None else _resumed_already(named, folder)
    if newest is not None:
        check_same(newest, made_from)
    if newest is not None or named is None:
        return newest
    if not (named / "manifest.json").is_file():
        raise UserError(
            f"resume={settings.resume}: there is no checkpoint{_meant(settings.resume, named)}; give auto, "
            "never or a folder such as runs/NAME/checkpoints/step-000123"
        )
    loaded = LoadedCheckpoint(named, checkpoint.read(named))
    check_same(loaded, made_from, CHANGEABLE)
    loaded.snapshot.state["resumed_from"] = str(named.resolve())
    return loaded


def starts_anew(settings: Settings) -> bool:
    """Return whether checkpoints are ignored: with resume=never, unless the launcher restarts a failed run."""
    return settings.resume == "never" and not is_restarted()


def check_room(folder: Path, model: nn.Module, settings: TrainingSettings) -> str | None:
    """Return a warning if the disk has no room for the checkpoints of a long training, or None.

    Args:
        folder: of the checkpoints, in the run folder; what they take already counts as free.
        model: as it will be trained and saved.
        settings: the `training` group.

    Raises:
        UserError: if there is no room for the saved model.
    """
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    model_size = sum(p.nbytes for p in model.parameters())
    checkpoint_size = trainable * (4 + bool(settings.ema))  # weights, two moments, kept weights, moving average
    needed = checkpoint.KEPT * checkpoint_size + max(checkpoint_size, model_size)
    taken = sum(file.stat().st_size for file in folder.glob("*/*"))
    free = shutil.disk_usage(folder.parent).free + taken
    disk = f"{folder.parent} lies on a disk with {free / 2**20:,.1f} MiB free"
    if free < model_size:
        raise UserError(f"{disk}, the saved model takes {model_size / 2**20:,.1f} MiB; make room or set output=...")
    if free < needed:
        return f"{disk}; with its checkpoints a long run takes {needed / 2**20:,.1f} MiB and would stop when it is full"
    return None


def _meant(given: str, named: Path) -> str:
    """Return a suggestion, in brackets, for a path without a checkpoint."""
    below = [*named.glob("step-*"), *named.glob("checkpoints/step-*")]
    return f" (below it lies {max(below)})" if below else did_you_mean(given, ("auto", "never"))


def _resumed_already(named: Path, folder: Path) -> LoadedCheckpoint | None:
    """Return the run's own newest checkpoint if the run has resumed from the named one already."""
    try:
        newest = checkpoint.newest(folder)
    except UserError:  # all are damaged; the named one can still be used
        return None
    has_resumed = newest is not None and newest.snapshot.state["resumed_from"] == str(named.resolve())
    return newest if has_resumed else None


def check_same(loaded: LoadedCheckpoint, made_from: dict[str, Any], may_differ: tuple[str, ...] = ()) -> None:
    """Check that a checkpoint is of the same run.

    Args:
        loaded: the checkpoint.
        made_from: the run's `origin`.
        may_differ: keys that may differ.

    Raises:
        UserError: naming what differs.
    """
    before = loaded.snapshot.state["made_from"]
    if not (differing := [key for key in _differing(before, made_from) if key not in may_differ]):
        return
    differences = listed(
        differing, lambda key: _difference(key, _brief(key, before), _brief(key, made_from)), between="; "
    )
    allowed = f"; only these may: {', '.join(may_differ)}" if may_differ else ""
    raise UserError(
        f"{loaded.path} belongs to another run, which would give another result: {differences}{allowed}; "
        "resume=never starts from the beginning"
    )


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the keys in which the origins of two runs differ, names first."""
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return sorted(differing, key=lambda key: (not key.endswith(".name"), key))  # another strategy has other keys, too


def _brief(key: str, made_from: dict[str, Any]) -> str:
    """Return a value of a run's `origin` as shown in messages."""
    value = made_from.get(key)
    return str(value)[:8] if key in (_ROWS, _WEIGHTS) else repr(value)


def _difference(key: str, before: str, now: str) -> str:
    if key in (_ROWS, _WEIGHTS):
        return f"the {key} changed ({before} was, {now} is)"
    return f"{key} was {before}, is {now}"


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of a run, and decides when the next is due; one object on every rank.

    Attributes:
        accelerator: the ranks; the first writes, the others wait.
        folder: of the checkpoints.
        seconds: between two checkpoints; 0: one after every step.
        made_from: the run's `origin`.
    """

    accelerator: Accelerator
    folder: Path
    seconds: float
    made_from: dict[str, Any]
    _resumed_from: str | None = None
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def checkpointing(self, resumed: Snapshot | None) -> Checkpointing:
        """Return the interface of the training loop to these checkpoints."""
        self._resumed_from = resumed.state["resumed_from"] if resumed else None
        return Checkpointing(resumed, self.due, self.commit)

    def due(self) -> bool:
        """Return whether it is time for a checkpoint: after `seconds`, or longer if writing the last one was slow."""
        wait = max(self.seconds, self._cost / _MOST_SHARE) if self.seconds else 0.0
        return time.monotonic() - self._last >= wait

    def commit(self, snapshot: Snapshot) -> None:
        """Write a checkpoint.

        Raises:
            UserError: if it cannot be written.
        """
        started = time.monotonic()
        if self.accelerator.is_main_process:
            state = {**snapshot.state, "made_from": self.made_from, "resumed_from": self._resumed_from}
            checkpoint.commit(self.folder, Snapshot(snapshot.step, state, snapshot.tensors))
        self.accelerator.wait_for_everyone()
        self._last = time.monotonic()
        self._cost = self._last - started
