"""Trials of a search: proposals, persistence, and resuming after a kill."""

import math
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping.job import FAILED, FINISHED, PRUNED, Job
from nlp_transfer.sweeping.settings import SearchSettings
from nlp_transfer.sweeping.space import Space
from nlp_transfer.sweeping.trials import Trials
from tests.sweeping.pretended import drawn


def space_of(*words: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(words)))


SMALL = space_of("seed=range(0,5)")


def search(folder: Path, space: Space, *, higher: bool = True, until: int = 1000, **keys: object) -> list[Job]:
    """Search as the sweeper does, and leave after so many runs as if the process had been killed."""
    settings = SearchSettings(**keys)
    folder.mkdir(exist_ok=True)
    trials, done = Trials(folder, settings, space, higher=higher), list[Job]()
    while batch := trials.unfinished()[: settings.n_jobs] or trials.propose(settings.n_jobs):
        jobs = []
        for trial in batch:
            if len(done) + len(jobs) == until:
                return done
            words = space.words_of(trial.params)
            (figure,) = drawn(dict(word.partition("=")[::2] for word in words))
            jobs.append(Job(words, FINISHED, metric="macro_f1", figure=figure))
        for trial, job in zip(batch, jobs, strict=True):
            trials.tell(trial, job)
        done += jobs
    return done


@pytest.mark.parametrize(
    ("sampler", "n_jobs"), [("tpe", 1), ("tpe", 3), ("random", 1), ("qmc", 1), ("grid", 1), ("grid", 3)]
)
def test_a_killed_search_resumes_unchanged(tmp_path: Path, sampler: str, n_jobs: int):
    lr = "strategy.lr=1e-5,1e-4,1e-3" if sampler == "grid" else "strategy.lr=tag(log,interval(1e-5,1e-3))"
    space = space_of(lr, "training.batch_size=range(8,33,8)", "strategy=choice(lora,finetune)", "output=runs")
    keys = {"sampler": sampler, "n_jobs": n_jobs, "startup": 3}
    whole = search(tmp_path / "a", space, n_trials=8, **keys)
    assert len({job.words for job in whole}) == 8
    done = []
    for until in (0, 4, 1000):
        done += search(tmp_path / "b", space, n_trials=8, until=until, **keys)
    assert [job.words for job in dict.fromkeys(done)] == [job.words for job in whole]
    trials = Trials(tmp_path / "b", SearchSettings(n_trials=8, **keys), space, higher=True)
    assert trials.jobs == {job.words: job for job in whole}
    assert not trials.unfinished()
    assert not trials.propose(1)
    assert len(search(tmp_path / "b", space, n_trials=10, **keys)) == 2
    if sampler in ("tpe", "random"):
        assert search(tmp_path / "c", space, n_trials=8, seed=1, **keys) != whole


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid"])
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_partially_proposed_trial_gets_the_same_values(tmp_path: Path, sampler: str, lines: int):
    space = space_of("x=1,2,3,4", "y=range(8,33,8)", "z=a,b")
    keys = {"sampler": sampler, "startup": 2, "n_trials": 6}
    whole = search(tmp_path / "a", space, **keys)
    search(tmp_path / "b", space, until=4, **keys)  # the fifth was proposed
    path = tmp_path / "b" / "trials.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-lines]))
    assert [job.words for job in search(tmp_path / "b", space, **keys)] == [job.words for job in whole[4:]]
    assert path.read_text().count('"op_code":4') == 6


@pytest.mark.parametrize("higher", [True, False])
def test_a_search_finds_the_optimum(tmp_path: Path, higher: bool):
    space = space_of("x=interval(0,1)")
    trials, asked = Trials(tmp_path, SearchSettings(n_trials=30), space, higher=higher), list[float]()
    while batch := trials.propose(1):
        asked.append(batch[0].params["x"])
        figure = -abs(asked[-1] - 0.7) if higher else abs(asked[-1] - 0.7)
        trials.tell(batch[0], Job(space.words_of(batch[0].params), FINISHED, figure=figure))
    assert sum(abs(each - 0.7) < 0.2 for each in asked[20:]) > 6  # 4 by chance


