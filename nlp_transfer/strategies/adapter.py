"""Parameter-efficient fine-tuning: LoRA with settings of its own, every other PEFT method by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError, at_least, below_one, did_you_mean, one_of
from nlp_transfer.strategies.base import Group, Strategy, check_rates, encoder_width, trainable

if TYPE_CHECKING:
    from nlp_transfer.encoder.classifier import Classifier

_VIRTUAL_TOKENS = 16  # default of prompt methods

# Methods that do not suit classifiers, as measured with PEFT 0.21.
UNFIT = {
    **dict.fromkeys(("LN_TUNING", "P_TUNING"), "PEFT does not restore such classifiers exactly"),
    "ADALORA": "it must be called in every step",
    "LILY": "its router averages over all texts of a forward pass, so an output would depend on the other texts",
}


@dataclass(frozen=True, kw_only=True)
class Adapter(Strategy):
    """Any method of PEFT, e.g. ``{name: adapter, peft_type: IA3}``.

    Attributes:
        peft_type: a name of PEFT's own table (LORA, IA3, VERA, OFT, BOFT, LOHA, PREFIX_TUNING, ...).
        peft: further fields of that method's PEFT config, by name.
        lr: peak learning rate of the adapter; None: 4e-4 · (768 / width)^1.5, about 1e-3 for MiniLM.
        head_lr: peak learning rate of the head; None: `lr`.
        head_first: fit the output layer on frozen features, of a sample if there are many rows, before the first step.
        head_last: fit it again, on the features of the trained encoder, after the last step.
        merge: merge the adapter into the saved model's weights if the method allows it.
    """

    peft_type: str = "IA3"
    peft: dict[str, Any] | None = None
    lr: float | None = None
    head_lr: float | None = None
    head_first: bool = True
    head_last: bool = False
    merge: bool = True

    adapts = True

    @property
    def solves_head(self) -> bool:
        """Whether the output layer is fitted before the first step."""
        return self.head_first

    def check(self) -> None:
        """Refuse methods that do not suit classifiers, and negative learning rates."""
        check_rates(lr=self.lr, head_lr=self.head_lr)
        if self.peft_type.upper() in UNFIT:
            raise UserError(f"strategy.peft_type={self.peft_type}: {UNFIT[self.peft_type.upper()]}; choose another")

    def config(self, classifier: Classifier) -> dict[str, Any]:
        """Return the fields of the PEFT config."""
        return dict(self.peft or {})

    def apply(self, classifier: Classifier) -> None:
        """Wrap the model with PEFT; the whole head is trained and saved with the adapter.

        Raises:
            UserError: for an unknown method or field, or a method that this encoder does not support.
        """
        from peft import TaskType, get_peft_model

        from nlp_transfer.encoder.anatomy import linear_targets, sample_rows
        from nlp_transfer.encoder.classifier import forward

        methods = _methods()
        config_class = methods[one_of(self.peft_type.upper(), sorted(methods), "strategy.peft_type")]
        known = {field.name for field in fields(config_class)}
        values = self.config(classifier)
        for key in values:
            if key not in known:
                raise UserError(
                    f"strategy.peft.{key} is not a field of {config_class.__name__}{did_you_mean(key, known)}"
                )
        if "target_modules" in known and not values.get("target_modules"):
            values["target_modules"] = linear_targets(classifier.anatomy)
        if "feedforward_modules" in known and not values.get("feedforward_modules"):
            values["feedforward_modules"] = []  # IA3: scale the outputs of every target
        if "modules_to_save" in known:
            values["modules_to_save"] = saved_beside(classifier)
        if "num_virtual_tokens" in known:  # PEFT's own default is None, which its prompt methods cannot use
            values.setdefault("num_virtual_tokens", _VIRTUAL_TOKENS)
        try:
            with warnings.catch_warnings():
                ignore_old_names()
                model = get_peft_model(classifier.model, config_class(task_type=TaskType.SEQ_CLS, **values))
            forward(model, sample_rows(model))
        except Exception as error:  # PEFT has many ways to say that a model is not supported
            raise UserError(self.refused(error, classifier.source.name)) from error
        classifier.model = model

    def refused(self, error: Exception, encoder: str) -> str:
        """Return the message that PEFT refuses this adapter for an encoder, why, and what to do."""
        return (
            f"PEFT cannot put {self.peft_type.upper()} on {encoder}: {error}; its fields can be set with "
            "strategy.peft={...}, or choose another strategy.peft_type"
        )

    @property
    def reserved_tokens(self) -> int:
        """Positions taken by the virtual tokens of prompt and prefix methods."""
        config = _methods().get(self.peft_type.upper())
        if config is None or "num_virtual_tokens" not in {field.name for field in fields(config)}:
            return 0
        return int((self.peft or {}).get("num_virtual_tokens", _VIRTUAL_TOKENS))

    def groups(self, classifier: Classifier) -> list[Group]:
        """Return the groups of the head and the adapter, if they have parameters."""
        lr = self.lr if self.lr is not None else 4e-4 * (768 / encoder_width(classifier)) ** 1.5
        parameters = trainable(classifier)
        head = {name: p for name, p in parameters.items() if ".modules_to_save." in name}
        adapter = {name: p for name, p in parameters.items() if name not in head}
        groups = [Group("head", head, lr if self.head_lr is None else self.head_lr), Group("adapter", adapter, lr)]
        return [group for group in groups if group.parameters]


@dataclass(frozen=True, kw_only=True)
class Lora(Adapter):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank).
        dropout: dropout on the adapter's input.
        rslora: rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).
        dora: weight-decomposed adaptation, of magnitude and direction (Liu et al. 2024, arXiv 2402.09353).
        targets: names of the linear layers to adapt, or suffixes of them, as PEFT matches them; None: all linear layers
            in the encoder's layers.
        layers: indices of the encoder's layers in which targets are adapted; None: all.
    """

    peft_type: str = "LORA"
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    rslora: bool = False
    dora: bool = False
    targets: list[str] | None = None
    layers: list[int] | None = None

    def check(self) -> None:
        """Refuse another method, and values outside their range."""
        super().check()
        if self.peft_type.upper() != "LORA":
            raise UserError(f"strategy=lora is LORA; for {self.peft_type} set strategy=adapter")
        at_least(self, "strategy.", 1, "rank")
        below_one(self, "strategy.", "dropout")

    @property
    def reserved_tokens(self) -> int:
        """LoRA has no virtual tokens."""
        return 0

    def config(self, classifier: Classifier) -> dict[str, Any]:
        """Return LoRA's fields; those in `peft` take precedence.

        Raises:
            UserError: for a layer that the encoder does not have, or layers without any of the targets.
        """
        values: dict[str, Any] = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "target_modules": self._targets(classifier),
        }
        return values | (self.peft or {})

    def refused(self, error: Exception, encoder: str) -> str:
        """Return the message; PEFT adapts fused experts as one tensor, whose input cannot have dropout."""
        if "lora_dropout" not in str(error) or "lora_dropout" in (self.peft or {}):
            return super().refused(error, encoder)
        return (
            f"strategy.dropout={self.dropout:g}: {encoder} keeps several experts in one tensor, of whose input LoRA "
            "drops nothing; set strategy.dropout=0"
        )

    def frozen_depth(self, classifier: Classifier) -> int:
        """Return the number of layers below the lowest adapted one."""
        return min(self.layers) if self.layers else 0

    def _targets(self, classifier: Classifier) -> list[str]:
        from nlp_transfer.encoder.anatomy import linear_targets

        names = linear_targets(classifier.anatomy)
        if self.layers is None:
            return list(self.targets) if self.targets else names
        count, depth = classifier.anatomy.layers, classifier.anatomy.depth
        if not self.layers or not all(0 <= layer < count for layer in self.layers):
            raise UserError(f"strategy.layers={self.layers}: choose from 0 to {count - 1} for {classifier.source.name}")
        levels = {layer + 1 for layer in self.layers}
        inside = [name for name in names if depth[f"{name}.weight"] in levels]
        if not self.targets:
            return inside
        suffixes = tuple(f".{target}" for target in self.targets)
        if not (matches := [name for name in inside if f".{name}".endswith(suffixes)]):
            raise UserError(
                f"strategy.targets={list(self.targets)} match no linear layer in strategy.layers={self.layers}; names "
                f"look like {inside[0]!r}"
            )
        return matches


def ignore_old_names() -> None:
    """Ignore, within `catch_warnings`, that PEFT uses a name that transformers has deprecated."""
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)


def _methods() -> dict[str, Any]:
    """Return the config classes of all PEFT methods, by name."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def saved_beside(classifier: Classifier) -> list[str]:
    """Return the modules that must be trained and saved with the adapter.

    They are all children of the model outside the encoder that have parameters, and all modules that were missing in
    the checkpoint. PEFT's default silently loses DeBERTa's pooler, ModernBERT's head and others.
    """
    base = classifier.anatomy.base
    fresh = set(classifier.fresh) - set(classifier.anatomy.unused)
    fresh_in_base = {name.rsplit(".", 1)[0] for name in fresh if name.startswith(f"{base}.")}
    return sorted(set(classifier.anatomy.head) | fresh_in_base)
