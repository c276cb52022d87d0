"""The plan of a run, as an object and on the terminal: data, text lengths, encoder, trainable parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.config import to_plain
from nlp_transfer.data.task import likeliest
from nlp_transfer.encoder.classifier import reads_padding
from nlp_transfer.encoder.heads import unused_modules
from nlp_transfer.evaluation.formatting import percentage
from nlp_transfer.evaluation.selective import CONFIDENCE
from nlp_transfer.running.head_choice import solves_head
from nlp_transfer.strategies.base import trainable
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.wording import counted, shortened

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from nlp_transfer.data.corpus import Corpus, Examples
    from nlp_transfer.data.ragged import Tokens
    from nlp_transfer.data.task import Task
    from nlp_transfer.encoder.classifier import Classifier
    from nlp_transfer.running.prepared import Prepared
    from nlp_transfer.settings import EncoderSettings

_SHOWN_LABELS, _SHOWN_CHARACTERS = 8, 40


@dataclass(frozen=True)
class LengthStatistics:
    """Lengths of a split's texts in tokens, and how much is truncated."""

    mean: float
    p95: int
    longest: int
    cut_examples: int
    cut_tokens: int
    windows: float


@dataclass(frozen=True)
class GroupSummary:
    """Trainable parameters with a common learning rate."""

    name: str
    parameters: int
    lr: float
    wake: float


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    name: str
    folder: str
    data: str
    roles: dict[str, str]
    problem: str
    examples: dict[str, int]  # split -> rows
    balance: dict[str, dict[str, int]]  # split -> label -> examples; empty for regression
    notes: list[str]
    max_length: int
    lengths: dict[str, LengthStatistics]
    encoder: str
    origin: str
    sha256: str
    layers: int
    head: str
    padding: str
    strategy: str
    objective: str
    decision: str
    trainable: int
    parameters: int
    groups: list[GroupSummary]
    solves_head: bool
    head_last: bool
    steps: int
    batch_size: int
    precision: str
    device: str
    processes: int

    def with_notes(self, sentences: list[str]) -> Plan:
        """Return the plan with further notes."""
        return dataclasses.replace(self, notes=[*self.notes, *sentences])

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return dataclasses.asdict(self)


def plan_of(prepared: Prepared, folder: Path) -> Plan:
    """Return the plan of a prepared run in a folder."""
    settings, corpus, classifier = prepared.settings, prepared.corpus, prepared.classifier
    accelerator, columns, strategy = prepared.accelerator, prepared.columns, prepared.strategy
    source, splits = classifier.source, corpus.splits | {"train": corpus.own_train}
    tokens = {split: part.tokens for split, part in columns.items()}
    if corpus.own is not None:
        tokens["train"] = tokens["train"].take(range(len(corpus.own)))
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return Plan(
        name=str(settings.name),
        folder=str(folder),
        data=corpus.source,
        roles=corpus.roles,
        problem=corpus.task.problem,
        examples={split: len(part) for split, part in tokens.items()},
        balance={split: balance(corpus, examples) for split, examples in splits.items()},
        notes=prepared.notes,
        max_length=prepared.spec.max_length,
        lengths={split: length_statistics(part) for split, part in tokens.items()},
        encoder=source.name,
        origin=source.origin,
        sha256=source.sha256,
        layers=classifier.anatomy.layers,
        head=head_words(classifier),
        padding=prepared.padding_words,
        strategy=to_plain(settings)["strategy"]["name"],
        objective=" + ".join(f"{term.weight:g} {name}" for name, term in settings.objective.items() if term.weight),
        decision=decision_words(corpus.task),
        trainable=sum(p.numel() for p in trainable(classifier).values()),
        parameters=sum(p.numel() for p in classifier.model.parameters()),
        groups=[
            GroupSummary(group.name, sum(p.numel() for p in group.parameters.values()), group.lr, group.wake)
            for group in prepared.groups
        ],
        solves_head=solves_head(strategy, classifier, corpus),
        head_last=strategy.head_last,
        steps=planned_steps(len(columns["train"]), settings.training) if strategy.trains else 0,
        batch_size=batch_size(len(columns["train"]), settings.training),
        precision=precision,
        device=accelerator.device.type,
        processes=accelerator.num_processes,
    )


def encoder_notes(encoder: EncoderSettings, classifier: Classifier) -> list[str]:
    """Return warnings and notes on the encoder."""
    code = (
        "warning: the encoder runs code of its own; transformers loads the saved model where that is allowed, "
        "predict and evaluate refuse it"
    )
    padding = (
        "warning: padding affects what this architecture computes: predictions for a text depend slightly on the "
        "other texts of its batch"
    )
    others = unused_modules(classifier.source.folder) if classifier.head == "pooled" else []
    unused = f"sentence-transformers reads this encoder by what is not used here: {', '.join(others)}"
    chance = "the encoder starts from random weights: encoder.pretrained=false"
    notes = {
        chance: not encoder.pretrained,
        unused: bool(others),
        code: encoder.trust_remote_code,
        padding: reads_padding(classifier),
    }
    return [note for note, applies in notes.items() if applies]


