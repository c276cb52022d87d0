"""Our side: adapting an encoder, and labelling texts with a saved model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from recipes.benchmarks.timing.encoders import cosine
from recipes.benchmarks.timing.stopwatch import (
    ENCODE_BATCH,
    MOST_TOKENS,
    Job,
    Result,
    Stopwatch,
    cost_of_texts,
    need,
    texts_of,
)

MODULES = ("nlp_transfer.running.run", "nlp_transfer.predicting.predict", "transformers.models.bert.modeling_bert")


def settings_of(job: Job, **more: Any) -> Any:
    """Return the settings of a run; keys that are no identifiers stand in the job's `words`."""
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
        "tokens.max_length": MOST_TOKENS,
        "training.epochs": job["epochs"],
        "training.batch_size": job["batch"],
        "training.evaluate_every": job["epochs"],
        "training.keep": "last",
        "checkpoint.seconds": 3600,
        "evaluation.floors": False,
        "evaluation.resamples": 2,
        "verify": False,
        "report.write": False,
        "output": job["scratch"],
        **job["words"],
        **more,
    }
    return compose(None, from_mapping(values))


def adapt(job: Job) -> Result:
    """Run `adapt`; with `again`, the same once more, which finds what the first run kept."""
    need(*MODULES, "scipy.linalg", *["peft"] * (job["words"]["strategy"] == "lora"))
    from nlp_transfer.running.run import adapt as run

    if job.get("again"):
        run(settings_of(job))
    with Stopwatch() as watch:
        done = run(settings_of(job, overwrite=True))
    lines = (done.folder / "metrics.jsonl").read_text().splitlines() if watch.steps else []
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    return watch.result(
        job,
        accuracy=done.metrics["accuracy"],
        loss=float(np.mean(losses)) if losses else None,
        **cost_of_texts(job),
    )


def predict(job: Job) -> Result:
    """Label texts with a saved model; the cosine is that of what enters its output layer.

    The model is a probe of the last layer, so that its encoder is still the one that peers have.
    """
    need(*MODULES)
    import nlp_transfer
    from nlp_transfer.data.batches import Columns
    from nlp_transfer.data.tokens import encode
    from nlp_transfer.running.run import adapt as run
    from nlp_transfer.training import inference

    settings = settings_of(job, **{"data.train_limit": 2 * ENCODE_BATCH, "encoder.layers": "last"})
    predictor = nlp_transfer.load(run(settings).folder)
    texts = texts_of(job["data"], "train")
    predictor.predict(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        predictor.predict(texts)
    result = watch.result(job, **cost_of_texts(job))
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
