"""The anchor term: hand-computed values, anchored weights, bfloat16 copies, and divided steps."""

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nlp_transfer.config import compose
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.anchor import Anchor
from nlp_transfer.objectives.checks import check_objective
from nlp_transfer.objectives.objective import Objective, Step
from nlp_transfer.objectives.settings import AnchorSettings, ClassifySettings
from nlp_transfer.training.bfloat16 import WorkingCopy
from tests.training.cut import CUTS, loss_and_gradient, parts

TASK = Task("single_label", ("a", "b", "c"), False, None)


class Small(nn.Module):
    """The parts of a model that an anchor reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 2), nn.Linear(2, 3)
        self.base_model_prefix, self.config = "encoder", type("Config", (), {"num_labels": 3})()


def anchored(model: nn.Module, known: int = 0, fresh: tuple[str, ...] = (), **settings) -> Anchor:
    term = Anchor(AnchorSettings(**settings), TASK)
    term.setup(model, fresh=fresh, known=known)
    return term


def loss(term: Anchor, examples: int = 2) -> torch.Tensor:
    return term(Outputs(torch.zeros(examples, 3), torch.zeros(examples, 2)), {}, 0.0)


def value(term: Anchor) -> float:
    return loss(term)[0].item()


def test_the_values_and_slopes_by_hand():
    model = Small()
    term = anchored(model, known=1)
    term.hold()
    assert loss(term).tolist() == [0.0, 0.0]
    with torch.no_grad():
        model.encoder.weight += torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
        model.head.bias += torch.tensor([0.5, 7.0, 7.0])  # the last two are new, and free
    pull = loss(term)
    assert pull.tolist() == pytest.approx([(1 + 4 + 0.25) / 2] * 2)
    pull.mean().backward()
    assert model.encoder.weight.grad.flatten().tolist() == pytest.approx([1.0, 0.0, -2.0, 0.0])
    assert model.head.bias.grad.tolist() == pytest.approx([0.5, 0.0, 0.0])  # weights come by chance, and so roundings
    assert not model.head.weight.grad.any()
    importance = [torch.full_like(each, 3.0) for each in term.held.values()]
    with torch.no_grad():
        model.encoder.weight -= torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
        model.head.bias -= torch.tensor([0.5, 0.0, 0.0])
    term.hold(importance)
    with torch.no_grad():
        model.encoder.weight += torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert loss(term).tolist() == pytest.approx([3 * (1 + 4) / 2] * 2)


def test_new_and_frozen_weights_are_not_anchored():
    model = Small()
    model.encoder.bias.requires_grad_(False)
    assert [each.shape for each in anchored(model).held.values()] == [(2, 2)]
    assert [len(each) for each in anchored(model, known=2).held.values()] == [2, 2, 2]
    with pytest.raises(UserError, match="all of them are frozen"):
        anchored(model, fresh=("encoder.weight",))


@pytest.mark.parametrize("examples", [8, 7])
def test_any_cut_of_a_step_gives_the_same_loss_and_gradient(tmp_path, examples: int):
    step, columns, padding = parts(tmp_path, "single_label", examples)
    objective = Objective({"classify": ClassifySettings(), "anchor": AnchorSettings(weight=3.0)}, TASK)
    objective.setup(step.model, seed=0)
    objective.terms["anchor"].hold()
    with torch.no_grad():
        for each in step.model.parameters():
            each += 0.01
    step, accelerator = Step(step.model, objective), Accelerator(cpu=True)
    whole, gradient = loss_and_gradient(step, columns, padding, size=examples, accelerator=accelerator)
    plain = Step(step.model, Objective({"classify": ClassifySettings()}, TASK))
    least, slope = loss_and_gradient(plain, columns, padding, size=examples, accelerator=accelerator)
    held = sum(value.numel() for value in objective.terms["anchor"].held.values())
    assert whole - least == pytest.approx(3 * held * 0.01**2 / 2, rel=1e-3)
    assert (gradient - slope).abs().max() == pytest.approx(0.03, rel=1e-2)
    for size in CUTS.values():
        found, other = loss_and_gradient(step, columns, padding, size=size, accelerator=accelerator)
        assert found == pytest.approx(whole, rel=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5)


def test_a_bfloat16_copy_is_anchored_in_full_precision(tmp_path):
    step, _, _ = parts(tmp_path, "single_label", 4)
    objective = Objective({"classify": ClassifySettings(), "anchor": AnchorSettings()}, TASK)
    objective.setup(step.model, seed=0)
    step = Step(step.model, objective)
    term = objective.terms["anchor"]
    working = WorkingCopy(step)
    term.hold()
    copied = next(module for module in working.module.modules() if isinstance(module, Anchor))
    assert copied is not term
    assert value(copied) == 0  # bfloat16 would be off by what it rounds
    first = term.held.parameters[0]
    with torch.no_grad():
        first += 1e-4  # less than bfloat16 tells of most weights
    pull = loss(copied)
    assert pull[0].item() == pytest.approx(first.numel() * 1e-8 / 2, rel=1e-2)
    pull.mean().backward()
    slope = working.copies[first].grad
    assert slope.dtype == torch.bfloat16
    assert slope.float().mean() == pytest.approx(1e-4, rel=1e-2)
    assert first.grad is None


def test_a_compact_embedding_table_is_anchored_row_by_row(tmp_path):
    step, _, _ = parts(tmp_path, "single_label", 4)
    objective = Objective({"classify": ClassifySettings(), "anchor": AnchorSettings()}, TASK)
    objective.setup(step.model, seed=0)
    term = objective.terms["anchor"]
    before = copy.deepcopy(step.model.state_dict())
    with occurring_words(step.model, np.arange(5)):
        term.hold()
        assert value(term) == 0
        with torch.no_grad():
            step.model.get_input_embeddings().weight[2] += 1.0
        width = step.model.config.hidden_size
        assert value(term) == pytest.approx(width / 2, rel=1e-4)
    after = step.model.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(moved) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective.anchor.kind=other"], "kind"),
        (["objective.anchor.weight=-1"], "weight=-1"),
        (["objective.anchor.kind=ewc"], r"continual\.labels=all and continual\.replay"),
        (["strategy=lora"], "which this strategy does not change"),
        (["strategy=probe"], "which this strategy does not change"),
        (["strategy.reinit_layers=1"], "discards"),
        (["encoder.pretrained=false"], "discards"),
        (["objective.classify.weight=0"], "nothing to learn"),
    ],
)
def test_impossible_settings_are_refused(words: list[str], message: str):
    own = [] if any(word.startswith("strategy=") for word in words) else ["strategy=finetune"]
    with pytest.raises(UserError, match=message):
        check_objective(compose(None, ["objective=anchor", *own, *words]))
