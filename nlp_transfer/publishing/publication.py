"""Prepare the model of a run for the Hub, with its card and a final verification, and push it."""

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
from nlp_transfer.publishing import card, card_exports, verification
from nlp_transfer.publishing.upload import Pushed, Target, check_access, push
from nlp_transfer.settings import Settings
from nlp_transfer.verb_settings import HubSettings


@dataclass(frozen=True)
class Parcel:
    """The files to push, by their names in the repository, and the target."""

    files: dict[str, Path]
    target: Target

    def listing(self) -> str:
        """Return what would be pushed and where, one line per file."""
        target, sizes = self.target, {name: path.stat().st_size for name, path in self.files.items()}
        visibility = "private" if target.private else "public"
        branch = "a pull request" if target.create_pr else f"branch {target.revision or 'main'}"
        lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
        where = f"{target.repository}, {branch} (created {visibility} if it does not exist): {target.message}"
        return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes to {where}"])


@contextmanager
def parcel_of(folder: Path, settings: HubSettings, *, tell: Callable[[str], None]) -> Iterator[Parcel]:
    """Collect the files to push of a run or a model, verified, for the time of the block.

    Args:
        folder: of a run, or of a model.
        settings: the `hub` group, checked.
        tell: receives notes about what is pushed and what is not.

    Raises:
        UserError: if there is no model, no card, or plain transformers loads a model with other outputs.
    """
    model = model_folder(folder)
    run = run_of(folder) or model
    record = read_record(model)
    with tempfile.TemporaryDirectory() as scratch:
        if settings.layout == "adapter" and record.merged:
            model, record = _adapter_alone(model, record, Path(scratch) / "adapter")
        if not record.merged and (record.pretrained or not hub.is_name(record.encoder.name)):
            pretrained = " after its pretraining" if record.pretrained else ""
            raise UserError(
                f"{model} holds an adapter alone, and its encoder {Path(record.encoder.name).name!r}{pretrained} is "
                "not on the Hub; push a merged model (hub.layout=merged, strategy.merge=true)"
            )
        check_files(model, record)
        if record.novelty is not None and record.novelty.reads_features:
            tell("unknown.safetensors is pushed too: features of training rows may reveal their texts")
        if settings.layout == "merged" and not record.merged:
            tell("the adapter was not merged, so it is pushed alone, without a model that transformers loads")
        files = {path.relative_to(model): path for path in sorted(model.rglob("*")) if path.is_file()}
        visible = {
            name.as_posix(): path
            for name, path in files.items()
            if not any(part.startswith(".") for part in name.parts)
        }
        visible[card.FILE] = _card(run, visible.get(card.FILE), settings, record, Path(scratch), tell=tell)
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
        yield Parcel(visible, target)


def publish(folder: Path, settings: HubSettings, *, tell: Callable[[str], None], finished: bool = False) -> Pushed:
    """Push a run or a model.

    Args:
        folder: of a run, or of a model.
        settings: the `hub` group, checked.
        tell: receives notes about retries and what is not pushed.
        finished: whether a run has just ended, which must not appear to have failed.

    Raises:
        PushFailed: with the command that tries it again.
        UserError: see `parcel_of`; with `finished` that is a `PushFailed` too.
    """
    try:
        check_access(settings, tell=tell)  # first, because the rest takes seconds
        with parcel_of(folder, settings, tell=tell) as parcel:
            return push(parcel.files, parcel.target, tell=tell)
    except (OSError, UserError) as error:
        if not finished and not isinstance(error, PushFailed):
            raise
        again = shlex.join(["nlp-transfer", "push", str(folder), *_words(settings)])
        raise PushFailed(f"{error}; {folder} is unchanged, to push it again: {again}") from error


def _words(settings: HubSettings) -> list[str]:
    """Return the words of a command that pushes to the same repository with the same settings."""
    default = HubSettings()
    values = {
        field.name: getattr(settings, field.name) for field in dataclasses.fields(settings) if field.name != "push"
    }
    changed = {f"hub.{key}": value for key, value in values.items() if value != getattr(default, key)}
    repository = changed.pop("hub.repository", None)
    return [*([repository] if repository else []), *from_mapping(changed)]


