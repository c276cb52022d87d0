"""How long the loop runs, what it clips, at which rates and precision it learns, and what it refuses to train."""

import gc
import math
import random
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Classifier, load_classifier
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings, TrackingSettings, TrainingSettings
from nlp_transfer.strategies import STRATEGIES, Group
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.device import make_accelerator
from nlp_transfer.training.length import planned_steps, steps_between_evaluations
from nlp_transfer.training.loop import (
    NotFinite,
    TrainingData,
    Trajectory,
    check_gradients,
    fit,
)
from nlp_transfer.training.optimizer import build_optimizer, set_rates
from nlp_transfer.training.state import preserved_random_state, seed_step
from tests.encoder.families import tiny_encoder

LAYERS = 3
RATES = st.floats(1e-6, 1e-1)


class Linear(nn.Module):
    """A step over a linear layer, which notes the examples it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.given: list[int] = []

    def forward(self, batch: dict[str, Tensor], progress: float) -> Tensor:
        self.given += batch["examples"].tolist()
        self.logits = self.layer(batch["features"])
        return (batch["weights"] * F.cross_entropy(self.logits.float(), batch["targets"], reduction="none")).sum()


def columns_of(examples: int) -> Columns:
    """Examples of one token each, already turned into features."""
    generator = np.random.default_rng(0)
    ones = np.ones(examples, np.int64)
    steps = np.arange(examples + 1)
    return Columns(
        Tokens(np.zeros(examples, np.int32), None, steps, steps, ones, 0 * ones),
        generator.integers(0, 3, examples),
        ones.astype(np.float32),
        generator.normal(size=(examples, 4)).astype(np.float32),
    )


def trained(
    step: nn.Module,
    examples: int,
    training: TrainingSettings,
    *,
    values: Iterator[float] | None = None,
    on_step: Callable = lambda *_: None,
    accelerator: Accelerator | None = None,
) -> Trajectory:
    """Train all that learns; `values` are what the evaluations find."""
    values = iter(range(10**6)) if values is None else values
    return fit(
        accelerator or Accelerator(cpu=True),
        step,
        [Group("all", {name: p for name, p in step.named_parameters() if p.requires_grad}, 1e-2)],
        TrainingData(columns_of(examples), Padding(0, 0, False)),
        settings=training,
        seed=0,
        validation=Validation(lambda: {"accuracy": float(next(values))}, "accuracy", higher_is_better=True),
        callbacks=Callbacks(on_step),
    )


@settings(max_examples=30)
@given(
    found=st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan]), min_size=1, max_size=8),
    patience=st.none() | st.integers(1, 3),
)
def test_patience_ends_a_run_once_nothing_got_better_that_often(found: list[float], patience: int | None):
    step = Linear()
    weights = []
    trajectory = trained(
        step,
        8,
        TrainingSettings(epochs=len(found), batch_size=4, patience=patience),
        values=iter(found),
        on_step=lambda *_: weights.append(step.layer.weight.detach().clone()),
    )
    seen = [line["accuracy"] for line in trajectory.evaluations]
    records = [i for i, v in enumerate(seen) if not math.isnan(v) and all(not v <= e for e in seen[:i])]
    waited = len(seen) - 1 - records[-1] if records else len(seen)
    assert np.array_equal(seen, found[: len(seen)], equal_nan=True)
    assert trajectory.steps == len(weights) == 2 * len(seen)
    if patience is None or waited < patience:
        assert len(seen) == len(found)
    else:
        assert waited == patience  # no evaluation later
    # Of equally good ones the later.
    kept = max(i for i, v in enumerate(seen) if v == seen[records[-1]]) + 1 if records else len(seen)
    assert trajectory.kept_step == 2 * kept
    assert torch.equal(step.layer.weight, weights[2 * kept - 1])


@settings(max_examples=30)
@given(
    examples=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    epochs=st.floats(0.1, 3),
    least=st.integers(0, 12),
    most=st.none() | st.integers(1, 12),
)
def test_a_run_has_the_steps_it_was_promised_and_gives_every_example_its_turn(
    examples: int, batch_size: int, epochs: float, least: int, most: int | None
):
    training = TrainingSettings(epochs=epochs, batch_size=batch_size, min_steps=least, max_steps=most)
    step = Linear()
    done = trained(step, examples, training).steps
    asked = epochs * math.ceil(examples / batch_size)
    assert done == planned_steps(examples, training)
    assert most is None or done <= most
    assert done == most or done >= max(least, asked)
    assert done <= least or done - 1 < asked  # and not one more
    turns = np.bincount(step.given, minlength=examples)
    assert turns.max() - turns.min() <= 1


@pytest.mark.parametrize("bound", [1e-3, 0.2, 1e3, 0.0])
def test_no_gradient_is_longer_than_its_bound(bound: float):
    before: list[float] = []
    used: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        used.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))

    hook = register_optimizer_step_pre_hook(note)
    try:
        training = TrainingSettings(epochs=4, batch_size=4, max_grad_norm=bound)
        trained(Linear(), 8, training, on_step=lambda done, total, line: before.append(line["gradient_norm"]))
    finally:
        hook.remove()
    assert len(used) == 8
    assert min(before) > 1e-3
    assert used == pytest.approx([min(norm, bound or math.inf) for norm in before], rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("home"), num_hidden_layers=LAYERS)


def load(folder: Path) -> Classifier:
    task = Task("single_label", ("a", "b", "c"), pair=False)
    return load_classifier(EncoderSettings(name=str(folder)), task, head="native", seed=0)


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load(folder)


def below_top(name: str) -> int | None:
    """How many layers lie between a parameter and the top, told from its name; None in the head."""
    if ".layer." in name:
        return LAYERS - 1 - int(name.split(".layer.")[1].split(".")[0])
    return LAYERS if ".embeddings." in name else 0 if ".pooler." in name else None


@settings(max_examples=30)
@given(lr=RATES, head_lr=st.none() | RATES, decay=st.floats(0.1, 1), progress=st.floats(0, 0.99))
def test_layers_learn_at_the_rate_above_them_times_the_decay(
    classifier: Classifier, lr: float, head_lr: float | None, decay: float, progress: float
):
    strategy = STRATEGIES["finetune"](lr=lr, head_lr=head_lr, layer_decay=decay)
    strategy.apply(classifier)
    groups = strategy.groups(classifier)
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in classifier.model.named_parameters())
    for group in groups:
        for name in group.parameters:
            layers = below_top(name)
            wanted = (lr if head_lr is None else head_lr) if layers is None else lr * decay**layers
            assert group.lr == pytest.approx(wanted), name
    optimizer = build_optimizer(groups, TrainingSettings())
    set_rates(optimizer, TrainingSettings(), progress)
    share = min(progress / 0.1, (1 - progress) / 0.9)  # the default schedule
    peaks = {parameter: group.lr for group in groups for parameter in group.parameters.values()}
    for group in optimizer.param_groups:
        assert all(group["lr"] == pytest.approx(peaks[parameter] * share) for parameter in group["params"])


@pytest.mark.parametrize("strategy", ["lora", "adapter"])
@pytest.mark.parametrize("head_lr", [None, 0.5])
def test_the_head_beside_an_adapter_learns_at_its_own_rate(folder: Path, strategy: str, head_lr: float | None):
    classifier = load(folder)
    chosen = STRATEGIES[strategy](lr=0.25, head_lr=head_lr)
    chosen.apply(classifier)
    rates = {name: group.lr for group in chosen.groups(classifier) for name in group.parameters}
    assert rates.keys() == {name for name, p in classifier.model.named_parameters() if p.requires_grad}
    assert rates == {name: (head_lr or 0.25) if "classifier" in name else 0.25 for name in rates}
    assert len({"classifier" in name for name in rates}) == 2


def test_bf16_on_a_cpu_computes_in_bf16_and_learns(tmp_path: Path):
    losses: dict[str, list[float]] = {}
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        step = Linear()
        accelerator = make_accelerator(precision, TrackingSettings(), tmp_path, autocast=True)
        told = losses[precision] = []
        settings = TrainingSettings(epochs=20, batch_size=8)
        trained(step, 8, settings, accelerator=accelerator, on_step=lambda *of, to=told: to.append(of[2]["loss"]))
        assert step.logits.dtype == kind
        assert step.layer.weight.dtype == torch.float32
    assert np.isfinite(losses["bf16"]).all()
    assert losses["bf16"][-1] < losses["bf16"][0]
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_a_parameter_that_takes_no_part_is_not_trained_silently():
    step = Linear()
    step.spare = nn.Linear(2, 2)
    with pytest.raises(
        UserError, match=r"2 tensors received no gradient although they should be trained.* spare\.weight"
    ):
        trained(step, 8, TrainingSettings(batch_size=4))
    step.spare.requires_grad_(False)
    assert trained(step, 8, TrainingSettings(epochs=2, batch_size=4)).steps == 4


def test_a_frozen_parameter_with_a_gradient_is_found():
    layer = nn.Linear(2, 2)
    layer(torch.ones(2)).sum().backward()
    check_gradients(layer)
    layer.bias.requires_grad_(False)
    with pytest.raises(UserError, match=r"1 tensors received a gradient although frozen, such as bias"):
        check_gradients(layer)


class Broken(Linear):
    """A step whose loss is not a number in some passes, or whose gradient is none in all."""

    def __init__(self, *, losses: Collection[int] = (), gradient: bool = False) -> None:
        super().__init__()
        self.losses, self.gradient, self.passes = losses, gradient, 0

    def forward(self, batch, progress):
        self.passes += 1
        loss = super().forward(batch, progress) * (math.nan if self.passes in self.losses else 1)
        return loss + torch.sqrt(self.layer.weight[0, 0] * 0) * 0 if self.gradient else loss


def half_precision() -> Accelerator:
    """Return what accelerate makes of fp16 on a GPU, as far as scaling goes."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**3)
    return accelerator


