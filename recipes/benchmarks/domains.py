"""What texts of another domain, without labels, are worth to a model that is to be used there.

    python recipes/benchmarks/domains.py DATA_FOLDER [--pairs books:kitchen imdb:electronics ...] [--methods coral ...]
        [--seeds 3] [--epochs 3] [--length 256] [--words strategy.freeze_layers=3] [--results FILE]

DATA_FOLDER/reviews holds one folder a domain with train, validation and test files. MiniLM is fine-tuned on the
training rows of the first domain of a pair, weights are kept and outputs calibrated by its validation rows, and the
accuracy is of the test rows of the second one, of whose training rows the texts alone are read. "source only" does not
read these; "self-training" learns from what that model answers to them; "tapt" models the language of both first. No
figure of the second domain chooses anything. "gain" is the difference to source only, with a 95 % interval by Student's
t over pairs and seeds. Two figures of the answers to those texts need no label of theirs: how much they tell
(`evaluation/information.py`), and how well they lead back to the first domain's labels
(`evaluation/reverse_validation.py`).
"most told" takes of every pair and seed the method with the most of the former, "not worse back" the one that tells
most of those that lead back as well as source only does, but for .07, as the guard of a run has it.

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
ALONE, TAUGHT = "source only", "self-training"
MOST, BACK = "most told", "not worse back"
LOST = 0.07
WORDS: dict[str, list[str]] = {
    ALONE: [],
    **{name: [f"objective={name}"] for name in ("coral", "mmd", "dann", "cdan", "mcc")},
    "mcc, weight 1": ["objective=mcc", "objective.mcc.weight=1"],
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
    from nlp_transfer.running.run import adapt

    source, _, target = wanted[0]["pair"].partition(":")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        divide(reviews / source, reviews / target, folder)
        teacher = None
        texts = folder / "texts.csv"

        def trained(asked: dict[str, Any], words: list[str]) -> Any:
            own = [f"data.path={folder / 'rows'}", f"output={folder / 'runs'}", f"seed={asked['seed']}"]
            limits = [f"training.epochs={asked['epochs']}", f"tokens.max_length={asked['length']}"]
            return adapt(compose(None, [*OWN, *own, *limits, *asked["words"], *words]))

        own = [f"data.path={folder / 'rows'}", f"data.unlabelled={texts}", "objective=coral"]
        limits = [
            f"seed={wanted[0]['seed']}",
            f"tokens.max_length={wanted[0]['length']}",
            "evaluation.source_only=false",
        ]
        sides = sides_of(compose(None, [*OWN, *own, *limits, *wanted[0]["words"]]))
        for asked in wanted:
            method, words = asked["method"], list(WORDS[asked["method"]])
            began = time.process_time()
            if method == TAUGHT:
                teacher = teacher or trained(asked, WORDS[ALONE])
                words.append(f"objective.distill.teacher={teacher.folder}")
            run = trained(asked, words if method == ALONE else [*words, f"data.unlabelled={texts}"])
            if method == ALONE:
                teacher = run
            seconds = round(time.process_time() - began, 1)
            found = {"accuracy": run.metrics["accuracy"], **told(run, texts, *sides)}
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


def sides_of(settings: Any) -> tuple[Any, np.ndarray]:
    """Return what is known before anything learns, and the texts of the other domain that are asked about."""
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.domains.distance import measure_domain_gap
    from nlp_transfer.evaluation.reverse_validation import DomainFeatures
    from nlp_transfer.running.preparation import prepare
    from nlp_transfer.terminal.console import Screen

    corpus = load_corpus(settings.data, seed=settings.seed)
    with tempfile.TemporaryDirectory() as nowhere:
        sides = measure_domain_gap(prepare(settings, corpus, Path(nowhere)), Screen(quiet=True))
    assert sides is not None
    source, target = sides.features
    return DomainFeatures(source, corpus.splits["train"].targets[sides.rows], target), sides.texts


def told(run: Any, texts: Path, known: Any, chosen: np.ndarray) -> dict[str, float]:
    """Return the information that answers to texts carry, and how well those to the chosen ones lead back."""
    from nlp_transfer.evaluation.information import mutual_information
    from nlp_transfer.evaluation.reverse_validation import reverse_accuracy

    with texts.open(encoding="utf-8", newline="") as lines:
        asked = [row["text"] for row in csv.DictReader(lines)]
    task, logits = run.predictor.record.task, run.predictor.logits(asked)
    back = reverse_accuracy(task, logits[chosen], known, seed=0).mean()
    return {"information": mutual_information(task, logits), "back": float(back)}


def show(pairs: list[str], methods: list[str], lines: list[dict[str, Any]]) -> None:
    """Print the mean of every pair and method, and what each method and each way to choose one gains."""
    found: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    tried: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        key = line["pair"], line["seed"]
        found[line["method"]][key] = line["accuracy"]
        tried[key].append(line)
    for key, each in tried.items():
        surest = sorted(each, key=lambda line: line["information"], reverse=True)
        found[MOST][key] = surest[0]["accuracy"]
        asked = [line for line in surest if line.get("back") is not None]  # some were measured before that was
        alone = next((line["back"] for line in asked if line["method"] == ALONE), None)
        if alone is not None:
            found[BACK][key] = next(line["accuracy"] for line in asked if line["back"] >= alone - LOST)
    methods = [*methods, MOST, BACK]
    print(f"| source:target | {' | '.join(methods)} |\n|---{'|---' * len(methods)}|")
    for pair in pairs:
        each = [[of for (name, _), of in found[method].items() if name == pair] for method in methods]
        print(f"| {pair} | {' | '.join(f'{np.mean(of):.3f}' if of else '–' for of in each)} |")
    for kind, of_kind in (("far pairs", FAR), ("all", pairs)):
        cells = []
        for method in methods:
            gains = np.array([of - found[ALONE][key] for key, of in found[method].items() if key[0] in of_kind])
            cells.append("" if method == ALONE else paired(gains) if len(gains) else "–")
        print(f"| gain, {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
