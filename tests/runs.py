"""What a short run on a tiny encoder is made of: rows whose words tell the label, settings, every strategy."""

import csv
import hashlib
import random
from pathlib import Path
from typing import Any

from tests.composed import settings_of

TOPICS = {
    "card": ["my card has not arrived yet", "where is my card", "the card was late", "when will my card arrived"],
    "refund": ["please refund the order", "refund the payment", "my refund is late", "how can you refund"],
    "film": ["good movie", "terrible movie film", "love the film", "hate a bad movie"],
}
STRATEGIES = {
    "probe": {"strategy": "probe"},
    "probe adamw": {"strategy": "probe", "strategy.solver": "adamw"},
    "finetune": {"strategy": "finetune", "strategy.lr": 1e-3, "encoder.head": "pooled"},
    "finetune refined": {
        "strategy": "finetune",
        "strategy.freeze_layers": 1,
        "strategy.layer_decay": 0.9,
        "strategy.gradual": 0.5,
        "strategy.head_first": False,
        "training.ema": 0.9,
    },
    "lora": {"strategy": "lora", "strategy.rank": 4, "encoder.head": "pooled"},
    "lora top": {"strategy": "lora", "strategy.layers": [1], "strategy.dora": True},
    "ia3": {"strategy": "adapter", "strategy.peft_type": "IA3"},
}
PROBLEMS = ["single_label", "soft", "multi_label", "ordinal", "regression", "pair", "siamese", "chunk"]


def rows(problem: str, count: int, seed: int) -> list[dict]:
    """Learnable rows: the words tell the label."""
    chooser = random.Random(seed)
    made = []
    for number in range(count):
        label = chooser.choice(list(TOPICS))
        words = [
            chooser.choice(TOPICS[label]),
            chooser.choice(["", "please", "thanks", "not"]),
            chooser.choice("abcdefgh"),
        ]
        text = " ".join(words)
        index = list(TOPICS).index(label)
        row: dict = {"text": text, "id": f"{seed}-{number}"}
        row |= {
            "single_label": {"label": label},
            "soft": {"label": {label: 0.75, "film" if label != "film" else "card": 0.25}},
            "multi_label": {"label": [label] + (["late"] if "late" in text else [])},
            "ordinal": {"label": str(index + 1)},
            "regression": {"label": index + 0.01 * number},
            "pair": {"text_pair": chooser.choice(TOPICS[label]), "label": label},
            "siamese": {"text_pair": chooser.choice(TOPICS[label]), "label": label},
            "chunk": {"text": f"{text} " * 12, "label": label},
        }[problem]
        made.append(row)
    return made


QUICK: dict[str, Any] = {
    "encoder": "custom",
    "strategy": "finetune",
    "training.epochs": 3,
    "training.batch_size": 8,
    "training.precision": "fp32",
    "evaluation.resamples": 20,
    "evaluation.floors": False,
    "verify": False,
    "report.write": False,
}


def data_for(problem: str) -> dict[str, list[dict]]:
    return {"train": rows(problem, 48, 1), "validation": rows(problem, 16, 2), "test": rows(problem, 16, 3)}


def settings_for(folder: Path, problem: str = "single_label", **values):
    base = {
        "data": "object",
        "data.problem": {"ordinal": "ordinal", "regression": "regression", "multi_label": "multi_label"}.get(
            problem, "auto"
        ),
        "encoder.name": str(folder / "tiny-bert"),
        "output": str(folder / "runs"),
        **QUICK,
    }
    if problem == "chunk":
        base |= {"tokens.long": "chunk", "tokens.max_length": 24}
    if problem == "siamese":
        base |= {"encoder.pairs": "siamese"}
    return settings_of(base | values)


def digest(run) -> str:
    return hashlib.sha256((run.folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def texts_in(path: Path, problem: str = "single_label", **columns: str) -> Path:
    rows = data_for(problem)["test"] + data_for(problem)["validation"]
    with path.open("w", newline="") as out:
        names = [name for name in ("text", "text_pair") if name in rows[0]]
        writer = csv.DictWriter(out, [*names, *columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | columns for row in rows)
    return path
