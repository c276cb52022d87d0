"""The works that are measured, with their methods and goals.

A *work* is done by several *methods*, ours and those of peers; a *job* is one execution of a method, as plain JSON
values. A job names its *piece*, a function of one of the modules in this package, which runs in a process of its own
(child.py) and returns the job's *result*. To add a work, define its jobs and goals here, and write the pieces that do
not exist yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.benchmarks.timing.texts import DATASETS

Job = dict[str, Any]

OURS, AGAIN = "nlp_transfer", "nlp_transfer, again"
DEFAULT, DYNAMIC, BEST = "Trainer default", "Trainer dynamic", "Trainer best"
GROUPS = (
    "finetune",
    "base",
    "vocabulary",
    "lora",
    "top_layer",
    "probe",
    "few_shot",
    "predict",
    "options",
    "start",
    "growth",
)
HELD_OUT, FEW = 300, 32  # test rows; FEW are too few for an accuracy

# model -> values that differ from BertConfig's defaults, which are BERT base
SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "vocabulary": {"vocab_size": 250_002},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
}


@dataclass(frozen=True)
class Goal:
    """A goal for one of our figures.

    Attributes:
        must: the required value: a minimum, for memory and seconds a maximum.
        stretch: a more ambitious value, or None.
        against: the method of comparison; None for an absolute figure.
        figure: "speed" (times as fast), "memory" (share of the other's peak), "share" (of the rate of GEMM) or
            "seconds".
        ours: our method that is measured.
    """

    must: float
    stretch: float | None
    against: str | None = None
    figure: str = "speed"
    ours: str = OURS


@dataclass(frozen=True)
class Work:
    """Work that several methods do.

    Attributes:
        name: name in the tables; its first word is the group for --only.
        job: the part of the job that all methods share.
        methods: the other part of the job, by the method's name in the tables.
        goals: goals for our figures.
        passes: cost of the work in forward passes; 0: not compared with GEMM.
    """

    name: str
    job: Job
    methods: dict[str, Job]
    goals: tuple[Goal, ...]
    passes: int = 0

    @property
    def group(self) -> str:
        """Name of the group for --only."""
        return self.name.split()[0]


def works(*, quick: bool) -> list[Work]:
    """Return all works except growth; `quick` reduces their size to a test of the benchmark."""
    return [
        *_finetunes(quick),
        *_wide(quick),
        _lora(quick),
        _top_layer(quick),
        *_probes(quick),
        _few_shot(quick),
        *_predictions(quick),
        _options(quick),
        *_starts(),
    ]


def _trainers(**more: Any) -> dict[str, Job]:
    """Return Trainer with dynamic padding: in random order, and grouped by length where that is faster."""
    return {DYNAMIC: _trainer("dynamic", **more), BEST: _trainer("best", **more)}


def _best(must: float, stretch: float) -> tuple[Goal, Goal]:
    """Return the goals of speed compared with both variants of `_trainers`."""
    return Goal(must, stretch, DYNAMIC), Goal(must, stretch, BEST)


def _trainer(variant: str, **more: Any) -> Job:
    plain = {"dynamic": False, "bf16": False, "grouped": False}
    return {"piece": "trainer.train", "variant": plain if variant == "default" else variant} | more


def _adapt(strategy: str, lr: float | None, **words: Any) -> Job:
    rate = {} if lr is None else {"strategy.lr": lr}
    return {"piece": "ours.adapt", "words": {"strategy": strategy} | rate | words}


def _trained(name: str, quick: bool, shared: Job, own: Job, goals: tuple[Goal, ...], *, passes: int) -> Work:
    """Return a training of which some steps are timed.

    Where a goal compares with Trainer's default, ours and Trainer's best variants train for two epochs, so that their
    accuracies can be compared, otherwise for eleven steps. The default takes three steps, because all its steps take
    the same time (texts are padded to a fixed length).
    """
    job = _steps(quick, 3, skip=1, **shared)
    against_default = any(goal.against == DEFAULT for goal in goals)
    more: Job = {"rows": 480, "epochs": 2, "held_out": HELD_OUT} if against_default else {"rows": 11 * job["batch"]}
    more = {"skip": 1} if quick else more | {"skip": 3}
    methods = {OURS: own | more, **_trainers(**more)}
    if against_default:
        methods[DEFAULT] = _trainer("default")
    return Work(f"{name} batch {job['batch']}", job, methods, goals, passes)


def _steps(quick: bool, steps: int, *, skip: int, batch: int, **own: Any) -> Job:
    """Return a training of `steps` steps, of which those after `skip` are timed."""
    steps, skip, batch = (3, 1, batch // 4) if quick else (steps, skip, batch)
    job = {"model": "minilm", "texts": "short", "strategy": "finetune", "lr": 2e-4, "held_out": FEW, "epochs": 1}
    return job | {"batch": batch, "rows": batch * steps, "skip": skip} | own


def _finetunes(quick: bool) -> list[Work]:
    speed = {
        "short": (Goal(11, 18, DEFAULT), *_best(2.5, 4)),
        "medium": (Goal(6, 10, DEFAULT), *_best(2.5, 4)),
    }
    rest = (
        Goal(0.5, 0.42, DEFAULT, "memory"),
        Goal(0.5, 0.42, BEST, "memory"),
        Goal(0.25, 0.4, figure="share"),
    )
    own = _adapt("finetune", 2e-4)
    return [
        _trained(f"finetune {texts}", quick, {"texts": texts, "batch": batch}, own, goals, passes=3)
        for texts in DATASETS
        for batch, goals in ((32, (*speed[texts], *rest)), (64, _best(3, 6)))
    ]


def _lora(quick: bool) -> Work:
    shared = {"batch": 32, "lr": 1e-3, "strategy": "lora"}
    goals = (Goal(11, 16, DEFAULT), *_best(2.7, 4))
    return _trained("lora short", quick, shared, _adapt("lora", 1e-3), goals, passes=2)


def _wide(quick: bool) -> list[Work]:
    """Return works on encoders with random weights; ours starts from a random head too, so losses are comparable."""
    goals = {
        "base": (Goal(13, 18, DEFAULT), Goal(2.3, 3.5, BEST), Goal(0.4, 0.55, figure="share")),
        "vocabulary": (Goal(3.3, 5, BEST), Goal(0.5, 0.4, BEST, "memory")),
    }
    own = _adapt("finetune", 5e-5, **{"strategy.head_first": False})
    methods = {OURS: own, BEST: _trainer("best")}
    default = {"base": {DEFAULT: _trainer("default")}}
    return [
        Work(
            model,
            _steps(quick, 3, skip=1, batch=32, model=model, lr=5e-5),
            methods | default.get(model, {}),
            goals[model],
            passes=3,
        )
        for model in goals
    ]


def _epochs(quick: bool, texts: str, rows: int, **more: Any) -> tuple[Job, Job]:
    """Return a training of five epochs, timed as a whole, and a shorter one for peers whose steps are all alike."""
    batch, rows, held_out = (8, 32, FEW) if quick else (32, rows, HELD_OUT)
    job = {"model": "minilm", "texts": texts, "rows": rows, "batch": batch, "epochs": 5, "held_out": held_out}
    return job | more, {"rows": 5 * batch, "epochs": 1, "skip": 2, "held_out": FEW}


def _top_layer(quick: bool) -> Work:
    job, _ = _epochs(quick, "short", 1024, lr=2e-4, strategy="top_layer")
    own = _adapt("finetune", 2e-4, **{"strategy.freeze_layers": 5})
    return Work("top_layer short", job, {OURS: own, **_trainers()}, _best(6, 9))


def _probes(quick: bool) -> list[Work]:
    speed = {
        "short": (Goal(80, 150, DEFAULT), *_best(25, 45)),
        "medium": (Goal(45, 75, DEFAULT), *_best(25, 45)),
    }
    rest = (
        Goal(500, None, DEFAULT, ours=AGAIN),
        Goal(500, None, BEST, ours=AGAIN),
        Goal(1, None, "SetFit-style fp32"),
        Goal(1, None, "SetFit-style bf16"),
    )
    found = []
    for texts in DATASETS:
        job, few = _epochs(quick, texts, 2048, lr=1e-2, strategy="frozen")
        methods = {
            OURS: _adapt("probe", None),
            AGAIN: _adapt("probe", None) | {"again": True},
            DEFAULT: _trainer("default", **few),
            **_trainers(),
            "SetFit-style fp32": {"piece": "sentences.probe", "dtype": "float32"},
            "SetFit-style bf16": {"piece": "sentences.probe", "dtype": "bfloat16"},
        }
        found.append(Work(f"probe {texts}", job, methods, (*speed[texts], *rest)))
    return found


def _few_shot(quick: bool) -> Work:
    """Return a contrastive training on 64 rows.

    SetFit lists each pair of different labels once and as many pairs of equal labels, about 2,100 for two classes of
    32, and encodes both texts of a pair: 132 steps of 16 pairs. Ours takes 132 steps of 16 texts and compares their 120
    pairs.
    """
    rows, epochs = (16, 2) if quick else (64, 33)
    job = {"model": "minilm", "texts": "short", "rows": rows, "batch": 16, "epochs": 1}
    job["held_out"] = FEW if quick else HELD_OUT
    words = {"strategy.head_last": True, "training.epochs": epochs, "training.evaluate_every": epochs}
    own = _adapt("finetune", 1e-4, objective="contrast", **words)
    methods = {OURS: own, "SetFit": {"piece": "sentences.contrast"}}
    return Work("few_shot short", job, methods, (Goal(3, 6, "SetFit"),))


def _predictions(quick: bool) -> list[Work]:
    methods: dict[str, Job] = {
        OURS: {"piece": "ours.predict", "words": {"strategy": "probe"}},
        "sentence-transformers fp32": {"piece": "sentences.encode", "dtype": "float32"},
        "sentence-transformers bf16": {"piece": "sentences.encode", "dtype": "bfloat16"},
        "ONNX Runtime": {"piece": "runtimes.onnx", "int8": False},
        "ONNX Runtime int8": {"piece": "runtimes.onnx", "int8": True},
        "OpenVINO": {"piece": "runtimes.openvino", "int8": False},
        "OpenVINO int8": {"piece": "runtimes.openvino", "int8": True},
    }
    goals = (
        Goal(5, 7.5, "sentence-transformers fp32"),
        Goal(1.6, 2.2, "sentence-transformers bf16"),
        Goal(1, None, "ONNX Runtime int8"),
        Goal(1, None, "OpenVINO int8"),
        Goal(0.33, 0.5, figure="share"),
    )
    job = {"model": "minilm", "rows": 128 if quick else 512, "held_out": FEW, "batch": 32, "epochs": 1}
    return [Work(f"predict {texts}", job | {"texts": texts}, methods, goals, passes=1) for texts in DATASETS]


def _options(quick: bool) -> Work:
    """Return fine-tuning with options that are off by default, and without them."""
    methods = {
        OURS: _adapt("finetune", 2e-4),
        f"{OURS}, checkpointed": _adapt("finetune", 2e-4, **{"training.gradient_checkpointing": True}),
        f"{OURS}, compiled": _adapt("finetune", 2e-4, **{"training.compile": True}),
    }
    return Work("options medium", _steps(quick, 7, skip=3, batch=32, texts="medium"), methods, ())


def _starts() -> list[Work]:
    commands = {
        "--help": (["--help"], 0),
        "plan --cfg": (["plan", "--cfg"], 0),
        "a mistake in the configuration": (["adapt", "strategy=fine"], 2),
    }
    goals = (Goal(0.5, 0.3, figure="seconds"),)
    found = [
        Work(f"start {name}", {}, {OURS: {"piece": "start.to_the_end", "words": words, "status": status}}, goals)
        for name, (words, status) in commands.items()
    ]
    step = {"model": "minilm", "texts": "short", "rows": 32, "held_out": FEW, "batch": 32}
    methods = {OURS: {"piece": "start.to_the_first_step"}}
    return [*found, Work("start to the first step", step, methods, (Goal(10, 9, figure="seconds"),))]
