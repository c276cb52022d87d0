"""The baselines that a model has to beat: class priors, and TF-IDF with a tuned linear model. No encoder."""

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
from nlp_transfer.evaluation.tfidf import Setting, best_setting, fit_predict, rows_to_fit, share_of, tfidf_features
from nlp_transfer.evaluation.thresholds import Threshold, expected
from nlp_transfer.machine.versions import digest_of_code, installed

if TYPE_CHECKING:
    from nlp_transfer.cache.store import Store
    from nlp_transfer.data.corpus import Examples, Texts
    from nlp_transfer.data.task import Task

_MIN_PRIOR = 1e-9  # a prior of zero would make log_loss infinite


@dataclass(frozen=True)
class Baseline:
    """A baseline's predictions for the evaluated split.

    Attributes:
        name: majority, tfidf, or source only (the model of a run without the target domain's texts).
        logits: (rows, outputs): log-probabilities; multi_label: log-odds; regression: values.
        detail: the chosen hyperparameters, or what sets it apart from the model, in words.
        threshold: its own decision threshold, chosen as the model's is; None: the task's.
        seconds: how long it took to compute.
    """

    name: str
    logits: np.ndarray
    detail: str = ""
    threshold: Threshold | None = None
    seconds: float = 0.0

    def with_threshold(self, task: Task) -> Task:
        """Return the task with this baseline's threshold."""
        return task if self.threshold is None else dataclasses.replace(task, threshold=self.threshold)


def fit_baselines(
    task: Task,
    train: Examples,
    test: Examples,
    *,
    seed: int,
    metric: str = "auto",
    tune_thresholds: bool = True,
    validation: Examples | None = None,
    store: Store | None = None,
) -> list[Baseline]:
    """Return the baselines for `test`, fitted on `train`.

    - majority: the class priors of the training rows; regression: the mean. multi_label: the prior of each label, with
      the threshold that suits these priors.
    - tfidf: word 1- and 2-grams and character 4-grams into one-vs-rest logistic regression (regression: ridge).
      Regularisation strength and class balance are chosen by `metric` in 3-fold cross-validation on the training rows,
      on a sample of them for large data sets (banking77: 1,700 rows); with fewer than 12 rows the middle strength is
      used. Character n-grams are left out where text length times classes would make them take minutes. Training texts
      beyond 100 million characters are subsampled to bound memory. If the training texts contain no word or n-gram,
      this baseline predicts the priors.

    Example weights count; class weights do not, since they belong to the objective that is being measured. 10,000
    short rows and 77 classes take about 10 s on one core; time grows linearly with rows, text length and classes.

    Args:
        task: the task.
        train: the rows to fit on.
        test: the rows to predict; their targets are not used.
        seed: of folds and solver.
        metric: what hyperparameters are selected by, see ``metrics.selection_metric``.
        tune_thresholds: multi_label: whether thresholds are chosen, those of tfidf in the same cross-validation.
        validation: the rows the model is calibrated on. The baselines are calibrated on them too, so that the gain from
            calibration is not credited to the encoder. Only used with one label per text; None: no calibration.
        store: cache in which the fitted tfidf baseline is kept for runs with the same rows and seed; None: no cache.
    """
    validation = validation if task.problem in ("single_label", "ordinal") else None
    inputs = test if validation is None else test.followed_by(validation)
    weights = _example_weights(task, train)
    priors = np.repeat(_priors(task, train.targets, weights)[None], len(inputs.texts), axis=0)
    metric, tune = selection_metric(task, metric), tune_thresholds and task.problem == "multi_label"
    if tune:
        task = dataclasses.replace(task, threshold=0.5)  # baselines do not inherit the model's threshold
    prior_threshold = expected(task, priors[:1], np.ones(1), metric=metric) if tune and len(priors) else None

    def calibrated(logits: np.ndarray) -> np.ndarray:
        of_test, of_validation = np.split(logits, [len(test)])
        if validation is None:
            return of_test
        calibration = calibrate(task, of_validation, validation.targets, validation.weights, metric=metric)
        return calibration.apply(of_test)

    majority = Baseline("majority", calibrated(priors), threshold=prior_threshold)
    rows = rows_to_fit(train, seed=seed)
    sample_note = "" if len(rows) == len(train) else f", {len(rows):,} of {len(train):,} training rows"
    key = "" if store is None else _cache_key(task, train, inputs, seed=seed, metric=metric, tune=tune)
    cached = None if store is None else store.find(key)
    if cached is None:
        fit = _fit_tfidf(task, train.take(rows), weights[rows], inputs, metric=metric, tune=tune, seed=seed)
    else:
        fit = _Fit.unpacked(cached, task)
    if fit is None:
        return [
            majority,
            Baseline("tfidf", majority.logits, "no word in the training texts" + sample_note, prior_threshold),
        ]
    if store is not None and cached is None:
        about = {"what": "TF-IDF baseline", "encoder": "none", "rows": len(test.texts), "seconds": fit.seconds}
        store.keep(key, fit.packed(), about)
    detail = fit.setting.described(task) + sample_note
    return [majority, Baseline("tfidf", calibrated(fit.logits), detail, fit.threshold, fit.seconds)]


