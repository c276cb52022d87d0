"""A verified encoder with a head for a task, and the ONE forward pass that every part of the package uses.

Knows how a head is put on and what a batch looks like; it must not know losses, strategies or the training loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from nlp_transfer.encoder import pooled
from nlp_transfer.encoder.agreeing import agree, most_tokens
from nlp_transfer.encoder.anatomy import (
    Anatomy,
    active_output,
    disposable,
    dissect,
    is_causal,
    output_layers,
    sample_rows,
    unwrapped,
)
from nlp_transfer.encoder.bag import forget_places
from nlp_transfer.encoder.boundary import entering
from nlp_transfer.encoder.chance import randomise
from nlp_transfer.encoder.damage import blame_file
from nlp_transfer.encoder.heads import native_model, pooled_model
from nlp_transfer.encoder.pooled_config import encoder_config, register_config
from nlp_transfer.encoder.sizes import within_weights
from nlp_transfer.encoder.source import Source, locate, read_json
from nlp_transfer.errors import UserError, below_one, one_of

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EncoderSettings

HEADS = ("native", "pooled")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (examples, outputs).
        features: (examples, width), the vectors that enter the output layer.
    """

    logits: Tensor
    features: Tensor


@dataclass
class Classifier:
    """An encoder with a head.

    Attributes:
        model: The transformers model; a strategy may replace it by a PEFT model.
        tokenizer: Its tokenizer, with a padding token.
        anatomy: Where the model, before any wrapping, keeps what.
        source: Where the weights came from.
        fresh: Names of the parameters that were newly initialised.
        head: "native" or "pooled".
        max_tokens: Longest input in tokens, special tokens included.
        known: How many of the labels, the first ones, the output layer knew before; 0: it is new.
    """

    model: Any
    tokenizer: Any
    anatomy: Anatomy
    source: Source
    fresh: tuple[str, ...]
    head: str
    max_tokens: int
    known: int = 0


def load_classifier(
    settings: EncoderSettings, task: Task, *, head: str, seed: int, source: Source | None = None
) -> Classifier:
    """Load the encoder of `settings` in float32 and put a head for `task` on it.

    The output layer is new, unless the folder holds one for exactly the same labels in the same order, which is kept;
    a regression head, which names none, is always new. Without layers places of tokens are forgotten, see `bag`.

    Args:
        settings: Which encoder, which head.
        task: Labels and kind of problem.
        head: "native", the architecture's own, or "pooled", ours.
        seed: Decides the weights of the head, and those of an encoder that shall not be pretrained; the global random
            state is left alone.
        source: What `locate` found for the settings, where that was asked already.

    Raises:
        UserError: the encoder cannot be found, verified or loaded, or it cannot carry such a head.
    """
    from transformers import AutoTokenizer

    one_of(head, HEADS, "encoder.head")
    below_one(settings, "encoder.", "head_dropout")
    source = source or locate(settings)
    _check_attention(settings, source)
    register_config()
    pooled.register_model()
    options = {"trust_remote_code": settings.trust_remote_code}
    with quiet(), torch.random.fork_rng(devices=[]), _named(settings, head, source), within_weights(source.folder):
        torch.default_generator.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, **options)
        if head == "pooled":
            model, fresh = pooled_model(settings, task, source.folder, tokenizer)
        else:
            model, fresh = native_model(settings, task, source.folder)
        if settings.depth == 0:  # some ask how many layers there are only when they run
            with torch.no_grad():
                disposable(getattr(model, model.base_model_prefix))(**sample_rows(model))
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what the library makes where it finds no vocabulary
        raise UserError(f"encoder.name={settings.name!r}: {source.folder} holds no vocabulary (tokenizer.json)")
    check_finite(model, f"encoder.name={settings.name!r} ({source.folder})")
    agree(model, tokenizer, source.folder)
    if not settings.pretrained and not source.pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            base = f"{model.base_model_prefix}."
            randomise(model, model.base_model_prefix, lambda name: name.startswith(base))
    forget_places(model)
    anatomy = dissect(model, fresh=fresh, segments="token_type_ids" in tokenizer.model_input_names)
    # A native head may rest on a new pooler of the encoder; ours reads none, so that nothing there may be new.
    pretrained = anatomy.layers if head == "native" else anatomy.layers + 2
    inside = [name for name in fresh if name.startswith(f"{anatomy.base}.") and name not in anatomy.unused]
    missing = [name for name in inside if anatomy.depth[name] <= pretrained]
    if missing:
        raise UserError(
            f"encoder.name={settings.name!r}: the checkpoint has no fitting weights for {len(missing)} parameters of "
            f"{type(model).__name__}, among them {missing[0]!r}; it is damaged or holds another architecture"
        )
    return Classifier(
        model=model.eval(),
        tokenizer=tokenizer,
        anatomy=anatomy,
        source=source,
        fresh=fresh,
        head=head,
        max_tokens=most_tokens(model, tokenizer, source.folder),
    )


def check_finite(model: Any, place: str) -> None:
    """Refuse weights that are infinite or not a number: nothing computed with them means anything.

    Raises:
        UserError: naming the place and the first such tensor.
    """
    for name, tensor in model.named_parameters():
        if not tensor.is_floating_point() or tensor.sum().isfinite():  # a tenth of the time of looking at each
            continue
        if bad := int((~tensor.isfinite()).sum()):  # a sum may overflow
            raise UserError(
                f"{place}: {bad:,} of {tensor.numel():,} weights of {name} are infinite or not a number; the file is "
                "damaged or holds a training that failed"
            )


