"""The tables of recipes/benchmarks from given results, and that results are not measured twice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.benchmarks import precision, speed, worlds
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.bench import ROOT, Bench
from recipes.benchmarks.timing.figures import GOALS, METHODS, Figures
from recipes.benchmarks.timing.growth import Growth, growths, jobs
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import print_table
from recipes.benchmarks.timing.texts import DATASETS, SPLITS, job_folder, read_pairs
from recipes.benchmarks.timing.works import GROUPS, OURS, Goal, Work, works

GEMM = {"fp32_384": 100.0, "bf16_384": 200.0, "fp32_768": 110.0, "bf16_768": 220.0, "capability": "AVX512"}
HELP = {"piece": "start.to_the_end", "words": ["--help"], "status": 0}


def result(cpu: float, *, peak: float = 1000.0, began: str = "now", **more) -> dict:
    job = {"rows": 100, "epochs": 1, "seed": 0, "held_out": 300} | more.pop("job", {})
    return {"job": job, "cpu": cpu, "wall": 2 * cpu, "peak_mb": peak, "began": began} | more


def figures(*goals: Goal, passes: int = 0, clock: str = "cpu", **results: list[dict]) -> Figures:
    work = Work("finetune x", {"model": "minilm"}, {name: {} for name in results}, goals, passes)
    return Figures(work, results, GEMM, clock)


def cells(found: Figures) -> list[dict[str, str]]:
    return [dict(zip(GOALS, row, strict=True)) for row in found.goal_rows()]


@pytest.mark.parametrize(
    ("seconds", "measured", "reached"),
    [(20, "2×", "no"), (10, "4×", "must"), (5, "8×", "stretch")],
)
def test_a_speed_is_the_ratio_of_median_rates(seconds: float, measured: str, reached: str):
    ours = [result(1), result(seconds), result(1000)]
    found = figures(Goal(4, 8, "peer"), nlp_transfer=ours, peer=[result(40), result(1), result(41)])
    assert [(row["measured"], row["reached"]) for row in cells(found)] == [(measured, reached)]


def test_rates_count_a_text_once_per_epoch():
    five = result(10, job={"epochs": 5})
    steps = result(99, job={"skip": 2}, steady={"cpu": 2.0, "wall": 3.0}, steady_texts=64)
    found = figures(nlp_transfer=[five], peer=[steps])
    assert found.rate("nlp_transfer") == 50
    assert found.rate("peer") == 32
    assert replace(found, clock="wall").rate("peer") == pytest.approx(64 / 3)


@pytest.mark.parametrize(("peak", "reached"), [(600, "no"), (500, "must"), (400, "stretch")])
def test_memory_is_compared_as_a_share_and_less_is_better(peak: float, reached: str):
    found = figures(Goal(0.5, 0.4, "peer", "memory"), nlp_transfer=[result(1, peak=peak)], peer=[result(1)])
    expected = ["finetune x", OURS, "memory of peer", f"{peak / 1000:.2f}×", "–", "0.50×", "0.40×", reached]
    assert list(found.goal_rows()) == [expected]


def test_a_goal_in_seconds_has_no_peer():
    found = figures(Goal(0.5, 0.3, figure="seconds"), nlp_transfer=[result(0.4), result(0.2), result(0.9)])
    assert [(row["measured"], row["against"], row["reached"]) for row in cells(found)] == [("0.4 s", "–", "must")]


def test_the_share_of_gemm_counts_the_operations_of_the_layers():
    # A layer of width 384 over 10 tokens: 4 products of 384 x 384 and 2 of 384 x 1536, and attention.
    flops = 6 * (10 * 2 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 2 * 384 * 110)
    texts = {"tokens": 10.0, "squares": 110.0, "layers": 6, "width": 384}
    found = figures(Goal(0.25, 0.4, figure="share"), passes=3, nlp_transfer=[result(1, **texts)])
    assert found.share(OURS) == pytest.approx(100 * 3 * flops / 200e9)
    assert cells(found)[0]["against"] == "GEMM"


def test_the_largest_possible_speed_up_is_that_of_matrix_products():
    texts = {"tokens": 10.0, "squares": 110.0, "layers": 6, "width": 384}
    goals = Goal(4, None, "peer"), Goal(0.5, None, "peer", "memory"), Goal(4, None, "missing")
    peers = {"peer": [result(20, **texts)], "missing": [{"skipped": "not installed: peer"}]}
    found = figures(*goals, passes=3, nlp_transfer=[result(10, **texts)], **peers)
    assert found.share("peer") * found.at_most(goals[0]) == pytest.approx(1)
    assert [row["at most"] for row in cells(found)] == [f"{found.at_most(goals[0]):.3g}×", "–", "–"]
    slow = replace(found, gemm=GEMM | {"bf16_384": 8.0})  # emulated: float32 is the faster one
    assert slow.share("peer") == pytest.approx(2 * found.share("peer"))


@pytest.mark.parametrize(
    ("ours", "peers", "counts"),
    [
        ([0.80, 0.80, 0.80], [0.80, 0.80, 0.80], True),
        ([0.79, 0.80, 0.81], [0.80, 0.81, 0.82], False),  # lower in every repeat
        ([0.70, 0.90, 0.80], [0.80, 0.80, 0.83], True),  # lower by less than the noise
        ([0.796, 0.796, 0.796], [0.80, 0.80, 0.80], True),  # lower by less than half a point
    ],
)
def test_a_speed_up_at_a_lower_accuracy_does_not_count(ours: list[float], peers: list[float], counts: bool):
    mine = [result(1, accuracy=value) for value in ours]
    theirs = [result(8, accuracy=value) for value in peers]
    row = cells(figures(Goal(4, None, "peer"), nlp_transfer=mine, peer=theirs))[0]
    assert (row["measured"], row["reached"]) == (("8×", "must") if counts else ("(8×)", "worse result"))
    other = [result(8, accuracy=value, job={"rows": 50}) for value in peers]
    assert cells(figures(Goal(4, None, "peer"), nlp_transfer=mine, peer=other))[0]["reached"] == "must"
    few = {"held_out": 32}
    mine, theirs = ([result(each["cpu"], job=few, accuracy=each["accuracy"]) for each in own] for own in (mine, theirs))
    assert cells(figures(Goal(4, None, "peer"), nlp_transfer=mine, peer=theirs))[0]["reached"] == "must"


def test_a_speed_up_at_a_lower_cosine_does_not_count():
    few = {"held_out": 32}
    found = figures(
        Goal(1, None, "int8"),
        Goal(1, None, "fp32"),
        nlp_transfer=[result(1, cosine=0.99, job=few)],
        int8=[result(8, cosine=0.9, job=few)],
        fp32=[result(8, cosine=1.0, job=few)],
    )
    assert [row["measured"] for row in cells(found)] == ["8×", "(8×)"]
    assert [row[-2] for row in found.method_rows()] == ["cos 0.9900", "cos 0.9000", "cos 1.0000"]


def test_the_row_of_a_missing_or_failed_peer_has_the_reason():
    missing, failed = [{"skipped": "not installed: openvino"}], [{"failed": "no memory"}]
    found = figures(Goal(1, 2, "a"), Goal(1, 2, "b"), nlp_transfer=[result(1)], a=missing, b=failed)
    assert [(row["measured"], row["reached"]) for row in cells(found)] == [
        ("not installed: openvino", "–"),
        ("failed: no memory", "–"),
    ]
    rows = {row[1]: row for row in found.method_rows()}
    assert rows["a"][2] == "not installed: openvino"
    assert rows["b"][2] == "failed: no memory"
    assert {len(row) for row in rows.values()} == {len(METHODS)}


def test_results_of_several_sessions_are_marked():
    assert figures(nlp_transfer=[result(1)], peer=[result(1)]).name == "finetune x"
    assert figures(nlp_transfer=[result(1)], peer=[result(1, began="before")]).name == "finetune x †"


def test_every_goal_is_printed_with_its_measurement(capsys: pytest.CaptureFixture):
    for work in works(quick=False):
        texts = {"tokens": 10.0, "squares": 110.0, "layers": 6, "width": 384}
        found = Figures(work, {name: [result(3, job=work.job, **texts)] for name in work.methods}, GEMM, "cpu")
        print_table(GOALS, list(found.goal_rows()), "note", markdown=True)
        printed = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "|" in line][2:]
        assert len(printed) == len(work.goals)
        assert work.goals or work.group == "options"  # options are measured without goals
        for goal, row in zip(work.goals, printed, strict=True):
            of = dict(zip(GOALS, row, strict=True))
            assert of["work"] == work.name
            assert of["ours"] == goal.ours
            assert goal.against is None or of["against"].endswith(goal.against)
            unit = 0.01 if "%" in of["must"] else 1
            numbers = [float(of[name].strip("×%s ")) * unit for name in ("must", "stretch") if of[name] != "–"]
            assert numbers == [pytest.approx(value) for value in (goal.must, goal.stretch) if value is not None]


def test_works_cover_all_groups_and_goals_name_existing_methods():
    for quick in (True, False):
        found = works(quick=quick)
        assert {work.group for work in found} | {"growth"} == set(GROUPS)
        assert len({work.name for work in found}) == len(found)
        for work in found:
            assert next(iter(work.methods)) == OURS
            for goal in work.goals:
                assert goal.ours in work.methods
                assert goal.against is None or goal.against in work.methods


def test_exponents_are_slopes_of_log_time_over_log_size():
    sizes = (10, 100, 1000)
    linear = Growth("rows", "a", sizes, (1.0, 10.0, 100.0))
    square = Growth("rows", "b", sizes, (1.0, 100.0, 10_000.0))
    late = Growth("rows", "c", sizes, (1.0, 1.0, 100.0))
    assert (linear.exponent, linear.last_exponent) == (pytest.approx(1), pytest.approx(1))
    assert (square.exponent, late.last_exponent) == (pytest.approx(2), pytest.approx(2))
    assert [growth.is_superlinear for growth in (linear, square, late)] == [False, True, True]
    assert not replace(square, axis="length").is_superlinear


def test_growth_is_computed_for_each_step_with_several_sizes():
    laps = {"reading": {"cpu": 1.0, "wall": 2.0}, "probing": {"cpu": 4.0, "wall": 4.0}}
    twice = {"reading": {"cpu": 3.0, "wall": 3.0}}
    measured = [("rows", 200, {"laps": twice}), ("rows", 100, {"laps": laps}), ("classes", 2, {"failed": "no memory"})]
    assert growths(measured, "cpu") == [Growth("rows", "reading", (100, 200), (1.0, 3.0))]


def test_growth_covers_the_documented_sizes():
    sizes = {(axis, job["piece"]): [] for axis, _, job in jobs(quick=False)}
    for axis, size, job in jobs(quick=False):
        sizes[axis, job["piece"]].append(size)
        shape = job["generated"] | {"rows": job["rows"]}
        assert shape[axis] == size
    assert sizes["rows", "steps.without_the_encoder"] == [10**3, 10**4, 10**5, 10**6]
    assert {(min(found), max(found)) for (axis, _), found in sizes.items() if axis == "length"} == {(16, 512)}
    assert {(min(found), max(found)) for (axis, _), found in sizes.items() if axis == "classes"} == {(2, 1000)}


def test_rows_are_drawn_by_the_seed(tmp_path: Path, bench: Bench):
    job = {"texts": "short", "rows": 8, "held_out": 4, "seed": 0}
    first, other = (job_folder(job | {"seed": seed}, source=bench.data, scratch=tmp_path) for seed in (0, 1))
    again = job_folder(job, source=bench.data, scratch=tmp_path / "again")
    assert [len(read_pairs(first / f"{split}.csv")) for split in ("train", "validation", "test")] == [8, 20, 4]
    assert read_pairs(first / "train.csv") == read_pairs(again / "train.csv") != read_pairs(other / "train.csv")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "again").mkdir()
    for path in (tmp_path / "data" / name / f"{split}.csv" for name in DATASETS.values() for split in SPLITS):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text,label\n" + "".join(f"{path.stem} {row},{row % 2}\n" for row in range(20)))
    return Bench(tmp_path / "data", tmp_path / "results.jsonl", tmp_path, tmp_path / "unused")


def restarted(bench: Bench, **changes) -> Bench:
    return replace(bench, known={}, **changes)


@pytest.mark.slow
def test_known_results_are_not_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    first = bench.measured(HELP)
    assert first["cpu"] > 0
    assert bench.measured(HELP) is first
    assert restarted(bench).measured(HELP) == first
    assert len(bench.results.read_text().splitlines()) == 1
    second = restarted(bench, again=True).measured(HELP)
    assert second["key"] == first["key"]
    assert second["cpu"] != first["cpu"]
    assert restarted(bench).measured(HELP) == second  # the later line counts
    monkeypatch.setattr(machine, "code", lambda module: f"{module} was changed")
    third = restarted(bench).measured(HELP)
    assert third["key"] != first["key"]
    assert [json.loads(line)["key"] for line in bench.results.read_text().splitlines()] == [
        first["key"],
        first["key"],
        third["key"],
    ]


def test_a_results_file_finds_earlier_measurements(tmp_path: Path):
    path, jobs = tmp_path / "results.jsonl", [{"seed": seed, "rows": None} for seed in range(3)]
    first = ResultsFile(path)
    assert first.missing(jobs) == jobs
    line = first.add(jobs[1] | {"accuracy": 0.5})
    again = ResultsFile(path)
    assert again.lines == first.lines == [line]
    assert (again.find(jobs[1]), again.find({"seed": 1, "rows": 5})) == (line, None)
    assert again.missing(jobs) == [jobs[0], jobs[2]]
    assert again.select([jobs[1]]) == [line]
    assert ResultsFile(None).lines == []


def test_a_truncated_last_line_is_measured_again(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    first = ResultsFile(path)
    lines = [first.add({"seed": seed, "what": "Grüße"}) for seed in range(2)]
    path.write_bytes(path.read_bytes()[:-4])
    again = ResultsFile(path)
    assert again.lines == lines[:1]
    again.add(lines[1])
    assert ResultsFile(path).lines == lines


def test_failed_jobs_are_tried_again(bench: Bench):
    failed = bench.measured(HELP | {"status": 7})
    assert "ended with 0" in failed["failed"]
    assert not bench.results.exists()


def test_a_second_call_prints_the_same_tables_without_measuring(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def fail(self: Bench, job: dict) -> dict:
        raise AssertionError(f"measured again: {job}")

    words = [str(bench.data), "--quick", "--only", "start", "--markdown", "--results", str(bench.results)]
    jobs_of_run = [job for work in works(quick=True) if work.group == "start" for job in _jobs(work)]
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "run", lambda self, job: GEMM if job["piece"] == "gemm.rates" else result(0.4, job=job))
        patch.setattr(Bench, "files", lambda self, job: {})
        assert speed.main(words) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Bench, "run", fail)
    assert speed.main(words) == 0
    assert capsys.readouterr().out == first
    assert len(bench.results.read_text().splitlines()) == len(jobs_of_run) + 1
    assert "GFLOP/s, width 384: 100 fp32, 200 bf16" in first
    assert "| start --help | nlp_transfer | – | 0.4 s | – | 0.5 s | 0.3 s | must |" in first


def test_the_best_setting_of_trainer_is_determined_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    jobs_run = []

    def run(self: Bench, job: dict) -> dict:
        jobs_run.append(job)
        return {"variant": {"dynamic": True}} if job["piece"] == "trainer.fastest" else {"cpu": 1.0}

    monkeypatch.setattr(Bench, "run", run)
    monkeypatch.setattr(Bench, "files", lambda self, job: {})
    work = next(work for work in works(quick=True) if work.name.startswith("finetune short"))
    for seed in (0, 1):
        found = speed.measure_method(bench, work, work.methods["Trainer best"] | {"seed": seed})
        assert found["job"]["variant"] == {"dynamic": True}
    assert [job["piece"] for job in jobs_run] == [*["trainer.fastest"] * 2, *["trainer.train"] * 2]
    assert [job.get("variant") for job in jobs_run[:2]] == [None, {"dynamic": True}]
    monkeypatch.setattr(Bench, "run", lambda self, job: {"skipped": f"{job['piece']}: not installed: peft"})
    found = speed.measure_method(restarted(bench, again=True), work, work.methods["Trainer best"] | {"seed": 0})
    assert found["skipped"] == "trainer.fastest: not installed: peft"


def test_a_folder_without_the_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "sst2").mkdir()
    with pytest.raises(SystemExit) as ended:
        speed.main([str(tmp_path)])
    assert ended.value.code == 2
    assert f"{tmp_path} has no folder scicite" in capsys.readouterr().err


def _jobs(work: Work) -> list[dict]:
    return [work.job | own for own in work.methods.values()]


def test_help_needs_no_data():
    command = [sys.executable, ROOT / "recipes" / "benchmarks" / "speed.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--markdown" in done.stdout


def test_a_paired_difference_and_its_interval():
    # Student's t: 4.303 standard errors on either side of the mean of three.
    assert paired_difference(np.array([0.01, 0.02, 0.03]), 4) == "+0.0200 [-0.0048, +0.0448]"
    assert paired_difference(np.array([-0.5])) == "-0.500"


def test_precisions_are_compared_seed_by_seed():
    def row(dataset: str, kind: str, seed: int, accuracy: float) -> dict:
        own = {"dataset": dataset, "precision": kind, "seed": seed, "strategy": "probe"}
        return own | {"accuracy": accuracy, "log_loss": 1 - accuracy}

    rows = [row(d, "fp32", seed, 0.5 + 0.1 * seed) for d in ("a", "b") for seed in (0, 1)]
    rows += [row(d, "bf16", seed, 0.51 + 0.1 * seed) for d in ("a", "b") for seed in (0, 1)]
    lines = list(precision.table(rows))
    assert len(lines) == 2 + 3
    assert [line.count("|") for line in lines] == [9] * 5
    assert "| probe | a | 0.5500 ± 0.0707 | 0.5600 ± 0.0707 | +0.0100 [+0.0100, +0.0100] |" in lines[2]
    assert lines[4].startswith("| probe | all |  |  | +0.0100 [+0.0100, +0.0100] |")


def test_detection_figures_agree_with_hand_computed_ones():
    from recipes.benchmarks import unknown

    known, strange = np.arange(20.0), np.array([18.5, 30.0])
    right = np.arange(20) % 2 == 0
    found = unknown.detection_figures(known, strange, right, np.arange(1.0, 20.0))
    assert found["auroc"] == pytest.approx(39 / 40)
    assert found["found"] == 0.5  # beyond 19, the greatest of the 19 validation scores
    assert found["right"] == 0.5
    assert found["fpr95"] == 0.0


def test_vector_scaling_recovers_known_scales_and_shifts():
    from recipes.benchmarks import scaling

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    likely = np.exp(logits)
    truth = (rng.random((20_000, 1)) > (likely / likely.sum(1, keepdims=True)).cumsum(1)).sum(1)
    scales, shifts = scaling.vector_scaling(logits / [1, 2, 0.5] + [1, 0, 0], truth, 1.0)
    np.testing.assert_allclose(scales, [1, 2, 0.5], atol=0.1)
    np.testing.assert_allclose(shifts - shifts[1], [-1, 0, 0], atol=0.1)


def test_worlds_are_tabulated_with_their_differences_to_one_process():
    job = {"strategy": "lora", "precision": "fp32"}
    one = {"world": "one", "losses": [2.0, 1.0, 0.5, 0.25], "accuracy": 0.5, "probabilities": [[0.25, 0.75]]}
    two = {"world": "ddp", "losses": [2.0, 1.25, 0.5, 0.25], "accuracy": 0.75, "probabilities": [[0.5, 0.5]]}
    head, _, *rows = worlds.table([job | one, job | two], steps=4)
    assert head.count("loss ") == 5
    assert rows == [
        "| lora | fp32 | one | 2.00000 | 1.00000 | 0.50000 | 0.25000 |  |  | 0.500 |",
        "| lora | fp32 | ddp | 2.00000 | 1.25000 | 0.50000 | 0.25000 | 2e-01 | 2e-01 | 0.750 |",
    ]
