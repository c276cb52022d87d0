"""Whether tricks of robust fine-tuning are worth their time: each beside plain fine-tuning on the same rows.

    python recipes/benchmarks/robust.py DATA_FOLDER [--datasets trec cr ...] [--tricks rdrop l2sp ...] [--seeds 3]
        [--rows 500] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files; rows are drawn as in strategies.py. Three
passes over the training rows; "gain" is the difference to plain fine-tuning in macro-F1, which sees to rare classes
too, with a 95 % interval by Student's t over data sets and seeds; "times" compares process CPU time. Tricks that are
settings of a run are run as such; the others stand here alone: other losses of a step, the mean weights of three
trainings (their time counts), and weights between those before and after training, as far back as validation rows say.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
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
from recipes.benchmarks.strategies import draw, settings_of
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept

PLAIN, FIGURE = "plain", "macro_f1"
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
    """Two passes with other dropout, which should agree (Liang et al. 2021, arXiv 2106.14448), at weight 1."""

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        first, second = (forward(self.model, batch) for _ in range(2))
        losses = sum(self.objective(outputs, batch, progress) for outputs in (first, second)) / 2
        p, q = (outputs.logits.float().log_softmax(-1) for outputs in (first, second))
        apart = ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
        return (batch["weights"] * (losses + apart)).sum()


class Anchored(Step):
    """Squared distance to the weights before training, at .005 (L2-SP; Li et al. 2018, arXiv 1802.01483)."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__(model, objective)
        self.start: dict[str, Tensor] = {}

    def anchors(self) -> dict[str, Tensor]:
        """Return the weights before training; asked in the first step, when words that never occur are away."""
        if not self.start:
            self.start = copied(dict(self.model.named_parameters()))
        return self.start

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        own = dict(self.model.named_parameters())
        far = sum((own[name] - start).square().sum() for name, start in self.anchors().items())
        return super().forward(batch, progress) + batch["weights"].sum() * 0.005 * far


class Mixout(Anchored):
    """Each weight is the one before training with probability .5 (Lee et al. 2020, arXiv 1909.11299)."""

    share = 0.5

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        own, mixed = dict(self.model.named_parameters()), {}
        for name, start in self.anchors().items():
            if start.dim() > 1:
                back = torch.rand_like(start) < self.share
                mixed[f"model.{name}"] = (torch.where(back, start, own[name]) - self.share * start) / (1 - self.share)
        return functional_call(Step(self.model, self.objective), mixed, (batch, progress))


class Perturbed(Step):
    """A second pass with embeddings moved to where the loss rises (FGM; Miyato et al. 2017, arXiv 1605.07725)."""

    size = 0.1  # of the step, as a share of the length of an embedding

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        table, seen = self.model.get_input_embeddings(), []
        hook = table.register_forward_hook(lambda module, words, out: seen.append(out))
        loss = super().forward(batch, progress)
        hook.remove()
        (slope,) = torch.autograd.grad(loss, seen[0], retain_graph=True)
        lengths = (each.norm(dim=-1, keepdim=True).mean() for each in (seen[0].detach(), slope))
        length, steepness = lengths
        step = self.size * length / steepness.clamp(min=1e-12) * slope
        hook = table.register_forward_hook(lambda module, words, out: out + step)
        moved = super().forward(batch, progress)
        hook.remove()
        return (loss + moved) / 2


