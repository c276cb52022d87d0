"""The base model of a continual run: its task and the settings of the run that made it, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer import config
from nlp_transfer.artefact.places import model_folder, run_of
from nlp_transfer.artefact.record import read_record
from nlp_transfer.data.paths import expanded
from nlp_transfer.encoder.source import RECORD
from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import Settings


@dataclass(frozen=True)
class Base:
    """A model that was adapted before, and that this run continues from.

    Attributes:
        name: as written in the settings.
        folder: of the model.
        task: the task it was adapted to.
    """

    name: str
    folder: Path
    task: Task

    @classmethod
    def of(cls, settings: Settings) -> Base:
        """Return the model that `encoder.name` names.

        Raises:
            UserError: if it was not saved by this package, or is a regression model.
        """
        name, key = settings.encoder.name, "labels=all" if settings.continual.keeps_labels else "replay"
        folder = model_folder(expanded(name))
        if not (folder / RECORD).is_file():
            raise UserError(
                f"continual.{key} continues an adapted model, and encoder.name={name} is not one: give the folder of "
                "its run, encoder=runs/NAME"
            )
        task = read_record(folder).task
        if task.problem == "regression":
            raise UserError(
                f"continual.{key} keeps the labels of a classifier, and {name} is a regression model: leave it out"
            )
        return cls(name, folder, task)

    @cached_property
    def run_settings(self) -> Settings:
        """The settings of the run that made the model.

        Raises:
            UserError: for a model outside a run folder.
        """
        run = run_of(self.folder)
        if run is None:
            raise UserError(f"{self.name} is a model without its run folder, which would name its training data")
        return config.compose(str(run / "config.yaml"))

    @cached_property
    def known_run_settings(self) -> Settings | None:
        """The same, or None for a model outside a run folder."""
        try:
            return self.run_settings
        except UserError:
            return None

    def check_task(self, task: Task) -> None:
        """Check that the rows have the model's problem type.

        Raises:
            UserError: saying how they differ.
        """
        if (self.task.problem, self.task.pair) != (task.problem, task.pair):
            theirs, ours = (f"{each.problem}, {'pairs' if each.pair else 'single texts'}" for each in (self.task, task))
            raise UserError(
                f"{self.name} was adapted to another kind of problem ({theirs}) than this data has ({ours})"
            )
