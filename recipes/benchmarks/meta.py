"""What learning in episodes is worth for classes that come later, beside the frozen encoder and plain fine-tuning.

    python recipes/benchmarks/meta.py DATA_FOLDER [--datasets banking77 clinc_oos] [--methods protonet fomaml ...]
        [--seeds 3] [--ways 5] [--episodes 400] [--rows 100] [--epochs 2] [--length 48] [--results FILE]

DATA_FOLDER holds one folder a data set with a file of training rows; out-of-scope rows of clinc_oos are left out. For
each seed 30 % of the classes are held out and 15 % choose the weights. All are asked the same 600 episodes of the
classes held out, by prototypes of their features: MiniLM as it is ("frozen"), after meta-learning on the other classes,
and after plain fine-tuning on the rows of these ("supervised", on those that choose for the others, too). "gain" is the
difference to frozen, with a 95 % interval by Student's t over data sets and seeds.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept

FROZEN, SUPERVISED = "frozen", "supervised"
METHODS = (FROZEN, SUPERVISED, "protonet", "fomaml", "reptile")
OWN = ["data=files"]
ALONE = ["strategy=finetune", "verify=false", "report.write=false", "evaluation.floors=false", "data.test_share=0"]


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["banking77", "clinc_oos"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100, help="of a class at most")
    parser.add_argument("--epochs", type=float, default=2, help="of plain fine-tuning")
    parser.add_argument("--length", type=int, default=48, help="tokens of a text that are read")
    parser.add_argument("--results", type=Path, default=Path("meta.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    methods = [method for method in METHODS if method in {FROZEN, *arguments.methods}]
    wanted = [
        asked_for(arguments, dataset, seed, method)
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for method in methods
    ]
    for asked in kept.missing(wanted):
        kept.add(measured(arguments.data, asked))
    show(methods, kept.of(wanted))


def asked_for(arguments: argparse.Namespace, dataset: str, seed: int, method: str) -> dict[str, Any]:
    """Return what is to be measured, with all that it hangs on and nothing else."""
    names = ["ways", "shots", "queries", "rows", "length"]
    names += {FROZEN: [], SUPERVISED: ["epochs"]}.get(method, ["episodes"])
    return {"dataset": dataset, "seed": seed, "method": method, **{name: getattr(arguments, name) for name in names}}


def measured(data: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what a method comes to on the classes held out."""
    from nlp_transfer.config import compose
    from nlp_transfer.meta.rows import rows_of
    from nlp_transfer.meta.run import meta_learn
    from nlp_transfer.terminal.console import Screen

    screen, method = Screen(quiet=True), asked["method"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = written(data / asked["dataset"] / "train.csv", folder / "rows.csv", asked)
        words = [*OWN, f"data.path={folder / 'rows.csv'}", "data.test_share=0.01", f"output={folder / 'runs'}"]
        words += [f"seed={asked['seed']}", f"tokens.max_length={asked['length']}"]
        words += [f"meta.{name}={asked[name]}" for name in ("ways", "shots", "queries", "episodes") if name in asked]
        learns = method not in (FROZEN, SUPERVISED)
        settings = compose(None, words + [f"meta.method={method}"] * learns)
        corpus, division = rows_of(settings, screen)
        began = time.process_time()
        if learns:
            gains = meta_learn(settings, corpus, division, screen).outcome.gains
            accuracy = {str(gain.shots): gain.learned.value for gain in gains}
        else:
            if method == SUPERVISED:
                base = {corpus.task.labels[each] for each in (*division.train, *division.validation)}
                made = str(supervised(folder, rows, base, asked))
                encoder = dataclasses.replace(settings.encoder, name=made, package=None, sha256=None)
                settings = dataclasses.replace(settings, encoder=encoder)
            accuracy = by_prototypes(settings, corpus, division)
        seconds = round(time.process_time() - began, 1)
    return asked | {"accuracy": {shots: round(value, 4) for shots, value in accuracy.items()}, "seconds": seconds}


def written(source: Path, target: Path, asked: dict[str, Any]) -> list[dict[str, str]]:
    """Write so many rows of every class, drawn by the seed, and return them."""
    with source.open(encoding="utf-8", newline="") as lines:
        rows = [{"text": row["text"], "label": row["label"]} for row in csv.DictReader(lines) if row["label"] != "oos"]
    order, kept, counts = np.random.default_rng(asked["seed"]).permutation(len(rows)), [], dict[str, int]()
    for place in order.tolist():
        label = rows[place]["label"]
        if counts.setdefault(label, 0) < asked["rows"]:
            counts[label] += 1
            kept.append(rows[place])
    write(target, kept)
    return kept


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as a file."""
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["text", "label"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def supervised(folder: Path, rows: list[dict[str, str]], base: set[str], asked: dict[str, Any]) -> Path:
    """Fine-tune on the rows of the classes that are not held out; return the folder of the run."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    write(folder / "base.csv", [row for row in rows if row["label"] in base])
    words = [*OWN, *ALONE, f"data.path={folder / 'base.csv'}", f"output={folder / 'runs'}", f"seed={asked['seed']}"]
    limits = [f"training.epochs={asked['epochs']}", f"tokens.max_length={asked['length']}"]
    return adapt(compose(None, [*words, *limits])).folder


def by_prototypes(settings: Any, corpus: Any, division: Any) -> dict[str, float]:
    """Return the accuracy of the prototypes of an encoder as it is, by number of shots."""
    from nlp_transfer.meta.episodes import rows_of_classes
    from nlp_transfer.meta.measuring import held_out_episodes, query_accuracy
    from nlp_transfer.meta.run import learning
    from nlp_transfer.running.preparation import prepare

    own = settings.meta
    prepared = prepare(learning(settings), corpus, Path(settings.output))
    rows = rows_of_classes(prepared.columns["train"], division.test)
    features = prepared.feature_cache.now(rows)
    return {
        str(asked.shots): float(query_accuracy(features, asked, count=own.measured, distance=own.distance).mean())
        for asked in held_out_episodes(rows, division.test, own, seed=settings.seed)
    }


def show(methods: list[str], found: list[dict[str, Any]]) -> None:
    """Print the mean of every data set and method, what each method gains, and what it takes."""
    values = {(line["dataset"], line["seed"], line["method"]): line for line in found}
    datasets = list(dict.fromkeys(line["dataset"] for line in found))
    seeds = sorted({line["seed"] for line in found})
    print(f"| data set | shots | {' | '.join(methods)} |\n|---|---{'|---' * len(methods)}|")
    kinds = sorted({shots for line in found for shots in line["accuracy"]}, key=int)
    for dataset in datasets:
        for shots in kinds:
            means = [
                np.mean([values[dataset, seed, method]["accuracy"][shots] for seed in seeds]) for method in methods
            ]
            print(f"| {dataset} | {shots} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    for shots in kinds:
        cells = []
        for method in methods:
            own, frozen = (
                np.array([values[dataset, seed, of]["accuracy"][shots] for dataset in datasets for seed in seeds])
                for of in (method, FROZEN)
            )
            cells.append("" if method == FROZEN else paired(own - frozen))
        print(f"| gain | {shots} | {' | '.join(cells)} |")
    seconds = [np.mean([line["seconds"] for line in found if line["method"] == method]) for method in methods]
    print(f"| processor seconds | | {' | '.join(f'{each:.0f}' for each in seconds)} |")


if __name__ == "__main__":
    main()
