"""The same steps by an AdamW in one process, and by two that share its moments out.

    python -m tests.zero_steps

The last tensor sleeps at first, one step is skipped, and the gradients of two passes are summed. One JSON line tells
what each of the two processes came to, and whether one that went on from what was kept ended in the same bits.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nlp_transfer.training import zero
from nlp_transfer.training.zero import ZeroAdamW
from tests import zeroed
from tests.crash_harness import Case, start

STEPS, WOKEN, SKIPPED, ROWS, LARGEST = 8, 3, 4, 32, 0.2
CUTS = (2, 5)  # while one sleeps, and when all have been updated
PIECES = 50  # values that are summed or gathered at once: no tensor can be at once, but one


def parts() -> tuple[nn.Module, torch.optim.AdamW]:
    """Return a model and its optimizer, the same whenever called."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3))  # no tensor can be halved but one
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [named["0.weight"], named["2.weight"]], "weight_decay": 0.1},
        {"params": [named["0.bias"]], "weight_decay": 0.0},
        {"params": [named["2.bias"]], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_rates(optimizer: Any, step: int) -> None:
    """Set the rates of a step."""
    for group in optimizer.param_groups:
        group["lr"] = 0.01 / (step + 1)
    if step < WOKEN:
        optimizer.param_groups[-1]["lr"] = 0.0


def loss_of(model: nn.Module, rows: slice) -> Tensor:
    """Return the share of some rows in the mean loss of all."""
    torch.manual_seed(1)
    inputs, labels = torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))
    return nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="sum") / ROWS


def alone() -> dict[str, Any]:
    """Return the losses, norms and weights of one process."""
    model, optimizer = parts()
    told = []
    for step in range(STEPS):
        set_rates(optimizer, step)
        loss = loss_of(model, slice(None))
        loss.backward()
        awake = [p for group in optimizer.param_groups if group["lr"] for p in group["params"]]
        for parameter in set(model.parameters()) - set(awake):
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(awake, LARGEST)
        if step != SKIPPED:
            optimizer.step()
        optimizer.zero_grad()
        told.append((float(loss), float(norm)))
    return {"told": told, "weights": weights_of(model)}


def together(stop: int, kept: dict[str, Any] | None = None) -> tuple[nn.Module, ZeroAdamW, list[Any]]:
    """Do the steps up to one, from the first or from what is kept; return what was used, losses and norms."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model, plain = parts()
    optimizer = ZeroAdamW(plain, LARGEST, None)
    if kept:
        named = dict(model.named_parameters())
        for name, parameter in named.items():
            parameter.data.copy_(kept["weights"][name])
        optimizer.resume({named[name]: state for name, state in kept["moments"].items()})
    told = []
    for step in range(kept["step"] if kept else 0, stop):
        set_rates(optimizer, step)
        total = torch.zeros(())
        for number in range(2):
            loss = loss_of(model, slice(rank + world * number, None, 2 * world))
            (loss * world).backward()
            total += loss.detach()
        torch.distributed.all_reduce(total)
        norm = optimizer.clip()
        if step != SKIPPED:
            optimizer.step()
        optimizer.zero_grad()
        told.append((float(total), norm))
    return model, optimizer, told


def goes_on(cut: int) -> list[list[float]]:
    """Return the weights of steps that ended once, and went on from what was kept."""
    model, optimizer, _ = together(cut)
    named = {parameter: name for name, parameter in model.named_parameters()}
    moments = [{named[parameter]: state for parameter, state in optimizer.moments().items()}]
    torch.distributed.broadcast_object_list(moments)
    weights = {name: parameter.detach().clone() for parameter, name in named.items()}
    optimizer.release()
    model, optimizer, _ = together(STEPS, {"step": cut, "weights": weights, "moments": moments[0]})
    optimizer.release()
    return weights_of(model)


def weights_of(model: nn.Module) -> list[list[float]]:
    """Return the weights."""
    return [parameter.detach().flatten().tolist() for parameter in model.parameters()]


class Made(TorchDispatchMode):
    """How many values the tensors have that are made."""

    values = 0

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        """Count those of a new tensor."""
        done = operation(*given, **named or {})
        if "empty" in str(operation):
            self.values += done.numel()
        return done


def run(output: Path) -> None:
    """Write what one of the processes comes to."""
    zeroed.force()
    zero._BUCKET = PIECES
    torch.distributed.init_process_group("gloo")
    model, optimizer, told = together(STEPS)
    with Made() as made:
        moments = optimizer.moments()
    found = {
        "told": told,
        "weights": weights_of(model),
        "values": sum(state["exp_avg"].numel() for state in optimizer.state.values()),
        "moments": len(moments),
        "made": made.values,
    }
    optimizer.release()
    found["apart"] = all(p.untyped_storage().nbytes() == p.nbytes for p in model.parameters())
    found["same bits"] = [goes_on(cut) == found["weights"] for cut in CUTS]
    (output / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def main() -> None:
    """Do the steps in both worlds."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        assert start(Case(run, lambda _: {}, lambda _: None, processes=2), output) == 0
        found = [json.loads((output / f"{rank}.json").read_text()) for rank in range(2)]
        print(json.dumps({"alone": alone(), "together": found}))  # noqa: T201


if __name__ == "__main__":
    main()
