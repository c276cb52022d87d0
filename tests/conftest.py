"""One thread for every library, here and in the processes tests start: models this small only wait for threads.

What a frozen encoder made is kept where nobody else's lies, and no test finds what another one has kept.
"""

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from tests.publishing.forked import Forked, Plain
from tests.warm import Warm

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
    os.environ.setdefault(name, "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

_STORE = "NLP_TRANSFER_CACHE"
_STORES = Path(tempfile.mkdtemp(prefix="nlp-transfer-stores-"))
_COUNT = itertools.count()
# At once, for test modules that copy the environment when they are imported, and for fixtures of many tests.
os.environ[_STORE] = str(_STORES / "shared")
# Modules with tests of half a minute and more: begun last, one of them leaves the other worker with nothing to do.
_LONG = ("test_distributed", "test_crashes", "test_pooled", "test_publication", "test_verification", "test_serving")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long modules; all else stays in order, so that what a module shares is made once a worker."""
    items.sort(key=lambda item: item.path.stem not in _LONG)


def pytest_collection_finish() -> None:
    """Leave out of every garbage collection to come what stays anyway: the libraries and the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _stores() -> Iterator[Path]:
    yield _STORES
    shutil.rmtree(_STORES, ignore_errors=True)


@pytest.fixture(autouse=True)
def store_folder(_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that this test's runs keep features in; nothing is in it."""
    folder = _stores / str(next(_COUNT))
    monkeypatch.setenv(_STORE, str(folder))
    return folder


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Restore the environment after each test: peft sets CC where it cannot compile."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder, which a module's tests share."""
    from tests.encoder.families import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a tiny encoder lies, for `settings_for`."""
    from tests.encoder.families import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("home")).parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to call the command line in, which a module's tests share."""
    from tests.place import furnish

    return furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """Let training.precision=auto mean fp32 on every machine: tests compare to the last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlp_transfer.training.device.multiplies_bf16_fast", lambda device: False)
        yield


@pytest.fixture(scope="session")
def composing() -> Iterator[Warm]:
    """Processes that begin with what reads a recipe, most of what a light answer waits for."""
    warm = Warm("import hydra.compose, nlp_transfer.cli, nlp_transfer.config")
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def running() -> Iterator[Warm]:
    """Processes that begin with what a run on a tiny BERT imports until its end, whatever its strategy."""
    warm = Warm(
        "import hydra.compose, nlp_transfer.cli, nlp_transfer.running.run, nlp_transfer.predicting.predict\n"
        "import matplotlib.backends.backend_svg, nlp_transfer.reporting.report_page, peft, sklearn.linear_model\n"
        "import sklearn.feature_extraction.text, transformers.models.bert.modeling_bert, tests.runs"
    )
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """Processes that begin with what loads a folder without this package."""
    plain = Plain(tmp_path_factory.mktemp("plain") / "modules")
    yield plain
    plain.warm.close()


@pytest.fixture
def forked(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> Plain:
    """Have verification fork its processes; no code of any folder has been copied."""
    monkeypatch.setattr("nlp_transfer.publishing.verification.subprocess.Popen", partial(Forked, plain))
    shutil.rmtree(plain.modules, ignore_errors=True)
    return plain
