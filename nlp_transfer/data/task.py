"""The task that a corpus defines: problem type, label set, class weights, decision rules; encoding of labels.

Labels are integers only inside target arrays, names everywhere else. The label set comes from the training rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nlp_transfer.data.labels import PROBLEMS, Label, Where, is_number, name_of, number_of, numbers_first
from nlp_transfer.errors import UserError, did_you_mean, one_of
from nlp_transfer.wording import counted

NEVER = math.nextafter(1.0, 2.0)  # a threshold that no probability reaches
_SHOWN = 10
_COARSEST = 0.3  # of the spread of targets, from which rounding them would cost about a hundredth of their variance
_EFFECTIVE_BETA = 0.999


@dataclass(frozen=True)
class Task:
    """What a model predicts.

    Attributes:
        problem: single_label, multi_label, ordinal or regression.
        labels: label names; the index of a name is its integer inside the package. Ordinal: from low to high. Empty for
            regression.
        pair: whether an example is two texts.
        class_weights: by label index, or None. single_label and ordinal: mean 1 over the training rows, already
            multiplied into ``Examples.weights``. multi_label: weights of the positive term of each label's loss.
        threshold: multi_label: the probability from which a label is predicted; one for all labels, or one each.
        abstain_below: single_label and ordinal: a model abstains if its highest probability is lower; 0: never;
            NEVER: always.
        risk: single_label and ordinal: upper bound on the share of wrong labels among predictions without abstention,
            which `abstain_below` was chosen to keep; 0: no bound is promised.
        unknown: single_label and ordinal: the share of in-distribution texts that a model wrongly calls unknown
            (unlike all training texts); 0: unknown texts are not detected.
        coverage: how often the prediction set (regression: the interval) contains the truth; 0: predictions have none.
            Not for multi_label.
    """

    problem: str
    labels: tuple[str, ...]
    pair: bool
    class_weights: tuple[float, ...] | None = None
    threshold: float | tuple[float, ...] = 0.5
    abstain_below: float = 0.0
    risk: float = 0.0
    unknown: float = 0.0
    coverage: float = 0.0

    @property
    def outputs(self) -> int:
        """Number of logits per example: one per label, or one for regression."""
        return 1 if self.problem == "regression" else len(self.labels)

    def has_same_targets(self, other: Task) -> bool:
        """Return whether problem type, labels and inputs are the same; weights and decision rules may differ."""
        return (self.problem, self.labels, self.pair) == (other.problem, other.labels, other.pair)

    def encode(self, values: Sequence[Label], where: Where) -> np.ndarray:
        """Turn labels into targets.

        Args:
            values: labels as ``labels.read_labels`` returns them for this problem type.
            where: row → place, for messages.

        Returns:
            single_label and ordinal: int64 (rows,), or float32 (rows, labels) where they are distributions;
            multi_label: float32 (rows, labels) in [0, 1]; regression: float32 (rows,).

        Raises:
            UserError: listing the labels that are not in the label set.
        """
        if self.problem == "regression":
            return np.asarray(values, dtype=np.float32)
        index = {name: position for position, name in enumerate(self.labels)}
        foreign = unseen(values, self.labels)
        if foreign:
            raise UserError(unseen_message(values, foreign, self.labels, where))
        if self.problem != "multi_label" and all(isinstance(value, str) for value in values):
            return np.fromiter((index[str(value)] for value in values), np.int64, len(values))
        targets = np.zeros((len(values), len(self.labels)), dtype=np.float32)
        for row, value in enumerate(values):
            for name, share in label_probabilities(value).items():
                if share:
                    targets[row, index[name]] = share
        return targets

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "labels": list(self.labels),
            "threshold": list(self.threshold) if isinstance(self.threshold, tuple) else self.threshold,
            "class_weights": None if self.class_weights is None else list(self.class_weights),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """Return the task that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: for values that `to_json` never writes.
        """
        problem, labels, weights = (values[key] for key in ("problem", "labels", "class_weights"))
        are_names = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
        if problem not in PROBLEMS or not are_names or len(set(labels)) != len(labels):
            raise ValueError("no problem type with labels")
        if type(values["pair"]) is not bool:
            raise ValueError("pair is neither true nor false")
        if weights is not None and (len(weights) != len(labels) or None in map(number_of, weights)):
            raise ValueError("no class weights")
        given, abstain_below = values.get("threshold", 0.5), number_of(values.get("abstain_below", 0))
        has_several = isinstance(given, list)
        if has_several and (problem != "multi_label" or len(given) != len(labels)):
            raise ValueError("no thresholds of these labels")
        thresholds = [number_of(each) for each in (given if has_several else [given])]
        has_one_label = problem in ("single_label", "ordinal")
        if not all(each is not None and 0 < each < 1 for each in thresholds):
            raise ValueError("no rule for deciding")
        risk = number_of(values.get("risk", 0))
        if risk is None or not 0 <= risk < 1:
            raise ValueError("no share of wrong labels")
        if abstain_below is None or not (0 <= abstain_below < 1 or (risk and abstain_below <= NEVER)):
            raise ValueError("no rule for abstaining")
        if (abstain_below or risk) and not has_one_label:
            raise ValueError("nothing to abstain from")
        unknown, coverage = (number_of(values.get(key, 0)) for key in ("unknown", "coverage"))
        if unknown is None or not 0 <= unknown <= 0.5 or (unknown and not has_one_label):
            raise ValueError("no share of unknown texts")
        if coverage is None or not 0 <= coverage < 1 or (coverage and problem == "multi_label"):
            raise ValueError("no coverage of sets")
        threshold = tuple(each or 0.0 for each in thresholds)
        return cls(
            problem=problem,
            labels=tuple(labels),
            pair=values["pair"],
            class_weights=None if weights is None else tuple(weights),
            threshold=threshold if has_several else threshold[0],
            abstain_below=abstain_below,
            risk=risk,
            unknown=unknown,
            coverage=coverage,
        )


def label_probabilities(value: Label) -> Mapping[str, float]:
    """Return name → probability: 1 for hard labels; for every problem type but regression."""
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, tuple):
        return dict.fromkeys(value, 1.0)
    assert isinstance(value, dict)
    return value


def label_names(
    values: Sequence[Label], *, problem: str, order: Sequence[str] | None, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the label set of the training rows: numerically sorted where all names are numbers, else by code point.

    Args:
        values: the labels of the training rows.
        problem: the problem type.
        order: the names from low to high, for ordinal only.
        known: labels that are always in the set; they come first, in this order.

    Raises:
        UserError: for fewer than two classes, or an order that does not list exactly these names.
    """
    if order is not None and problem != "ordinal":
        raise UserError(f"data.order is for data.problem=ordinal, but the problem type is {problem}")
    if problem == "regression":
        _check_targets(np.asarray(values, dtype=np.float64))
        return ()
    names = {name for value in values for name in label_probabilities(value)}
    if known:
        return (*known, *_new_names(names.difference(known), problem))
    if len(names) < (1 if problem == "multi_label" else 2):
        found = f"only the label {next(iter(names))!r}" if names else "no label at all"
        rows = f"{counted(len(values), 'training row')} {'has' if len(values) == 1 else 'have'}"
        raise UserError(f"the {rows} {found}; at least two classes are needed to learn anything")
    if order is not None:
        return _checked_order([str(name) for name in order], names)
    if all(is_number(name) for name in names):
        return tuple(sorted(names, key=numbers_first))
    if problem == "ordinal":
        odd = sorted(name for name in names if not is_number(name))
        raise UserError(
            f"data.problem=ordinal needs labels that are numbers, or their order; {odd[0]!r} is not a number: set "
            "data.order=[lowest, …, highest]"
        )
    return tuple(sorted(names))