class _Fit(NamedTuple):
    """The fitted tfidf baseline: hyperparameters, tuned threshold (None: not tuned), logits, and seconds it took."""

    setting: Setting
    threshold: Threshold | None
    logits: np.ndarray
    seconds: float

    def packed(self) -> np.ndarray:
        """Return all of it as the one array that a store can hold."""
        thresholds = np.atleast_1d(() if self.threshold is None else self.threshold)
        head = [self.setting.strength, self.setting.balanced, len(thresholds), self.seconds]
        return np.concatenate([head, thresholds, self.logits.ravel()])

    @classmethod
    def unpacked(cls, packed: np.ndarray, task: Task) -> _Fit:
        """Invert `packed`."""
        (strength, balanced, count, seconds), rest = packed[:4], packed[4:]
        thresholds, logits = rest[: int(count)].tolist(), rest[int(count) :].reshape(-1, task.outputs)
        threshold = None if not thresholds else thresholds[0] if len(thresholds) == 1 else tuple(thresholds)
        return cls(Setting(float(strength), bool(balanced)), threshold, logits, float(seconds))


def _fit_tfidf(
    task: Task, train: Examples, weights: np.ndarray, inputs: Texts, *, metric: str, tune: bool, seed: int
) -> _Fit | None:
    """Fit the tfidf baseline and predict `inputs`; None if the training texts contain no word or n-gram."""
    started = time.monotonic()
    features = tfidf_features(task, train, inputs)
    if features is None:
        return None
    train_features, input_features = features
    training = train_features, train.targets, weights
    best, threshold = best_setting(task, *training, metric=metric, tune_threshold=tune, seed=seed)
    logits = fit_predict(task, *training, input_features, best, seed=seed)
    return _Fit(best, threshold, logits, round(time.monotonic() - started, 3))


def _cache_key(task: Task, train: Examples, inputs: Texts, *, seed: int, metric: str, tune: bool) -> str:
    """Return a hash of everything that the tfidf baseline depends on."""
    versions = {"nlp_transfer": digest_of_code(), **installed(("numpy", "scipy", "scikit-learn"))}
    key = hashlib.sha256(json.dumps([task.to_json(), seed, metric, tune, versions]).encode())
    for piece in json_of([train.texts, train.pairs, inputs.texts, inputs.pairs]):
        key.update(piece.encode())
    for array in (train.targets, train.weights):
        key.update(f"\n{array.dtype.str} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return key.hexdigest()


def _example_weights(task: Task, examples: Examples) -> np.ndarray:
    """Return the example weights without class weights, scaled to mean 1 so that strengths keep their meaning."""
    weights = np.asarray(examples.weights, dtype=np.float64)
    if task.class_weights is not None and task.problem != "multi_label":
        weights = weights / (label_shares(task, examples.targets) @ np.asarray(task.class_weights))
    return weights / weights.mean()


def _priors(task: Task, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return np.array([np.average(targets, weights=weights)])
    masses = np.array([(share_of(targets, label) * weights).sum() for label in range(task.outputs)])
    priors = np.clip(masses / weights.sum(), _MIN_PRIOR, 1 - _MIN_PRIOR)
    return np.log(priors / (1 - priors)) if task.problem == "multi_label" else np.log(priors / priors.sum())
