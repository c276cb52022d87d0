"""Encoders are ranked in the known order of their information, with intervals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.intervals import Bootstrap, Interval
from nlp_transfer.ranking import rank as module
from nlp_transfer.ranking.rows import rows_of
from nlp_transfer.ranking.show import render, verdict
from nlp_transfer.ranking.standing import Cost, Layer, ProbedEncoder, Standing, order_candidates
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen
from tests.encoder.families import tiny_encoder
from tests.place import adapt_words, furnish
from tests.runs import data_for, rows

QUIET = Screen(quiet=True)
COST = Cost(10, 5, 1.0, 1.0, 1.0)


def rank(settings: Settings, encoders: list, *, data: dict) -> list[Standing]:
    return module.rank(settings, encoders, rows_of(settings, QUIET, data=data), QUIET)


def candidate(
    name: str, *losses: np.ndarray, nothing: np.ndarray | None = None, right: np.ndarray | None = None
) -> ProbedEncoder:
    nothing = np.ones(len(losses[0])) if nothing is None else nothing
    layers = [
        Layer(number, 1 - float(each.sum() / nothing.sum()), None, 0.0, None, None)
        for number, each in enumerate(losses)
    ]
    logme, weights = Interval(0.0, -0.1, 0.1), np.ones(len(nothing))
    right = None if right is None else right[None].repeat(len(losses), 0)
    return ProbedEncoder(
        name, name, "", layers, len(losses) - 1, logme, weights, np.stack(losses), nothing, right, COST
    )


def standings(*candidates: ProbedEncoder) -> list[Standing]:
    return order_candidates(list(candidates), Bootstrap(500, seed=0))


def test_encoders_are_ordered_by_their_best_layer():
    draws = np.random.default_rng(0)
    noise = [draws.normal(0, 0.3, 400) for _ in range(4)]
    good, better = candidate("good", 0.6 + noise[0], 0.9 + noise[1]), candidate("better", 0.4 + noise[2])
    same = candidate("same", 0.6 + noise[0] + draws.permutation([0.01, -0.01] * 200))
    found = standings(good, better, same)
    assert found[0].candidate is better
    assert (found[0].ranks, found[0].first) == ((1, 1), 1.0)
    assert {each.candidate.name: each.ranks for each in found[1:]} == {"good": (2, 3), "same": (2, 3)}
    for each in found:
        assert each.explained.low < each.explained.value < each.explained.high
    assert found[1].candidate.best.number == 0
    assert verdict(found) == "start from better: it is first in 100% of the resamples"
    assert "may be as good" in verdict(standings(good, same))
    nothing = candidate("nothing", 1 + draws.normal(0, 0.3, 400))
    assert "by chance" in verdict(standings(nothing))


def test_costs_are_shown_in_80_columns():
    of = candidate("minilm", np.full(40, 0.5), np.full(40, 0.4))
    of = dataclasses.replace(
        of, encoder="bert, 6 layers, 384 wide", cost=Cost(22_713_216, 11_000_000, 0.7912, 6.214, 90.85)
    )
    other = dataclasses.replace(candidate("runs/tickets-finetune-0123abcd", np.full(40, 0.9)), cost=of.cost)
    console = Console(width=80, file=StringIO(), force_terminal=False)
    render(standings(of, other), console)
    text = console.file.getvalue()
    for message in ("0.791 GFLOP", "6.2 ms", "22.7 M", "91 MB", "[0.600, 0.600]", "[-0.100, 0.100]", "minilm"):
        assert message in text
    table = text.partition("start from")[0]
    assert all(len(line) <= 80 for line in table.splitlines())


@pytest.mark.parametrize("layers", [1, 13])
def test_intervals_have_their_coverage_for_any_number_of_layers(layers: int):
    """The true share, of which every layer has as much, lies in the interval in about 95 of 100 samples."""
    held, messages = 0, []
    for seed in range(100):
        draws = np.random.default_rng(seed)
        shared, own = draws.exponential(0.7, 200), draws.exponential(0.7, (layers, 200))
        (found,) = order_candidates([candidate("one", *((shared + own) / 2))], Bootstrap(200, seed=seed))
        held += found.explained.low <= 1 - 0.7 <= found.explained.high
        messages.append(found.explained.value)
    assert held >= 87
    assert np.mean(messages) == pytest.approx(0.3, abs=0.02)


def test_a_constant_gain_has_no_uncertainty():
    nothing = np.where(np.random.default_rng(0).random(300) < 0.05, 3.0, 0.05)
    (found,) = standings(candidate("half", nothing / 2, nothing=nothing))
    assert (found.explained.low, found.explained.high) == pytest.approx((0.5, 0.5))


def test_rows_count_by_their_weight():
    draws = np.random.default_rng(0)
    losses, right = draws.exponential(0.6, 300), draws.random(300) < 0.7
    weights = draws.choice([0.0, 1.0, 2.0], 300)
    whole = dataclasses.replace(candidate("whole", losses, right=right), weights=weights / weights.mean())
    (found,) = standings(whole)
    assert found.explained.value == pytest.approx(1 - np.average(losses, weights=weights), abs=0.02)
    assert found.accuracy.value == pytest.approx(np.average(right, weights=weights), abs=0.02)
    other = dataclasses.replace(
        whole, held_out=np.where(weights > 0, losses, 1e6)[None], right=(right ^ (weights == 0))[None]
    )
    (changed,) = standings(other)
    assert (changed.explained, changed.accuracy) == (found.explained, found.accuracy)
    messages = found.to_json()
    assert messages["accuracy_interval"] == [found.accuracy.low, found.accuracy.high]
    assert messages["logme_interval"] == [-0.1, 0.1]
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny encoder, and the same one whose words are worth less and less: one vector stands for many of them."""
    folder = tmp_path_factory.mktemp("encoders")
    whole = tiny_encoder(folder)
    found = {"whole": whole}
    for name, kept in (("blurred", 40), ("blind", 6)):
        found[name] = shutil.copytree(whole, folder / name)
        weights = load_file(whole / "model.safetensors")
        words = next(key for key in weights if key.endswith("word_embeddings.weight"))
        weights[words][kept:] = weights[words][kept]
        save_file(weights, found[name] / "model.safetensors", metadata={"format": "pt"})
    return found


