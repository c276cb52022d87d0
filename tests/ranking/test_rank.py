"""Encoders are put in the order in which they tell, which is known here, and it is said how sure that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.console import Screen
from nlp_transfer.ranking.rank import rank
from nlp_transfer.ranking.show import verdict
from nlp_transfer.ranking.standing import Candidate, Cost, Layer, Standing, stand
from tests.encoder.families import tiny_encoder
from tests.place import furnish
from tests.test_run import data_for, rows

QUIET = Screen(speaks=False)
COST = Cost(10, 5, 1.0, 1.0, 1.0)


def candidate(name: str, *losses: np.ndarray) -> Candidate:
    layers = [Layer(number, 1 - float(each.mean()), None, 0.0, None, None) for number, each in enumerate(losses)]
    return Candidate(name, name, "", layers, np.stack(losses).astype(np.float32), COST)


def standings(*candidates: Candidate) -> list[Standing]:
    return stand(list(candidates), resamples=500, confidence=0.95, seed=0)


def test_the_order_is_that_of_the_best_layers_and_sure_where_rows_agree():
    draws = np.random.default_rng(0)
    noise = [draws.normal(0, 0.3, 400) for _ in range(4)]
    good, better = candidate("good", 0.6 + noise[0], 0.9 + noise[1]), candidate("better", 0.4 + noise[2])
    same = candidate("same", 0.6 + noise[0] + draws.permutation([0.01, -0.01] * 200))
    found = standings(good, better, same)
    assert found[0].candidate is better
    assert (found[0].ranks, found[0].first) == ((1, 1), 1.0)
    assert {each.candidate.name: each.ranks for each in found[1:]} == {"good": (2, 3), "same": (2, 3)}
    for each in found:
        low, high = each.explained
        assert low < each.candidate.best.explained < high
    assert found[1].candidate.best.number == 0
    assert verdict(found) == "start from better: it is first in 100% of the resamples"
    assert "may be as good" in verdict(standings(good, same))
    nothing = candidate("nothing", 1 + draws.normal(0, 0.3, 400))
    assert "by chance" in verdict(standings(nothing))


def test_intervals_hold_what_they_promise():
    """The true share lies in the interval of a single layer in about 95 of 100 samples."""
    held = 0
    for seed in range(200):
        losses = np.random.default_rng(seed).exponential(0.7, 200)
        (found,) = stand([candidate("one", losses)], resamples=200, confidence=0.95, seed=seed)
        held += found.explained[0] <= 1 - 0.7 <= found.explained[1]
    assert held >= 180


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


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "ordinal", "regression", "pair", "soft"])
def test_an_encoder_that_reads_more_comes_first_whatever_the_task(encoders: dict[str, Path], problem: str):
    words = ["data=object", "training.precision=fp32", "evaluation.resamples=200"]
    words += [f"data.problem={problem}"] if problem in ("ordinal", "regression", "multi_label") else []
    named = [(name, compose(None, [*words, f"encoder={place}"]).encoder) for name, place in encoders.items()]
    data = data_for(problem) | {"train": rows(problem, 120, 1)}
    found = rank(compose(None, words), named, QUIET, data=data)
    order = [each.candidate.name for each in found]
    assert order[-1] == "blind"
    for each in found:
        assert [layer.number for layer in each.candidate.layers] == [0, 1, 2]
        assert all(np.isfinite(layer.explained) and np.isfinite(layer.logme) for layer in each.candidate.layers)
        assert (each.candidate.best.accuracy is None) == (problem in ("multi_label", "regression"))
        assert each.candidate.cost.parameters > each.candidate.cost.embedding > 0
    assert found == sorted(found, key=lambda each: -each.candidate.best.explained)


def test_the_command_line_ranks_folders_and_runs_and_says_what_it_cannot(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    data = ["data=files", f"data.path={place / 'data'}", "training.precision=fp32"]
    assert main(["adapt", *data, f"encoder={place / 'tiny-bert'}", "strategy=probe", f"output={place / 'runs'}"]) == 0
    (run,) = (place / "runs").iterdir()
    capfd.readouterr()
    assert main(["rank", str(place / "tiny-bert"), str(run), *data, "rank.rows=40"]) == 0
    told = json.loads(capfd.readouterr().out)
    one, other = told["ranking"]
    assert {one["name"], other["name"]} == {str(place / "tiny-bert"), str(run)}
    assert one["explained"] == pytest.approx(other["explained"], abs=1e-5)  # a probe leaves its encoder as it was
    assert "may be as good" in told["verdict"]
    for words, said in (
        (["rank", *data], "rank needs encoders"),
        (["rank", "minilm", "minilm", *data], "'minilm' is given twice"),
        (["rank", "no/such", *data], "no/such"),
        (["rank", "minilm", "encoder=e5", *data], "rank takes encoders as words of their own: write e5"),
        (["rank", str(run), "rank.rows=3", *data], "rank.rows=3 must be at least 10"),
    ):
        assert main(words) == 2
        error = capfd.readouterr().err
        assert said in error
        assert "Traceback" not in error
