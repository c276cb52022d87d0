"""Adapt a pretrained encoder to a text-classification task.

Importing this package imports no torch; the functions below do when they are first used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nlp_transfer.machine.importing import when_imported

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.comparing.outcome import ComparisonOutcome
    from nlp_transfer.decision.labelling import Labeller
    from nlp_transfer.inspection.examine import Examination
    from nlp_transfer.running.run import Run

__version__ = "0.1.0"
__all__ = ["adapt", "check", "compare", "load"]


def adapt(recipe: str | None = None, overrides: Sequence[str] | Mapping[str, Any] = (), *, data: Any = None) -> Run:
    """Adapt an encoder to a task, compare it with simple baselines and save it.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None for the defaults.
        overrides: as on the command line, ``["strategy=lora", "seed=1"]``, or the same as a mapping.
        data: a pandas DataFrame, a ``datasets`` Dataset or DatasetDict, or a mapping of split names to them (or to
            lists of dicts), instead of a source named in the configuration.

    Returns:
        A run with ``.metrics``, ``.predict(texts)`` and ``.folder``.

    Raises:
        UserError: a ValueError that names the invalid key, value, file or line.
        PushFailed: with ``hub.push``, if the Hub rejects the model of a finished run.
    """
    from nlp_transfer.checks import check_settings
    from nlp_transfer.config import compose
    from nlp_transfer.machine.launch import is_main
    from nlp_transfer.publishing.upload import check_before_training
    from nlp_transfer.terminal.console import Screen

    settings = compose(recipe, _words(overrides, data))
    check_settings(settings, data=data)  # before torch is imported, which takes seconds
    pushes, screen = settings.hub.push and is_main(), Screen(quiet=True)
    if pushes:
        check_before_training(settings.hub, tell=screen.tell)
    from nlp_transfer.running.run import adapt as run_adapt

    run = run_adapt(settings, data=data)
    if pushes:
        from nlp_transfer.publishing.publication import publish

        publish(run.folder, settings.hub, tell=screen.tell, finished=True)
    return run


def check(
    recipe: str | None = None, overrides: Sequence[str] | Mapping[str, Any] = (), *, data: Any = None
) -> Examination:
    """Look for defects in a corpus before training, like `nlp-transfer check`.

    Args:
        recipe: see `adapt`; its encoder is used to look for defects too, unless `check.encoder=false`.
        overrides: see `adapt`.
        data: see `adapt`.

    Returns:
        The ``.findings`` and the ``.doubts`` (labels that are probably wrong), each with its places in the data;
        ``.where(place)`` gives file and line.

    Raises:
        UserError: a ValueError that names the invalid key, value, file or line.
    """
    from nlp_transfer.checks import check_settings
    from nlp_transfer.config import compose
    from nlp_transfer.inspection.checks import check_examination
    from nlp_transfer.inspection.examine import examine
    from nlp_transfer.terminal.console import Screen

    words = _words(overrides, data)
    settings = compose(recipe, words)
    check_settings(settings, data=data)
    check_examination(settings, words)
    return examine(settings, Screen(quiet=True), data=data)


def compare(
    recipe: str | None = None, overrides: Sequence[str] | Mapping[str, Any] = (), *, data: Any = None
) -> ComparisonOutcome:
    """Compare strategies and baselines at several numbers of labels, like `nlp-transfer compare`.

    Args:
        recipe: see `adapt`.
        overrides: see `adapt`; the group `compare` selects the candidates.
        data: see `adapt`.

    Returns:
        Figures with intervals: ``.verdict`` in words, ``.winner``, and ``.recipe``, the file with the winner's recipe.

    Raises:
        UserError: a ValueError that names the invalid key, value, file or line.
    """
    from nlp_transfer.comparing.design import design_of
    from nlp_transfer.terminal.console import Screen

    screen = Screen(quiet=True)
    design = design_of(recipe, _words(overrides, data), screen, data=data)
    from nlp_transfer.comparing.compare import Comparison  # imports torch: only after the settings are accepted

    return Comparison(design, screen).run()


def load(folder: str | Path) -> Labeller:
    """Load a saved or exported model, whose ``.predict(texts)`` returns labels and probabilities.

    Args:
        folder: a run folder, its ``model/`` folder or an exported model, which may have been moved; or a model on
            the Hub, ``owner/name`` or ``owner/name@revision``.

    Raises:
        UserError: if this package did not write the model.
    """
    from pathlib import Path

    from nlp_transfer.predicting.predict import load_predictor
    from nlp_transfer.publishing.download import download_model, names_model

    is_on_hub = not Path(folder).is_dir() and isinstance(folder, str) and names_model(folder)
    return load_predictor(download_model(str(folder)) if is_on_hub else Path(folder))


def _words(overrides: Sequence[str] | Mapping[str, Any], data: Any) -> list[str]:
    """Return the overrides as key=value words of the command line.

    Raises:
        UserError: for a single string instead of a list.
    """
    from nlp_transfer.composing.words import from_mapping
    from nlp_transfer.errors import UserError

    if isinstance(overrides, str):
        raise UserError(f"overrides={overrides!r}: pass a list of strings, not a single string")
    words = from_mapping(overrides) if isinstance(overrides, Mapping) else list(overrides)
    return words if data is None else ["data=object", *words]


# Our pooled head is registered with transformers as soon as, but not before, transformers is imported. There are two
# steps because the configuration classes must be complete before the models can be imported. If importing our head is
# itself what imports transformers, its module is still incomplete here; it is then registered when a model is loaded.
def _register_pooled_config() -> None:
    from nlp_transfer.encoder import pooled_config

    if hasattr(pooled_config, "register_config"):
        pooled_config.register_config()


def _register_pooled_model() -> None:
    from nlp_transfer.encoder import pooled

    if hasattr(pooled, "register_model"):
        pooled.register_model()


when_imported("transformers.models.auto.configuration_auto", _register_pooled_config)
when_imported("transformers.models.auto.modeling_auto", _register_pooled_model)
