"""What a model has to beat: the class priors, and TF-IDF with a linear model at its best setting; knows no encoder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlp_transfer.data.sequences import json_of
from nlp_transfer.evaluation.calibration import calibrate
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.evaluation.sums import label_shares
from nlp_transfer.evaluation.tfidf import Setting, best_setting, features_of, fit_predict, rows_read, share_of
from nlp_transfer.evaluation.thresholds import Threshold, expected
from nlp_transfer.machine.versions import digest_of_code, installed

if TYPE_CHECKING:
    from nlp_transfer.cache.store import Store
    from nlp_transfer.data.corpus import Examples, Texts
    from nlp_transfer.data.task import Task

_RARE = 1e-9  # the least prior; a zero would make log_loss infinite


@dataclass(frozen=True)
class Floor:
    """A prediction for the evaluated split that needed no encoder.

    Attributes:
        name: majority or tfidf.
        logits: (rows, outputs): of probabilities, for multi_label log-odds, for regression values.
        detail: the setting that was chosen, in words.
        threshold: from which it gives a label, chosen as the model's is; None: from the task's.
        seconds: that it took when it was computed.
    """

    name: str
    logits: np.ndarray
    detail: str = ""
    threshold: Threshold | None = None
    seconds: float = 0.0

    def task(self, task: Task) -> Task:
        """Return the task with the threshold of the floor."""
        return task if self.threshold is None else dataclasses.replace(task, threshold=self.threshold)


def floors(
    task: Task,
    train: Examples,
    test: Examples,
    *,
    seed: int,
    metric: str = "auto",
    free: bool = True,
    held: Examples | None = None,
    store: Store | None = None,
) -> list[Floor]:
    """Return the floors for `test`, fitted on `train`.

    - majority: the class priors of the training rows; multi_label: the prior of each label; regression: the mean.
      multi_label: from the threshold on that suits these priors.
    - tfidf: words, pairs of words and character 4-grams into logistic regression (one label against the rest), for
      regression into ridge. Strength and class balance are those with the best `metric` in 3-fold cross-validation on
      the training rows; on big sets on a sample of them (banking77: 1,700 rows). With fewer than 12 rows the middle
      strength is taken. Character n-grams are left out where they would take minutes: text length times classes
      decides. Of more than 100 million characters so many are read, in rows that are drawn, or memory would grow with
      them. Without any word or n-gram in the training texts it is the priors.

    Example weights count, class weights do not: they belong to the objective that is being measured. 10,000 short rows
    and 77 classes take about 10 s on one core; the time grows in proportion to rows, length and classes.

    Args:
        task: the task.
        train: the rows to fit on.
        test: the rows to predict; their targets are not looked at.
        seed: of folds and solver.
        metric: what the floor is made strong in, see ``metrics.selection_metric``.
        free: multi_label: whether thresholds are chosen, those of tfidf in the same cross-validation.
        held: the rows that calibrate a model of one label a text, and its floors likewise: what it owes to them is not
            owed to its encoder. None: nothing is calibrated.
        store: where tfidf is kept for the next run on the same rows with the same seed; None: nowhere.
    """
    held = held if task.problem in ("single_label", "ordinal") else None
    asked = test if held is None else test.followed_by(held)
    weights = _own_weights(task, train)
    priors = np.repeat(_priors(task, train.targets, weights)[None], len(asked.texts), axis=0)
    metric, free = selection_metric(task, metric), free and task.problem == "multi_label"
    if free:
        task = dataclasses.replace(task, threshold=0.5)  # that of the model is no business of theirs
    simple = expected(task, priors[:1], np.ones(1), metric=metric) if free and len(priors) else None

    def calibrated(answers: np.ndarray) -> np.ndarray:
        own, others = np.split(answers, [len(test)])
        return own if held is None else calibrate(task, others, held.targets, held.weights, metric=metric).apply(own)

    majority = Floor("majority", calibrated(priors), threshold=simple)
    rows = rows_read(train, seed=seed)
    of = "" if len(rows) == len(train) else f", {len(rows):,} of {len(train):,} training rows"
    key = "" if store is None else _key(task, train, asked, seed=seed, metric=metric, free=free)
    kept = None if store is None else store.find(key)
    if kept is None:
        fit = _fitted(task, train.take(rows), weights[rows], asked, metric=metric, free=free, seed=seed)
    else:
        fit = _Fit.unpacked(kept, task)
    if fit is None:
        return [majority, Floor("tfidf", majority.logits, "no word in the training texts" + of, simple)]
    if store is not None and kept is None:
        about = {"what": "TF-IDF floor", "encoder": "none", "rows": len(test.texts), "seconds": fit.seconds}
        store.keep(key, fit.packed(), about)
    detail = fit.setting.described(task) + of
    return [majority, Floor("tfidf", calibrated(fit.logits), detail, fit.threshold, fit.seconds)]


class _Fit(NamedTuple):
    """What was fitted for the tfidf floor: the setting, the threshold if it was free, the logits; and the seconds."""

    setting: Setting
    threshold: Threshold | None
    logits: np.ndarray
    seconds: float

    def packed(self) -> np.ndarray:
        """Return it as one array, as a store keeps it."""
        own = np.atleast_1d(() if self.threshold is None else self.threshold)
        head = [self.setting.strength, self.setting.balanced, len(own), self.seconds]
        return np.concatenate([head, own, self.logits.ravel()])

    @classmethod
    def unpacked(cls, kept: np.ndarray, task: Task) -> _Fit:
        """Return what `packed` made an array of."""
        (strength, balanced, count, seconds), rest = kept[:4], kept[4:]
        own, logits = rest[: int(count)], rest[int(count) :].reshape(-1, task.outputs)
        threshold = None if not len(own) else float(own[0]) if len(own) == 1 else tuple(map(float, own))
        return cls(Setting(float(strength), bool(balanced)), threshold, logits, float(seconds))


def _fitted(
    task: Task, train: Examples, weights: np.ndarray, asked: Texts, *, metric: str, free: bool, seed: int
) -> _Fit | None:
    """Fit the tfidf floor; None without any word or n-gram in the training texts."""
    started = time.monotonic()
    features = features_of(task, train, asked)
    if features is None:
        return None
    learn, rest = features
    taught = learn, train.targets, weights
    best, threshold = best_setting(task, *taught, metric=metric, free=free, seed=seed)
    logits = fit_predict(task, *taught, rest, best, seed=seed)
    return _Fit(best, threshold, logits, round(time.monotonic() - started, 3))


def _key(task: Task, train: Examples, asked: Texts, *, seed: int, metric: str, free: bool) -> str:
    """Return a hash of all that the tfidf floor hangs on."""
    versions = {"nlp_transfer": digest_of_code(), **installed(("numpy", "scipy", "scikit-learn"))}
    key = hashlib.sha256(json.dumps([task.to_json(), seed, metric, free, versions]).encode())
    for piece in json_of([train.texts, train.pairs, asked.texts, asked.pairs]):
        key.update(piece.encode())
    for array in (train.targets, train.weights):
        key.update(f"\n{array.dtype.str} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return key.hexdigest()


def _own_weights(task: Task, examples: Examples) -> np.ndarray:
    """Return the rows' own weights, class weights taken out, scaled to mean 1 so that a strength keeps its meaning."""
    weights = np.asarray(examples.weights, dtype=np.float64)
    if task.class_weights is not None and task.problem != "multi_label":
        weights = weights / (label_shares(task, examples.targets) @ np.asarray(task.class_weights))
    return weights / weights.mean()


def _priors(task: Task, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return np.array([np.average(targets, weights=weights)])
    masses = np.array([(share_of(targets, label) * weights).sum() for label in range(task.outputs)])
    priors = np.clip(masses / weights.sum(), _RARE, 1 - _RARE)
    return np.log(priors / (1 - priors)) if task.problem == "multi_label" else np.log(priors / priors.sum())
