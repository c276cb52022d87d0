"""Where runs go on, by the name of the place; libraries of clusters are imported for who asks for them."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.sweeping.local import Here
from nlp_transfer.sweeping.settings import LauncherSettings
from nlp_transfer.sweeping.work import Place


def place_of(settings: LauncherSettings, folder: Path) -> Place:
    """Return the place that a launcher is set to.

    Args:
        settings: of the launcher.
        folder: of the sweep, where a cluster keeps what it needs.

    Raises:
        UserError: for more runs at once than there are devices for.
    """
    if settings.where == "slurm":
        from nlp_transfer.sweeping.slurm import Slurm

        return Slurm(settings, folder / "slurm")
    if settings.where == "ray":
        from nlp_transfer.sweeping.on_ray import Ray

        return Ray(settings)
    return Here(settings)
