"""Everything up to the first step: data, encoder, token ids, what learns, and the plan that says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from nlp_transfer import tracking
from nlp_transfer.config import to_plain
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.corpus import Corpus, Examples
from nlp_transfer.data.tokens import Tokens, TokenSpec
from nlp_transfer.encoder.classifier import Classifier, load_classifier, reads_padding
from nlp_transfer.encoder.heads import suggested_pooling
from nlp_transfer.encoder.source import Source, locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.plan import GroupSummary, LengthStatistics, Plan
from nlp_transfer.settings import EncoderSettings, Settings
from nlp_transfer.strategies import Group, Strategy
from nlp_transfer.strategies.base import trainable
from nlp_transfer.training import inference
from nlp_transfer.training.device import make_accelerator
from nlp_transfer.training.loop import planned_steps


@dataclass
class Prepared:
    """The parts of a run, put together and not yet trained."""

    settings: Settings
    corpus: Corpus
    accelerator: Accelerator
    classifier: Classifier
    strategy: Strategy
    objective: Objective
    groups: list[Group]
    spec: TokenSpec
    columns: dict[str, Columns]
    padding: Padding
    plan: Plan

    @property
    def reported_split(self) -> str:
        """The split whose figures are reported: test, or validation where there is no test split."""
        return "test" if "test" in self.corpus.splits else "validation"

    @property
    def frozen_modules(self) -> list[nn.Module]:
        """Modules below the depth at which anything learns; they run without dropout."""
        frozen = self.strategy.frozen_depth(self.classifier)
        if not frozen:
            return []
        depth = self.classifier.anatomy.depth
        constant = {name for name, p in self.classifier.model.named_parameters() if not p.requires_grad}
        deep = {name for name in constant if depth.get(name.removeprefix("base_model.model."), frozen + 1) <= frozen}
        return [
            module
            for prefix, module in self.classifier.model.named_modules()
            if (own := [f"{prefix}.{name}" for name, _ in module.named_parameters()]) and deep.issuperset(own)
        ]

    def logits(self, columns: Columns) -> np.ndarray:
        """Return the model's raw outputs for every example, float32 (examples, outputs)."""
        return self._run(columns, "logits")

    def features(self, split: str) -> np.ndarray:
        """Return what enters the output layer for every example of a split, float32 (examples, width)."""
        return self._run(self.columns[split], "features")

    def _run(self, columns: Columns, want: str) -> np.ndarray:
        return inference.run(
            self.accelerator,
            self.classifier.model,
            columns,
            padding=self.padding,
            most_tokens=self.settings.evaluation.batch_tokens,
            want=want,
        )


def prepare(settings: Settings, corpus: Corpus, folder: Path) -> Prepared:
    """Load the encoder, encode the texts, and let the strategy and the objective do their part.

    Raises:
        UserError: for settings that do not fit the data or the encoder.
    """
    selection_metric(corpus.task, settings.evaluation.metric)
    tracking.check(settings.tracking.trackers)
    strategy: Strategy = settings.strategy
    accelerator = make_accelerator(settings.training.precision, settings.tracking, folder)
    source = locate(settings.encoder)
    encoder = resolve_encoder(settings.encoder, strategy, source, pair=corpus.task.pair)
    settings = dataclasses.replace(settings, encoder=encoder)
    classifier = load_classifier(encoder, corpus.task, head=encoder.head, seed=settings.seed, source=source)
    columns, spec = encode_splits(settings, corpus, classifier)
    notes = [*corpus.notes, *_encoder_notes(encoder, classifier)]
    set_seed(settings.seed)  # what a strategy draws must be the same on every rank
    strategy.apply(classifier)
    objective = Objective(settings.objective, corpus.task)
    groups = strategy.groups(classifier) if strategy.trains else []
    if settings.training.gradient_checkpointing:
        _checkpoint_activations(classifier)
    classifier.model.to(accelerator.device)
    tokenizer = classifier.tokenizer
    prepared = Prepared(
        settings=settings,
        corpus=corpus,
        accelerator=accelerator,
        classifier=classifier,
        strategy=strategy,
        objective=objective.to(accelerator.device),
        groups=groups,
        spec=spec,
        columns=columns,
        padding=Padding(tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side == "left"),
        plan=_plan(settings, corpus, classifier, strategy, groups, spec, columns, accelerator, folder, notes),
    )
    return prepared


def resolve_encoder(encoder: EncoderSettings, strategy: Strategy, source: Source, *, pair: bool) -> EncoderSettings:
    """Return the settings with a head and layers where the recipe leaves them open.

    A sentence encoder says how its token vectors become one; there, and wherever the encoder stays frozen, pooled token
    vectors carry far more than the first token's, on which most native heads rest. What reads the texts of a pair alone
    is a pooled head as well. A frozen encoder is read at several layers, for it cannot move what the task needs to the
    last one.

    Raises:
        UserError: for options of the pooled head beside a native one.
    """
    asked = [key for key, usual in _USUAL.items() if getattr(encoder, key) not in usual]
    head, layers = encoder.head, encoder.layers
    if head == "auto":
        pooling = suggested_pooling(source.folder)
        alone = pair and pooling is not None and encoder.pairs == "auto"
        head = "pooled" if strategy.frozen or asked or alone or pooling not in (None, "cls") else "native"
    elif head == "native" and asked:
        raise UserError(f"encoder.{asked[0]} belongs to encoder.head=pooled; with head=native it would mean nothing")
    if layers == "auto" and strategy.frozen and head == "pooled":
        layers = "spread"
    return dataclasses.replace(encoder, head=head, layers=layers)


