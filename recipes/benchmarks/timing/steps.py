"""The steps of a run over generated texts, each timed separately."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from recipes.benchmarks.timing.ours import MODULES, make_settings
from recipes.benchmarks.timing.stopwatch import Job, Result, Stopwatch, need, peak_mb

FEATURES = 64  # width of the random features
SAMPLED = 200  # optimizer steps whose batches are timed; their mean is taken for all

T = TypeVar("T")


class _Laps:
    """Times of steps: the best of up to five repetitions within about a second."""

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}

    def run(self, name: str, work: Callable[[], T], *, times: float = 1.0) -> T:
        """Time a step and return its result; the time is multiplied by `times`."""
        tried: list[dict[str, float]] = []
        began = time.perf_counter()
        while not tried or (len(tried) < 5 and time.perf_counter() - began < 1):
            with Stopwatch() as watch:
                result = work()
            tried.append(watch.seconds)
        self.times[name] = {clock: times * min(lap[clock] for lap in tried) for clock in tried[0]}
        return result


def without_the_encoder(job: Job) -> Result:
    """Time reading rows, tokenising, batching an epoch, and fitting a probe to random features of the rows."""
    need(*MODULES, "nlp_transfer.running.preparation", "scipy.linalg")
    from nlp_transfer.cache.tokens import encode_splits
    from nlp_transfer.data.batches import Order, Padding, collate, micro_batches, steps_per_epoch
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.encoder.classifier import load_classifier
    from nlp_transfer.linear.convex import fit_head

    laps, settings = _Laps(), make_settings(job)
    corpus = laps.run("reading", lambda: load_corpus(settings.data))
    classifier = load_classifier(settings.encoder, corpus.task, head="pooled", seed=0)
    columns = laps.run("tokenising", lambda: encode_splits(settings, corpus, classifier)[0]["train"])

    steps = steps_per_epoch(len(columns), job["batch"])
    sampled = np.linspace(0, steps - 1, min(steps, SAMPLED)).astype(int)
    padding = Padding(classifier.tokenizer.pad_token_id, classifier.tokenizer.pad_token_type_id, left=False)
    most_tokens = settings.training.micro_batch_tokens

    order = Order(len(columns), batch_size=job["batch"], seed=0)

    def batches() -> None:
        for step in sampled:
            examples = order.step(int(step))
            for part in micro_batches(
                columns.tokens, examples, rank=0, world=1, most_examples=None, most_tokens=most_tokens
            ):
                collate(columns, part, padding=padding)

    laps.run("batching", batches, times=steps / len(sampled))

    targets = corpus.splits["train"].targets
    noise = np.random.default_rng(0)
    centres = noise.standard_normal((corpus.task.outputs, FEATURES), np.float32)
    features = centres[targets] + noise.standard_normal((len(targets), FEATURES), np.float32)
    one_hot = np.eye(corpus.task.outputs, dtype=np.float32)[targets]
    laps.run("probing", lambda: fit_head(features, one_hot, columns.weights, loss="softmax", strata=targets))
    return {"laps": laps.times, "peak_mb": peak_mb()}


def with_the_encoder(job: Job) -> Result:
    """Time an epoch's optimizer steps (the first one as the mean of the others), and predicting from file to file."""
    need(*MODULES)
    from nlp_transfer.predicting.predict import Predictor, predict_file
    from nlp_transfer.running.run import adapt
    from nlp_transfer.settings import ColumnSettings
    from nlp_transfer.verb_settings import PredictSettings

    with Stopwatch() as watch:
        run = adapt(make_settings(job))
    after_first = watch.result(job | {"skip": 1})["steady"]
    share = len(watch.steps) / (len(watch.steps) - 1)
    laps = {"training": {clock: share * seconds for clock, seconds in after_first.items()}}

    predictor = Predictor(run.folder)
    for split in ("test", "train"):  # the first file warms up
        files = PredictSettings(input=str(Path(job["data"]) / f"{split}.csv"), output=f"{job['scratch']}/{split}.csv")
        with Stopwatch() as watch:
            predict_file(predictor, files, ColumnSettings(), encoding="utf-8", delimiter=None, overwrite=True)
    return {"laps": laps | {"predicting": watch.seconds}, "peak_mb": peak_mb()}