def decision_words(task: Task) -> str:
    """Return in words what `decision.risk` promises, "" if it is not set."""
    if not task.risk:
        return ""
    promise = f"at most {percentage(task.risk)} of the labels given are wrong"
    return f"abstains so that {promise}: with {CONFIDENCE:.0%} confidence, by the validation rows (decision.risk)"


def head_words(classifier: Classifier) -> str:
    """Return the head of a classifier in words."""
    config = classifier.model.config
    if classifier.head == "native":
        return "native head"
    places = "the last layer" if config.layers == [-1] else f"layers {', '.join(map(str, config.layers))}"
    pairs = "; each text of a pair read alone" if config.siamese else ""
    return f"pooled head ({config.pooling} over {places}{pairs})"


def balance(corpus: Corpus, examples: Examples) -> dict[str, int]:
    """Return the number of examples of each label (of soft labels the likeliest); empty for regression."""
    task, targets = corpus.task, examples.targets
    if task.problem == "regression":
        return {}
    if task.problem == "multi_label":
        counts = (targets >= 0.5).sum(0)
    else:
        counts = np.bincount(likeliest(targets), minlength=len(task.labels))
    return dict(zip(task.labels, map(int, counts), strict=True))


def length_statistics(tokens: Tokens) -> LengthStatistics:
    """Return statistics of the lengths of a split's texts."""
    total = tokens.full
    return LengthStatistics(
        mean=float(total.mean()),
        p95=int(np.percentile(total, 95)),
        longest=int(total.max()),
        cut_examples=int((tokens.cut > 0).sum()),
        cut_tokens=int(tokens.cut.sum()),
        windows=float(tokens.windows.mean()),
    )


def render(plan: Plan, console: Console) -> None:
    """Print the plan."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", plan.folder)
    table.add_row("data", f"{plan.data}: " + ", ".join(f"{n:,} {s}" for s, n in plan.examples.items()))
    table.add_row("columns", ", ".join(f"{role} = {column!r}" for role, column in plan.roles.items()))
    table.add_row("task", _task_words(plan))
    for split, lengths in plan.lengths.items():
        table.add_row("lengths" if split == "train" else "", f"{split}: {_length_words(lengths, plan.max_length)}")
    table.add_row(
        "encoder",
        f"{plan.encoder} ({plan.origin}, sha256 {plan.sha256[:12]}…), {plan.layers} layers, {plan.head}, "
        f"{plan.padding}",
    )
    share = plan.trainable / max(1, plan.parameters)
    table.add_row(
        "strategy", f"{plan.strategy}: {plan.trainable:,} of {plan.parameters:,} parameters learn ({share:.2%})"
    )
    for words in _group_words(plan.groups):
        table.add_row("", words)
    table.add_row("objective", plan.objective)
    table.add_row("training", _training_words(plan))
    if plan.decision:
        table.add_row("decision", plan.decision)
    console.print(table)
    for note in plan.notes:
        console.print(f"• {note}", style="yellow" if note.startswith("warning") else "")


def _group_words(groups: list[GroupSummary]) -> list[str]:
    """Return a line for each sequence of groups with the same learning rate and wake."""
    lines = []
    for (lr, wake), members in groupby(groups, key=lambda group: (group.lr, group.wake)):
        same = list(members)
        names = same[0].name if len(same) == 1 else f"{same[0].name} to {same[-1].name}"
        start = f", from {wake:.0%} of the run on" if wake else ""
        lines.append(f"{names}: {sum(group.parameters for group in same):,} at {lr:.2g}{start}")
    return lines


def _task_words(plan: Plan) -> str:
    counts = plan.balance["train"]
    if plan.problem == "regression":
        return "regression"
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{shortened(' '.join(label.split()), _SHOWN_CHARACTERS)} {count:,}" for label, count in ordered]
    more = f", … {shown[-1]}" if len(shown) > _SHOWN_LABELS else ""
    return f"{plan.problem.replace('_', '-')}, {len(counts):,} labels: {', '.join(shown[:_SHOWN_LABELS])}{more}"


def _length_words(lengths: LengthStatistics, max_length: int) -> str:
    words = f"{lengths.mean:.0f} tokens on average, 95% up to {lengths.p95}, longest {lengths.longest}"
    if lengths.windows > 1:
        words += f"; windows of {max_length}, {lengths.windows:.1f} per text"
    if lengths.cut_examples:
        words += f"; {counted(lengths.cut_examples, 'text')} cut, {counted(lengths.cut_tokens, 'token')} lost"
    return words


def _training_words(plan: Plan) -> str:
    first = "head fitted exactly on frozen features" if plan.solves_head else ""
    steps = f"{plan.steps:,} steps of {plan.batch_size} examples" if plan.steps else ""
    last = "the head fitted once more" if plan.head_last else ""
    device = f"{plan.precision} on {plan.processes} × {plan.device}"
    phases = "; then ".join(phase for phase in (first, steps, last) if phase)
    return f"{phases}, {device}" if phases else device
