"""Tokens by the lengths of their windows."""

import numpy as np
from hypothesis import strategies as st

from nlp_transfer.data.ragged import Tokens


def make_tokens(windows: list[list[int]]) -> Tokens:
    """Tokens of examples given as window lengths; token values count up, so that misplacement shows."""
    lengths = [length for example in windows for length in example]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = np.concatenate([[0], np.cumsum([len(example) for example in windows])]).astype(np.int64)
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    return Tokens(
        ids,
        (ids % 2).astype(np.int8),
        offsets,
        first,
        np.array([sum(e) for e in windows]),
        np.zeros(len(windows), np.int64),
    )


examples_st = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=3), min_size=1, max_size=40)
