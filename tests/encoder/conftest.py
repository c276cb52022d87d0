"""One loaded classifier for each family and head, shared by tests that do not change it."""

from collections.abc import Callable, Iterator

import pytest
import torch

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Classifier, load_classifier
from nlp_transfer.settings import EncoderSettings

from .families import tiny_encoder

LABELS = ("refund", "delivery", "praise", "other", "account", "card", "film")
TASK = Task("single_label", LABELS, pair=False)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Classifier]:
    """`build(family, head)` loads anew from one folder a family; further arguments are encoder settings."""
    folders = {}

    def load(family: str, head: str, *, task: Task = TASK, seed: int = 0, **settings) -> Classifier:
        if family not in folders:
            folders[family] = tiny_encoder(tmp_path_factory.mktemp("encoder"), family)
        return load_classifier(EncoderSettings(name=str(folders[family]), **settings), task, head=head, seed=seed)

    return load


@pytest.fixture(scope="session")
def built(build) -> Callable[[str, str], Classifier]:
    """`built(family, head)` is loaded once, with weights large enough that every mistake shows in the logits."""
    loaded = {}

    def get(family: str, head: str) -> Classifier:
        if (family, head) not in loaded:
            loaded[family, head] = build(family, head)
            stir(loaded[family, head].model)
        return loaded[family, head]

    return get


def stir(model: torch.nn.Module) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
