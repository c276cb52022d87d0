"""The examination of a corpus: all checks, first those on the rows themselves, then those with an encoder."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.cache.store import store_of_rows
from nlp_transfer.data.checks import called, label_findings
from nlp_transfer.data.corpus import Corpus, ReadCorpus, divide_corpus, encode_corpus, read_corpus
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.keys import rows_where
from nlp_transfer.data.rows import Rows, blank_rows
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.inspection import columns, contamination, labels, mail, repeats, texts
from nlp_transfer.inspection.kinds import KINDS, SEVERITIES
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.settings import EncoderSettings

if TYPE_CHECKING:
    from nlp_transfer.inspection.label_errors import Doubt
    from nlp_transfer.settings import DataSettings, Settings
    from nlp_transfer.terminal.console import Screen

_SAME = ("leak", "near_leak", "repeat", "near_repeat", "conflict", "near_conflict")


@dataclass(frozen=True)
class Examination:
    """The results of examining a corpus.

    Attributes:
        corpus: the rows as read.
        settings: the lenient `data` settings they were read with, which refuse nothing that can be reported.
        skipped: kinds that are not reported.
        findings: worst first; their places are splits as read and rows of their tables.
        doubts: likely label errors, most certain first, with such places.
        encoder_rows: by split, the number of rows the encoder saw, split as in a run; empty without an encoder.
        no_encoder_reason: why no encoder was used; None: one was.
    """

    corpus: ReadCorpus
    settings: DataSettings
    skipped: frozenset[str]
    findings: list[Finding]
    doubts: list[Doubt]
    encoder_rows: dict[str, int] = field(default_factory=dict)
    no_encoder_reason: str | None = None

    def count(self, severity: str) -> int:
        """Return the number of kinds of defects with this severity."""
        return len({finding.kind for finding in self.findings if KINDS[finding.kind].severity == severity})

    def fails(self, severity: str) -> bool:
        """Return whether anything was found of this severity or worse; always false for `never`."""
        worst = SEVERITIES.index(severity) if severity in SEVERITIES else -1
        return any(self.count(each) for each in SEVERITIES[: worst + 1])

    def where(self, place: Place) -> str:
        """Return the file and line of a row."""
        split, row = place
        return self.corpus.rows[split].table.where(row)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, without texts of rows.

        ``encoder`` says whether an encoder was used, else why not, and for how many rows of each split.
        """
        return {
            "data": self.corpus.source,
            "rows": {split: len(rows) for split, rows in self.corpus.rows.items()},
            "encoder": {
                "asked": self.no_encoder_reason is None,
                "why_not": self.no_encoder_reason,
                "rows": self.encoder_rows,
            },
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": KINDS[finding.kind].severity,
                    "message": finding.message,
                    "advice": KINDS[finding.kind].advice,
                    "places": [self.where(place) for place in finding.places],
                    "beside": [self.where(place) for place in finding.beside],
                }
                for finding in self.findings
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
    """Look for defects in a corpus.

    Args:
        settings: used are the groups `data`, `tokens`, `encoder`, `training`, `evaluation`, `cache` and `check`; the
            strategy is always `probe`.
        screen: where progress is shown.
        data: rows from Python, see ``corpus.load_corpus``.

    Raises:
        UserError: for data that cannot be read at all, and for an explicitly chosen encoder that is not available.
    """
    lenient = dataclasses.replace(
        settings.data,
        empty="keep",
        unseen="ignore",
        class_weights="none",
        train_limit=None,  # a recipe may have limits, but every row is checked
        per_class=None,
        validation_limit=None,
    )
    with screen.busy("reading data"):
        corpus = read_corpus(lenient, data=data, store=store_of_rows(settings.cache, screen.tell))
    no_encoder_reason = _no_encoder_reason(settings, screen)
    tables = {id(rows.table): split for split, rows in corpus.rows.items()}
    blank = {split: set(blank_rows(rows.texts, rows.pairs)) for split, rows in corpus.rows.items()}
    if len(blank["train"]) == len(corpus.rows["train"]):
        raise UserError(f"{corpus.rows['train'].table.origin}: no row has anything to read")
    findings = list(_empty(corpus, blank))
    readable = {
        split: rows.take(rows_where(~np.isin(np.arange(len(rows)), list(blank[split])))) if blank[split] else rows
        for split, rows in corpus.rows.items()
        if len(blank[split]) < len(rows)
    }
    with screen.bar("comparing texts") as bar:
        repeated = itertools.chain(repeats.exact(readable), repeats.near(readable, show=bar.show))
        findings += _placed(repeated, readable, tables)
        if settings.check.beside:
            contaminated = contamination.shared(readable, settings.check.beside, show=bar.show)
            findings += _placed(contaminated, readable, tables)
    with screen.busy("looking at texts and labels"):
        findings += _placed(_check_rows(readable, corpus.task, corpus.roles), readable, tables)
    doubts: list[Doubt] = []
    encoder_rows: dict[str, int] = {}
    try:
        used = divide_corpus(dataclasses.replace(corpus, rows=readable, notes=[]), lenient, seed=settings.seed)
        ready = encode_corpus(used, lenient)
        if not no_encoder_reason:
            known_repeats = {place for finding in findings if finding.kind in _SAME for place in finding.places}
            as_read = dataclasses.replace(settings, data=dataclasses.replace(lenient, label_texts=None))
            encoder_findings, doubts = _check_with_encoder(used, ready, as_read, known_repeats, tables, screen)
            findings += encoder_findings
            encoder_rows = {split: len(rows) for split, rows in used.rows.items()}
    except UserError as error:  # earlier findings are still reported
        findings.append(Finding("refused", f"a run would end with: {error}"))
        no_encoder_reason = no_encoder_reason or "a run would end before that"
    skipped = frozenset(settings.check.skip)
    findings = [finding for finding in findings if finding.kind not in skipped]
    order = list(KINDS)
    findings.sort(key=lambda finding: (SEVERITIES.index(KINDS[finding.kind].severity), order.index(finding.kind)))
    if "label_error" in skipped:
        doubts = []
    return Examination(corpus, lenient, skipped, findings, doubts, encoder_rows, no_encoder_reason)


