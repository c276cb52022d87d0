"""The page of a measured model: which sections it has, in which order."""

from __future__ import annotations

from nlp_transfer.reporting import labels, overview, parts
from nlp_transfer.reporting.document import Document
from nlp_transfer.reporting.evidence import Evidence

_FOOT = (
    "This page holds texts of the data. It stays where it is: nothing uploads it, and whoever gets it can read them.",
    "Intervals say how figures would vary over other rows of the same kind, not over other trainings.",
)


def document_of(evidence: Evidence) -> Document:
    """Return the page; a section for which the problem type has no use is left out."""
    sections = [
        labels.confusion(evidence),
        labels.scores(evidence),
        parts.numbers(evidence),
        labels.sureness(evidence),
        parts.groups(evidence),
        parts.unseen(evidence),
        parts.hardest(evidence),
        overview.training(evidence),
    ]
    return Document(evidence.title, overview.lead(evidence), sections, _FOOT)
