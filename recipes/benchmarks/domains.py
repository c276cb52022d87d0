"""What texts of another domain, without labels, are worth to a model that is to be used there.

    python recipes/benchmarks/domains.py DATA_FOLDER [--pairs books:kitchen imdb:electronics ...] [--methods coral ...]
        [--seeds 3] [--epochs 3] [--length 256] [--words strategy.freeze_layers=3] [--results FILE]

DATA_FOLDER/reviews holds one folder a domain with train, validation and test files. MiniLM is fine-tuned on the
training rows of the first domain of a pair, weights are kept and outputs calibrated by its validation rows, and the
accuracy is of the test rows of the second one, of whose training rows the texts alone are read. "source only" does not
read these; "self-training" learns from what that model answers to them; "tapt" models the language of both first. No
figure of the second domain chooses anything. "gain" is the difference to source only, with a 95 % interval by Student's
t over pairs and seeds. "chosen" takes of every pair and seed the method whose answers to those texts carry the most
information (`evaluation/information.py`), which needs no label of theirs.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept

FAR = ("books:kitchen", "imdb:electronics", "electronics:books", "kitchen:imdb")
NEAR = ("electronics:kitchen", "books:dvd")
ALONE, TAUGHT, CHOSEN = "source only", "self-training", "chosen"
WORDS: dict[str, list[str]] = {
    ALONE: [],
    **{name: [f"objective={name}"] for name in ("coral", "mmd", "dann", "cdan", "mcc")},
    "mcc, weight .3": ["objective=mcc", "objective.mcc.weight=0.3"],
    TAUGHT: ["objective=distill"],
    "tapt": ["pretraining.epochs=3"],
}
OWN = [
    "data=files",
    "strategy=finetune",
    "verify=false",
    "report.write=false",
    "evaluation.floors=false",
    "evaluation.source_only=false",
]


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", nargs="+", default=[*FAR, *NEAR], help="source:target")
    parser.add_argument("--methods", nargs="+", default=list(WORDS), choices=list(WORDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--length", type=int, default=256, help="tokens of a text that are read")
    parser.add_argument("--words", nargs="*", default=[], help="key=value words of all trainings")
    parser.add_argument("--results", type=Path, default=Path("domains.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    methods = list(dict.fromkeys([ALONE, *arguments.methods]))
    lines = []
    for seed in range(arguments.seeds):
        for pair in arguments.pairs:
            own = {"pair": pair, "seed": seed, "epochs": arguments.epochs, "length": arguments.length}
            own["words"] = arguments.words
            wanted = [own | {"method": method} for method in methods]
            missing = kept.missing(wanted)
            for found in measured(arguments.data / "reviews", missing) if missing else ():
                kept.add(found)
            lines += kept.of(wanted)
    show(arguments.pairs, methods, lines)


def measured(reviews: Path, wanted: list[dict[str, Any]]) -> Any:
    """Yield what every method comes to for one pair and seed."""
    from nlp_transfer.config import compose
    from nlp_transfer.run import adapt

    source, _, target = wanted[0]["pair"].partition(":")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        divide(reviews / source, reviews / target, folder)
        teacher = None

        def trained(asked: dict[str, Any], words: list[str]) -> Any:
            own = [f"data.path={folder / 'rows'}", f"output={folder / 'runs'}", f"seed={asked['seed']}"]
            limits = [f"training.epochs={asked['epochs']}", f"tokens.max_length={asked['length']}"]
            return adapt(compose(None, [*OWN, *own, *limits, *asked["words"], *words]))

        for asked in wanted:
            method, words = asked["method"], list(WORDS[asked["method"]])
            began = time.process_time()
            if method == TAUGHT:
                teacher = teacher or trained(asked, WORDS[ALONE])
                words.append(f"objective.distill.teacher={teacher.folder}")
            run = trained(asked, words if method == ALONE else [*words, f"data.unlabelled={folder / 'texts.csv'}"])
            if method == ALONE:
                teacher = run
            seconds = round(time.process_time() - began, 1)
            found = {"accuracy": run.metrics["accuracy"], "information": told(run, folder / "texts.csv")}
            yield asked | {name: round(value, 4) for name, value in found.items()} | {"seconds": seconds}


def divide(source: Path, target: Path, folder: Path) -> None:
    """Write training and validation rows of one domain, test rows of another, and the texts of its training rows."""
    rows = folder / "rows"
    rows.mkdir()
    for split, of in (("train", source), ("validation", source), ("test", target)):
        shutil.copyfile(of / f"{split}.csv", rows / f"{split}.csv")
    with (target / "train.csv").open(encoding="utf-8", newline="") as lines:
        texts = [row["text"] for row in csv.DictReader(lines)]
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([["text"], *([text] for text in texts)])


def told(run: Any, texts: Path) -> float:
    """Return the information that answers to texts carry."""
    from nlp_transfer.evaluation.information import information

    with texts.open(encoding="utf-8", newline="") as lines:
        asked = [row["text"] for row in csv.DictReader(lines)]
    return information(run.predictor.record.task, run.predictor.logits(asked))


def show(pairs: list[str], methods: list[str], lines: list[dict[str, Any]]) -> None:
    """Print the mean of every pair and method, and what each method gains."""
    found: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    surest: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        key = line["pair"], line["seed"]
        found[line["method"]][key] = line["accuracy"]
        surest[key] = max(surest.get(key, line), line, key=lambda each: each["information"])
    found[CHOSEN] = {key: line["accuracy"] for key, line in surest.items()}
    methods = [*methods, CHOSEN]
    print(f"| source:target | {' | '.join(methods)} |\n|---{'|---' * len(methods)}|")
    for pair in pairs:
        means = [np.mean([of for (name, _), of in found[method].items() if name == pair]) for method in methods]
        print(f"| {pair} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    for kind, of_kind in (("far pairs", FAR), ("all", pairs)):
        cells = []
        for method in methods:
            gains = np.array([of - found[ALONE][key] for key, of in found[method].items() if key[0] in of_kind])
            cells.append("" if method == ALONE else paired(gains) if len(gains) else "–")
        print(f"| gain, {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