def _check_attention(settings: EncoderSettings, source: Source) -> None:
    """Refuse FlashAttention that is not installed: transformers would fetch a kernel from the Hub and run it."""
    from transformers import utils

    if settings.attention is not None:
        one_of(settings.attention, ATTENTION, "encoder.attention")
    wanted = settings.attention or read_json(source.folder / "config.json").get("attn_implementation")
    kind = re.fullmatch(r"flash_attention_(\d)", wanted) if isinstance(wanted, str) else None
    if kind and not getattr(utils, f"is_flash_attn_{kind[1]}_available", bool)():  # not every version knows them all
        raise UserError(f"{wanted} is not installed for this device; set encoder.attention=sdpa or eager")


def forward(model: Any, batch: Mapping[str, Tensor]) -> Outputs:
    """Run `model`, plain or wrapped by PEFT, on a batch.

    Args:
        model: The `model` of a `Classifier`.
        batch: `input_ids` and `attention_mask` of shape (rows, tokens), maybe `token_type_ids`. With `document`
            (rows,), the index of the example that each row is a window of, logits and features are averaged over the
            windows of an example; examples are numbered from 0 without gaps. With `features` (examples, width)
            instead of `input_ids`, only the output layer runs. With `states` (tokens, width) beside them, the layers
            below the boundary do not (see `boundary.standing_in`).

    Returns:
        Logits and features, one row an example; gradients flow through both.
    """
    if "features" in batch:
        features = batch["features"]
        return Outputs(logits=active_output(model)(features), features=features)
    passed: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passed.append((inputs[0], output))

    # Where PEFT keeps a trained copy of the head beside the original, whichever is active reports.
    hooks = [layer.register_forward_hook(note) for layer in output_layers(model).values()]
    try:
        with entering(batch.get("states")):
            logits = model(**{name: batch[name] for name in INPUTS if name in batch}).logits
    finally:
        for hook in hooks:
            hook.remove()
    features, output = passed[-1]
    if features.dim() == 3:  # the output layer was applied to every token, and the logits pooled
        features = _over_tokens(model, features, batch, chosen=(output == logits.unsqueeze(1)).all(dim=-1))
    if "document" in batch:
        logits, features = (_mean_by(batch["document"], values) for values in (logits, features))
    return Outputs(logits=logits, features=features)


def reads_padding(classifier: Classifier) -> bool:
    """Return whether the architecture lets padding reach the text, so that logits depend on the texts beside it."""
    model, tokenizer = disposable(classifier.model), classifier.tokenizer
    rows = sample_rows(model, segments="token_type_ids" in tokenizer.model_input_names)
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    width = (4, 0) if tokenizer.padding_side == "left" else (0, 4)
    padded = {name: nn.functional.pad(values, width, value=fill[name]) for name, values in rows.items()}
    with torch.inference_mode():
        plain, other = (forward(model, batch).features.float() for batch in (rows, padded))
    return bool((plain - other).norm() > 1e-2 * plain.norm())


def _over_tokens(model: Any, features: Tensor, batch: Mapping[str, Tensor], *, chosen: Tensor) -> Tensor:
    """Pool (rows, tokens, width) as the library pools the logits.

    A decoder takes the last token, T5Gemma's as well, though which that is hangs on padding, and EuroBERT the mean.

    Args:
        model: see `forward`.
        features: of every token.
        batch: see `forward`.
        chosen: bool (rows, tokens), whose logits are those of the row; of several tokens where they are alike.
    """
    config = unwrapped(model).config
    if is_causal(encoder_config(config)):
        places = torch.arange(batch["input_ids"].shape[1], device=features.device)
        chosen = ((batch["input_ids"] != config.pad_token_id) * places).argmax(dim=1)
    elif bool((chosen.sum(dim=1) == 1).all()):
        chosen = chosen.int().argmax(dim=1)
    else:
        return pooled.pool(features, batch["attention_mask"], "mean")
    return features[torch.arange(len(features), device=features.device), chosen]


def _mean_by(document: Tensor, values: Tensor) -> Tensor:
    """Average over the rows of each document: (rows, width) -> (documents, width).

    A matrix product, because scattered additions on a GPU come in another order in every run.
    """
    member = nn.functional.one_hot(document).T.to(torch.float32)
    with torch.autocast(values.device.type, enabled=False):
        return (member @ values.float() / member.sum(dim=1, keepdim=True)).to(values.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's progress bars and its report of new weights: `Classifier.fresh` says it."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def _named(settings: EncoderSettings, head: str, source: Source) -> Iterator[None]:
    """Turn what the library says of a model it cannot load into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they say it in a dozen ways
        blame_file(source.folder, str(error))
        said = str(error).strip().splitlines()
        if settings.depth == 0:
            raise UserError(f"encoder.depth=0: {settings.name} cannot do without layers") from error
        raise UserError(
            f"encoder.name={settings.name!r} cannot be loaded with encoder.head={head}: "
            f"{type(error).__name__}: {said[0] if said else ''}"
        ) from error
