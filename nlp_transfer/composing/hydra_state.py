"""Hydra's state, of which a process has one: set up for one composition at a time, and given back afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def initialized(folder: Path) -> Iterator[None]:
    """Set Hydra up for the YAML files of a folder during the block.

    Other threads wait, and the state of an application or a sweep that itself runs under Hydra is set aside.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _ONE_AT_A_TIME:
        state = GlobalHydra.instance()
        outer, state.hydra = state.hydra, None
        try:
            with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = outer  # Hydra has made a new instance
