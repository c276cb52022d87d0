"""Label an uploaded file as `predict` does."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import predict_file
from nlp_transfer.settings import Settings

_CHUNK = 256  # rows, after which a stop of the page takes effect
ENDINGS = (".csv", ".tsv", ".jsonl", ".txt")


def label_file(labeller: Labeller, upload: Path, settings: Settings, folder: Path) -> tuple[Path, int]:
    """Label the rows of a file; return the labelled file and the number of rows.

    Args:
        labeller: the model.
        upload: the file.
        settings: of which `demo`, `predict` and `data` are used.
        folder: in which a new folder for the labelled file is made.

    Raises:
        UserError: as `predict_file`, but with file names instead of paths; and for a file over the limit.
    """
    size, limit = upload.stat().st_size, settings.demo.bytes
    if size > limit:
        raise UserError(f"{upload.name} has {size:,} bytes, more than the {limit:,} allowed here: divide it")
    labelled = Path(tempfile.mkdtemp(dir=folder)) / f"{upload.stem}.labelled{_suffix(upload)}"
    chunk = min(settings.predict.chunk_rows, _CHUNK)
    files = dataclasses.replace(settings.predict, input=str(upload), output=str(labelled), chunk_rows=chunk)
    data = settings.data
    try:
        count = predict_file(labeller, files, data.columns, encoding=data.encoding, delimiter=data.delimiter)
    except UserError as error:
        message = str(error)
        for path in (upload, labelled):
            message = message.replace(f"{path.parent}/", "")
        raise UserError(message) from None
    return labelled, count


def _suffix(upload: Path) -> str:
    """Return the suffix of the labelled file: lines of text become CSV."""
    return ".csv" if upload.suffix.lower() in ("", ".txt") else upload.suffix