@pytest.mark.parametrize("accelerator", [lambda: Accelerator(cpu=True), half_precision])
def test_a_step_that_is_no_number_is_skipped_and_counted(accelerator: Callable[[], Accelerator]):
    step = Broken(losses=[2])
    trajectory = trained(
        step, 16, TrainingSettings(epochs=3, batch_size=4, precision="fp32"), accelerator=accelerator()
    )
    assert (trajectory.steps, trajectory.skipped) == (12, [2])
    assert bool(torch.isfinite(step.layer.weight).all())


@pytest.mark.parametrize(("accelerator", "steps"), [(lambda: Accelerator(cpu=True), 3), (half_precision, 4)])
def test_gradients_that_stay_no_numbers_end_the_run(accelerator: Callable[[], Accelerator], steps: int):
    """In fp16 only once the loss is no longer scaled up: a scale that is too large is no defect."""
    step = Broken(gradient=True)
    with pytest.raises(NotFinite) as caught:
        trained(step, 16, TrainingSettings(epochs=9, batch_size=4, precision="fp32"), accelerator=accelerator())
    assert caught.value.step == steps


@pytest.mark.parametrize(
    ("rows", "values", "steps", "between"),
    [
        (48, {}, 50, 10),  # three steps a pass: few rows need steps
        (48, {"epochs": 2.0}, 6, 3),  # passes that are asked for are those
        (48, {"epochs": 50.0}, 150, 3),
        (48, {"epochs": 2.0, "min_steps": 40}, 40, 8),
        (48, {"min_steps": 400}, 400, 80),
        (48, {"max_steps": 10}, 10, 3),
        (16_000, {}, 1_000, 500),
        (16_000, {"evaluate_every": 0.25}, 1_000, 125),
        (16_000, {"batch_size": 16}, 2_000, 1_000),
        (4_799, {}, 600, 300),
        (4_800, {}, 300, 150),  # as many examples, in larger batches
        (400, {}, 50, 25),
        (1_200, {}, 150, 75),
    ],
)
def test_how_long_a_training_is_and_how_often_it_is_measured(rows: int, values: dict, steps: int, between: int):
    settings = TrainingSettings(**values)
    assert planned_steps(rows, settings) == steps
    assert steps_between_evaluations(rows, settings) == between


