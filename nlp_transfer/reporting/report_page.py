"""The sections of a measured model's report, in order."""

from __future__ import annotations

from nlp_transfer.reporting import label_sections, overview, row_sections
from nlp_transfer.reporting.document import Document
from nlp_transfer.reporting.evidence import Evidence

_FOOT = (
    "This page quotes texts of the data. It is never uploaded; anyone who has the file can read them.",
    "Intervals say how figures would vary over other rows of the same kind, not over other trainings.",
)


def document_of(evidence: Evidence) -> Document:
    """Return the report; sections that do not apply to the problem type are empty, and so left out."""
    sections = [
        label_sections.confusion(evidence),
        label_sections.scores(evidence),
        row_sections.numbers(evidence),
        label_sections.confidence(evidence),
        row_sections.groups(evidence),
        row_sections.unseen(evidence),
        row_sections.hardest(evidence),
        overview.training(evidence),
    ]
    return Document(evidence.title, overview.lead(evidence), sections, _FOOT)