@pytest.mark.parametrize(
    "problem",
    [
        *(pytest.param(problem, marks=pytest.mark.slow) for problem in ("multi_label", "regression", "pair")),
        *(pytest.param(problem, marks=pytest.mark.exhaustive) for problem in ("single_label", "ordinal", "soft")),
    ],
)
def test_the_more_informative_encoder_ranks_first_for_every_problem(encoders: dict[str, Path], problem: str):
    words = ["data=object", "training.precision=fp32", "evaluation.resamples=200"]
    words += [f"data.problem={problem}"] if problem in ("ordinal", "regression", "multi_label") else []
    named = [(name, compose(None, [*words, f"encoder={place}"]).encoder) for name, place in encoders.items()]
    data = data_for(problem) | {"train": rows(problem, 120, 1)}
    found = rank(compose(None, words), named, data=data)
    order = [each.candidate.name for each in found]
    assert order[-1] == "blind"
    for each in found:
        assert [layer.number for layer in each.candidate.layers] == [0, 1, 2]
        assert all(np.isfinite(layer.explained) and np.isfinite(layer.logme) for layer in each.candidate.layers)
        assert (each.candidate.best.accuracy is None) == (problem in ("multi_label", "regression"))
        assert each.candidate.cost.parameters > each.candidate.cost.embedding > 0