def test_nothing_that_trained_a_step_is_left_behind_it():
    """Copies, gradients and moments take as much memory as two models; what is measured and saved needs the room."""
    made = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: made.append(weakref.ref(optimizer)))
    accelerator = Accelerator(cpu=True)
    trained(Linear(), 8, TrainingSettings(batch_size=4, epochs=1), accelerator=accelerator)
    hook.remove()
    gc.collect()
    assert made
    assert not any(optimizer() for optimizer in made)


def drawn_now() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - what libraries draw


def test_what_a_step_draws_is_a_function_of_seed_step_and_rank():
    def drawn(*place: int) -> tuple[float, float, float]:
        seed_step(*place)
        return drawn_now()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert [drawn(*place) for place in places] == [drawn(*place) for place in places]
    assert len({number for place in places for number in drawn(*place)}) == 3 * len(places)
    own = int(np.random.SeedSequence([0, 1, 0]).generate_state(1)[0])
    set_seed(own)
    assert drawn_now() == drawn(0, 1, 0)


def test_runs_in_several_threads_follow_one_another():
    """The random generators are those of the process."""
    drawn = []

    def run(seed: int) -> None:
        with preserved_random_state():
            torch.manual_seed(seed)
            time.sleep(0.02)
            drawn.append((seed, torch.rand(1).item()))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(8)))
    expected = [(seed, torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()) for seed in range(8)]
    assert sorted(drawn) == expected
