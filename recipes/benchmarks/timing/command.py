"""What the command lines of the benchmarks have in common, and settings that their runs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# Runs are only trained and measured: no verification in a new process, no report page, no baselines.
MINIMAL: dict[str, Any] = {"verify": False, "report.write": False, "evaluation.floors": False}
MINIMAL_WORDS = [f"{key}=false" for key in MINIMAL]


def data_parser(documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's documentation and whose first argument is DATA_FOLDER."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="one folder per data set")
    return parser
