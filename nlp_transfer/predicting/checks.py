"""Which settings nothing can be predicted with, whatever the model is; it imports no torch."""

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
        overwrite: whether an output that is there already may be replaced.

    Raises:
        UserError: naming the key, its value and what it may be, the input that is not there, or the output that is.
    """
    at_least(settings, "predict.", 1, "chunk_rows")
    kind = stream_format(settings.input, settings.format)
    if settings.input != "-":
        existing_file(settings.input)
    elif kind == "parquet":
        raise UserError("a Parquet file is not read in order: name it instead of standard input")
    elif world_size() > 1:
        raise UserError("standard input cannot be read by several processes: name a file, or start one process")
    if settings.output == "-" and kind == "parquet":
        raise UserError("Parquet is no text for standard output: set predict.output=FILE.parquet")
    if settings.output != "-":
        check_output(settings, kind, overwrite=overwrite)
