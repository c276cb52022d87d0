"""Check the output file of predictions: it must be new, or may be replaced with overwrite=true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nlp_transfer.data.files import FORMATS
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.verb_settings import PredictSettings

_MAX_LINKS = 40  # as on Linux


def check_output(settings: PredictSettings, kind: str, *, overwrite: bool) -> None:
    """Refuse an output that is the input, a folder or a device, or that exists and may not be replaced.

    A suffix of another format than the one written is refused, too, because programs that open the file go by it.

    Args:
        settings: the group `predict`.
        kind: the format in which the rows are read and written.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: naming the output.
    """
    name = f"predict.output={settings.output}"
    written, ending = "csv" if kind == "text" else kind, Path(settings.output).suffix.lower()
    named = FORMATS.get(ending, written)
    if not {written, named} <= {"csv", "tsv"} and named != written and ending != Path(settings.input).suffix.lower():
        raise UserError(
            f"{name}: rows are written in the format they come in, which is {written}; name it "
            f"{Path(settings.output).with_suffix(f'.{written}')}"
        )
    target = expanded(settings.output).resolve()
    try:
        if not target.parent.is_dir():
            raise UserError(f"{name}: there is no folder {target.parent}")
        if any(path.parts[:2] in (("/", "dev"), ("/", "proc")) for path in _link_chain(expanded(settings.output))):
            raise UserError(f"{name} is not a file; without predict.output rows go to standard output")
        if not target.exists():
            return
        if settings.input != "-" and target.samefile(expanded(settings.input)):
            raise UserError(f"{name} is the input itself; give another file")
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror}") from error
    if target.is_dir():
        raise UserError(f"{name} is a folder; name the file to write")
    if not target.is_file():
        raise UserError(f"{name} is not a file that can be replaced; without predict.output rows go to standard output")
    if not overwrite:
        raise UserError(f"{name} exists already; overwrite=true replaces it")


def _link_chain(path: Path) -> Iterator[Path]:
    """Yield a path and the targets of its symbolic links; /dev/stdout, for one, may resolve to a regular file."""
    for _ in range(_MAX_LINKS):
        yield path.absolute()
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
