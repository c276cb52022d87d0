"""Probing of encoders: one pass over the training rows each, then a linear probe on every layer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.task import dense, likeliest
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.intervals import Bootstrap, jackknife
from nlp_transfer.evaluation.transferability import h_score, logme, neighbour_accuracy
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.ranking.standing import Cost, Layer, ProbedEncoder, Standing, order_candidates
from nlp_transfer.running.head import cross_validate
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.strategies import Probe
from nlp_transfer.terminal.progress import reading

_ROWS_TIMED, _ROWS_COUNTED = 256, 32  # for the time and for the operations per text

if TYPE_CHECKING:
    from nlp_transfer.settings import EncoderSettings, Settings
    from nlp_transfer.terminal.console import Screen


def rank(
    settings: Settings, encoders: Sequence[tuple[str, EncoderSettings]], corpus: Corpus, screen: Screen
) -> list[Standing]:
    """Order encoders by the held-out loss of a linear probe on their best layer; nothing else is trained.

    Args:
        settings: used are the groups `tokens`, `evaluation` and `cache`, `training.precision` and the seed.
        encoders: display names with their settings.
        corpus: see `rows.rows_of`.
        screen: where progress is shown.

    Raises:
        UserError: for an encoder that cannot be found or loaded, and for too few rows to hold any out.
    """
    for _, encoder in encoders:
        locate(encoder)  # reports a missing encoder before the first is probed, which may take long
    probing = dataclasses.replace(settings, strategy=Probe(), objective={"classify": ClassifySettings()})
    candidates = []
    for name, encoder in encoders:
        with reading(screen, f"asking {name}"):
            candidates.append(_probe(name, dataclasses.replace(probing, encoder=encoder), corpus, screen))
    return order_candidates(candidates, Bootstrap.of(settings.evaluation, seed=settings.seed))


def _probe(name: str, settings: Settings, corpus: Corpus, screen: Screen) -> ProbedEncoder:
    """Fit a linear probe to every layer of an encoder."""
    encoder = settings.encoder
    if encoder.head != "native":
        layers = "all" if encoder.layers == "auto" else encoder.layers
        encoder = dataclasses.replace(encoder, layers=layers, head="pooled", combine="concat", hidden=0)
        settings = dataclasses.replace(settings, encoder=encoder)
    prepared = prepare(settings, corpus, expanded(settings.output), tell=screen.tell)
    features, layers = prepared.features("train"), getattr(prepared.classifier.model.config, "layers", [-1])
    depth = getattr(encoder_config(prepared.classifier.model.config), "num_hidden_layers", None) or 0
    weights = corpus.splits["train"].weights.astype(np.float64)
    weights = weights / weights.mean()
    # The held-out loss of a constant prediction, as of a layer without information.
    nothing = cross_validate(prepared, np.zeros((len(features), 1), np.float32)).held_out
    if not len(nothing):
        usable = np.count_nonzero(weights)
        raise UserError(f"{usable:,} training rows that weigh anything are too few to hold any out; give 10")
    targets, classes = _targets(corpus)
    parts, probed, losses, correct = np.split(features, len(layers), axis=1), [], [], []
    for number, part in zip(layers, parts, strict=True):
        validated = cross_validate(prepared, part)
        losses.append(validated.held_out)
        right = None
        if classes is not None:
            right = cast(np.ndarray, validated.outputs_held_out()).argmax(1) == classes
            correct.append(right)
        probed.append(
            Layer(
                number=number + depth + 1 if number < 0 < depth else number,
                explained=1 - float((weights @ validated.held_out) / (weights @ nothing)),
                accuracy=None if right is None else float(weights @ right / weights.sum()),
                logme=logme(part, targets),
                h_score=None if classes is None else h_score(part, classes),
                neighbours=None if classes is None else neighbour_accuracy(part, classes),
            )
        )
    best = parts[max(range(len(probed)), key=lambda place: probed[place].explained)]
    return ProbedEncoder(
        name,
        encoder=_description(prepared),
        sha256=prepared.classifier.source.sha256,
        layers=probed,
        depth=depth,
        logme=jackknife(
            lambda rows: logme(best[rows], targets[rows]),
            len(best),
            confidence=settings.evaluation.confidence,
            seed=settings.seed,
        ),
        weights=weights,
        held_out=np.stack(losses),
        nothing=nothing,
        right=np.stack(correct) if correct else None,
        cost=_cost(prepared),
    )


def _targets(corpus: Corpus) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the training targets, (rows, outputs), and each row's class; None for multi_label and regression."""
    targets = corpus.splits["train"].targets
    if corpus.task.problem not in ("single_label", "ordinal"):
        return targets.reshape(len(targets), -1), None
    classes = likeliest(targets)
    return dense(corpus.task, classes, np.float64), classes


def _description(prepared: Prepared) -> str:
    """Describe an encoder in a few words."""
    config = encoder_config(prepared.classifier.model.config)
    depth = getattr(config, "num_hidden_layers", None)
    return f"{config.model_type}{f', {depth} layers' if depth else ''}, {config.hidden_size} wide"


def _cost(prepared: Prepared) -> Cost:
    """Measure the encoder's cost; operations are counted in a forward pass: a layer that runs twice counts twice."""
    from torch.utils.flop_counter import FlopCounterMode

    anatomy, columns = prepared.classifier.anatomy, prepared.columns["train"]
    sizes = {name: parameter.numel() for name, parameter in prepared.classifier.model.named_parameters()}
    encoder = {name: size for name, size in sizes.items() if name.startswith(f"{anatomy.base}.")}

    def sample(most: int) -> Columns:
        rows = range(0, len(columns), -(-len(columns) // most))
        return Columns(columns.tokens.take(rows), columns.targets[rows], columns.weights[rows])

    few, many = sample(_ROWS_COUNTED), sample(_ROWS_TIMED)
    with FlopCounterMode(display=False) as counter:
        prepared.feature_cache.uncached(few)
    began = time.perf_counter()
    prepared.feature_cache.uncached(many)
    seconds = time.perf_counter() - began
    return Cost(
        parameters=sum(encoder.values()),
        embedding=sum(size for name, size in encoder.items() if anatomy.depth[name] == 0),
        gigaflops=counter.get_total_flops() / len(few) / 1e9,
        milliseconds=1000 * seconds / len(many),
        megabytes=4 * sum(encoder.values()) / 1e6,
    )
