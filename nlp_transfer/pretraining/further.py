"""Further pretraining of a run's encoder, or loading of an encoder that was pretrained in the same way before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list

from nlp_transfer.cache.store import store_of
from nlp_transfer.composing.plain import dotted
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding, steps_per_epoch
from nlp_transfer.data.rows import Texts
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.fingerprint import device_description
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import RECORD, Source, digest_of, read_json
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import remove
from nlp_transfer.machine.launch import is_main
from nlp_transfer.machine.versions import digest_of_code, environment
from nlp_transfer.pretraining import planning
from nlp_transfer.pretraining.folder import (
    ENCODER,
    copy_encoder,
    files_beside,
    key_of,
    read_encoder,
    set_spare,
    write_encoder,
)
from nlp_transfer.pretraining.masked import MaskedStep, loss_on, masked_model
from nlp_transfer.pretraining.masks import Masks, Vocabulary
from nlp_transfer.running import resume
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.strategies import Group
from nlp_transfer.strategies.finetune import usual_rate
from nlp_transfer.training import checkpoint
from nlp_transfer.training.callbacks import Callbacks
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.training.loop import NotFinite, TrainingData, fit
from nlp_transfer.training.memory import checkpoint_activations, release_free_memory
from nlp_transfer.training.passes import NoMemory

if TYPE_CHECKING:
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.terminal.console import Screen

CHECKPOINTS, STEPS = "pretraining", "pretraining.jsonl"  # in the folder of the run
_LR_FACTOR = 2.0  # relative to fine-tuning: 1e-4 for a base-sized encoder, as in the paper


def pretrained(prepared: Prepared, folder: RunFolder, screen: Screen) -> Prepared:
    """Return the prepared run with its encoder further pretrained, if the settings ask for it.

    Args:
        prepared: the run with its original encoder.
        folder: of the run, locked.
        screen: where progress is shown.

    Raises:
        UserError: see `prepare`; for a checkpoint of another pretraining, a full disk, or a training that diverges.
        Stopped: by a signal, after a checkpoint was written.
    """
    if not prepared.settings.pretraining.epochs:
        return prepared
    source = _Pretraining(prepared, folder, screen).source()
    assert source.pretrained is not None
    screen.console.print(planning.outcome_words(source.pretrained), style="dim")
    return prepare(
        prepared.settings,
        prepared.corpus,
        folder.path,
        tell=screen.tell,
        pretrained=source,
        auxiliary=prepared.auxiliary,
    )


class _Pretraining:
    """One pretraining, on every rank; only the first rank reads and writes files."""

    def __init__(self, prepared: Prepared, folder: RunFolder, screen: Screen) -> None:
        self.prepared, self.folder, self.screen = prepared, folder, screen
        settings, own = prepared.settings, prepared.settings.pretraining
        self.store = store_of(settings.cache, screen.tell)
        self.training, self.base = planning.training_of(settings), prepared.classifier.source
        self.accelerator, tokenizer = prepared.accelerator, prepared.classifier.tokenizer
        chosen = planning.chosen_texts(settings, prepared.corpus)
        vocabulary = Vocabulary.of(tokenizer, rows=prepared.classifier.model.get_input_embeddings().num_embeddings)
        self.padding = Padding.of(tokenizer, positions_per_token=1)
        self.read, self.held_out = (
            Masks(self._encoded(texts), vocabulary, share=own.mask, seed=settings.seed)
            for texts in (chosen.read, chosen.held_out)
        )

    def source(self) -> Source:
        """Return the pretrained encoder, loaded or trained; a copy stays in the run folder until the run has ended."""
        mine = self.folder.path / ENCODER
        # A resumed run must use the same encoder again, even if the device or the code has changed since.
        resumes = not (resume.starts_anew(self.prepared.settings) or self.folder.is_finished)
        expected = {"origin": self.origin_digest} if resumes else {"key": self.key}
        encoder = None
        if is_main():
            with self.folder.os_errors_reported():
                encoder = read_encoder(mine, self.base, **expected) or self._copied(mine)
        (exists,) = broadcast_object_list([encoder is not None])
        started = time.monotonic()
        if not exists:
            self._make(mine)
        if is_main():
            with self.folder.os_errors_reported():
                remove(self.folder.path / CHECKPOINTS)
                key = key_of(mine)
                # A process that made it may have been killed before it was kept.
                if self.store and not (exists and self.store.find_folder(key)):
                    about = {"what": "pretrained encoder", "encoder": self.base.name, "rows": len(self.read.tokens)}
                    about["seconds"] = round(time.monotonic() - started, 3)
                    self.store.keep_folder(key, mine, about)
                cached = self.store.find_folder(key) if self.store else None
                set_spare(mine, spare=cached is not None)
        self.accelerator.wait_for_everyone()
        encoder = encoder or read_encoder(mine, self.base, **expected)
        if encoder is None:
            raise UserError(f"{mine} cannot be read: it was removed or changed meanwhile; run the command again")
        return encoder

    def _copied(self, target: Path) -> Source | None:
        """Copy the encoder from the cache, if it is cached."""
        cached = self.store.find_folder(self.key) if self.store else None
        if cached is None:
            return None
        copy_encoder(cached, target)
        return read_encoder(target, self.base, key=self.key)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Everything that determines the encoder except device and code, as dotted keys with plain values."""
        settings, texts = self.prepared.settings, hashlib.sha256()
        for masks in (self.read, self.held_out):
            tokens = masks.tokens
            for array in (tokens.ids, tokens.types, tokens.offsets, tokens.first):
                texts.update(
                    b"none" if array is None else f"{array.dtype.str} {array.shape}".encode() + array.tobytes()
                )
        parts = {
            "pretraining": dataclasses.asdict(settings.pretraining),
            "training": dataclasses.asdict(self.training),
            "seed": settings.seed,
            "encoder": {name: getattr(settings.encoder, name) for name in ("pretrained", "depth", "attention")},
            "weights of the encoder": self.base.sha256,
            "files of the encoder": digest_of(files_beside(self.base.folder)),
            "max_tokens of the encoder": read_json(self.base.folder / RECORD).get("max_tokens"),
            "texts": texts.hexdigest(),
            "precision of the machine": str(self.accelerator.mixed_precision),
            "processes": self.accelerator.num_processes,
            "versions": environment(),
        }
        return dotted(parts)

    @cached_property
    def key(self) -> str:
        """The cache key of the encoder: equal keys mean bitwise equal weights."""
        return _digest([self.origin, device_description(self.accelerator.device), digest_of_code()])

    @cached_property
    def origin_digest(self) -> str:
        """A digest of the origin."""
        return _digest(self.origin)

    def _encoded(self, texts: Texts) -> Any:
        """Return the tokens of texts, truncated like training rows."""
        spec, tokenizer = self.prepared.spec, self.prepared.classifier.tokenizer
        return token_ids.encode(tokenizer, texts.texts, texts.pairs, spec, max_length=spec.max_length)

    def _make(self, target: Path) -> None:
        """Train, resuming from a checkpoint if there is one, and write the folder."""
        settings, checkpoints = self.prepared.settings, self.folder.path / CHECKPOINTS
        self.prepared.classifier.model.cpu()  # not needed before its encoder is pretrained
        with self.screen.busy("loading the encoder"):
            model, new_head = masked_model(settings.encoder, self.base, seed=settings.seed)
        if self.training.gradient_checkpointing:
            checkpoint_activations(model)
        make_dropout_cheap(model)
        model.to(self.accelerator.device)
        if is_main() and (warning := resume.check_room(checkpoints, model, self.training)):
            self.screen.tell(warning)
        with self.screen.busy("measuring on held-out texts"):
            before = self._loss(model)
        self._train(model, checkpoints)
        with self.screen.busy("measuring on held-out texts"):
            after = self._loss(model)
        if is_main():
            facts = {"texts": len(self.read.tokens), "epochs": settings.pretraining.epochs}
            facts |= {"new_head": new_head, "held_out": len(self.held_out.tokens), "before": before, "after": after}
            with self.folder.os_errors_reported():
                write_encoder(
                    target, model, settings.encoder, self.base, key=self.key, origin=self.origin_digest, **facts
                )
        self.accelerator.wait_for_everyone()
        release_free_memory()

    def _loss(self, model: Any) -> float:
        """Return the loss on the held-out texts."""
        tokens, columns = self.prepared.settings.evaluation.batch_tokens, _columns(self.held_out)
        return loss_on(self.accelerator, model, columns, self.held_out, padding=self.padding, most_tokens=tokens)

    def _train(self, model: Any, checkpoints: Path) -> None:
        settings, columns = self.prepared.settings, _columns(self.read)
        steps = planned_steps(len(columns), self.training)
        in_epoch = steps_per_epoch(len(columns), batch_size(len(columns), self.training))
        rate = settings.pretraining.lr or _LR_FACTOR * usual_rate(encoder_config(model.config).hidden_size)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        writer = resume.CheckpointWriter(self.accelerator, checkpoints, settings.checkpoint.seconds, self.origin)
        resumed = None if resume.starts_anew(settings) else checkpoint.newest(checkpoints)
        if resumed:
            resume.check_same(resumed, self.origin)
            self.screen.tell(f"resuming from {resumed.path}")
        self.accelerator.wait_for_everyone()
        if is_main():
            with self.folder.os_errors_reported():
                checkpoint.remove_unfinished(checkpoints)
                if not resumed:
                    remove(checkpoints)
                self.folder.truncate_log(STEPS, after=resumed.snapshot.step if resumed else 0)
        stoppable = resume.stoppable(checkpoints, self.screen.tell)
        with stoppable as on_stop, self.screen.bar("pretraining") as bar, self._training_errors():

            def on_step(done: int, total: int, values: dict[str, float]) -> None:
                bar.show(done, total, loss=f"{values['loss']:.3f}")
                self.folder.log_into(STEPS, {"step": done, **values})

            def on_halved(index: int, tokens: int) -> None:
                self.screen.tell(
                    f"memory did not suffice: passes hold at most {tokens:,} tokens from step {index} of the "
                    "pretraining on, the step stays as it is"
                )

            fit(
                self.accelerator,
                MaskedStep(model, self.read, steps=steps, in_epoch=in_epoch),
                [Group("masked-language model", trainable, rate)],
                TrainingData(columns, self.padding),
                settings=self.training,
                seed=settings.seed,
                callbacks=Callbacks(on_step, on_halved=on_halved, on_stop=on_stop),
                checkpointing=writer.checkpointing(resumed.snapshot if resumed else None),
            )

    @contextmanager
    def _training_errors(self) -> Iterator[None]:
        """Turn errors of the training into messages that say what to do."""
        try:
            yield
        except NotFinite as error:
            raise UserError(
                f"loss or gradient of the pretraining was infinite or not a number {self.training.max_skipped} steps "
                f"in a row, last at step {error.step}: lower pretraining.lr, or set training.precision=fp32"
            ) from error
        except NoMemory as error:
            raise UserError(
                f"memory does not suffice for a text of {error.tokens:,} tokens: set tokens.max_length=..., "
                "training.gradient_checkpointing=true or a smaller encoder"
            ) from error


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _columns(masks: Masks) -> Columns:
    """Return texts as columns, each weighted by its number of tokens to predict."""
    counts = masks.counts.astype(np.float32)
    return Columns(masks.tokens, np.zeros(len(counts), np.int64), counts)
