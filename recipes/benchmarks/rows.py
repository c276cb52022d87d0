"""Time and memory of adapting a probe and of labelling a file, by number of short rows.

    python recipes/benchmarks/rows.py DATA_FOLDER [--rows 10000 100000 1000000] [--dataset sst2] [--depth 0]
        [--processes 1] [--characters 60] [--results rows.jsonl] [--picture rows.svg]

DATA_FOLDER has one folder per data set with a train file. Rows are made from its texts, cut to --characters, each with
a number in front so that no two are equal. The command line adapts a probe to them (on --depth layers of MiniLM; 0, the
embeddings alone, keeps the benchmark short; everything else has its default, with TF-IDF baseline and report) and then
labels the same file. Both commands run in processes of their own with an empty cache. Memory is sampled twice a second
and summed over the processes: "anonymous" is memory that the processes allocated; the rest of "resident" is mapped
files, which the system can evict. The last table rows extrapolate to ten times the largest number of rows: ten times
the seconds, and the memory per further row measured between the two largest numbers of rows. This is an upper bound,
because the TF-IDF baseline reads a limited number of characters. Linux only.
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
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import read_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

ROOT = Path(__file__).parents[2]
STEPS = ("adapt", "predict")
INTERVAL = 0.5  # seconds between two samples of memory


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, draw memory over time, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dataset", default="sst2")
    parser.add_argument("--depth", type=int, default=0, help="layers of the encoder")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--characters", type=int, default=60, help="maximum length of a text")
    parser.add_argument("--results", type=Path, help="JSON lines; measurements that it has are not repeated")
    parser.add_argument("--picture", type=Path, help="file to draw memory over time into, .svg or .png")
    arguments = parser.parse_args(argv)
    results, lines = ResultsFile(arguments.results), []
    for rows in sorted(arguments.rows):
        keys = ("dataset", "depth", "processes", "characters")
        job = {"rows": rows, "code": machine.code("ours")} | {key: getattr(arguments, key) for key in keys}
        lines.append(results.find(job) or results.add(job | measure(arguments, rows)))
    print(machine.heading() + "\n")
    show(lines)
    if arguments.picture:
        draw(lines, arguments.picture)


def measure(arguments: argparse.Namespace, rows: int) -> Line:
    """Return seconds, peak memory and memory over time of both steps."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path, cache = folder / "rows.csv", folder / "cache"
        write_distinct_rows(arguments.data / arguments.dataset / "train.csv", path, rows, arguments.characters)
        adapt = ["adapt", "data=files", f"data.path={path}", "strategy=probe", f"encoder.depth={arguments.depth}"]
        adapt += [f"output={folder / 'runs'}", f"cache.folder={cache}"]
        figures = {"adapt": run_command(adapt, arguments.processes)}
        for entry in cache.glob("*/entry.json"):
            computed = json.loads(entry.read_text())
            parts = figures["adapt"].setdefault("parts", {})
            parts[computed["what"]] = round(parts.get(computed["what"], 0) + computed["seconds"], 1)
        (run,) = (folder / "runs").iterdir()
        predict = ["predict", str(run), str(path), f"predict.output={folder / 'labelled.csv'}"]
        figures["predict"] = run_command(predict, arguments.processes)
        with (folder / "labelled.csv").open(newline="", encoding="utf-8") as file:
            assert sum(1 for _ in csv.reader(file)) == rows + 1
    return figures


def write_distinct_rows(source: Path, path: Path, rows: int, characters: int) -> None:
    """Write a CSV file of rows whose texts all differ, made from the rows of `source`."""
    examples = [(row["text"][:characters], row["label"]) for row in read_rows(source)]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        for number in range(rows):
            text, label = examples[number % len(examples)]
            writer.writerow([f"{number} {text}", label])


def run_command(words: list[str], processes: int) -> dict[str, Any]:
    """Run a command line; return its seconds, and the peak and the samples of its processes' memory in MB."""
    command = [sys.executable, "-m", "nlp_transfer", *words]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*launcher, *command[1:]]
    curve: list[tuple[float, float, float]] = []
    started = time.monotonic()
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as running:
        ended = threading.Event()

        def watch() -> None:
            over = False
            while not over:  # at least one sample, however short the command is
                anonymous, resident = map(sum, zip(*map(memory, process_tree(running.pid)), strict=True))
                curve.append((round(time.monotonic() - started, 1), round(anonymous), round(resident)))
                over = ended.wait(INTERVAL)

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = running.wait()
        ended.set()
        watcher.join()
    if status:
        raise SystemExit(f"{' '.join(words[:2])} ended with status {status}")
    peaks = {name: max(sample[column] for sample in curve) for column, name in ((1, "anonymous"), (2, "resident"))}
    return {"seconds": round(time.monotonic() - started, 1), **peaks, "curve": curve}


def process_tree(pid: int) -> Iterator[int]:
    """Yield the ids of a process and of all its descendants."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from process_tree(int(child))


def memory(pid: int) -> tuple[float, float]:
    """Return the anonymous and the resident memory of a process in MB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    status = {name: value for name, _, value in (line.partition(":") for line in lines)}
    anonymous, resident = (int(status.get(name, "0 kB").split()[0]) * 1024 / 1e6 for name in ("RssAnon", "VmRSS"))
    return anonymous, resident


def show(lines: list[Line]) -> None:
    """Print the table, then the extrapolation to ten times as many rows."""
    columns = ("rows", "step", "seconds", "rows/s", "anonymous MB", "resident MB", "of these seconds")
    print(markdown_header(columns))
    for line in lines:
        for step in STEPS:
            figures = line[step]
            parts = ", ".join(f"{name} {seconds:g}" for name, seconds in sorted(figures.get("parts", {}).items()))
            print(_row(f"{line['rows']:,}", step, figures, line["rows"], parts))
    if len(lines) < 2:
        return
    second, largest = lines[-2:]
    for step in STEPS:
        factor = (9 * largest["rows"]) / (largest["rows"] - second["rows"])
        estimate = {
            name: largest[step][name] + factor * max(0, largest[step][name] - second[step][name])
            for name in ("anonymous", "resident")
        }
        estimate["seconds"] = 10 * largest[step]["seconds"]
        print(_row(f"{10 * largest['rows']:,} (extrapolated)", step, estimate, 10 * largest["rows"], ""))


def _row(rows: str, step: str, figures: dict[str, Any], count: int, parts: str) -> str:
    values = figures["seconds"], count / figures["seconds"], figures["anonymous"], figures["resident"]
    return markdown_row([rows, step, *(f"{value:,.0f}" for value in values), parts])


def draw(lines: list[Line], path: Path) -> None:
    """Draw the memory of both steps over time, one line per number of rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for column, (step, axes) in enumerate(zip(STEPS, figure.subplots(1, 2, sharey=True), strict=True)):
        for number, line in enumerate(lines):
            seconds, anonymous, resident = zip(*line[step]["curve"], strict=True)
            label = f"{line['rows']:,} rows"
            axes.plot(seconds, anonymous, color=f"C{number}", label=label)
            axes.plot(seconds, resident, color=f"C{number}", linestyle=":", linewidth=1)
        axes.set(title=step, xlabel="seconds", ylim=(0, None))
        if column == 0:
            axes.set_ylabel("MB (dotted: with mapped files)")
            axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
