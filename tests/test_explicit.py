"""recipes/explicit.py is the run of the command line, bit for bit, so that it cannot drift."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.config import compose
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EncoderSettings
from recipes.explicit import MINILM, main
from tests.encoder.families import tiny_encoder
from tests.place import write_csv
from tests.runs import data_for


@pytest.mark.slow
def test_the_explicit_script_is_the_run(tmp_path: Path):
    encoder = tiny_encoder(tmp_path)
    (tmp_path / "data").mkdir()
    for split, part in data_for("single_label").items():
        write_csv(tmp_path / "data" / f"{split}.csv", part)
    report = main(str(tmp_path / "data"), tmp_path / "explicit", 3, EncoderSettings(name=str(encoder)))
    words = ["data=files", f"data.path={tmp_path / 'data'}", "encoder=custom", f"encoder.name={encoder}", "seed=3"]
    words += ["strategy=finetune", "verify=false", "report.write=false"]
    run = adapt(compose(None, [*words, "encoder.head=pooled", f"output={tmp_path / 'runs'}"]))
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "explicit", run.folder))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert report.to_json() == run.report.to_json()
    records = [(folder / "model" / RECORD).read_text() for folder in (tmp_path / "explicit", run.folder)]
    assert records[0] == records[1]


def test_the_explicit_script_uses_the_default_encoder():
    assert compose().encoder == MINILM
