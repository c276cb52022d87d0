"""From a run's folder to what the Hub gets: the card beside the model, the layout, the last check, the push."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_transfer import config
from nlp_transfer.artefact.places import FIGURES, model_folder, run_of
from nlp_transfer.artefact.record import Record, read_record, write_record
from nlp_transfer.artefact.whole import check_files
from nlp_transfer.composing.words import from_mapping
from nlp_transfer.composing.yamlfile import read_yaml
from nlp_transfer.data import hub
from nlp_transfer.encoder.source import ADAPTER, ADAPTER_WEIGHTS, digest_of, locate, read_json
from nlp_transfer.errors import PushFailed, UserError, about
from nlp_transfer.evaluation.report import Report
from nlp_transfer.machine.disk import write_whole
from nlp_transfer.multitask.rows import path_and_words
from nlp_transfer.publishing import card, verification
from nlp_transfer.publishing.upload import Pushed, Target, check_access, push
from nlp_transfer.settings import Settings
from nlp_transfer.verb_settings import HubSettings


@dataclass(frozen=True)
class Parcel:
    """What is pushed: every file under its name in the repository, and where it goes."""

    files: dict[str, Path]
    target: Target

    def listing(self) -> str:
        """Return what would be pushed and where, a line a file."""
        target, sizes = self.target, {name: path.stat().st_size for name, path in self.files.items()}
        made = "private" if target.private else "public"
        branch = "a pull request" if target.create_pr else f"branch {target.revision or 'main'}"
        lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
        where = f"{target.repository}, {branch} (made {made} if it is not there): {target.message}"
        return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes to {where}"])


@contextmanager
def parcel_of(folder: Path, settings: HubSettings, *, tell: Callable[[str], None]) -> Iterator[Parcel]:
    """Put together, for the time of the block, what is pushed of a run or a model, and load it once more.

    Args:
        folder: of a run, or of a model.
        settings: the `hub` group, checked.
        tell: is told what is passed over.

    Raises:
        UserError: if there is no model, no card, or a model that plain transformers loads as another one.
    """
    model = model_folder(folder)
    run = run_of(folder) or model
    record = read_record(model)
    with tempfile.TemporaryDirectory() as scratch:
        if settings.layout == "adapter" and record.merged:
            model, record = _adapter_alone(model, record, Path(scratch) / "adapter")
        if not record.merged and (record.pretrained or not hub.is_name(record.encoder.name)):
            further = " after its pretraining" if record.pretrained else ""
            raise UserError(
                f"{model} holds an adapter alone, and nobody else has the encoder {Path(record.encoder.name).name!r}"
                f"{further} that it belongs to; push a model that it is merged into (hub.layout=merged, "
                "strategy.merge=true)"
            )
        check_files(model, record)
        if record.novelty is not None and record.novelty.reads_features:
            tell("unknown.safetensors goes with it: features of training rows, from which their texts may be guessed")
        if settings.layout == "merged" and not record.merged:
            tell("the adapter was not merged, so that it goes alone, without a model that transformers loads")
        files = {path.relative_to(model): path for path in sorted(model.rglob("*")) if path.is_file()}
        shown = {
            name.as_posix(): path
            for name, path in files.items()
            if not any(part.startswith(".") for part in name.parts)
        }
        shown[card.FILE] = _card(run, shown.get(card.FILE), settings, record, Path(scratch), tell=tell)
        base = None if record.merged else locate(dataclasses.replace(record.encoder, trust_remote_code=False)).folder
        with about(f"{model} is not pushed"):
            verification.verify(model, record, base=base)
        target = Target(
            repository=str(settings.repository),
            private=settings.private,
            revision=settings.revision,
            create_pr=settings.create_pr,
            message=settings.message or f"nlp_transfer: weights {str(record.sha256)[:12]}",
        )
        yield Parcel(shown, target)


def publish(folder: Path, settings: HubSettings, *, tell: Callable[[str], None], finished: bool = False) -> Pushed:
    """Push a run or a model.

    Args:
        folder: of a run, or of a model.
        settings: the `hub` group, checked.
        tell: is told when something is tried again, or passed over.
        finished: whether a run has just ended, which nothing here may make look as if it had failed.

    Raises:
        PushFailed: with the command that tries it again.
        UserError: see `parcel_of`; where a run has `finished`, that is a `PushFailed` too.
    """
    try:
        check_access(settings, tell=tell)  # at once, before anything that takes seconds
        with parcel_of(folder, settings, tell=tell) as parcel:
            return push(parcel.files, parcel.target, tell=tell)
    except (OSError, UserError) as error:
        if not finished and not isinstance(error, PushFailed):
            raise
        again = shlex.join(["nlp-transfer", "push", str(folder), *_words(settings)])
        raise PushFailed(f"{error}; {folder} is as it was, to push it again: {again}") from error


def _words(settings: HubSettings) -> list[str]:
    """Return the words that push to the same place again."""
    default = HubSettings()
    chosen = {
        field.name: getattr(settings, field.name) for field in dataclasses.fields(settings) if field.name != "push"
    }
    changed = {f"hub.{key}": value for key, value in chosen.items() if value != getattr(default, key)}
    place = changed.pop("hub.repository", None)
    return [*([place] if place else []), *from_mapping(changed)]


def write_card(run: Path) -> None:
    """Write the card of a finished run beside its model, with what was exported since; one that was changed stays.

    Raises:
        UserError: if what the run wrote about itself cannot be read.
    """
    path = run / "model" / card.FILE
    facts = facts_of(run, read_record(run / "model"))
    content = card.render(facts, card.Options())
    if not path.exists() or (_is_ours(path, facts) and _said(path) != content):
        write_whole(path, lambda making: making.write_text(content, encoding="utf-8"))


def _is_ours(path: Path, facts: card.Facts) -> bool:
    """Return whether a card is as it was written, whatever has been exported before or since."""
    plain = card.render(dataclasses.replace(facts, exports=()), card.Options())
    return card.without_exports(_said(path)) == plain


def _said(path: Path) -> str:
    """Return what a card says; who wrote another one may have written it in another encoding."""
    return path.read_text(encoding="utf-8", errors="replace")


def facts_of(run: Path, record: Record) -> card.Facts:
    """Return what a finished run wrote about itself; of this machine's files and folders the names alone.

    Raises:
        UserError: if a file is missing or cannot be read.
    """
    result, plan, environment = (read_json(run / f"{name}.json") for name in ("metrics", "plan", "environment"))
    settings = config.from_plain(read_yaml(run / "config.yaml"))
    known = plan.get("origin") != "folder"
    try:
        return card.Facts(
            title=str(settings.name),
            record=record.to_json(),
            report=Report.from_json(result["report"]),
            plan=plan,
            environment=environment,
            words=_command(settings, known) if settings.data.source else None,
            seconds=float(result["seconds"]),
            steps=int(result["steps"]),
            encoder=str(plan["encoder"]) if known else Path(plan["encoder"]).name,
            known=known,
            data_set=settings.data.hub,
            exports=list(_exports_of(run, record)),
        )
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(
            f"{run} cannot be described ({type(error).__name__}: {error}); overwrite=true does it again"
        ) from error


def _exports_of(run: Path, record: Record) -> Iterator[dict[str, Any]]:
    """Yield the figures of what was exported of this model, with this rule, and lies in the folder of its run."""
    for path in sorted(run.glob(f"[!.]*/{FIGURES}")):
        try:
            made, task = read_json(path), read_record(path.parent).task
        except UserError:  # damaged, and not the card's business
            continue
        if made.get("sha256") == record.sha256 is not None and task == record.task and made.keys() >= card.SHOWN:
            yield made


def _command(settings: Settings, known: bool) -> list[str]:
    """Return the words of the command that makes a run, or all the tasks that it was made with."""
    words = [_public(word, known) for word in config.words_of(settings)]
    if not settings.multitask.tasks:
        return ["adapt", *words]
    tasks, own = [], ["data=files", f"data.path={Path(str(settings.data.path)).name}"]
    for path, theirs in map(path_and_words, settings.multitask.tasks):
        tasks.append(shlex.join([Path(path).name, *theirs]))
        own += theirs if path == settings.data.path else []
    shared = [word for word in words if word not in own and not word.startswith("multitask.tasks=")]
    return ["multitask", *tasks, *shared]


def _public(word: str, known: bool) -> str:
    """Return a key=value word without the folders of this machine."""
    key, _, value = word.partition("=")
    if key.lstrip("+") not in config.NAMES_OF_FILES or (key == "encoder.name" and known) or value == "null":
        return word
    return f"{key}={Path(value.strip(chr(34))).name}"


def _card(
    run: Path,
    written: Path | None,
    settings: HubSettings,
    record: Record,
    scratch: Path,
    *,
    tell: Callable[[str], None],
) -> Path:
    """Return the file of the card: the user's own, where it was changed, or one for this repository."""
    described = (run / "metrics.json").is_file()
    if not described and written is None:
        raise UserError(f"{run} holds neither {card.FILE} nor the figures of a run to write one of; write one")
    try:
        ours = written is None or (described and _is_ours(written, facts_of(run, read_record(run / "model"))))
    except UserError:  # what the run wrote cannot be read, but there is a card
        ours = False
    if written is not None and not ours:
        if settings.license or settings.language or settings.examples:
            tell(f"{written} is pushed as you changed it, without hub.license, hub.language and hub.examples")
        return written
    options = card.Options(settings.repository, settings.license, settings.language, settings.examples)
    path = scratch / card.FILE
    path.write_text(card.render(facts_of(run, record), options), encoding="utf-8")
    return path


def _adapter_alone(model: Path, record: Record, folder: Path) -> tuple[Path, Record]:
    """Make the folder of an adapter without the model that it was merged into; return it and its record."""
    adapter = model / ADAPTER
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"hub.layout=adapter: {model} holds no adapter; strategy=lora makes one")
    weights = re.compile(r"config\.json|model.*\.safetensors(\.index\.json)?|.*\.py")
    folder.mkdir()
    for path in (*model.iterdir(), *adapter.iterdir()):
        if path.is_file() and not weights.fullmatch(path.name):
            shutil.copyfile(path, folder / path.name)
    record = dataclasses.replace(record, merged=False, sha256=digest_of([folder / ADAPTER_WEIGHTS]))
    write_record(record, folder)
    return folder, record
