"""Two peers as cases of the crash harness: transformers' Trainer, and a loop over accelerate as its guide writes it.

Both fine-tune the tiny encoder for as many steps as our own cases and write checkpoints as often; both are at their
best setting for going on. The second start is the same script.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from tests.crash_harness import Case
from tests.crashes import BETWEEN, STEPS
from tests.runs import TOPICS, data_for

BATCH = 8


def rows_of(home: Path) -> list[dict[str, Any]]:
    """Return the training rows as transformers wants them."""
    rows = data_for("single_label")["train"]
    encoded = AutoTokenizer.from_pretrained(home / "tiny-bert")([row["text"] for row in rows])
    labels = [list(TOPICS).index(row["label"]) for row in rows]
    return [
        {"labels": label} | {name: values[index] for name, values in encoded.items()}
        for index, label in enumerate(labels)
    ]


def parts_of(home: Path) -> tuple[Any, Any]:
    """Return a fresh classifier and what makes batches."""
    set_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(home / "tiny-bert", num_labels=len(TOPICS))
    return model, DataCollatorWithPadding(AutoTokenizer.from_pretrained(home / "tiny-bert"))


def trainer(home: Path) -> Case:
    """Return a fine-tuning by transformers' Trainer."""
    rows = rows_of(home)

    def run(output: Path) -> None:
        model, collate = parts_of(home)
        arguments = TrainingArguments(
            output_dir=str(output),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            warmup_steps=1,
            save_strategy="steps",
            save_steps=BETWEEN,
            save_total_limit=2,
            logging_strategy="no",
            seed=0,
            data_seed=0,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        peer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        peer.remove_callback(PrinterCallback)
        peer.train(resume_from_checkpoint=get_last_checkpoint(str(output)))
        peer.save_model(str(output / "model"))

    def progress(output: Path) -> float | None:
        newest = get_last_checkpoint(str(output))
        return float(newest.rpartition("-")[2]) if newest else None

    writers = [
        (transformers.modeling_utils, "safe_save_file", 1),
        (torch, "save", 1),
        (TrainerState, "save_to_json", 1),
    ]
    return Case(run, weights_of, progress, writers)


def accelerated(home: Path) -> Case:
    """Return a loop of one's own over accelerate, as its guide to checkpoints writes it."""
    rows = rows_of(home)

    def newest(output: Path) -> int | None:
        numbers = [int(path.name.rpartition("_")[2]) for path in (output / "checkpoints").glob("checkpoint_*")]
        return max(numbers, default=None)

    def run(output: Path) -> None:
        model, collate = parts_of(home)
        last = newest(output)
        project = ProjectConfiguration(
            project_dir=str(output),
            automatic_checkpoint_naming=True,
            total_limit=2,
            iteration=0 if last is None else last + 1,
        )
        order = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0)
        accelerator = Accelerator(cpu=True, project_config=project, dataloader_config=order)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model, optimizer, loader, schedule = accelerator.prepare(
            model,
            optimizer,
            DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=collate),  # type: ignore[arg-type]
            get_linear_schedule_with_warmup(optimizer, 1, STEPS),
        )
        done = 0
        if last is not None:
            accelerator.load_state()  # the newest
            done = (last + 1) * BETWEEN
        model.train()
        for epoch in range(done // len(loader), math.ceil(STEPS / len(loader))):
            loader.set_epoch(epoch)
            skipped = done % len(loader)
            for batch in accelerator.skip_first_batches(loader, skipped) if skipped else loader:
                accelerator.backward(model(**batch).loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                done += 1
                if done % BETWEEN == 0:
                    accelerator.save_state()
                if done == STEPS:
                    break
        accelerator.unwrap_model(model).save_pretrained(output / "model")

    def progress(output: Path) -> float | None:
        last = newest(output)
        return None if last is None else float((last + 1) * BETWEEN)

    writers = [
        (accelerate.utils.other, "safe_save_file", 1),
        (torch, "save", 1),
        (transformers.modeling_utils, "safe_save_file", 1),
    ]
    return Case(run, weights_of, progress, writers)


def weights_of(output: Path) -> dict[str, str]:
    """Return the hash of the weights that a peer's run ended in."""
    path = output / "model" / "model.safetensors"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}
