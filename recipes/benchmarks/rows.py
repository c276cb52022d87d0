"""How time and memory grow with many short rows: a probe on cached features, and a file that is labelled.

    python recipes/benchmarks/rows.py DATA_FOLDER [--rows 10000 100000 1000000] [--dataset sst2] [--depth 0]
        [--processes 1] [--characters 60] [--results rows.jsonl] [--picture rows.svg]

DATA_FOLDER holds one folder a data set with a train file. From its texts, cut to --characters, so many rows are made,
each with a number before it, so that no two are the same. The command line adapts a probe to them (an encoder of
--depth layers of MiniLM: 0 is its embeddings alone, for the sake of time; all else is as it comes, TF-IDF floor and
report included) and labels the same file, each with an empty cache in processes of its own. Memory is read twice a
second: "anonymous" is what the processes hold themselves; the rest of "resident" is files that are mapped, which the
system takes back where it needs room. Of several processes it is the sum. The last lines say what ten times the most
rows would take: ten times the seconds, and the memory if each further row took what one took between the two largest
numbers of rows, which a TF-IDF floor does not once it reads as much as it may. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.kept import Kept, Line

ROOT = Path(__file__).parents[2]
STEPS = ("adapt", "predict")
EVERY = 0.5  # seconds


def main(words: list[str] | None = None) -> None:
    """Measure what is missing, draw it, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dataset", default="sst2")
    parser.add_argument("--depth", type=int, default=0, help="layers of the encoder")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--characters", type=int, default=60, help="of a text, at most")
    parser.add_argument("--results", type=Path, help="JSON lines; what is there is not measured again")
    parser.add_argument("--picture", type=Path, help="file to draw memory over time into, .svg or .png")
    arguments = parser.parse_args(words)
    kept, found = Kept(arguments.results), []
    for rows in sorted(arguments.rows):
        named = ("dataset", "depth", "processes", "characters")
        asked = {"rows": rows, "code": machine.code("ours")} | {name: getattr(arguments, name) for name in named}
        found.append(kept.find(asked) or kept.add(asked | measure(arguments, rows)))
    print(machine.heading() + "\n")
    show(found)
    if arguments.picture:
        draw(found, arguments.picture)


def measure(arguments: argparse.Namespace, rows: int) -> Line:
    """Return the figures of both steps for so many rows."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        path, cache = home / "rows.csv", home / "cache"
        make(arguments.data / arguments.dataset / "train.csv", path, rows, arguments.characters)
        adapt = ["adapt", "data=files", f"data.path={path}", "strategy=probe", f"encoder.depth={arguments.depth}"]
        adapt += [f"output={home / 'runs'}", f"cache.folder={cache}"]
        done = {"adapt": watched(adapt, arguments.processes)}
        for entry in cache.glob("*/entry.json"):
            about = json.loads(entry.read_text())
            spent = done["adapt"].setdefault("parts", {})
            spent[about["what"]] = round(spent.get(about["what"], 0) + about["seconds"], 1)
        (run,) = (home / "runs").iterdir()
        predict = ["predict", str(run), str(path), f"predict.output={home / 'labelled.csv'}"]
        done["predict"] = watched(predict, arguments.processes)
        with (home / "labelled.csv").open(newline="", encoding="utf-8") as file:
            assert sum(1 for _ in csv.reader(file)) == rows + 1
    return done


def make(source: Path, path: Path, rows: int, characters: int) -> None:
    """Write rows of texts that are all different."""
    with source.open(newline="", encoding="utf-8") as file:
        given = [(row["text"][:characters], row["label"]) for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        for number in range(rows):
            text, label = given[number % len(given)]
            writer.writerow([f"{number} {text}", label])


def watched(words: list[str], processes: int) -> dict[str, Any]:
    """Run a command line; return how long it took and the memory of its processes, in MB, at every moment."""
    command = [sys.executable, "-m", "nlp_transfer", *words]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*launcher, *command[1:]]
    curve: list[tuple[float, float, float]] = []
    began = time.monotonic()
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as running:
        ended = threading.Event()

        def watch() -> None:
            over = False
            while not over:  # once at least, however soon it is
                anonymous, resident = map(sum, zip(*map(memory, family(running.pid)), strict=True))
                curve.append((round(time.monotonic() - began, 1), round(anonymous), round(resident)))
                over = ended.wait(EVERY)

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = running.wait()
        ended.set()
        watcher.join()
    if status:
        raise SystemExit(f"{' '.join(words[:2])} ended with status {status}")
    peaks = {name: max(point[place] for point in curve) for place, name in ((1, "anonymous"), (2, "resident"))}
    return {"seconds": round(time.monotonic() - began, 1), **peaks, "curve": curve}


def family(pid: int) -> Iterator[int]:
    """Yield a process and those that it has started."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def memory(pid: int) -> tuple[float, float]:
    """Return the anonymous and the resident memory of a process in MB; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    told = {name: value for name, _, value in (line.partition(":") for line in lines)}
    found = [int(told.get(name, "0 kB").split()[0]) * 1024 / 1e6 for name in ("RssAnon", "VmRSS")]
    return found[0], found[1]


def show(found: list[Line]) -> None:
    """Print the table; below it what ten times as many rows would take."""
    print("| rows | step | seconds | rows/s | anonymous MB | resident MB | of these seconds |")
    print("|---" * 7 + "|")
    for line in found:
        for step in STEPS:
            own = line[step]
            parts = ", ".join(f"{name} {seconds:g}" for name, seconds in sorted(own.get("parts", {}).items()))
            print(_row(f"{line['rows']:,}", step, own, line["rows"], parts))
    if len(found) < 2:
        return
    less, most = found[-2:]
    for step in STEPS:
        further = (9 * most["rows"]) / (most["rows"] - less["rows"])
        guessed = {
            name: most[step][name] + further * max(0, most[step][name] - less[step][name])
            for name in ("anonymous", "resident")
        }
        guessed["seconds"] = 10 * most[step]["seconds"]
        print(_row(f"{10 * most['rows']:,} (guessed)", step, guessed, 10 * most["rows"], ""))


def _row(rows: str, step: str, own: dict[str, Any], count: int, parts: str) -> str:
    figures = own["seconds"], count / own["seconds"], own["anonymous"], own["resident"]
    return f"| {rows} | {step} | {' | '.join(f'{figure:,.0f}' for figure in figures)} | {parts} |"


def draw(found: list[Line], path: Path) -> None:
    """Draw the memory of both steps over time, a line for each number of rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for place, (step, axes) in enumerate(zip(STEPS, figure.subplots(1, 2, sharey=True), strict=True)):
        for number, line in enumerate(found):
            seconds, anonymous, resident = zip(*line[step]["curve"], strict=True)
            label = f"{line['rows']:,} rows"
            axes.plot(seconds, anonymous, color=f"C{number}", label=label)
            axes.plot(seconds, resident, color=f"C{number}", linestyle=":", linewidth=1)
        axes.set(title=step, xlabel="seconds", ylim=(0, None))
        if not place:
            axes.set_ylabel("MB (dotted: with files that are mapped)")
            axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