@pytest.mark.slow
def test_a_layer_is_scored_independently_of_the_others(encoders: dict[str, Path]):
    words = ["data=object", "training.precision=fp32", "evaluation.resamples=20"]
    data = data_for("single_label") | {"train": rows("single_label", 120, 1)}

    def layers(*more: str) -> dict[int, float]:
        settings = compose(None, [*words, f"encoder={encoders['blurred']}", *more])
        (found,) = rank(settings, [("one", settings.encoder)], data=data)
        assert found.candidate.depth == 2
        return {layer.number: layer.logme for layer in found.candidate.layers}

    every = layers()
    assert every.keys() == {0, 1, 2}
    for chosen, number in (("[1]", 1), ("[-1]", 2), ("last", 2)):
        assert layers(f"encoder.layers={chosen}") == pytest.approx({number: every[number]}, abs=1e-4)
    assert layers("encoder.layers=[1,2]") == pytest.approx({1: every[1], 2: every[2]}, abs=1e-4)
    assert layers("encoder.hidden=8") == pytest.approx(every, abs=1e-4)
    assert set(layers("encoder.layers=spread")) <= {1, 2}
    assert len(layers("encoder.head=native")) == 1


def test_unavailable_encoders_are_reported_before_any_is_measured(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_probe", lambda *_: pytest.fail("asked first"))
    settings = compose(None, ["data=object"])
    absent = dataclasses.replace(settings.encoder, name="runs/none", package=None, sha256=None)
    there = dataclasses.replace(absent, name=str(encoders["whole"]))
    with pytest.raises(UserError, match="'runs/none': there is no such folder"):
        rank(settings, [("there", there), ("absent", absent)], data=data_for("single_label"))


@pytest.mark.slow
def test_shared_layers_cost_as_often_as_they_run(tmp_path: Path):
    settings = compose(None, ["data=object", "training.precision=fp32", "evaluation.resamples=20"])
    data, costs = data_for("single_label"), []
    for depth in (2, 8):
        place = tiny_encoder(tmp_path / str(depth), "albert", num_hidden_layers=depth)
        encoder = compose(None, ["data=object", f"encoder={place}"]).encoder
        (found,) = rank(settings, [("albert", encoder)], data=data)
        costs.append(found.candidate.cost)
    assert costs[0].parameters == costs[1].parameters
    assert costs[1].gigaflops > 2.5 * costs[0].gigaflops


@pytest.mark.slow
def test_the_command_line_ranks_folders_and_runs_and_refuses_others(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    data = ["data=files", f"data.path={place / 'data'}", "training.precision=fp32"]
    assert main(adapt_words(place, "training.precision=fp32")) == 0
    (run,) = (place / "runs").iterdir()
    capfd.readouterr()
    assert main(["rank", str(place / "tiny-bert"), str(run), *data, "rank.rows=40"]) == 0
    messages = json.loads(capfd.readouterr().out)
    one, other = messages["ranking"]
    assert {one["name"], other["name"]} == {str(place / "tiny-bert"), str(run)}
    assert one["explained"] == pytest.approx(other["explained"], abs=1e-5)  # a probe leaves its encoder as it was
    assert "may be as good" in messages["verdict"]
    for words, message in (
        (["rank", *data], "rank needs encoders"),
        (["rank", "minilm", "minilm", *data], "'minilm' is given twice"),
        (["rank", "no/such", *data], "no/such"),
        (["rank", "minilm", "encoder=e5", *data], "rank takes encoders without a key: write e5"),
        (["rank", str(run), "rank.rows=3", *data], "rank.rows=3 must be at least 10"),
        (["rank", str(run), "data.label_texts=['{}']", *data], "rank asks about the rows of the data alone"),
    ):
        assert main(words) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error


@pytest.mark.parametrize(
    "word",
    [
        *("strategy=lora", "strategy.rank=8", "objective=contrast", "training.epochs=1", "training={epochs: 1}"),
        *(
            "output=elsewhere",
            "hub.push=true",
            "+tracking.trackers=[wandb]",
            "compare.seeds=1",
            "decision.coverage=0.9",
        ),
    ],
)
def test_settings_that_a_ranking_ignores_are_refused(word: str, capfd):
    assert main(["rank", "minilm", word]) == 2
    assert f"{word.partition('=')[0]}" in (error := " ".join(capfd.readouterr().err.split()))
    assert "rank trains nothing" in error
