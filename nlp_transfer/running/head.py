"""The output layer: fitted to features of the training rows, and rescaled for regression and calibration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.data.task import Task, dense, likeliest
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import thresholds
from nlp_transfer.evaluation.calibration import Calibration, calibrate
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.linear.convex import CrossValidated, Head, cross_validate_head, softened
from nlp_transfer.linear.prototypes import fit_prototypes
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.significance import is_lower

# Rows to which a head is fitted that gradient steps then train: all of them would cost a seventh of a training of two
# epochs and start it no better (recipes/README.md, "The head that a training starts from").
_START_ROWS, _START_ROWS_PER_CLASS = 4096, 32
_STRONG = 10.0  # an L2 penalty, for features of unit mean variance; see `_minimum_penalty`
LOSSES = {"single_label": "softmax", "ordinal": "softmax", "multi_label": "sigmoid", "regression": "squared"}


def solve_head(prepared: Prepared) -> Head:
    """Fit the output layer to frozen features of the training rows.

    If gradient steps on the encoder follow, a sample of the rows suffices, and the weights of a layer with a bias are
    softened.

    Raises:
        UserError: for prototypes that the task or the output layer does not support.
    """
    if prepared.strategy.solver == "prototypes":
        return _write_head(prepared, _prototypes(prepared))
    rows = None if prepared.strategy.frozen else _start_rows(prepared.corpus)
    features = prepared.features("train") if rows is None else prepared.features_of_rows("train", rows)
    validated = cross_validate(prepared, features, rows=rows)
    if prepared.settings.encoder.layers == "spread" and prepared.strategy.frozen:
        validated = _without_other_layers(prepared, features, validated)
    head = validated.fit()
    if prepared.strategy.trains and _output(prepared).bias is not None:
        head = softened(head, features)
    return _write_head(prepared, head)


def _start_rows(corpus: Corpus) -> np.ndarray | None:
    """Return the indices of a random sample of the training rows with some of every class, or None for all rows.

    Rows of weight 0 are not drawn. The sample is the same for every seed, so that later runs find its features cached.
    """
    train = corpus.splits["train"]
    if len(train) <= _START_ROWS:
        return None
    weighted = np.flatnonzero(train.weights)
    order, required = weighted[generator(0, 0, Stream.HEAD_ROWS).permutation(len(weighted))], 0
    strata = _strata(corpus.task, train.targets)
    if strata is not None:
        is_required = _is_among_first(strata[order], _START_ROWS_PER_CLASS)
        order, required = order[np.argsort(~is_required, kind="stable")], int(is_required.sum())
    return np.sort(order[: max(_START_ROWS, required)])


def _is_among_first(classes: np.ndarray, count: int) -> np.ndarray:
    """Return for every element of an array of classes whether fewer than `count` elements of its class precede it."""
    by_class = np.argsort(classes, kind="stable")
    ordered = classes[by_class]
    is_among_first = np.empty(len(classes), dtype=bool)
    is_among_first[by_class] = np.arange(len(classes)) - np.searchsorted(ordered, ordered) < count
    return is_among_first


def _prototypes(prepared: Prepared) -> Head:
    task, train = prepared.corpus.task, prepared.corpus.splits["train"]
    if LOSSES[task.problem] != "softmax":
        raise UserError(
            f"strategy.solver=prototypes needs one label per text, and the problem type is {task.problem}: take "
            "strategy.solver=exact"
        )
    if _output(prepared).bias is None:
        raise UserError("strategy.solver=prototypes needs an output layer with a bias: set encoder.head=pooled")
    targets = dense(task, train.targets)
    for label, mass in zip(task.labels, train.weights @ targets, strict=True):
        if not mass:
            raise UserError(
                f"strategy.solver=prototypes needs training rows of every label, and those of {label!r} weigh nothing: "
                "choose strategy.solver=exact"
            )
    return fit_prototypes(prepared.features("train"), targets, train.weights)


def refit_head(prepared: Prepared, *, least: float) -> Head:
    """Fit the output layer anew, to features of the encoder that was trained on the same rows.

    Such an encoder separates its training rows better than new ones. Cross-validation among them would therefore choose
    hardly any penalty, and the head would be overconfident on new texts.

    Args:
        prepared: the parts of the run.
        least: lower bound of the penalty, within limits, such as the one that cross-validation chose before training,
            when the encoder had not learned these rows.
    """
    validated = cross_validate(prepared, prepared.current_features("train"))
    penalty = max(_minimum_penalty(prepared.corpus.task, least), validated.penalty)
    return _write_head(prepared, dataclasses.replace(validated, penalty=penalty).fit())


def _minimum_penalty(task: Task, least: float) -> float:
    """Return the minimum penalty of a head on trained features, given the one that suited them before training.

    A trained encoder maps each class close to one point. The fewer points, the smaller the weights that already make
    the head overconfident; how fast the minimum falls with the number of classes was measured (recipes/README.md, "Few
    labels per class"). A penalty above 10 means that the features were useless before training, which says nothing
    about them now. Two classes are an exception: there the penalty hardly changes labels, only the confidence, and
    useless features before training are reason enough for doubt.
    """
    if LOSSES[task.problem] != "softmax":
        return min(least, _STRONG)
    others = max(1, task.outputs - 1)
    return max(_STRONG / others**4, least if others == 1 else min(least, _STRONG))


def _write_head(prepared: Prepared, head: Head) -> Head:
    (head,) = broadcast_object_list([head])  # sums differ between machines, but all ranks compute rows of a split
    output = _output(prepared)
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(head.weight))
        if output.bias is not None:
            output.bias.copy_(torch.from_numpy(head.bias))
    return head


@dataclass(frozen=True)
class TargetScale:
    """The mean and spread by which a regression's targets are standardised for gradient steps.

    One learning rate then suits targets of any size. Other problem types are left unscaled.
    """

    shift: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(cls, prepared: Prepared) -> TargetScale:
        """Return the scale of the training rows; without a bias in the output layer there is no shift."""
        train = prepared.corpus.splits["train"]
        if prepared.corpus.task.problem != "regression":
            return cls()
        share = train.weights / train.weights.sum(dtype=np.float64)
        mean = float(share @ train.targets) if _output(prepared).bias is not None else 0.0
        return cls(mean, float(np.sqrt(share @ np.square(train.targets - mean))) or 1.0)

    def scale_columns(self, columns: Columns) -> Columns:
        """Return the columns with scaled targets and teacher outputs."""
        if self == TargetScale():
            return columns
        teacher = None if columns.teacher is None else self.scale(columns.teacher)
        return dataclasses.replace(columns, targets=self.scale(columns.targets), teacher=teacher)

    def scale(self, targets: np.ndarray) -> np.ndarray:
        """Return scaled targets, float32."""
        return ((targets - self.shift) / self.unit).astype(np.float32)

    def unscale(self, logits: np.ndarray) -> np.ndarray:
        """Return outputs for scaled targets in the units of the data."""
        return logits * self.unit + self.shift

    def scale_output(self, prepared: Prepared) -> None:
        """Change the output layer from the units of the data to scaled ones."""
        if self != TargetScale():
            _rescale(prepared, 1 / self.unit, -self.shift / self.unit)

    def unscale_output(self, prepared: Prepared) -> None:
        """Change the output layer back to the units of the data."""
        if self != TargetScale():
            _rescale(prepared, self.unit, self.shift)


def fold_calibration(prepared: Prepared, logits: np.ndarray) -> tuple[Task, Calibration]:
    """Calibrate on the validation rows, and fold the calibration into the output layer.

    Every way of loading or exporting the model then gives the probabilities that were measured.

    Args:
        prepared: the parts of the run.
        logits: (validation rows, outputs), before calibration.

    Returns:
        The task, if multi-label with the threshold that is best for its metric; and the calibration.
    """
    validation, task, decision = prepared.corpus.splits["validation"], prepared.corpus.task, prepared.settings.decision
    tunes_threshold = task.problem == "multi_label" and decision.threshold is None
    if task.problem == "regression" or not (decision.calibrate or tunes_threshold):
        return task, Calibration()
    rule = task.threshold
    metric = selection_metric(task, prepared.settings.evaluation.metric)
    if tunes_threshold:
        scale, rule = thresholds.scale_and_threshold(
            task, logits, validation.targets, validation.weights, metric=metric
        )
        rule = rule if decision.calibrate else thresholds.uncalibrated(rule, scale)
        calibration = Calibration(scale)
    else:
        calibration = calibrate(task, logits, validation.targets, validation.weights, metric=metric)
    calibration, rule = broadcast_object_list([calibration, rule])  # ranks may differ in the last bits
    task = dataclasses.replace(task, threshold=rule)
    if not decision.calibrate:
        return task, Calibration()
    if _output(prepared).bias is None:
        calibration = Calibration(calibration.temperature)
    _rescale(prepared, 1 / calibration.temperature, calibration.shifts or 0.0)
    return task, calibration


def _rescale(prepared: Prepared, factor: float, shift: float | tuple[float, ...]) -> None:
    output = _output(prepared)
    with torch.no_grad():
        output.weight.mul_(factor)
        if output.bias is not None:
            output.bias.mul_(factor).add_(output.bias.new_tensor(shift))


def _output(prepared: Prepared) -> Any:
    return active_output(prepared.classifier.model)


def _without_other_layers(prepared: Prepared, features: np.ndarray, together: CrossValidated) -> CrossValidated:
    """Validate each of the concatenated layers alone; keep only one of them if it is clearly better than all together.

    "Clearly" means by more than a standard error (the rule of Breiman et al. 1984). Otherwise, with few examples,
    chance would choose a layer where several are safer.
    """
    model: Any = prepared.classifier.model
    weights = prepared.corpus.splits["train"].weights
    if len(model.config.layers) == 1 or not len(together.held_out):
        return together
    layers = np.split(features, len(model.config.layers), axis=1)
    alone = [cross_validate(prepared, layer, rival=together) for layer in layers]
    best = min(range(len(alone)), key=lambda layer: weights @ alone[layer].held_out)
    is_clear = is_lower(alone[best].held_out, together.held_out, weights)
    best, is_clear = broadcast_object_list([best, is_clear])
    if not is_clear:
        return together
    prepared.keep_layer(best)
    return alone[best]


def cross_validate(
    prepared: Prepared, features: np.ndarray, *, rows: np.ndarray | None = None, rival: CrossValidated | None = None
) -> CrossValidated:
    """Choose the L2 penalty of a linear layer from features (examples, width) to the training targets.

    Sentences made of label names (`data.label_texts`) are left out of the choice, unless the other rows are too few:
    those of a label are so alike that predicting one from the others says nothing about real texts. The head is fitted
    to all rows.

    Args:
        prepared: the parts of the run.
        features: of the training rows.
        rows: indices of the training rows that have features; None: all.
        rival: the search ends early if this result is hardly going to be beaten.
    """
    term = cast(Classify, prepared.objective.terms["classify"])
    corpus, train, task = prepared.corpus, prepared.corpus.splits["train"], prepared.corpus.task
    chosen = np.arange(len(train)) if rows is None else rows
    targets, weights = train.targets[chosen], train.weights[chosen]
    choose = partial(
        cross_validate_head,
        features,
        _distributions(task, term, targets),
        loss=LOSSES[task.problem],
        positive_weights=None if term.positive_weights is None else term.positive_weights.cpu().numpy(),
        intercept=_output(prepared).bias is not None,
        strata=_strata(task, targets),
        seed=prepared.settings.seed,
    )
    if corpus.own is None:
        return choose(weights, rival=rival)
    real_rows = choose(np.where(chosen < len(corpus.own), weights, 0), rival=rival)
    all_rows = choose(weights)
    if not len(real_rows.held_out):
        return all_rows
    return dataclasses.replace(all_rows, penalty=real_rows.penalty, held_out=real_rows.held_out)


def _distributions(task: Task, term: Classify, targets: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return targets[:, None]
    if task.problem == "multi_label":
        return targets * (1 - term.smoothing) + term.smoothing / 2
    return term.distribution(torch.from_numpy(targets), task.outputs).numpy()


def _strata(task: Task, targets: np.ndarray) -> np.ndarray | None:
    return None if task.problem in ("regression", "multi_label") else likeliest(targets)