def _no_encoder_reason(settings: Settings, screen: Screen) -> str | None:
    """Return why no encoder can be used, before anything is checked; None if one can be.

    The default encoder may be missing, since nobody chose it; the other checks are done without it.

    Raises:
        UserError: for an explicitly chosen encoder that is not available.
    """
    if not settings.check.encoder:
        return "check.encoder=false"
    try:
        with screen.busy("looking for the encoder"):
            locate(settings.encoder)
    except UserError as error:
        if settings.encoder.name != EncoderSettings().name:
            raise
        screen.tell(f"the encoder was not used: {error}")
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


def _check_rows(splits: Mapping[str, Rows], task: Task, roles: Mapping[str, str]) -> Iterator[Finding]:
    """Run the checks that need neither pairwise comparison nor an encoder."""
    yield from labels.unseen_labels(splits, task)
    yield from labels.identifiers(splits, task)
    yield from columns.identifiers(splits, roles)
    yield from label_findings(splits, task) if task.labels else ()
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


def _check_with_encoder(
    used: ReadCorpus,
    ready: Corpus,
    settings: Settings,
    known: Collection[Place],
    tables: Mapping[int, str],
    screen: Screen,
) -> tuple[list[Finding], list[Doubt]]:
    """Run the checks with an encoder on rows as split for a run; return findings and doubts with places as read."""
    with screen.busy("loading the encoder"), permanent_imports():
        from nlp_transfer.inspection.probing import probe

    home = partial(_home, used.rows, tables)
    places = ((split, row) for split, rows in used.rows.items() for row in range(len(rows)))
    findings, doubts = probe(settings, ready, {place for place in places if home(place) in known}, screen)
    return _placed(findings, used.rows, tables), [
        dataclasses.replace(doubt, place=home(doubt.place)) for doubt in doubts
    ]


def _placed(findings: Iterable[Finding], splits: Mapping[str, Rows], tables: Mapping[int, str]) -> list[Finding]:
    """Return findings with the places of their rows as read."""
    return [
        dataclasses.replace(
            finding,
            places=tuple(_home(splits, tables, place) for place in finding.places),
            beside=tuple(_home(splits, tables, place) for place in finding.beside),
        )
        for finding in findings
    ]


def _home(splits: Mapping[str, Rows], tables: Mapping[int, str], place: Place) -> Place:
    """Return the place of a row as read: its original split, and its row in that table."""
    split, row = place
    return tables[id(splits[split].table)], splits[split].numbers[row]
