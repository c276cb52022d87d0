"""A comparison from words to a verdict: the same rows for all, nothing done twice, and the winner's recipe runs."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlp_transfer
from nlp_transfer.cache.store import Store, folder_of
from nlp_transfer.cli import main
from nlp_transfer.comparing import compare as module
from nlp_transfer.comparing import trial as trial_module
from nlp_transfer.comparing.compare import Comparison
from nlp_transfer.comparing.design import design_of
from nlp_transfer.comparing.grid import ALL, TrialData, candidates_of
from nlp_transfer.comparing.page import document_of
from nlp_transfer.comparing.recipe import recipe_of
from nlp_transfer.comparing.trial import is_finished, run_trial
from nlp_transfer.config import compose, run_id
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.reporting.files import write
from nlp_transfer.running.choosing import LABEL_TEXTS
from nlp_transfer.running.preparation import prepare
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training.signals import Interrupted
from tests.data.many import many
from tests.encoder.families import tiny_encoder
from tests.full_disk import refuse_to_hold
from tests.place import furnish
from tests.runs import data_for, rows

QUIET = Screen(quiet=True)
SHORT = ["training.epochs=1", "training.precision=fp32", "evaluation.resamples=50", "training.batch_size=8"]


def words(folder: Path, *more: str) -> list[str]:
    encoder = folder / "tiny-bert"
    return ["data=object", f"encoder={encoder}", f"output={folder / 'runs'}", *SHORT, *more]


def comparison(recipe: str | None, given: list[str], screen: Screen, *, data: dict) -> Comparison:
    return Comparison(design_of(recipe, given, screen, data=data), screen)


def figures(outcome) -> list[tuple]:
    return [(cell.name, cell.labels, cell.figure, cell.values, cell.validation) for cell in outcome.cells]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def compared(place: Path):
    chosen = ["compare.candidates=[probe,'finetune strategy.lr=1e-3']", "compare.labels=[4,all]", "compare.seeds=2"]
    given = words(place, *chosen)
    return given, comparison(None, given, QUIET, data=data_for("single_label")).run()


@pytest.mark.slow
def test_every_candidate_has_every_number_of_labels(compared):
    _, outcome = compared
    names = {"probe", "finetune strategy.lr=1e-3", "scratch", "majority", "tfidf"}
    assert {(cell.name, cell.labels) for cell in outcome.cells} == {(name, of) for name in names for of in ("4", "all")}
    assert all(len(cell.values) == 2 for cell in outcome.cells)
    assert {cell.labels: cell.rows for cell in outcome.cells} == {"4": 12, "all": 48}
    assert set(outcome.floors) == {"scratch", "majority", "tfidf"}
    assert len(outcome.duels) == 4 + 3  # baselines are not compared with each other
    assert [each.labels for each in outcome.transfers] == ["4", "all"]
    assert outcome.winner in {"probe", "finetune strategy.lr=1e-3"}
    assert outcome.verdict[0].startswith(("POSITIVE", "NEGATIVE", "No evidence"))
    learning = {cell.name: cell.learning for cell in outcome.cells}
    assert learning["majority"] == 0 < learning["probe"] < learning["scratch"]


@pytest.mark.slow
def test_a_repeated_comparison_is_read_back(compared, monkeypatch: pytest.MonkeyPatch):
    given, outcome = compared
    monkeypatch.setattr("nlp_transfer.comparing.trial.prepare", lambda *_, **__: pytest.fail("trained again"))
    answered, messages = module.run_trial, list[str]()

    def told_by_each(settings, corpus, screen):
        screen.tell("what all have to say")
        return answered(settings, corpus, screen)

    monkeypatch.setattr(module, "run_trial", told_by_each)
    listening = Screen(quiet=True, on_message=messages.append)
    again = comparison(None, given, listening, data=data_for("single_label")).run()
    assert again.to_json()["duels"] == outcome.to_json()["duels"]
    assert figures(again) == figures(outcome)
    assert messages.count("what all have to say") == 1


@pytest.mark.slow
def test_a_stopped_comparison_resumes_to_the_same_figures(compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given, outcome = compared
    elsewhere = [word if not word.startswith("output=") else f"output={tmp_path}" for word in given]
    done: list = []
    told: list[str] = []

    def interrupted(*arguments):
        if len(done) == 5:
            signal.raise_signal(signal.SIGTERM)
        done.append(arguments)
        return run_trial(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_trial", interrupted)
        listening = Screen(quiet=True, on_message=told.append)
        with pytest.raises(Interrupted):
            comparison(None, elsewhere, listening, data=data_for("single_label")).run()
    assert "the same command continues with them" in told[-1]
    assert not list(tmp_path.rglob("compare.json"))
    found = comparison(None, elsewhere, QUIET, data=data_for("single_label")).run()
    assert figures(found) == figures(outcome)


@pytest.mark.slow
def test_changed_data_under_the_same_settings_is_refused(compared):
    given, _ = compared
    other = data_for("single_label") | {"test": rows("single_label", 16, 9)}
    with pytest.raises(UserError, match="other data"):
        comparison(None, given, QUIET, data=other).run()


@pytest.mark.slow
def test_the_recipe_reproduces_the_winner(compared):
    given, outcome = compared
    _, candidates = candidates_of(None, given)
    winner = next(each for each in candidates if each.name == outcome.winner)
    run = compose(str(outcome.recipe))
    assert run_id(run) == run_id(winner.settings)
    assert run.data.validation_share is None  # few rows are all learned from, as in any run
    text = outcome.recipe.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"nlp-transfer adapt {outcome.recipe}" in text
    assert "candidates were compared on fewer" not in text
    fewer = recipe_of(dataclasses.replace(outcome, transfers=outcome.transfers[:1]), winner.settings)
    assert "# It trains on all training rows; candidates were compared on fewer" in fewer
    files = dataclasses.replace(winner.settings.data, path="tickets.csv")
    moved = recipe_of(outcome, dataclasses.replace(winner.settings, data=files))
    assert f"path: {Path.cwd() / 'tickets.csv'}" in moved
    home = dataclasses.replace(winner.settings.data, path="~/tickets.csv")
    assert f"path: {Path.home() / 'tickets.csv'}" in recipe_of(outcome, dataclasses.replace(winner.settings, data=home))


@pytest.mark.slow
def test_the_page_shows_the_figures_and_escapes_names(compared, tmp_path: Path):
    _, outcome = compared
    page, plain = ((outcome.folder / f"report.{ending}").read_text(encoding="utf-8") for ending in ("html", "md"))
    words = html.unescape(re.sub("<[^>]*>", "", page))
    for message in (*outcome.verdict, outcome.data, "Candidates against all others"):
        assert message in words
    assert "cached features of earlier trials or runs are neither computed again nor counted" in words
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert format_interval(outcome.cell("tfidf", "4").figure) in plain.replace("\\", "")
    odd = dataclasses.replace(outcome.cells[0], name="<script>alert(1)</script>")
    changed = dataclasses.replace(outcome, cells=[*outcome.cells, odd], folder=tmp_path)
    write(document_of(changed), tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_changed_encoder_weights_are_refused(compared, place: Path):
    given, _ = compared
    weights = place / "tiny-bert" / "model.safetensors"
    kept = weights.read_bytes()
    tensors = load_file(weights)
    try:
        save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
        with pytest.raises(UserError, match="other weights of the encoder"):
            comparison(None, given, QUIET, data=data_for("single_label")).run()
    finally:
        weights.write_bytes(kept)


@pytest.mark.slow
def test_all_candidates_use_the_decision_rules(place: Path):
    data = data_for("multi_label")
    given = words(
        place, "compare.candidates=[probe]", "compare.labels=[all]", "compare.seeds=1", "compare.scratch=false"
    )
    given += ["data.problem=multi_label"]
    free, fixed = (
        comparison(None, [*given, *more], QUIET, data=data).run() for more in ([], ["decision.threshold=0.02"])
    )
    assert all(cell.said == "with all labels" for cell in fixed.cells)
    for name in ("probe", "tfidf"):
        assert fixed.cell(name, ALL).figure.value < free.cell(name, ALL).figure.value
    with pytest.raises(UserError, match=r"decision\.threshold is for multi_label"):
        comparison(None, words(place, "decision.threshold=0.1"), QUIET, data=data_for("single_label"))


@pytest.mark.slow
def test_numbers_of_rows_are_shown_for_problems_without_classes(place: Path):
    given = words(
        place, "compare.candidates=[probe]", "compare.labels=[2,all]", "compare.seeds=1", "compare.scratch=false"
    )
    outcome = comparison(None, [*given, "data.problem=regression"], QUIET, data=data_for("regression")).run()
    assert [each.said for each in outcome.transfers] == ["with 20 rows", "with all labels"]


@pytest.mark.slow
def test_a_candidate_without_a_figure_is_never_the_best(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Constant answers have no correlation."""
    given = words(
        place, "compare.candidates=[probe,'finetune training.max_steps=1']", "compare.labels=[all]", "compare.seeds=1"
    )
    given += ["compare.scratch=false", "data.problem=regression", "evaluation.metric=pearson"]

    def broken(settings, corpus, screen):
        found = run_trial(settings, corpus, screen)
        return dataclasses.replace(found, validation=float("nan")) if settings.name.startswith("probe") else found

    monkeypatch.setattr(module, "run_trial", broken)
    assert comparison(None, given, QUIET, data=data_for("regression")).run().winner.startswith("finetune")


