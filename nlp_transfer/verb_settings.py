"""The settings of single verbs, one dataclass for each group of conf/config.yaml that is named after a verb."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Where `predict` reads rows, and where it writes them with labels and probabilities added."""

    input: str = "-"
    output: str = "-"
    format: str = "auto"
    chunk_rows: int = 2048


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """Where and how `push` publishes a model, and whether a finished run is pushed."""

    push: bool = False
    repository: str | None = None
    private: bool = True
    revision: str | None = None
    create_pr: bool = False
    layout: str = "merged"
    message: str | None = None
    license: str | None = None
    language: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Address of `serve`, and limits on the size of a request and of the queue."""

    host: str = "127.0.0.1"
    port: int = 8000
    texts: int = 256
    characters: int = 50_000
    bytes: int = 4_194_304
    queue: int = 4096
    seconds: float = 30.0
    wait_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Address of `demo`, whether it opens the browser, and limits on what is typed or uploaded."""

    host: str = "127.0.0.1"
    port: int = 7860
    browser: bool | None = None
    texts: int = 256
    characters: int = 50_000
    bytes: int = 16_777_216
    effort: int = 40_000


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Format and folder of `export`, and how the exported model is compared with the original."""

    format: str = "onnx"
    output: str | None = None
    rows: int | None = 5000
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What `check` looks for, when it fails, and where it writes a corrected copy."""

    encoder: bool = True
    skip: list[str] = field(default_factory=list)
    fail_on: str = "error"
    beside: str | None = None
    fix: str | None = None


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """How many training rows `rank` reads unless `data.train_limit` or `data.per_class` is set."""

    rows: int | None = 2000


@dataclass(frozen=True, kw_only=True)
class MultitaskSettings:
    """Which tasks are trained together, how they are sampled and weighted, and what they are compared with."""

    tasks: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    sampling: str = "temperature"
    temperature: float = 2.0
    balance: str = "none"
    beside: str = "none"

    @property
    def used(self) -> bool:
        """Whether several tasks are trained together."""
        return bool(self.tasks)


@dataclass(frozen=True, kw_only=True)
class MetaSettings:
    """Episodic meta-learning of `meta`, and the held-out classes on which it is evaluated."""

    method: str = "protonet"
    ways: int = 5
    shots: int = 5
    queries: int = 10
    distance: str = "cosine"
    episodes: int = 100
    batch: int = 2
    lr: float | None = None
    inner_lr: float = 0.01
    inner_steps: int = 3
    held_out: float = 0.3
    validation: float = 0.15
    measured: int = 600


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """The candidates of `compare`, the numbers of labels and seeds, and the time limit."""

    candidates: list[str] = field(default_factory=lambda: ["probe", "auto", "lora"])
    labels: list[str] = field(default_factory=lambda: ["8", "16", "64", "256", "all"])
    seeds: int = 3
    scratch: bool = True
    minutes: float | None = None
