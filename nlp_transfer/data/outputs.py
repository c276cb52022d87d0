"""Where rows may be written: to files that are new, or that may be replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nlp_transfer.data.files import FORMATS
from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.verb_settings import PredictSettings

_LINKS = 40  # that are followed, as by the system


def check_output(settings: PredictSettings, kind: str, *, overwrite: bool) -> None:
    """Refuse an output that is the input, a folder or a device, or that is there already and may not be replaced.

    A name that ends as that of another format than the one that is written is refused as well: whoever opens the file
    goes by its name.

    Args:
        settings: the group `predict`.
        kind: the format in which the rows are read, and written.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UserError: naming it.
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
        if any(path.parts[:2] in (("/", "dev"), ("/", "proc")) for path in _followed(expanded(settings.output))):
            raise UserError(f"{name} is no file; without predict.output rows go to standard output")
        if not target.exists():
            return
        if settings.input != "-" and target.samefile(expanded(settings.input)):
            raise UserError(f"{name} is the input itself; give another file")
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror}") from error
    if target.is_dir():
        raise UserError(f"{name} is a folder; name the file to write")
    if not target.is_file():
        raise UserError(f"{name} is no file that can be replaced; without predict.output rows go to standard output")
    if not overwrite:
        raise UserError(f"{name} exists already; overwrite=true replaces it")


def _followed(path: Path) -> Iterator[Path]:
    """Yield a path and what it leads to, link by link: what stands for a device may lead to a file in the end."""
    for _ in range(_LINKS):
        yield path.absolute()
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