# Options of the pooled head, and the values with which they ask for nothing.
_USUAL: dict[str, tuple[Any, ...]] = {
    "pooling": ("auto",),
    "layers": ("auto", "last"),
    "combine": ("mix",),
    "hidden": (0,),
    "pairs": ("auto", "joint"),
}


def encode_splits(settings: Settings, corpus: Corpus, classifier: Classifier) -> tuple[dict[str, Columns], TokenSpec]:
    """Return every split's columns; training rows are cut as the settings say, others where the encoder demands."""
    tokenizer, train = classifier.tokenizer, corpus.splits["train"]
    lengths = token_ids.full_lengths(tokenizer, train.texts, train.pairs)
    spec = token_ids.resolve_spec(settings.tokens, lengths, limit=classifier.max_tokens, pair=corpus.task.pair)
    columns = {
        split: _columns(
            examples,
            token_ids.encode(
                tokenizer,
                examples.texts,
                examples.pairs,
                spec,
                max_length=spec.max_length if split == "train" else spec.limit,
            ),
        )
        for split, examples in corpus.splits.items()
    }
    return columns, spec


def _columns(examples: Examples, tokens: Tokens) -> Columns:
    return Columns(tokens=tokens, targets=examples.targets, weights=examples.weights)


def _checkpoint_activations(classifier: Classifier) -> None:
    model: Any = classifier.model
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"training.gradient_checkpointing: {error}") from error
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()


def _plan(
    settings: Settings,
    corpus: Corpus,
    classifier: Classifier,
    strategy: Strategy,
    groups: list[Group],
    spec: TokenSpec,
    columns: dict[str, Columns],
    accelerator: Accelerator,
    folder: Path,
    notes: list[str],
) -> Plan:
    source = classifier.source
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return Plan(
        name=str(settings.name),
        folder=str(folder),
        data=corpus.source,
        roles=corpus.roles,
        problem=corpus.task.problem,
        examples={split: len(examples) for split, examples in corpus.splits.items()},
        balance={split: balance(corpus, examples) for split, examples in corpus.splits.items()},
        notes=notes,
        max_length=spec.max_length,
        lengths={split: length_statistics(c.tokens) for split, c in columns.items()},
        encoder=source.name,
        origin=source.origin,
        sha256=source.sha256,
        layers=classifier.anatomy.layers,
        head=head_words(classifier),
        strategy=to_plain(settings)["strategy"]["name"],
        trainable=sum(p.numel() for p in trainable(classifier).values()),
        parameters=sum(p.numel() for p in classifier.model.parameters()),
        groups=[GroupSummary(g.name, sum(p.numel() for p in g.parameters.values()), g.lr, g.wake) for g in groups],
        solves_head=strategy.solves_head,
        steps=planned_steps(len(columns["train"]), settings.training) if strategy.trains else 0,
        batch_size=settings.training.batch_size,
        precision=precision,
        device=accelerator.device.type,
        processes=accelerator.num_processes,
    )


def _encoder_notes(encoder: EncoderSettings, classifier: Classifier) -> list[str]:
    code = (
        "warning: the encoder runs code of its own; transformers loads the saved model where that is allowed, "
        "predict and evaluate refuse it"
    )
    padding = (
        "warning: this architecture lets padding reach the text: what it answers for a text depends a little on the "
        "texts beside it"
    )
    return [code] * encoder.trust_remote_code + [padding] * reads_padding(classifier)


def head_words(classifier: Classifier) -> str:
    """Return which head a classifier has and what it reads."""
    config = classifier.model.config
    if classifier.head == "native":
        return "native head"
    places = "the last layer" if config.layers == [-1] else f"layers {', '.join(map(str, config.layers))}"
    pairs = "; each text of a pair read alone" if config.siamese else ""
    return f"pooled head ({config.pooling} over {places}{pairs})"


def balance(corpus: Corpus, examples: Examples) -> dict[str, int]:
    """Return how many examples of a split carry each label (soft labels: their likeliest); nothing for regression."""
    task, targets = corpus.task, examples.targets
    if task.problem == "regression":
        return {}
    if task.problem == "multi_label":
        counts = (targets >= 0.5).sum(0)
    else:
        hard = targets if targets.ndim == 1 else targets.argmax(1)
        counts = np.bincount(hard, minlength=len(task.labels))
    return dict(zip(task.labels, map(int, counts), strict=True))


def length_statistics(tokens: Tokens) -> LengthStatistics:
    """Return what a split's texts cost and what of them is lost."""
    total = tokens.full
    return LengthStatistics(
        mean=float(total.mean()),
        p95=int(np.percentile(total, 95)),
        longest=int(total.max()),
        cut_examples=int((tokens.cut > 0).sum()),
        cut_tokens=int(tokens.cut.sum()),
        windows=float(tokens.windows.mean()),
    )


def with_features(columns: Columns, features: np.ndarray) -> Columns:
    """Return the columns with what the frozen encoder made of the texts, so that it need not run again."""
    return dataclasses.replace(columns, features=features)
