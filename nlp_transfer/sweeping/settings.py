"""The settings of our launcher and our sweeper; conf/hydra explains every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from nlp_transfer.composing.plain import checked
from nlp_transfer.composing.yamlfile import read_yaml
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError, at_least, one_of
from nlp_transfer.machine.requirements import require_installed

PLACES = {"here": None, "slurm": "submitit", "ray": "ray"}
"""The values of ``hydra.launcher.where``, and the library that each needs."""
_ONLY = {"gpus": ("slurm", "ray"), "cpus": ("slurm", "ray")} | dict.fromkeys(
    ("nodes", "partition", "minutes", "slurm"), ("slurm",)
)
SAMPLERS = ("tpe", "random", "qmc", "grid")
PRUNERS = ("median", "halving")


@dataclass(frozen=True)
class LauncherSettings:
    """Keys of ``hydra.launcher``."""

    name: ClassVar[str] = "accelerate"
    prefix: ClassVar[str] = "hydra.launcher."

    processes: int = 1
    config_file: str | None = None
    jobs: int | None = None
    where: str = "here"
    gpus: int = 0
    cpus: int | None = None
    nodes: int = 1
    partition: str | None = None
    minutes: int = 60
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        library = PLACES[one_of(self.where, PLACES, "hydra.launcher.where")]
        at_least(self, self.prefix, 1, "processes", "jobs", "cpus", "nodes", "minutes")
        if library is not None:
            require_installed(library)
        if self.gpus < 0:
            raise UserError(f"hydra.launcher.gpus={self.gpus} must not be negative")
        for each in fields(self):
            places = _ONLY.get(each.name, (self.where,))
            default = each.default if each.default is not MISSING else {}
            if self.where not in places and getattr(self, each.name) != default:
                raise UserError(f"hydra.launcher.{each.name} is for hydra.launcher.where={' or '.join(places)}")
        if self.nodes > 1 and self.config_file is not None:
            raise UserError("hydra.launcher.nodes counts only without hydra.launcher.config_file")
        if self.config_file is not None:
            _check_config_file(expanded(self.config_file), self.processes)

    @property
    def processes_per_node(self) -> int:
        """How many processes a run has on every node."""
        return self.processes if self.config_file is None else _processes_in(expanded(self.config_file))

    @property
    def cores(self) -> int:
        """How many cores a cluster gives a run on every node."""
        return self.cpus or self.processes_per_node


@dataclass(frozen=True)
class SearchSettings:
    """Keys of ``hydra.sweeper``."""

    name: ClassVar[str] = "optuna"
    prefix: ClassVar[str] = "hydra.sweeper."

    n_trials: int = 20
    n_jobs: int = 1
    sampler: str = "tpe"
    seed: int = 0
    startup: int = 10
    pruner: str | None = None

    def __post_init__(self) -> None:
        require_installed("optuna")
        one_of(self.sampler, SAMPLERS, "hydra.sweeper.sampler")
        if self.pruner is not None:
            one_of(self.pruner, PRUNERS, "hydra.sweeper.pruner")
        at_least(self, self.prefix, 1, "n_trials", "n_jobs", "startup")
        if self.seed < 0:
            raise UserError(f"hydra.sweeper.seed={self.seed} must not be negative")


def of_hydra(kind: type, values: Mapping[str, Any]) -> Any:
    """Return the settings of the launcher or sweeper that Hydra has composed.

    Raises:
        UserError: for an invalid value.
    """
    from omegaconf import OmegaConf

    plain = {key: OmegaConf.to_container(each) if OmegaConf.is_config(each) else each for key, each in values.items()}
    return checked(kind, plain, kind.prefix)  # type: ignore[attr-defined]


def _processes_in(path: Path) -> int:
    if not path.is_file():
        raise UserError(f"hydra.launcher.config_file={path}: there is no such file")
    content = read_yaml(path)
    count = content.get("num_processes") if isinstance(content, dict) else None
    if not isinstance(count, int):
        raise UserError(
            f"hydra.launcher.config_file={path} is not a file of `accelerate config`: it has no num_processes"
        )
    return count


def _check_config_file(path: Path, processes: int) -> None:
    count, content = _processes_in(path), read_yaml(path)
    if processes != 1:
        raise UserError(f"hydra.launcher.processes={processes} counts only without config_file, which says {count}")
    # With these accelerate would start a single process, and in the first case not pass signals on to it.
    if count == 1 or content.get("use_cpu") or content.get("distributed_type") in ("MULTI_CPU", "NO"):
        raise UserError(
            f"{path} is for one process or for CPUs, where hydra.launcher.processes={count} without a config_file does"
        )
    if content.get("num_machines", 1) != 1:
        raise UserError(f"{path} is for several machines: use hydra.launcher.where=slurm hydra.launcher.nodes=N")