def _check_targets(targets: np.ndarray) -> None:
    """Refuse targets that are all the same, or nearly so in single precision, in which they are learned."""
    lowest, highest = float(targets.min()), float(targets.max())
    if lowest == highest:
        raise UserError(f"all {len(targets):,} training rows have the same target; there is nothing to learn")
    step = float(np.spacing(np.float32(max(-lowest, highest))))
    if step > _COARSEST * targets.std():
        raise UserError(
            f"the targets of the training rows, from {lowest!r} to {highest!r}, lie too close together for single "
            f"precision, in which they are learned; write them as differences from {lowest!r}, or in another unit"
        )


def _new_names(names: set[str], problem: str) -> list[str]:
    """Return labels that are new to a model, sorted, to follow those it knows."""
    if names and problem == "ordinal":
        raise UserError(
            f"{min(names)!r} has no place in the order of the labels that the model knows: adapt to all of them anew, "
            "with data.order and continual.labels=data"
        )
    return sorted(names, key=numbers_first) if all(map(is_number, names)) else sorted(names)


def _checked_order(order: list[str], names: set[str]) -> tuple[str, ...]:
    unknown = [name for name in order if name not in names]
    absent = sorted(names - set(order))
    if unknown:
        raise UserError(
            f"data.order: {unknown[0]!r} is not a label of the training rows{did_you_mean(unknown[0], names)}; they "
            f"have {', '.join(map(repr, sorted(names)[:_SHOWN]))}{' and more' * (len(names) > _SHOWN)}"
        )
    if absent:
        raise UserError(f"data.order lacks {', '.join(map(repr, absent[:_SHOWN]))}, which training rows have")
    if len(set(order)) != len(order):
        raise UserError(f"data.order lists a label twice: {order}")
    return tuple(order)


