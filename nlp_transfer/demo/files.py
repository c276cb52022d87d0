"""An uploaded file and the same file labelled, as `predict` writes it."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import predict_file
from nlp_transfer.settings import Settings

_CHUNK = 256  # rows, after which the end is noticed
ENDINGS = (".csv", ".tsv", ".jsonl", ".txt")


def label_file(labeller: Labeller, upload: Path, settings: Settings, folder: Path) -> tuple[Path, int]:
    """Label the rows of a file; return the file that holds them with their labels, and how many they are.

    Args:
        labeller: the model.
        upload: the file.
        settings: the groups `demo`, `predict` and `data` count.
        folder: in which the new file gets one of its own.

    Raises:
        UserError: as `predict_file` does, with the name of the file for its path; and for one over the limit.
    """
    size, most = upload.stat().st_size, settings.demo.bytes
    if size > most:
        raise UserError(f"{upload.name} has {size:,} bytes, more than the {most:,} of a file here: divide it")
    made = Path(tempfile.mkdtemp(dir=folder)) / f"{upload.stem}.labelled{_ending(upload)}"
    chunk = min(settings.predict.chunk_rows, _CHUNK)
    wanted = dataclasses.replace(settings.predict, input=str(upload), output=str(made), chunk_rows=chunk)
    data = settings.data
    try:
        count = predict_file(labeller, wanted, data.columns, encoding=data.encoding, delimiter=data.delimiter)
    except UserError as error:
        said = str(error)
        for path in (upload, made):
            said = said.replace(f"{path.parent}/", "")
        raise UserError(said) from None
    return made, count


def _ending(upload: Path) -> str:
    """Return how the labelled file is called: lines of text become CSV."""
    return ".csv" if upload.suffix.lower() in ("", ".txt") else upload.suffix
