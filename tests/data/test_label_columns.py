"""Labels in columns of their own."""

import datasets
import numpy as np
import pandas as pd
import pytest

from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus

TEXTS = [f"text {number}" for number in range(40)]
FLAGS = np.arange(80).reshape(40, 2) % 3 == 0


@pytest.mark.parametrize("kind", [bool, np.int64, np.int8, np.float32, str])
@pytest.mark.parametrize("library", ["pandas", "datasets", "records"])
def test_flags_of_any_type_are_the_lists_of_names(kind: type, library: str):
    cells = FLAGS.astype(int).astype(str) if kind is str else FLAGS.astype(kind)
    frame = pd.DataFrame({"text": TEXTS, "up": cells[:, 0], "down": cells[:, 1]})
    data = {
        "pandas": frame,
        "datasets": datasets.Dataset.from_pandas(frame),
        "records": {"train": frame.to_dict("records")},
    }[library]
    lists = [[name for name, flag in zip(("up", "down"), row, strict=True) if flag] for row in FLAGS.tolist()]
    words = ["data=object", "data.validation_share=0", "data.test_share=0.2"]
    settings = compose(None, [*words, "data.label_columns=[up,down]"]).data
    found = load_corpus(settings, data=data)
    expected = load_corpus(compose(None, words).data, data=pd.DataFrame({"text": TEXTS, "labels": lists}))
    assert (found.task, found.fingerprint) == (expected.task, expected.fingerprint)
    assert found.task.problem == "multi_label"
    assert (found.splits["train"].targets == expected.splits["train"].targets).all()