@pytest.mark.slow
def test_within_a_budget_there_is_a_verdict(place: Path, tmp_path: Path, capfd):
    given = words(place, "compare.labels=[2,all]", "compare.seeds=2", "compare.minutes=0.05", "compare.scratch=false")
    given = [word if not word.startswith("output=") else f"output={tmp_path}" for word in given]
    outcome = comparison(None, given, Screen(quiet=False), data=data_for("single_label")).run()
    tried = sum(len(cell.values) for cell in outcome.cells if cell.name not in outcome.floors)
    assert tried + len(outcome.left_out) == 3 * 2 * 2
    for message in outcome.left_out:
        assert message.endswith(("no time", "not among the best with fewer labels"))
    assert capfd.readouterr().err.count("not tried: ") == len(outcome.left_out)


@pytest.mark.slow
def test_a_skipped_baseline_is_named_in_the_verdict(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first candidate uses up the time; with `compare.scratch=false` that baseline is not requested."""
    left = [1.0]
    monkeypatch.setattr(Comparison, "_clock", lambda _: lambda: left.pop() if left else 0.0)
    for number, (scratch, named) in enumerate((("true", True), ("false", False))):
        left[:] = [1.0]
        given = words(place, "compare.candidates=[probe,lora]", "compare.labels=[all]", "compare.seeds=1")
        given = [word if not word.startswith("output=") else f"output={tmp_path / str(number)}" for word in given]
        outcome = comparison(None, [*given, f"compare.scratch={scratch}"], QUIET, data=data_for("single_label")).run()
        assert ("not tried: scratch" in outcome.verdict[0]) == named
        assert "Not tried with all labels: lora." in outcome.verdict
        assert outcome.to_json()["transfers"][-1]["untried"] == ["scratch"] * named


def test_a_class_with_fewer_rows_is_described_with_up_to(place: Path):
    rows = [*data_for("single_label")["train"]]
    rare = rows[0]["label"]
    kept = [row for row in rows if row["label"] != rare] + [row for row in rows if row["label"] == rare][:5]
    settings = compose(None, words(place, "compare.labels=[1,4,8,all]"))
    draws = TrialData(settings, data=data_for("single_label") | {"train": kept})
    assert [draws.describe(each) for each in draws.labels] == [
        "with 1 label per class",
        "with 4 labels per class",
        "with up to 8 labels per class",
        "with all labels",
    ]


def test_draws_share_test_rows_and_have_no_more_validation_than_training_rows(place: Path):
    settings = compose(None, words(place, "compare.labels=[2,4,400,all]"))
    draws = TrialData(settings, data=data_for("single_label"))
    assert draws.labels == ["2", "4", ALL]
    assert TrialData(compose(None, words(place, "compare.labels=[400]")), data=data_for("single_label")).labels == [ALL]
    for labels in draws.labels:
        for seed in (0, 1):
            found = draws.corpus(labels, seed, pooled=True)
            train = found.splits["train"]
            assert found.splits["test"].ids == draws.whole.splits["test"].ids
            assert len(train) == draws.rows(labels)
            if labels != ALL:
                assert len(found.splits["validation"]) <= len(train)
                assert np.bincount(train.targets).tolist() == [int(labels)] * 3
                assert [found.pool.examples.ids[row] for row in found.pool.chosen] == train.ids
                with many(10):
                    again = TrialData(settings, data=data_for("single_label")).corpus(labels, seed, pooled=True)
                assert again.pool.chosen.tolist() == found.pool.chosen.tolist()
                assert again.fingerprint == found.fingerprint
    few, more = (set(draws.corpus(labels, 0, pooled=True).splits["train"].ids) for labels in ("2", "4"))
    assert few < more
    assert few != set(draws.corpus("2", 1, pooled=True).splits["train"].ids)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "ordinal", "regression", "pair", "soft"])
def test_features_of_the_pool_equal_those_of_a_draw(place: Path, problem: str):
    of = [f"data.problem={problem}"] if problem in ("ordinal", "regression", "multi_label") else []
    settings = compose(None, words(place, *of, "strategy=probe", "compare.labels=[2,all]"))
    draws = TrialData(settings, data=data_for(problem))
    pooled, alone = (
        prepare(settings, draws.corpus("2", 0, pooled=each), place).features("train") for each in (True, False)
    )
    assert pooled.shape == alone.shape
    assert np.abs(pooled - alone).max() < 1e-5


@pytest.mark.parametrize(
    "strategy", [["strategy=finetune", "strategy.freeze_layers=1"], ["strategy=lora", "strategy.layers=[1]"]]
)
def test_a_head_is_fitted_on_pooled_rows_with_frozen_layers(place: Path, strategy: list[str]):
    settings = compose(None, words(place, *strategy, "compare.labels=[2,all]"))
    corpus = TrialData(settings, data=data_for("single_label")).corpus("2", 0, pooled=True)
    assert corpus.pool is not None
    prepared = prepare(settings, corpus, place)
    plain = prepared.feature_cache.now(prepared.columns["train"])
    with prepared.skipping_frozen_layers(QUIET) as shortened:
        skipped = shortened.feature_cache.now(shortened.columns["train"])
    assert np.abs(plain - skipped).max() < 1e-5


def test_harmful_transfer_is_called_negative(place: Path):
    """Words the encoder does not know tell the label: it sees nothing, TF-IDF everything."""

    def unknown(part: list[dict]) -> list[dict]:
        names = dict(zip(sorted({row["label"] for row in part}), ("жук", "лось", "рыба"), strict=True))
        return [row | {"text": names[row["label"]]} for row in part]

    data = {
        split: unknown(rows("single_label", 60, seed)) for seed, split in enumerate(("train", "validation", "test"))
    }
    given = words(
        place, "compare.candidates=[probe]", "compare.labels=[all]", "compare.seeds=1", "compare.scratch=false"
    )
    outcome = nlp_transfer.compare(None, given[1:], data=data)
    assert outcome.verdict[0].startswith("NEGATIVE transfer with all labels: probe against TF-IDF + linear")
    assert any("NEGATIVE transfer on" in sentence for sentence in outcome.verdict)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["strategy=lora"], "compare takes strategies as compare.candidates"),
        (["compare.candidates=[]"], "compare.candidates is empty"),
        (["compare.candidates=[probe,probe]"], "'probe' is given twice"),
        (["compare.candidates=[prob]"], "did you mean 'probe'"),
        (["compare.candidates=['probe lr']"], "'lr' in 'probe lr' is not a strategy"),
        (["compare.candidates=['probe strategy.rank=4']"], "strategy.rank"),
        (
            ["compare.candidates=[probe,'lora strategy.rank=0']"],
            "^the candidate 'lora strategy.rank=0': strategy.rank=0",
        ),
        (
            ["compare.candidates=[probe,'finetune continual.labels=all']"],
            "^the candidate 'finetune continual.labels=all': continual continues one model",
        ),
        pytest.param(["checkpoint.seconds=-1"], "^checkpoint.seconds=-1", marks=pytest.mark.slow),
        (["compare.candidates=['probe data.class_weights=balanced']"], "applies to all candidates"),
        (["compare.candidates=['probe seed=7']"], "applies to all candidates"),
        (["compare.labels=all"], "a list, such as [8,16,64,256,all]"),
        pytest.param(["seed=4294967295"], "must stay below", marks=pytest.mark.slow),
        (["data.test_share=0"], "a comparison needs test rows"),
        (["data.validation_share=0"], "data.validation_share=0 leaves a comparison no validation rows"),
        (["compare.labels=[0]"], "'0' must be a whole number"),
        pytest.param(["compare.labels=[many]"], "'many' must be a whole number", marks=pytest.mark.slow),
        pytest.param(["compare.labels=[]"], "compare.labels is empty", marks=pytest.mark.slow),
        pytest.param(["compare.seeds=0"], "compare.seeds=0", marks=pytest.mark.slow),
        pytest.param(["compare.minutes=0"], "compare.minutes=0", marks=pytest.mark.slow),
        pytest.param(["data.per_class=4"], "data.per_class=4: in a comparison compare.labels", marks=pytest.mark.slow),
        (["compare.minutes=1e-7"], "ended before any candidate was measured"),
    ],
)
def test_impossible_comparisons_are_refused(place: Path, given: list[str], message: str):
    data = data_for("single_label")
    one = [] if any(word.startswith("compare.candidates=") for word in given) else ["compare.candidates=[probe]"]
    if "data.test_share=0" in given:
        del data["test"]
    if "data.validation_share=0" in given:
        del data["validation"]
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        comparison(None, words(place, "compare.scratch=false", *one, *given), QUIET, data=data).run()


def test_a_trial_is_finished_when_its_answers_are_on_disk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = compose(None, words(place, "strategy=probe", "evaluation.floors=false"))
    settings = dataclasses.replace(given, output=str(tmp_path))
    corpus = load_corpus(settings.data, data=data_for("single_label"))
    refuse_to_hold(monkeypatch, "answers.safetensors")
    with pytest.raises(UserError, match="full"):
        run_trial(settings, corpus, QUIET)
    assert not is_finished(settings)
    monkeypatch.undo()
    run_trial(settings, corpus, QUIET)
    assert is_finished(settings)


def test_a_trial_finished_by_another_process_is_read_back(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = compose(None, words(place, "strategy=probe", "evaluation.floors=false"))
    settings = dataclasses.replace(given, output=str(tmp_path))
    corpus = load_corpus(settings.data, data=data_for("single_label"))
    written = []

    def meanwhile(*given, **named):
        monkeypatch.setattr(trial_module, "prepare", prepare)
        run_trial(settings, corpus, QUIET)
        written.extend(path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors"))
        return prepare(*given, **named)

    monkeypatch.setattr(trial_module, "prepare", meanwhile)
    run_trial(settings, corpus, QUIET)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")] == written


def test_a_finished_trial_is_read_back_without_its_teacher(place: Path, tmp_path: Path):
    data, teacher = data_for("single_label"), tmp_path / "teacher"
    probe = words(place, "strategy=probe", "evaluation.floors=false", "verify=false", "report.write=false")
    nlp_transfer.adapt(None, probe, data=data).folder.rename(teacher)
    given = words(place, "strategy=finetune", "objective=distill", f"objective.distill.teacher={teacher}")
    settings = dataclasses.replace(compose(None, given), output=str(tmp_path))
    corpus, messages = load_corpus(settings.data, data=data), list[str]()
    before = run_trial(settings, corpus, QUIET)
    teacher.rename(tmp_path / "moved")
    again = run_trial(settings, corpus, Screen(quiet=True, on_message=messages.append))
    assert np.array_equal(again.logits, before.logits)
    assert len(messages) == 1
    assert messages[0].startswith("not compared with the teacher, which cannot be found now: ")


def test_the_command_line_compares_and_prints_tables(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    given = ["data=files", f"data.path={place / 'data'}", f"encoder={place / 'tiny-bert'}", f"output={place / 'runs'}"]
    given += [*SHORT, "compare.candidates=[probe]", "compare.labels=[all]", "compare.seeds=1", "compare.scratch=false"]
    assert main(["compare", *given]) == 0
    messages = json.loads(capfd.readouterr().out)
    assert messages["winner"] == "probe"
    assert messages == json.loads((Path(messages["folder"]) / "compare.json").read_text(encoding="utf-8"))
    assert main(["compare", *given, "compare.seeds=none"]) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_the_page_shows_what_auto_chose_by_number_of_labels(place: Path, tmp_path: Path):
    given = words(place, "compare.candidates=[auto]", "compare.labels=[4,all]", "compare.seeds=1")
    given = [*(word for word in given if not word.startswith("output=")), f"output={tmp_path}", "compare.scratch=false"]
    for _ in range(2):  # also where nothing is trained again
        outcome = comparison(None, given, QUIET, data=data_for("single_label")).run()
        message = [sentence for sentence in outcome.verdict if "strategy=auto is" in sentence]
        assert [sentence.split(" strategy")[0] for sentence in message] == [
            "With 4 labels per class",
            "With all labels",
        ]
        assert message[0] in (outcome.folder / "report.md").read_text(encoding="utf-8")
        assert "and from the names of the labels" in message[0]
    learned = [compose(str(path)).data.label_texts for path in outcome.folder.glob("trials/auto-4-*/config.yaml")]
    assert learned == [list(LABEL_TEXTS)]


@pytest.mark.slow
def test_unlabelled_texts_are_read_only_by_candidates_that_use_them(place: Path, tmp_path: Path):
    file = tmp_path / "more.csv"
    file.write_text("text\none\ntwo\n")
    shared = words(place, f"data.unlabelled={file}", "pretraining.batch_size=4")
    _, candidates = candidates_of(None, [*shared, "compare.candidates=[probe,'probe pretraining.epochs=1']"])
    found = {each.name: each.settings for each in candidates}
    assert [found[name].data.unlabelled for name in ("probe", "probe pretraining.epochs=1")] == [None, str(file)]
    assert found["scratch"].pretraining.epochs == 0
    _, candidates = candidates_of(None, [*shared, "pretraining.epochs=1", "compare.candidates=[probe]"])
    assert [each.settings.pretraining.epochs for each in candidates] == [1, 0]
    with pytest.raises(UserError, match="not read by this objective"):
        design_of(None, [*shared, "compare.candidates=[probe]"], QUIET, data=data_for("single_label"))
    given = [*shared, "compare.candidates=[probe,'probe pretraining.epochs=1']", "compare.labels=[all]"]
    given += ["compare.seeds=1", "compare.scratch=false", "name=texts"]
    outcome = comparison(None, given, QUIET, data=data_for("single_label")).run()
    assert {"probe", "probe pretraining.epochs=1"} <= {cell.name for cell in outcome.cells}
    (kept,) = Store(folder_of(None), 1e9).folder.glob("*/pretraining.json")
    assert json.loads(kept.read_text())["epochs"] == 1
    file.write_text("text\none\nthree\n")
    with pytest.raises(UserError, match="other unlabelled texts"):
        comparison(None, given, QUIET, data=data_for("single_label")).run()


def test_the_random_baseline_reads_no_unlabelled_texts(place: Path):
    given = words(place, "data.unlabelled=more.csv", "objective=cdan", "compare.candidates=[finetune]")
    _, (candidate, scratch) = candidates_of(None, given)
    assert {*candidate.settings.objective} == {"classify", "cdan"}
    assert {*scratch.settings.objective} == {"classify"}
    assert scratch.settings.data.unlabelled is None
