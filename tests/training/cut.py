"""A step over a few weighted rows, cut into forward passes of any size."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import encode, full_lengths, resolve_spec
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.objectives.objective import Objective, Step
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.settings import EncoderSettings, TokenSettings
from nlp_transfer.training.passes import Passes
from tests.encoder.families import TEXTS, tiny_encoder

PROBLEMS = ["single_label", "soft", "multi_label", "ordinal", "regression", "pair", "siamese", "chunk"]
CUTS = {"4+4": 4, "2+2+2+2": 2, "8 times 1": 1, "3+3+2": 3}


def parts(folder: Path, problem: str, examples: int) -> tuple[Step, Columns, Padding]:
    """A tiny model without dropout and `examples` weighted rows of unequal length; in `chunk` some are many windows."""
    generator = np.random.default_rng(0)
    kind = problem if problem in ("multi_label", "ordinal", "regression") else "single_label"
    labels = () if problem == "regression" else ("a", "b", "c")
    weights = (2.0, 1.0, 0.5) if problem == "multi_label" else None
    task = Task(kind, labels, problem in ("pair", "siamese"), weights)
    if not (folder / "tiny-bert").exists():
        tiny_encoder(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    alone = problem == "siamese"
    encoder = EncoderSettings(name=str(folder / "tiny-bert"), pairs="siamese" if alone else "auto")
    classifier = load_classifier(encoder, task, head="pooled" if alone else "native", seed=0)
    texts = [" ".join([TEXTS[i % len(TEXTS)]] * (1 + i % 3)) for i in range(examples)]
    pairs = [TEXTS[(i + 1) % len(TEXTS)] for i in range(examples)] if task.pair else None
    lengths = full_lengths(classifier.tokenizer, texts, pairs)
    cut = TokenSettings(long="chunk", max_length=8) if problem == "chunk" else TokenSettings()
    spec = resolve_spec(cut, lengths, limit=classifier.max_tokens, pair=task.pair)
    targets = {
        "ordinal": generator.integers(0, 3, examples),
        "soft": generator.dirichlet(np.ones(3), examples).astype(np.float32),
        "multi_label": generator.integers(0, 2, (examples, 3)).astype(np.float32),
        "regression": generator.normal(size=examples).astype(np.float32),
    }.get(problem, generator.integers(0, 3, examples))
    columns = Columns(
        encode(classifier.tokenizer, texts, pairs, spec, max_length=spec.max_length),
        targets,
        generator.uniform(0.2, 3, examples).astype(np.float32),  # example weights times class weights
    )
    classifier.model.eval()
    return Step(classifier.model, Objective({"classify": ClassifySettings()}, task)), columns, Padding(0, 0, False)


def loss_and_gradient(step: Step, columns: Columns, padding: Padding, *, size: int, accelerator: Accelerator):
    """Loss and gradient of one optimizer step over all rows, in forward passes of at most `size` examples a rank."""

    class Cuts(Passes):
        """Passes of equal size, whatever they cost."""

        def cut(self, examples: np.ndarray) -> list[np.ndarray]:
            mine = examples[accelerator.process_index :: accelerator.num_processes]
            return [mine[start : start + size] for start in range(0, len(mine), size)]

    wrapped = accelerator.prepare(step) if accelerator.num_processes > 1 else step
    step.zero_grad()
    passes = Cuts(accelerator, wrapped, columns, padding, None, 8192)
    loss = passes.accumulate(np.arange(len(columns)), 0.0, reseed=lambda: None)
    return loss, torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])