def write_card(run: Path) -> None:
    """Write the model card of a finished run, including exports; a card that the user has changed is kept.

    Raises:
        UserError: if the files of the run cannot be read.
    """
    path = run / "model" / card.FILE
    facts = facts_of(run, read_record(run / "model"))
    content = card.render(facts, card.Options())
    if not path.exists() or (_is_ours(path, facts) and _text_of(path) != content):
        write_whole(path, lambda making: making.write_text(content, encoding="utf-8"))


def _is_ours(path: Path, facts: card.CardFacts) -> bool:
    """Return whether a card is as we wrote it, apart from its section about exports."""
    plain = card.render(dataclasses.replace(facts, exports=()), card.Options())
    return card_exports.without_exports(_text_of(path)) == plain


def _text_of(path: Path) -> str:
    """Return the text of a card; a card of the user may have another encoding."""
    return path.read_text(encoding="utf-8", errors="replace")


def facts_of(run: Path, record: Record) -> card.CardFacts:
    """Return the facts for the card of a finished run, without paths of this machine.

    Raises:
        UserError: if a file of the run is missing or cannot be read.
    """
    result, plan, environment = (read_json(run / f"{name}.json") for name in ("metrics", "plan", "environment"))
    settings = config.from_plain(read_yaml(run / "config.yaml"))
    known = plan.get("origin") != "folder"
    try:
        return card.CardFacts(
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
            f"{run} cannot be described ({type(error).__name__}: {error}); overwrite=true repeats the run"
        ) from error


def _exports_of(run: Path, record: Record) -> Iterator[dict[str, Any]]:
    """Yield the figures of exports in the run folder that were made of this model with these decision rules."""
    for path in sorted(run.glob(f"[!.]*/{FIGURES}")):
        try:
            figures, task = read_json(path), read_record(path.parent).task
        except UserError:  # a damaged export is left out of the card
            continue
        if (
            figures.get("sha256") == record.sha256 is not None
            and task == record.task
            and figures.keys() >= card_exports.SHOWN
        ):
            yield figures


def _command(settings: Settings, known: bool) -> list[str]:
    """Return the words of the command that reproduces the run, with all of its tasks for `multitask`."""
    words = [_public(word, known) for word in config.words_of(settings)]
    if not settings.multitask.tasks:
        return ["adapt", *words]
    tasks, of_this_task = [], ["data=files", f"data.path={Path(str(settings.data.path)).name}"]
    for path, words_of_task in map(path_and_words, settings.multitask.tasks):
        tasks.append(shlex.join([Path(path).name, *words_of_task]))
        of_this_task += words_of_task if path == settings.data.path else []
    shared = [word for word in words if word not in of_this_task and not word.startswith("multitask.tasks=")]
    return ["multitask", *tasks, *shared]


def _public(word: str, known: bool) -> str:
    """Return a key=value word with paths of this machine reduced to their names."""
    key, _, value = word.partition("=")
    if key.lstrip("+") not in config.NAMES_OF_FILES or (key == "encoder.name" and known) or value == "null":
        return word
    return f"{key}={Path(value.strip(chr(34))).name}"


def _card(
    run: Path,
    existing: Path | None,
    settings: HubSettings,
    record: Record,
    scratch: Path,
    *,
    tell: Callable[[str], None],
) -> Path:
    """Return the file of the card: the existing one if the user has changed it, or a new one for this repository."""
    has_figures = (run / "metrics.json").is_file()
    if not has_figures and existing is None:
        raise UserError(f"{run} has neither {card.FILE} nor the figures of a run to make one; write one")
    try:
        is_ours = existing is None or (has_figures and _is_ours(existing, facts_of(run, read_record(run / "model"))))
    except UserError:  # the files of the run cannot be read, but there is a card
        is_ours = False
    if existing is not None and not is_ours:
        if settings.license or settings.language or settings.examples:
            tell(f"{existing} is pushed as you changed it, without hub.license, hub.language and hub.examples")
        return existing
    options = card.Options(settings.repository, settings.license, settings.language, settings.examples)
    path = scratch / card.FILE
    path.write_text(card.render(facts_of(run, record), options), encoding="utf-8")
    return path


def _adapter_alone(model: Path, record: Record, folder: Path) -> tuple[Path, Record]:
    """Copy the adapter of a merged model into a folder of its own; return the folder and its record."""
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
