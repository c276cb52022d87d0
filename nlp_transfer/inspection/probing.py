"""The checks with an encoder and a probe on it, on rows as split for a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.paths import expanded
from nlp_transfer.inspection import encoded
from nlp_transfer.inspection.label_errors import Doubt, doubts
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.running.preparation import prepare
from nlp_transfer.settings import PretrainingSettings, Settings
from nlp_transfer.strategies import Probe
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.state import preserved_random_state


@preserved_random_state()
def probe(
    settings: Settings, corpus: Corpus, same: Container[Place], screen: Screen
) -> tuple[list[Finding], list[Doubt]]:
    """Encode all rows once and run the checks; return their findings, and the likely label errors.

    Args:
        settings: of the run; the strategy is always `probe`.
        corpus: the rows.
        same: rows that were already found to repeat others, exactly or nearly.
        screen: where progress is shown.
    """
    probing = dataclasses.replace(
        settings,
        strategy=Probe(),
        objective={"classify": ClassifySettings()},
        pretraining=PretrainingSettings(),
    )
    with screen.busy("loading the encoder"), permanent_imports():
        prepared = prepare(probing, corpus, expanded(settings.output), tell=screen.tell)
    with reading(screen, "encoding texts"):
        for split in prepared.columns:
            prepared.features(split)
    with screen.busy("checking every label with a probe"):
        label_errors, findings = doubts(prepared)
    return [*findings, *encoded.tokens(prepared), *encoded.paraphrases(prepared, same)], label_errors