def unseen(values: Sequence[Label], labels: Sequence[str]) -> list[int]:
    """Return the rows that have a label outside the label set with a probability above zero."""
    known = set(labels)
    return [
        row
        for row, value in enumerate(values)
        if any(share and name not in known for name, share in label_probabilities(value).items())
    ]


def unseen_message(values: Sequence[Label], rows: Sequence[int], labels: Sequence[str], where: Where) -> str:
    """Return the message that names labels outside the label set, with counts and first places."""
    known = set(labels)
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        for name, share in label_probabilities(values[row]).items():
            if share and name not in known:
                counts[name] += 1
                first.setdefault(name, row)
    listed = [
        f"{name!r}{did_you_mean(name, known)}: {counted(count, 'row')}, first {where(first[name])}"
        for name, count in counts.most_common(_SHOWN)
    ]
    more = f"; and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else ""
    return (
        f"{counted(len(counts), 'label')} the training rows do not have: {'; '.join(listed)}{more}. "
        "Correct them, or drop these rows with data.unseen=ignore"
    )


def class_weights(setting: Any, targets: np.ndarray, task: Task) -> tuple[float, ...] | None:
    r"""Return the weight of each label.

    With n rows, k labels and :math:`n_c` rows of label c (soft labels: their sum):

    - ``balanced``: :math:`n / (k\,n_c)`; multi_label: negatives / positives of the label.
    - ``effective``: :math:`1 / E(n_c)` with :math:`E(n) = (1 - \beta^n) / (1 - \beta)`, beta 0.999 (Cui et al. 2019,
      "Class-Balanced Loss Based on Effective Number of Samples", CVPR); multi_label: E(negatives) / E(positives).
    - a mapping of every label name to a positive number.

    Except for multi_label they are scaled to mean 1 over the training rows, so that the learning rate keeps its scale.

    Args:
        setting: none, balanced, effective or a mapping.
        targets: the training targets.
        task: the task without weights.

    Raises:
        UserError: for regression, for names that are unknown or missing, and for a label without training rows.
    """
    if setting is None or setting == "none":
        return None
    if task.problem == "regression":
        raise UserError("data.class_weights has no meaning for regression; weigh rows with a weight column")
    if targets.ndim == 2:
        positives = targets.sum(axis=0, dtype=np.float64)
    else:
        positives = np.bincount(targets, minlength=len(task.labels)).astype(np.float64)
    if isinstance(setting, Mapping):
        weights = _named_weights(setting, task.labels)
    else:
        one_of(setting, ("none", "balanced", "effective"), "data.class_weights")
        absent = [name for name, count in zip(task.labels, positives, strict=True) if not count]
        if absent:
            raise UserError(f"data.class_weights={setting}: no training row has the label {absent[0]!r}")
        count_of = _effective_number if setting == "effective" else np.asarray
        numerator = count_of(len(targets) - positives) if task.problem == "multi_label" else 1.0
        weights = numerator / count_of(positives)
        if not weights.all():
            name = task.labels[int(np.argmin(weights))]
            raise UserError(
                f"data.class_weights={setting}: every training row has the label {name!r}, so its weight is 0"
            )
    if task.problem != "multi_label":
        weights = weights * len(targets) / (weights * positives).sum()
    return tuple(float(weight) for weight in weights)


def likeliest(targets: np.ndarray) -> np.ndarray:
    """Return the label of every row of targets, see `Task.encode`, or the likeliest one, int64 (rows,)."""
    return targets if targets.ndim == 1 else targets.argmax(axis=1)


def dense(task: Task, targets: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return targets (see `Task.encode`) with one number per output, (rows, outputs)."""
    if targets.ndim == 1 and task.labels:
        return np.eye(task.outputs, dtype=dtype)[targets]
    return targets.reshape(-1, task.outputs).astype(dtype, copy=False)


def _effective_number(counts: np.ndarray) -> np.ndarray:
    return (1 - _EFFECTIVE_BETA**counts) / (1 - _EFFECTIVE_BETA)


def _named_weights(setting: Mapping[Any, Any], labels: Sequence[str]) -> np.ndarray:
    given = {name_of(name) or str(name): number_of(weight) for name, weight in setting.items()}
    unknown = [name for name in given if name not in labels]
    absent = [name for name in labels if name not in given]
    if unknown:
        raise UserError(f"data.class_weights: {unknown[0]!r} is not a label{did_you_mean(unknown[0], labels)}")
    if absent:
        raise UserError(f"data.class_weights lacks {', '.join(map(repr, absent[:_SHOWN]))}")
    for name, weight in given.items():
        if weight is None or weight <= 0:
            raise UserError(f"data.class_weights: {name!r} needs a positive number, not {setting.get(name, weight)!r}")
    return np.asarray([given[name] for name in labels], dtype=np.float64)
