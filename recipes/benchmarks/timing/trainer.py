"""Peer: transformers' Trainer as in run_classification.py, with PEFT for LoRA, in several settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recipes.benchmarks.timing.stopwatch import MAX_TOKENS, Job, Result, Stopwatch, need, text_costs

MODULES = ("datasets", "transformers.trainer", "transformers.models.bert.modeling_bert")


def train(job: Job) -> Result:
    """Measure a training with the job's `variant` of settings, and its accuracy on the test rows."""
    need(*MODULES, *["peft"] * (job["strategy"] == "lora"))
    with Stopwatch() as watch:
        peer, data = _build(job)
        peer.data_collator = collator = _CountingCollator(peer.data_collator)
        loss = peer.train().training_loss
        tokens = list(collator.tokens)
        output = peer.predict(data["test"])
        accuracy = float((output.predictions.argmax(1) == output.label_ids).mean())
    result = watch.result(job, accuracy=accuracy, loss=loss, **text_costs(job))
    if "skip" in job and job["variant"]["grouped"]:  # steps differ in length: count texts of the mean length
        result["steady_texts"] = sum(tokens[job["skip"] : result["steps"]]) / result["tokens"]
    return result


def fastest(job: Job) -> Result:
    """Return the fastest `variant` with dynamic padding: fp32 or bf16; of a job's `variant`: grouped by length or not.

    bf16 is tried only where its matrix products are not slower: where they are emulated, a step takes minutes.
    """
    need(*MODULES, *["peft"] * (job["strategy"] == "lora"))

    def seconds(variant: dict[str, bool], steps: int) -> float:
        peer, _ = _build(job | {"variant": variant})
        peer.args.max_steps = steps
        with Stopwatch() as watch:
            peer.train()
        return watch.seconds["cpu"]

    def fastest_of(variants: Iterable[dict[str, bool]], steps: int) -> dict[str, bool]:
        return min(variants, key=lambda variant: seconds(variant, steps))

    plain = {"dynamic": True, "bf16": False, "grouped": False}
    seconds(plain, 1)  # warm-up: the first training of a process is slower
    if variant := job.get("variant"):
        return {"variant": fastest_of((variant, variant | {"grouped": True}), job["rows"] // job["batch"])}
    return {"variant": fastest_of((plain, plain | {"bf16": True}), 2) if _bf16_speedup() > 1 else plain}


def _bf16_speedup() -> float:
    """Return the time of a matrix product in fp32 divided by that in bf16."""
    import torch

    def seconds(kind: torch.dtype) -> float:
        matrix, found = torch.ones(384, 384, dtype=kind), []
        for _ in range(5):
            with Stopwatch() as watch:
                matrix @ matrix
            found.append(watch.seconds["cpu"])
        return min(found)

    return seconds(torch.float32) / seconds(torch.bfloat16)


class _CountingCollator:
    """A collator that records the number of real tokens of each batch."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.collator, self.tokens = collator, list[int]()

    def __call__(self, rows: Any) -> Any:
        """Return the batch."""
        batch = self.collator(rows)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def _build(job: Job) -> tuple[Any, Any]:
    """Return a Trainer and its data sets."""
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        default_data_collator,
        set_seed,
    )

    variant, folder = job["variant"], Path(job["data"])
    set_seed(job["seed"])
    data = load_dataset("csv", data_files={split: str(folder / f"{split}.csv") for split in ("train", "test")})
    names = sorted(set(data["train"]["label"]))
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])

    def encode(rows: Any) -> Any:
        padding = False if variant["dynamic"] else "max_length"
        encoded = tokenizer(rows["text"], padding=padding, max_length=MAX_TOKENS, truncation=True)
        return {**encoded, "labels": [numbers.get(name, -1) for name in rows["label"]]}

    data = data.map(encode, batched=True, remove_columns=["text", "label"])
    model = AutoModelForSequenceClassification.from_pretrained(job["encoder"], num_labels=len(names), dtype="float32")
    peer = Trainer(
        model=_prepare_model(model, job["strategy"]),
        args=TrainingArguments(
            output_dir=job["scratch"],
            num_train_epochs=job["epochs"],
            per_device_train_batch_size=job["batch"],
            per_device_eval_batch_size=64,
            learning_rate=job["lr"],
            weight_decay=0.01,
            warmup_steps=0.1,
            bf16=variant["bf16"],
            torch_compile=variant.get("compiled", False),
            train_sampling_strategy="group_by_length" if variant["grouped"] else "random",
            save_strategy="no",
            seed=job["seed"],
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data["train"],
        data_collator=DataCollatorWithPadding(tokenizer) if variant["dynamic"] else default_data_collator,
    )
    return peer, data


def _prepare_model(model: Any, strategy: str) -> Any:
    """Return the model with only the parameters trainable that a strategy trains."""
    if strategy == "lora":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
        return get_peft_model(model, lora)
    if strategy == "frozen":
        model.base_model.requires_grad_(False)
    if strategy == "top_layer":
        model.base_model.embeddings.requires_grad_(False)
        model.base_model.encoder.layer[:-1].requires_grad_(False)
    return model