class Focal(Step):
    """Cross-entropy times (1 - p)², p the chance of the true class (Lin et al. 2017, arXiv 1708.02002)."""

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a step."""
        losses = F.cross_entropy(forward(self.model, batch).logits.float(), batch["targets"], reduction="none")
        return (batch["weights"] * losses * (1 - (-losses).exp()).square()).sum()


class Adjusted(Step):
    """Cross-entropy of logits plus the log shares of the classes (Menon et al. 2021, arXiv 2007.07314)."""

    shares: Tensor  # set for each run

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
TRICKS = (*SETTINGS, *LOSSES, WISE, SOUP)


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--tricks", nargs="+", default=list(TRICKS), choices=TRICKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("robust.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    wanted = [
        {"dataset": dataset, "rows": arguments.rows, "seed": seed, "trick": trick}
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for trick in dict.fromkeys([PLAIN, *arguments.tricks])
    ]
    for asked in kept.missing(wanted):
        kept.add(asked | measure(arguments.data / asked["dataset"], arguments.rows, asked["seed"], asked["trick"]))
    show(arguments, kept.of(wanted))


def measure(source: Path, rows: int, seed: int, trick: str) -> dict[str, float]:
    """Return figures of the test rows and seconds."""
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(source, folder, rows=rows, seed=seed)
        began, trainings = time.process_time(), 3 if trick == SOUP else 1
        with changed(trick):
            for more in range(trainings):
                settings = settings_of("trec", "finetune", seed + 100 * more, folder, SETTINGS.get(trick))
                found = adapt(settings).metrics
        seconds = time.process_time() - began
    return {name: round(found[name], 4) for name in (FIGURE, "accuracy")} | {"seconds": round(seconds, 1)}


@contextmanager
def changed(trick: str) -> Iterator[None]:
    """Let runs have a trick that is no setting."""
    step, learn = learning.Step, learning._train
    gathered: list[dict[str, Tensor]] = []

    def anew(prepared: Any, *others: Any) -> Any:
        targets = prepared.corpus.splits["train"].targets
        Adjusted.shares = torch.bincount(torch.from_numpy(targets), minlength=prepared.corpus.task.outputs) / len(
            targets
        )
        weights = dict(prepared.classifier.model.named_parameters())
        before = copied(weights)
        trajectory = learn(prepared, *others)
        gathered.append(copied(weights))
        if trick == WISE:
            go_back(prepared, weights, before, gathered[-1])
        if trick == SOUP:  # of the trainings so far
            put(weights, {name: torch.stack([each[name] for each in gathered]).mean(0) for name in weights})
        return trajectory

    learning.Step, learning._train = LOSSES.get(trick, step), anew
    try:
        yield
    finally:
        learning.Step, learning._train = step, learn


def copied(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return what the weights are now."""
    return {name: p.detach().clone() for name, p in weights.items()}


def put(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Set the weights."""
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(values[name])


def go_back(
    prepared: Any, weights: dict[str, nn.Parameter], before: dict[str, Tensor], after: dict[str, Tensor]
) -> None:
    """Take the weights between that are best on validation (WiSE-FT; Wortsman et al. 2022, arXiv 2109.01903)."""
    from nlp_transfer.evaluation.metrics import compute

    held, task = prepared.corpus.splits["validation"], prepared.corpus.task

    def go(share: float) -> float:
        put(weights, {name: before[name].lerp(after[name], share) for name in weights})
        return compute(task, prepared.outputs("validation"), held.targets, held.weights)[FIGURE]

    go(max((1.0, 0.75, 0.5, 0.25), key=go))


def show(arguments: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    """Print the mean of every trick, and what it gains."""
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(dict)
    for line in lines:
        found[line["trick"]][line["dataset"], line["seed"]] = line
    print(
        f"| trick | {' | '.join(arguments.datasets)} | gain | times |\n|---{'|---' * len(arguments.datasets)}|---|---|"
    )
    for trick in dict.fromkeys([PLAIN, *arguments.tricks]):
        of, plain = found[trick], found[PLAIN]
        cells = [
            f"{np.mean([line[FIGURE] for (name, _), line in of.items() if name == dataset]):.3f}"
            for dataset in arguments.datasets
        ]
        gains = np.array([line[FIGURE] - plain[key][FIGURE] for key, line in of.items()])
        times = np.median([line["seconds"] / plain[key]["seconds"] for key, line in of.items()])
        print(f"| {trick} | {' | '.join(cells)} | {'' if trick == PLAIN else paired(gains)} | {times:.2f} |")


if __name__ == "__main__":
    main()
