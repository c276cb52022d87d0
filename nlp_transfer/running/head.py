"""The output layer: solved on frozen features of the training rows, and the units it answers in while others learn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.task import Task, dense, likeliest
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import thresholds
from nlp_transfer.evaluation.calibration import Calibration, calibrate
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.linear.convex import Head, Validated, softened, validate_head
from nlp_transfer.linear.prototypes import fit_prototypes
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.significance import is_lower

_FIRM = 10.0  # an L2 penalty, on features scaled to unit mean variance
LOSSES = {"single_label": "softmax", "ordinal": "softmax", "multi_label": "sigmoid", "regression": "squared"}


def solve_head(prepared: Prepared) -> Head:
    """Fit the output layer to frozen features of the training rows and put it into the model.

    Where gradient steps follow, it gets less weight, if its mean outputs can stay.

    Raises:
        UserError: for a head of means that the task or the output layer has no place for.
    """
    if prepared.strategy.solver == "prototypes":
        return _placed(prepared, _prototypes(prepared))
    features = prepared.features("train")
    validated = validate(prepared, features)
    if prepared.settings.encoder.layers == "spread" and prepared.strategy.frozen:
        validated = _without_other_layers(prepared, features, validated)
    head = validated.fit()
    if prepared.strategy.trains and _output(prepared).bias is not None:
        head = softened(head, features)
    return _placed(prepared, head)


def _prototypes(prepared: Prepared) -> Head:
    task, train = prepared.corpus.task, prepared.corpus.splits["train"]
    if LOSSES[task.problem] != "softmax":
        raise UserError(
            f"strategy.solver=prototypes knows texts of one label each, and the problem type is {task.problem}: take "
            "strategy.solver=exact"
        )
    if _output(prepared).bias is None:
        raise UserError("strategy.solver=prototypes needs an output layer with a bias: set encoder.head=pooled")
    targets = dense(task, train.targets)
    for label, mass in zip(task.labels, train.weights @ targets, strict=True):
        if not mass:
            raise UserError(
                f"strategy.solver=prototypes needs training rows of every label, and those of {label!r} weigh nothing: "
                "take strategy.solver=exact"
            )
    return fit_prototypes(prepared.features("train"), targets, train.weights)


def refit_head(prepared: Prepared, *, least: float) -> Head:
    """Fit the output layer to features of the encoder that was trained on the same rows, and put it into the model.

    Such an encoder tells these rows apart better than any others, so that cross-validation among them finds hardly any
    penalty worth having, and the head would be far too sure of texts that nobody has seen.

    Args:
        prepared: the parts of the run.
        least: the weakest penalty that is taken, within bounds, such as the one that cross-validation found before the
            training, when the rows were to the encoder what others are.
    """
    validated = validate(prepared, prepared.features_now("train"))
    penalty = max(_firm(prepared.corpus.task, least), validated.penalty)
    return _placed(prepared, dataclasses.replace(validated, penalty=penalty).fit())


def _firm(task: Task, least: float) -> float:
    """Return the weakest penalty of a head on trained features, given the one that suited them before.

    Such an encoder has put every class near a point of its own. The fewer points there are, the less weight makes a
    head sure, so that there is a least penalty; how fast it falls with the number of classes was measured
    (recipes/README.md, "A few labels a class"). Above 10 the features told nothing of the labels before, which says
    nothing of what they tell now. But two points lie on one line, where any penalty finds the same labels and only says
    how sure they are: there nothing told before is reason enough for doubt.
    """
    if LOSSES[task.problem] != "softmax":
        return min(least, _FIRM)
    apart = max(1, task.outputs - 1)
    return max(_FIRM / apart**4, least if apart == 1 else min(least, _FIRM))


def _placed(prepared: Prepared, head: Head) -> Head:
    (head,) = broadcast_object_list([head])  # machines add up differently, and all ranks answer rows of a split
    output = _output(prepared)
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(head.weight))
        if output.bias is not None:
            output.bias.copy_(torch.from_numpy(head.bias))
    return head


@dataclass(frozen=True)
class TargetScale:
    """The spread of a regression's training targets, in which gradient steps are taken.

    One learning rate then fits targets of any size. Everything else keeps its targets: 0 and 1.
    """

    shift: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(cls, prepared: Prepared) -> TargetScale:
        """Return the units of the training rows; without a bias in the output layer nothing can be shifted."""
        train = prepared.corpus.splits["train"]
        if prepared.corpus.task.problem != "regression":
            return cls()
        share = train.weights / train.weights.sum(dtype=np.float64)
        mean = float(share @ train.targets) if _output(prepared).bias is not None else 0.0
        return cls(mean, float(np.sqrt(share @ np.square(train.targets - mean))) or 1.0)

    def targets(self, columns: Columns) -> Columns:
        """Return the columns with their targets in these units."""
        if self == TargetScale():
            return columns
        teacher = None if columns.teacher is None else self.scaled(columns.teacher)
        return dataclasses.replace(columns, targets=self.scaled(columns.targets), teacher=teacher)

    def scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers of the data in these units, float32."""
        return ((numbers - self.shift) / self.unit).astype(np.float32)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return outputs in these units in those of the data."""
        return logits * self.unit + self.shift

    def enter(self, prepared: Prepared) -> None:
        """Make the output layer answer in these units."""
        if self != TargetScale():
            _rescale(prepared, 1 / self.unit, -self.shift / self.unit)

    def leave(self, prepared: Prepared) -> None:
        """Make the output layer answer in those of the data again."""
        if self != TargetScale():
            _rescale(prepared, self.unit, self.shift)


def fold_calibration(prepared: Prepared, logits: np.ndarray) -> Calibration:
    """Choose on the validation rows how outputs become labels; return how they were calibrated.

    That is folded into the output layer, so that whoever loads the model, and every export of it, has the probabilities
    that were measured. Where a row may have several labels, the task gets the threshold for F1.

    Args:
        prepared: the parts of the run.
        logits: (validation rows, outputs), as they are now.
    """
    validation, task, wanted = prepared.corpus.splits["validation"], prepared.corpus.task, prepared.settings.decision
    free = task.problem == "multi_label" and wanted.threshold is None
    if task.problem == "regression" or not (wanted.calibrate or free):
        return Calibration()
    rule = task.threshold
    metric = selection_metric(task, prepared.settings.evaluation.metric)
    if free:
        found, rule = thresholds.scale_and_threshold(
            task, logits, validation.targets, validation.weights, metric=metric
        )
        rule = rule if wanted.calibrate else thresholds.undivided(rule, found)
        calibration = Calibration(found)
    else:
        calibration = calibrate(task, logits, validation.targets, validation.weights, metric=metric)
    calibration, rule = broadcast_object_list([calibration, rule])  # of nearly equal figures all ranks take one's
    prepared.corpus = dataclasses.replace(prepared.corpus, task=dataclasses.replace(task, threshold=rule))
    if not wanted.calibrate:
        return Calibration()
    if _output(prepared).bias is None:
        calibration = Calibration(calibration.temperature)
    _rescale(prepared, 1 / calibration.temperature, calibration.shifts or 0.0)
    return calibration


def _rescale(prepared: Prepared, factor: float, shift: float | tuple[float, ...]) -> None:
    output = _output(prepared)
    with torch.no_grad():
        output.weight.mul_(factor)
        if output.bias is not None:
            output.bias.mul_(factor).add_(output.bias.new_tensor(shift))


def _output(prepared: Prepared) -> Any:
    return active_output(prepared.classifier.model)


def _without_other_layers(prepared: Prepared, features: np.ndarray, together: Validated) -> Validated:
    """Validate each of the concatenated layers alone, and keep one alone if it is clearly better.

    That is by more than a standard error, the rule of Breiman et al. (1984). Without it, a layer would be chosen by
    chance where examples are few; there several layers are the better guess.
    """
    model: Any = prepared.classifier.model
    weights = prepared.corpus.splits["train"].weights
    if len(model.config.layers) == 1 or not len(together.held_out):
        return together
    layers = np.split(features, len(model.config.layers), axis=1)
    alone = [validate(prepared, layer, rival=together) for layer in layers]
    best = min(range(len(alone)), key=lambda layer: weights @ alone[layer].held_out)
    clearly = is_lower(alone[best].held_out, together.held_out, weights)
    best, clearly = broadcast_object_list([best, clearly])
    if not clearly:
        return together
    prepared.keep_layer(best)
    return alone[best]


def validate(prepared: Prepared, features: np.ndarray, *, rival: Validated | None = None) -> Validated:
    """Choose the penalty of a linear layer from features (examples, width) to the training targets.

    Texts made of the names of labels have no part in choosing it unless the others are too few: each is much like the
    other ones of its label, so that it is told from them, which says nothing of texts as they come. The head learns
    from them as well.

    Args:
        prepared: the parts of the run.
        features: of the training rows.
        rival: ends the search where it will hardly be beaten.
    """
    term = cast(Classify, prepared.objective.terms["classify"])
    corpus, train, task = prepared.corpus, prepared.corpus.splits["train"], prepared.corpus.task
    choose = partial(
        validate_head,
        features,
        _distributions(task, term, train.targets),
        loss=LOSSES[task.problem],
        positive_weights=None if term.positive_weights is None else term.positive_weights.cpu().numpy(),
        intercept=_output(prepared).bias is not None,
        strata=_strata(task, train.targets),
        seed=prepared.settings.seed,
    )
    if corpus.own is None:
        return choose(train.weights, rival=rival)
    own = choose(np.where(np.arange(len(train)) < len(corpus.own), train.weights, 0), rival=rival)
    validated = choose(train.weights)
    if not len(own.held_out):
        return validated
    return dataclasses.replace(validated, penalty=own.penalty, held_out=own.held_out)


def _distributions(task: Task, term: Classify, targets: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return targets[:, None]
    if task.problem == "multi_label":
        return targets * (1 - term.smoothing) + term.smoothing / 2
    return term.distribution(torch.from_numpy(targets), task.outputs).numpy()


def _strata(task: Task, targets: np.ndarray) -> np.ndarray | None:
    return None if task.problem in ("regression", "multi_label") else likeliest(targets)