def test_a_trial_that_failed_is_taken_up_by_the_next_process_alone(tmp_path: Path):
    settings = SearchSettings(sampler="grid")
    trials = Trials(tmp_path, settings, SMALL, higher=True)
    assert trials.total == 5
    (first, second) = trials.propose(2)
    trials.tell(first, Job(SMALL.words_of(first.params), FAILED, 2))
    trials.tell(second, Job(SMALL.words_of(second.params), PRUNED, 143))
    assert not trials.unfinished()
    assert trials.failed == 1
    (again,) = Trials(tmp_path, settings, SMALL, higher=True).unfinished()
    assert (again.number, again.params) == (first.number, first.params)


def test_a_truncated_line_is_ignored(tmp_path: Path):
    keys = {"n_trials": 3, "sampler": "grid"}
    search(tmp_path, SMALL, until=2, **keys)
    with (tmp_path / "trials.jsonl").open("a") as lines:
        lines.write('{"op_code":4,"wor')
    assert len(search(tmp_path, SMALL, **keys)) == 1


def test_a_file_without_trials_is_refused_and_kept(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b"\x80\x04\x95.\n")  # as a pickle begins
    with pytest.raises(UserError, match="cannot be read as trials"):
        Trials(tmp_path, SearchSettings(), SMALL, higher=True)
    assert path.read_bytes() == b"\x80\x04\x95.\n"


@pytest.mark.parametrize(
    ("word", "first", "last"),
    [
        ("x=range(2,9,3)", "x=2", "x=8"),
        ("x=range(0.5,2.5,0.5)", "x=0.5", "x=2.0"),
        ("x=int(interval(3,4))", "x=3", "x=4"),
        ("x=tag(log,int(interval(1,2)))", "x=1", "x=2"),
        ("x=a,'b c'", "x=a", "x='b c'"),
        ("x=choice([1,2],{a:3})", "x=[1,2]", "x={a:3}"),
        ("+x=true,null", "+x=True", "+x=null"),
    ],
)
def test_a_space_has_the_values_of_hydras_grammar_and_gives_back_its_words(
    tmp_path: Path, word: str, first: str, last: str
):
    space = space_of(word, "fixed='a b'", "~gone")
    found = {words[0] for words in (job.words for job in search(tmp_path, space, sampler="random", n_trials=12))}
    assert {first, last} <= found
    assert all(space_of(each, "y=1,2") for each in found)
    assert space.words_of({key: "1" for key in space.distributions})[1:] == ("fixed='a b'", "~gone")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x=interval(1,0)", "has no value in it"),
        ("x=range(1,1)", "has no value in it"),
        ("x=tag(log,range(16,129,16))", "a range with a step has no logarithm; use interval, or name the values"),
        ("x=tag(log,interval(0,1))", "the logarithm needs values above 0"),
        ("x=1", "needs something to search for"),
    ],
)
def test_a_space_with_nothing_in_it_is_refused(word: str, message: str):
    with pytest.raises(UserError, match=message):
        space_of(word)


def test_a_space_has_so_many_combinations():
    assert space_of("x=1,2", "y=range(0,3)", "z=range(0.5,2,0.5)", "w=int(interval(1,4))").size == 72
    assert space_of("x=1,2", "y=interval(0,1)").size == math.inf


def test_a_grid_has_no_interval():
    assert space_of("x=1,2", "y=range(0,3)", "z=range(0.5,2,0.5)").grid() == {
        "x": ("1", "2"),
        "y": range(3),
        "z": [0.5, 1.0, 1.5],
    }
    with pytest.raises(UserError, match="x has infinitely many"):
        space_of("x=interval(0,1)").grid()
