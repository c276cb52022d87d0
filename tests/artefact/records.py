"""The record of a saved classifier, for tests."""

from nlp_transfer.artefact.record import Record
from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.settings import EncoderSettings

TASK = Task("single_label", ("card", "film"), pair=False)


def record_of(classifier: Classifier, *, merged: bool = True, limit: int = 64, chunk: bool = False) -> Record:
    source = classifier.source
    return Record(
        task=TASK,
        tokens=TokenSpec(
            max_length=min(limit, 16),
            limit=limit,
            truncation_side="right",
            pair_truncation="longest_first",
            chunk=chunk,
            overlap=0,
            max_windows=None,
        ),
        roles={"text": "text", "label": "label"},
        encoder=EncoderSettings(name=source.name, head=classifier.head, sha256=source.sha256),
        max_tokens=classifier.max_tokens,
        merged=merged,
        data={"source": "rows", "fingerprint": "0"},
    )
