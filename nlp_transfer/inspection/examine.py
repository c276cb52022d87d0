"""All that is looked for in a corpus, in one pass: first what rows tell by themselves, then what an encoder sees."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.data.checks import called, label_set
from nlp_transfer.data.corpus import Corpus, ReadCorpus, divided, encoded, read_corpus
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.keys import rows_where
from nlp_transfer.data.rows import Rows, blank_rows
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.inspection import beside, columns, labels, mail, repeats, texts
from nlp_transfer.inspection.kinds import KINDS, SEVERITIES
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.settings import EncoderSettings

if TYPE_CHECKING:
    from nlp_transfer.inspection.doubts import Doubt
    from nlp_transfer.settings import DataSettings, Settings
    from nlp_transfer.terminal.console import Screen

_SAME = ("leak", "near_leak", "repeat", "near_repeat", "conflict", "near_conflict")


@dataclass(frozen=True)
class Examination:
    """What was found in a corpus.

    Attributes:
        corpus: the rows as they were read.
        settings: the group `data` as they were read by: nothing is refused that can be told.
        skipped: kinds that are not told of.
        findings: the worst first; their places are splits as they were read and rows of their tables.
        doubts: labels that are likely wrong, the most certain first, with places like these.
        asked: by split, how many rows the encoder looked at, divided as a run would; empty without an encoder.
        unasked: why no encoder looked at them; None: one did.
    """

    corpus: ReadCorpus
    settings: DataSettings
    skipped: frozenset[str]
    findings: list[Finding]
    doubts: list[Doubt]
    asked: dict[str, int] = field(default_factory=dict)
    unasked: str | None = None

    def count(self, severity: str) -> int:
        """Return how many kinds of defects that were found are so severe."""
        return len({found.kind for found in self.findings if KINDS[found.kind].severity == severity})

    def fails(self, severity: str) -> bool:
        """Return whether anything is as severe as that, or more; nothing is as severe as `never`."""
        worst = SEVERITIES.index(severity) if severity in SEVERITIES else -1
        return any(self.count(each) for each in SEVERITIES[: worst + 1])

    def where(self, place: Place) -> str:
        """Return the file and line of a row."""
        split, row = place
        return self.corpus.rows[split].table.where(row)

    def to_json(self) -> dict[str, Any]:
        """Return everything, for machines; no text of a row is in it.

        ``encoder`` says whether an encoder was asked, else why not, and how many rows of each split it was asked about.
        """
        return {
            "data": self.corpus.source,
            "rows": {split: len(rows) for split, rows in self.corpus.rows.items()},
            "encoder": {"asked": self.unasked is None, "why_not": self.unasked, "rows": self.asked},
            "findings": [
                {
                    "kind": found.kind,
                    "severity": KINDS[found.kind].severity,
                    "message": found.message,
                    "advice": KINDS[found.kind].advice,
                    "places": [self.where(place) for place in found.places],
                    "beside": [self.where(place) for place in found.beside],
                }
                for found in self.findings
            ],
            "label_errors": [
                {
                    "place": self.where(doubt.place),
                    "label": doubt.given,
                    "suggested": doubt.suggested,
                    "probability": round(doubt.probability, 6),
                }
                for doubt in self.doubts
            ],
        }


def examine(settings: Settings, screen: Screen, *, data: Any = None) -> Examination:
    """Look for defects.

    Args:
        settings: the groups `data`, `tokens`, `encoder`, `training`, `evaluation`, `cache` and `check` count; the
            strategy is `probe`, whichever is set.
        screen: where progress is shown.
        data: rows from Python, see ``corpus.load_corpus``.

    Raises:
        UserError: for data that cannot be read at all, and for an encoder that was chosen and cannot be had.
    """
    lenient = dataclasses.replace(
        settings.data,
        empty="keep",
        unseen="ignore",
        class_weights="none",
        train_limit=None,  # a recipe may have limits; every row is looked at
        per_class=None,
        validation_limit=None,
    )
    with screen.busy("reading data"):
        corpus = read_corpus(lenient, data=data, store=store_of_rows(settings.cache, screen.tell))
    unasked = _unasked(settings, screen)
    tables = {id(rows.table): split for split, rows in corpus.rows.items()}
    blank = {split: set(blank_rows(rows.texts, rows.pairs)) for split, rows in corpus.rows.items()}
    if len(blank["train"]) == len(corpus.rows["train"]):
        raise UserError(f"{corpus.rows['train'].table.origin}: no row has anything to read")
    findings = list(_empty(corpus, blank))
    told = {
        split: rows.take(rows_where(~np.isin(np.arange(len(rows)), list(blank[split])))) if blank[split] else rows
        for split, rows in corpus.rows.items()
        if len(blank[split]) < len(rows)
    }
    with screen.bar("comparing texts") as bar:
        findings += _placed(itertools.chain(repeats.exact(told), repeats.near(told, show=bar.show)), told, tables)
        if settings.check.beside:
            findings += _placed(beside.shared(told, settings.check.beside, show=bar.show), told, tables)
    with screen.busy("looking at texts and labels"):
        findings += _placed(_plain(told, corpus.task, corpus.roles), told, tables)
    doubts: list[Doubt] = []
    asked: dict[str, int] = {}
    try:
        used = divided(dataclasses.replace(corpus, rows=told, notes=[]), lenient, seed=settings.seed)
        ready = encoded(used, lenient)
        if not unasked:
            known = {place for found in findings if found.kind in _SAME for place in found.places}
            as_read = dataclasses.replace(settings, data=dataclasses.replace(lenient, label_texts=None))
            seen, doubts = _learned(used, ready, as_read, known, tables, screen)
            findings += seen
            asked = {split: len(rows) for split, rows in used.rows.items()}
    except UserError as error:  # what was found stays found
        findings.append(Finding("refused", f"a run would end with: {error}"))
        unasked = unasked or "a run would end before it is"
    wanted = [found for found in findings if found.kind not in settings.check.skip]
    order = list(KINDS)
    wanted.sort(key=lambda found: (SEVERITIES.index(KINDS[found.kind].severity), order.index(found.kind)))
    skipped = frozenset(settings.check.skip)
    return Examination(corpus, lenient, skipped, wanted, [] if "label_error" in skipped else doubts, asked, unasked)


def _unasked(settings: Settings, screen: Screen) -> str | None:
    """Return why no encoder can be asked, known before anything is looked at; None where one can be.

    Who chose none has not asked for the default one, and learns what can be told without it.

    Raises:
        UserError: for an encoder that was chosen and cannot be had.
    """
    if not settings.check.encoder:
        return "check.encoder=false"
    try:
        with screen.busy("looking for the encoder"):
            locate(settings.encoder)
    except UserError as error:
        if settings.encoder.name != EncoderSettings().name:
            raise
        screen.tell(f"the encoder was not asked: {error}")
        return str(error)
    return None


def _empty(corpus: ReadCorpus, blank: Mapping[str, set[int]]) -> Iterator[Finding]:
    for split, rows in corpus.rows.items():
        if found := sorted(blank[split]):
            yield Finding(
                "empty",
                f"{len(found):,} of {len(rows):,} {called(split)} rows have nothing to read, for example "
                f"{rows.where(found[0])}",
                tuple((split, row) for row in found),
            )


def _plain(splits: Mapping[str, Rows], task: Task, roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find what needs no other row to compare with, and no encoder."""
    yield from labels.unseen_labels(splits, task)
    yield from labels.identifiers(splits, task)
    yield from columns.identifiers(splits, roles)
    yield from label_set(splits, task) if task.labels else ()
    yield from labels.prior_shift(splits, task)
    yield from labels.giveaway(splits, task)
    yield from columns.groups(splits, roles)
    yield from texts.damaged(splits)
    yield from mail.mail(splits)
    yield from texts.clipped(splits)
    yield from texts.styles(splits)
    yield from texts.languages(splits)
    yield from columns.order(splits, roles)
    yield from labels.few_rows(splits, task)


