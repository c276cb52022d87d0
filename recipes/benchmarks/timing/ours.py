"""Our package: adapting an encoder, and predicting with a saved model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from recipes.benchmarks.timing.command import MINIMAL
from recipes.benchmarks.timing.encoders import cosine
from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MAX_TOKENS,
    Job,
    Result,
    Stopwatch,
    need,
    read_split,
    text_costs,
)

MODULES = ("nlp_transfer.running.run", "nlp_transfer.predicting.predict", "transformers.models.bert.modeling_bert")


def make_settings(job: Job, **more: Any) -> Any:
    """Return the settings of a run: those of all jobs, the job's `words`, and `more`."""
    from nlp_transfer.composing.words import from_mapping
    from nlp_transfer.config import compose

    values = {
        "data": "files",
        "data.path": job["data"],
        "data.unseen": "ignore",
        "data.empty": "drop",
        "encoder": "custom",
        "encoder.name": job["encoder"],
        "seed": job["seed"],
        "tokens.max_length": MAX_TOKENS,
        "training.epochs": job["epochs"],
        "training.batch_size": job["batch"],
        "training.evaluate_every": job["epochs"],
        "training.keep": "last",
        "checkpoint.seconds": 3600,
        "evaluation.resamples": 2,
        "output": job["scratch"],
        **MINIMAL,
        **job["words"],
        **more,
    }
    return compose(None, from_mapping(values))


def adapt(job: Job) -> Result:
    """Measure `adapt`; with the job's `again`, a second run, which uses what the first one cached."""
    need(*MODULES, "scipy.linalg", *["peft"] * (job["words"]["strategy"] == "lora"))
    from nlp_transfer.running.run import adapt as run

    if job.get("again"):
        run(make_settings(job))
    with Stopwatch() as watch:
        adapted = run(make_settings(job, overwrite=True))
    lines = (adapted.folder / "metrics.jsonl").read_text().splitlines() if watch.steps else []
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    return watch.result(
        job,
        accuracy=adapted.metrics["accuracy"],
        loss=float(np.mean(losses)) if losses else None,
        **text_costs(job),
    )


def predict(job: Job) -> Result:
    """Measure predictions with a saved model; the cosine is that of the features that enter its output layer.

    The model is a probe on the last layer, so its encoder is unchanged and the same as the peers'.
    """
    need(*MODULES)
    import nlp_transfer
    from nlp_transfer.data.batches import Columns
    from nlp_transfer.data.tokens import encode
    from nlp_transfer.running.run import adapt as run
    from nlp_transfer.training import inference

    settings = make_settings(job, **{"data.train_limit": 2 * ENCODE_BATCH, "encoder.layers": "last"})
    predictor = nlp_transfer.load(run(settings).folder)
    texts = read_split(job["data"], "train")
    predictor.predict(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        predictor.predict(texts)
    result = watch.result(job, **text_costs(job))
    spec = predictor.record.tokens
    tokens = encode(predictor.tokenizer, texts, None, spec, max_length=spec.limit)
    vectors = inference.run(
        predictor.accelerator,
        predictor.model,
        Columns(tokens, np.zeros(len(texts), np.float32), np.ones(len(texts), np.float32)),
        padding=predictor.padding,
        most_tokens=predictor.batch_tokens,
        want="features",
    )
    return result | {"cosine": cosine(job, vectors)}
