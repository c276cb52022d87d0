"""The settings of a run as typed, frozen dataclasses, which mirror conf/.

Every field here is a key there with the same default; a test keeps them equal. This module imports neither Hydra nor
torch. The settings of strategies and objective terms are in ``strategies`` and ``objectives``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nlp_transfer.verb_settings import (
    CheckSettings,
    CompareSettings,
    DemoSettings,
    ExportSettings,
    HubSettings,
    MetaSettings,
    MultitaskSettings,
    PredictSettings,
    RankSettings,
    ServeSettings,
)

DATA_FILES = ("path", "train", "validation", "test", "unlabelled")  # keys of `data` that name files
DATA_LIMITS = ("train_limit", "per_class", "validation_limit")  # keys of `data` that limit the number of rows


@dataclass(frozen=True, kw_only=True)
class ColumnSettings:
    """The name of the column for each role; None: detected by name and shown in the plan."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None
    domain: str | None = None
    weight: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where texts and labels come from and how they are read; exactly one of embedded, path, train, hub is set."""

    embedded: str | None = None
    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    unlabelled: str | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    hub_rows: int | None = None
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    problem: str = "auto"
    order: list[str] | None = None
    label_columns: list[str] | None = None
    label_separator: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    empty: str = "error"
    unseen: str = "error"
    class_weights: Any = "none"
    label_texts: list[str] | None = None
    validation_share: float | None = None
    test_share: float = 0.2
    train_limit: int | None = None
    per_class: int | None = None
    validation_limit: int | None = None

    @property
    def source(self) -> str | None:
        """The name or path of the source; None for rows passed from Python."""
        return self.embedded or self.path or self.train or self.hub

    @property
    def files(self) -> list[str]:
        """The files and folders with labelled rows."""
        return [name for name in (self.path, self.train, self.validation, self.test) if name is not None]


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """Tokenisation: the maximum length, and whether longer texts are truncated or split into windows."""

    max_length: Any = "auto"
    percentile: float = 99.9
    truncation_side: str = "right"
    pair_truncation: str = "longest_first"
    long: str = "truncate"
    overlap: float = 0.25
    max_windows: int | None = 16


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The pretrained encoder and the head on top of it."""

    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    revision: str | None = None
    package: str | None = None
    sha256: str | None = None
    pretrained: bool = True
    depth: int | None = None
    head: str = "auto"
    pooling: str = "auto"
    layers: Any = "auto"
    combine: str = "mix"
    hidden: int = 0
    head_dropout: float | None = None
    pairs: str = "auto"
    attention: str | None = None
    packed: bool | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """Further pretraining by masked-language modelling on texts of the task, before the encoder is adapted."""

    epochs: float = 0.0
    texts: str = "all"
    mask: float = 0.15
    lr: float | None = None
    batch_size: int = 32

    @property
    def used(self) -> bool:
        """Whether further pretraining is switched on."""
        return self.epochs > 0

    @property
    def reads_unlabelled(self) -> bool:
        """Whether it reads texts without labels."""
        return self.used and self.texts != "train"


@dataclass(frozen=True, kw_only=True)
class ContinualSettings:
    """Continual learning: which labels and training rows of the earlier model, `encoder.name`, are kept."""

    labels: str = "data"
    replay: int = 0
    data: str | None = None

    @property
    def keeps_labels(self) -> bool:
        """Whether the labels of the earlier model are kept, with their part of its output layer."""
        return self.labels == "all"

    @property
    def used(self) -> bool:
        """Whether anything of the earlier model is kept besides its encoder."""
        return self.keeps_labels or self.replay > 0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The training loop: length, batches, optimizer, precision, and which weights are kept."""

    epochs: float | None = None
    min_steps: int = 0
    max_steps: int | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    epsilon: float = 1e-8
    schedule: str = "linear"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    max_skipped: int = 3
    precision: str = "auto"
    ema: float = 0.0
    gradient_checkpointing: bool = False
    compile: bool = False
    evaluate_every: float = 1.0
    patience: int | None = None
    keep: str = "best"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How often a checkpoint is written from which an interrupted training resumes."""

    seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Location and size limit of the cache of frozen features, token ids, baselines and pretrained encoders."""

    folder: str | None = None
    gib: float = 10.0


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The metric, the confidence intervals and the baselines of an evaluation."""

    metric: str = "auto"
    floors: bool = True
    source_only: bool = True
    resamples: int = 1000
    confidence: float = 0.95
    batch_tokens: int = 4096


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """How outputs become labels; None: as the model was saved, for a new one a threshold of 0.5 and no other rule."""

    calibrate: bool = True
    threshold: float | None = None
    abstain_below: float | None = None
    risk: float | None = None
    unknown: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Whether a run writes a report page, and where `evaluate` writes one."""

    write: bool = True
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Experiment trackers of accelerate, in addition to metrics.jsonl, which is always written."""

    trackers: list[str] = field(default_factory=list)
    project: str = "nlp_transfer"
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one run, as `config.py` composes them from conf/, a recipe and the command line."""

    name: str | None = None
    seed: int = 0
    output: str = "runs"
    overwrite: bool = False
    resume: str = "auto"
    verify: bool = True
    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)
    continual: ContinualSettings = field(default_factory=ContinualSettings)
    strategy: Any = None
    objective: Any = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    demo: DemoSettings = field(default_factory=DemoSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    rank: RankSettings = field(default_factory=RankSettings)
    compare: CompareSettings = field(default_factory=CompareSettings)
    multitask: MultitaskSettings = field(default_factory=MultitaskSettings)
    meta: MetaSettings = field(default_factory=MetaSettings)

    @property
    def reads_unlabelled(self) -> bool:
        """Whether the further pretraining or a term of the objective reads texts without labels."""
        terms = self.objective.values() if self.objective else ()
        return self.pretraining.reads_unlabelled or any(term.reads_unlabelled and term.weight for term in terms)