def _learned(
    used: ReadCorpus,
    ready: Corpus,
    settings: Settings,
    known: Collection[Place],
    tables: Mapping[int, str],
    screen: Screen,
) -> tuple[list[Finding], list[Doubt]]:
    """Return what an encoder sees in rows as a run would use them, with the places of the rows as they were read."""
    with screen.busy("loading the encoder"), permanent_imports():
        from nlp_transfer.inspection.probing import probed

    home = partial(_home, used.rows, tables)
    places = ((split, row) for split, rows in used.rows.items() for row in range(len(rows)))
    findings, doubts = probed(settings, ready, {place for place in places if home(place) in known}, screen)
    return _placed(findings, used.rows, tables), [
        dataclasses.replace(doubt, place=home(doubt.place)) for doubt in doubts
    ]


def _placed(findings: Iterable[Finding], splits: Mapping[str, Rows], tables: Mapping[int, str]) -> list[Finding]:
    """Return findings with the places of their rows as they were read."""
    return [
        dataclasses.replace(
            found,
            places=tuple(_home(splits, tables, place) for place in found.places),
            beside=tuple(_home(splits, tables, place) for place in found.beside),
        )
        for found in findings
    ]


def _home(splits: Mapping[str, Rows], tables: Mapping[int, str], place: Place) -> Place:
    """Return where a row was read: its split then, and its row in that table."""
    split, row = place
    return tables[id(splits[split].table)], splits[split].numbers[row]
