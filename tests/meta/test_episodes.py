"""Classes are divided and episodes drawn by the seed alone, and nothing is drawn twice."""

import numpy as np
import pytest

from nlp_transfer.data.streams import Stream
from nlp_transfer.errors import UserError
from nlp_transfer.meta.episodes import Episode, Episodes, divide
from nlp_transfer.verb_settings import MetaSettings

TARGETS = np.repeat(np.arange(12), [9] * 10 + [4, 1])


def episodes_of(**values) -> Episodes:
    given = {"ways": 3, "shots": 2, "queries": 4, "seed": 5, "stream": Stream.EPISODES} | values
    return Episodes(TARGETS, (0, 2, 4, 6, 8), **given)


def plain(episode: Episode) -> list[list[int]]:
    return [episode.classes.tolist(), episode.support.rows.tolist(), episode.queries.rows.tolist()]


def test_an_episode_depends_on_seed_stream_and_number_only():
    used, fresh = episodes_of(), episodes_of()
    for index in range(20):
        used.draw(index)
    assert plain(used.draw(7)) == plain(fresh.draw(7))
    others = [episodes_of(seed=6).draw(7), episodes_of(stream=Stream.MEASURED_EPISODES).draw(7), fresh.draw(8)]
    assert all(plain(fresh.draw(7)) != plain(other) for other in others)


def test_an_episode_has_rows_of_its_classes_in_order_and_none_twice():
    episodes = episodes_of()
    for index in range(50):
        episode = episodes.draw(index)
        assert len(set(episode.classes)) == 3
        assert set(episode.classes) <= {0, 2, 4, 6, 8}
        whole = episode.whole
        assert whole.rows.tolist() == [*episode.support.rows, *episode.queries.rows]
        assert len(set(whole.rows)) == 3 * (2 + 4)
        for part, each in ((episode.support, 2), (episode.queries, 4), (whole, 6)):
            assert (TARGETS[part.rows] == episode.classes[part.answers]).all()
            assert np.bincount(part.answers).tolist() == [each] * 3
        assert episode.support.answers.tolist() == [0, 0, 1, 1, 2, 2]


def test_every_class_and_row_is_drawn_about_as_often():
    episodes = episodes_of()
    drawn = np.concatenate([episodes.draw(index).whole.rows for index in range(500)])
    counts = np.bincount(drawn, minlength=len(TARGETS))[np.isin(TARGETS, (0, 2, 4, 6, 8))]
    assert counts.sum() == 500 * 18
    assert counts.min() > 150  # 200 each are expected
    assert counts.max() < 250


def test_classes_are_in_one_part_and_small_ones_in_none():
    own = MetaSettings(ways=3, shots=2, queries=4, held_out=0.4, validation=0.2)
    found = divide(TARGETS, 12, own, seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (4, 2, 4)
    assert found.small == (10, 11)
    assert sorted([*found.train, *found.validation, *found.test, *found.small]) == list(range(12))
    assert found == divide(np.random.default_rng(0).permutation(TARGETS), 12, own, seed=0)
    assert found != divide(TARGETS, 12, own, seed=1)
    assert found.sentence == (
        "4 classes to train on, 2 to choose the weights by, 4 held out; 2 classes left out for too few rows"
    )


def test_at_least_an_episode_is_held_out():
    found = divide(TARGETS, 12, MetaSettings(ways=4, shots=2, queries=4, held_out=0.01, validation=0), seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (6, 0, 4)


def test_too_few_classes_are_refused_with_a_hint():
    with pytest.raises(
        UserError, match=r"meta\.ways=5: 10 classes with at least 6 rows .*\(2 classes more with fewer\)"
    ):
        divide(TARGETS, 12, MetaSettings(ways=5, shots=2, queries=4), seed=0)
