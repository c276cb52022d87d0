"""Methods of robust fine-tuning compared with plain fine-tuning on the same rows: test score and time.

    python recipes/benchmarks/robust.py DATA_FOLDER [--datasets trec cr ...] [--tricks rdrop l2sp ...] [--seeds 3]
        [--rows 500] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files; rows are drawn as in strategies.py.
Training takes three epochs. "gain" is the difference to plain fine-tuning in macro-F1, with a 95 % interval by
Student's t over data sets and seeds; "times" is the ratio of processor seconds. Methods that are settings of a run are
run as such; the others are implemented here: other training losses, the mean weights of three trainings (whose time
counts), and interpolation between the weights before and after training (WiSE-FT, its factor by validation rows).

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from nlp_transfer.encoder.classifier import forward
from nlp_transfer.objectives.objective import Objective, Step
from nlp_transfer.running import learning
from recipes.benchmarks.strategies import draw_splits, make_settings
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

PLAIN, METRIC = "plain", "macro_f1"
DATASETS = ("trec", "cr", "tweet_emotion", "banking77")
SETTINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "layer decay .9": {"strategy.layer_decay": 0.9},
    "top layer anew": {"strategy.reinit_layers": 1},
    "moving average .99": {"training.ema": 0.99},
    "smoothing .1": {"objective.classify.label_smoothing": 0.1},
    "balanced": {"data.class_weights": "balanced"},
    "head last": {"strategy.head_last": True},
    "texts compared": {"objective": "contrast", "objective.classify.weight": 1.0, "objective.contrast.weight": 0.5},
}


class RDrop(Step):
    """R-Drop (Liang et al. 2021, arXiv 2106.14448), weight 1: two passes with different dropout should agree."""

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        first, second = (forward(self.model, batch) for _ in range(2))
        losses = sum(self.objective(outputs, batch, progress) for outputs in (first, second)) / 2
        p, q = (outputs.logits.float().log_softmax(-1) for outputs in (first, second))
        divergence = ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
        return (batch["weights"] * (losses + divergence)).sum()


class Anchored(Step):
    """L2-SP (Li et al. 2018, arXiv 1802.01483), weight .005: squared distance to the weights before training."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__(model, objective)
        self.start: dict[str, Tensor] = {}

    def anchors(self) -> dict[str, Tensor]:
        """Return the weights before training, copied in the first step, after unused embeddings are left out."""
        if not self.start:
            self.start = copy_weights(dict(self.model.named_parameters()))
        return self.start

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        weights = dict(self.model.named_parameters())
        distance = sum((weights[name] - start).square().sum() for name, start in self.anchors().items())
        return super().forward(batch, progress) + batch["weights"].sum() * 0.005 * distance


class Mixout(Anchored):
    """Mixout (Lee et al. 2020, arXiv 1909.11299): in each step, weights are those before training with p = .5."""

    share = 0.5

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        weights, mixed = dict(self.model.named_parameters()), {}
        for name, start in self.anchors().items():
            if start.dim() > 1:
                replaced = torch.where(torch.rand_like(start) < self.share, start, weights[name])
                mixed[f"model.{name}"] = (replaced - self.share * start) / (1 - self.share)
        return functional_call(Step(self.model, self.objective), mixed, (batch, progress))


class Perturbed(Step):
    """FGM (Miyato et al. 2017, arXiv 1605.07725): a second pass with adversarially perturbed embeddings."""

    size = 0.1  # norm of the perturbation relative to the mean norm of the embeddings

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        table, outputs = self.model.get_input_embeddings(), []
        hook = table.register_forward_hook(lambda module, ids, embeddings: outputs.append(embeddings))
        loss = super().forward(batch, progress)
        hook.remove()
        (gradient,) = torch.autograd.grad(loss, outputs[0], retain_graph=True)
        norm, gradient_norm = (each.norm(dim=-1, keepdim=True).mean() for each in (outputs[0].detach(), gradient))
        perturbation = self.size * norm / gradient_norm.clamp(min=1e-12) * gradient
        hook = table.register_forward_hook(lambda module, ids, embeddings: embeddings + perturbation)
        perturbed_loss = super().forward(batch, progress)
        hook.remove()
        return (loss + perturbed_loss) / 2


class Focal(Step):
    """Focal loss (Lin et al. 2017, arXiv 1708.02002): cross-entropy times (1 - p)², p that of the true class."""

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        losses = F.cross_entropy(forward(self.model, batch).logits.float(), batch["targets"], reduction="none")
        return (batch["weights"] * losses * (1 - (-losses).exp()).square()).sum()


