"""Checks of the `predict` settings that need no model; this module imports no torch."""

from __future__ import annotations

from nlp_transfer.data.files import existing_file, stream_format
from nlp_transfer.data.outputs import check_output
from nlp_transfer.errors import UserError, at_least
from nlp_transfer.machine.launch import world_size
from nlp_transfer.verb_settings import PredictSettings


def check_predict(settings: PredictSettings, *, overwrite: bool = False) -> None:
    """Check the values of the `predict` group, before a model is loaded.

    Args:
        settings: the group.
        overwrite: whether an existing output may be replaced.

    Raises:
        UserError: for an invalid value, an input that does not exist, or an output that does.
    """
    at_least(settings, "predict.", 1, "chunk_rows")
    kind = stream_format(settings.input, settings.format)
    if settings.input != "-":
        existing_file(settings.input)
    elif kind == "parquet":
        raise UserError("Parquet cannot be read from standard input: give the name of the file")
    elif world_size() > 1:
        raise UserError("standard input cannot be read by several processes: give a file, or start one process")
    if settings.output == "-" and kind == "parquet":
        raise UserError("Parquet cannot be written to standard output: set predict.output=FILE.parquet")
    if settings.output != "-":
        check_output(settings, kind, overwrite=overwrite)