class Adjusted(Step):
    """Logit adjustment (Menon et al. 2021, arXiv 2007.07314): cross-entropy of logits plus log class frequencies."""

    shares: Tensor  # class frequencies of the training rows, set for each run

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        logits = forward(self.model, batch).logits.float() + self.shares.log()
        return (batch["weights"] * F.cross_entropy(logits, batch["targets"], reduction="none")).sum()


LOSSES = {
    "R-Drop": RDrop,
    "L2-SP": Anchored,
    "mixout": Mixout,
    "perturbed": Perturbed,
    "focal": Focal,
    "logits adjusted": Adjusted,
}
WISE, SOUP = "WiSE-FT", "soup of three"
TRICKS = (*SETTINGS, *LOSSES, WISE, SOUP)  # names in the results file


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--tricks", nargs="+", default=list(TRICKS), choices=TRICKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("robust.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    jobs = [
        {"dataset": dataset, "rows": arguments.rows, "seed": seed, "trick": trick}
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for trick in dict.fromkeys([PLAIN, *arguments.tricks])
    ]
    for job in results.missing(jobs):
        results.add(job | measure(arguments.data / job["dataset"], arguments.rows, job["seed"], job["trick"]))
    show(arguments, results.select(jobs))


def measure(source: Path, rows: int, seed: int, trick: str) -> dict[str, float]:
    """Train with a method; return its test scores and processor seconds."""
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_splits(source, folder, rows=rows, seed=seed)
        started, trainings = time.process_time(), 3 if trick == SOUP else 1
        with patched(trick):
            for training in range(trainings):
                settings = make_settings("trec", "finetune", seed + 100 * training, folder, SETTINGS.get(trick))
                metrics = adapt(settings).metrics
        seconds = time.process_time() - started
    return {name: round(metrics[name], 4) for name in (METRIC, "accuracy")} | {"seconds": round(seconds, 1)}


@contextmanager
def patched(trick: str) -> Iterator[None]:
    """Make the runs of a block use a method that is not a setting."""
    step, train = learning.Step, learning._train
    trained: list[dict[str, Tensor]] = []

    def patched_train(prepared: Any, *others: Any) -> Any:
        targets = prepared.corpus.splits["train"].targets
        counts = torch.bincount(torch.from_numpy(targets), minlength=prepared.corpus.task.outputs)
        Adjusted.shares = counts / len(targets)
        weights = dict(prepared.classifier.model.named_parameters())
        before = copy_weights(weights)
        trajectory = train(prepared, *others)
        trained.append(copy_weights(weights))
        if trick == WISE:
            interpolate(prepared, weights, before, trained[-1])
        if trick == SOUP:  # of the trainings so far
            set_weights(weights, {name: torch.stack([own[name] for own in trained]).mean(0) for name in weights})
        return trajectory

    learning.Step, learning._train = LOSSES.get(trick, step), patched_train
    try:
        yield
    finally:
        learning.Step, learning._train = step, train


def copy_weights(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return a copy of the weights."""
    return {name: p.detach().clone() for name, p in weights.items()}


def set_weights(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Set the weights to values."""
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(values[name])


def interpolate(
    prepared: Any, weights: dict[str, nn.Parameter], before: dict[str, Tensor], after: dict[str, Tensor]
) -> None:
    """Set the interpolation with the best validation score (WiSE-FT; Wortsman et al. 2022, arXiv 2109.01903)."""
    from nlp_transfer.evaluation.metrics import compute

    validation, task = prepared.corpus.splits["validation"], prepared.corpus.task

    def set_and_score(share: float) -> float:
        set_weights(weights, {name: before[name].lerp(after[name], share) for name in weights})
        return compute(task, prepared.outputs("validation"), validation.targets, validation.weights)[METRIC]

    set_and_score(max((1.0, 0.75, 0.5, 0.25), key=set_and_score))


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print the mean score of every method and data set, and the gain and the time of each method."""
    by_trick: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(dict)
    for line in lines:
        by_trick[line["trick"]][line["dataset"], line["seed"]] = line
    print(markdown_header(["trick", *arguments.datasets, "gain", "times"]))
    plain = by_trick[PLAIN]
    for trick in dict.fromkeys([PLAIN, *arguments.tricks]):
        own = by_trick[trick]
        cells = [
            f"{np.mean([line[METRIC] for (name, _), line in own.items() if name == dataset]):.3f}"
            for dataset in arguments.datasets
        ]
        gains = np.array([line[METRIC] - plain[key][METRIC] for key, line in own.items()])
        times = np.median([line["seconds"] / plain[key]["seconds"] for key, line in own.items()])
        gain = "" if trick == PLAIN else paired_difference(gains)
        print(markdown_row([trick, *cells, gain, f"{times:.2f}"]))


if __name__ == "__main__":
    main()
