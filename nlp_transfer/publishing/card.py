"""The model card, the README.md of the Hub, rendered from the facts of a run.

It contains no text of the data; names that come from the data (labels, columns, files) are escaped.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.evaluation.formatting import format_interval, number, title_of
from nlp_transfer.evaluation.report import Report
from nlp_transfer.markdown import WIDTH, block, bullets, escaped, table
from nlp_transfer.pretraining.planning import summary
from nlp_transfer.publishing.card_exports import LIMITS, exports_section
from nlp_transfer.publishing.card_rules import rules_of

FILE = "README.md"
_MAX_LABELS = 40  # rows of the table of labels; of more labels, those with the lowest F1
_STRATEGIES = {
    "probe": "a linear head on the frozen encoder",
    "finetune": "fine-tuning",
    "lora": "LoRA, merged into the weights",
    "adapter": "a PEFT adapter, merged into the weights",
}


@dataclass(frozen=True)
class CardFacts:
    """The facts about a run that its card presents.

    Attributes:
        title: of the card: the run's name.
        record: of the saved model, as `artefact.record.Record.to_json` returns it.
        report: the evaluation.
        plan: of the run, as `plan.Plan.to_json` returns it.
        environment: versions.
        words: of the command that reproduces the run; None if its rows came from Python.
        seconds: duration of the training.
        steps: number of optimizer steps.
        encoder: public name of the encoder.
        known: whether the encoder is available by this name on the Hub.
        data_set: id of the Hub data set, or None.
        exports: the contents of `export.json` of every export of this model.
    """

    title: str
    record: Mapping[str, Any]
    report: Report
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    words: Sequence[str] | None
    seconds: float
    steps: int
    encoder: str
    known: bool
    data_set: str | None
    exports: Sequence[Mapping[str, Any]] = ()

    @property
    def outputs(self) -> int:
        """The number of logits per text."""
        return len(self.record["task"]["labels"]) or 1


@dataclass(frozen=True)
class Options:
    """Facts from the publisher: the repository, a licence, languages, texts for the Hub's widget."""

    repository: str | None = None
    license: str | None = None
    language: Sequence[str] = ()
    examples: Sequence[str] = ()


def render(facts: CardFacts, options: Options) -> str:
    """Return the whole card: YAML header and Markdown."""
    parts = [
        f"---\n{_header(facts, options)}\n---",
        f"# {escaped(facts.title)}",
        _summary(facts),
        f"**{escaped(facts.report.verdict)}**",
        f"## How to use it\n\n{_usage(facts, options)}",
        f"## Figures\n\n{_figures(facts)}",
        f"## Labels\n\n{_labels(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        *([exports_section(facts.exports)] if facts.exports else []),
        f"{LIMITS}\n\n{_limits(facts, options)}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(facts: CardFacts, options: Options) -> str:
    report, merged, is_pooled = facts.report, facts.record["merged"], facts.record["encoder"]["head"] == "pooled"
    figures = report.rows[0].intervals
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=facts.data_set or "private",
            dataset_name=_plain(facts.data_set or "data of the publisher"),
            dataset_split=report.split,
            metric_type=metric,
            metric_value=round(interval.value, 6),
        )
        for metric, interval in figures.items()
        if not math.isnan(interval.value)
    ]
    optional: dict[str, Any] = {
        "base_model": facts.encoder if facts.known else None,
        "base_model_relation": ("finetune" if merged else "adapter") if facts.known else None,
        "datasets": [facts.data_set] if facts.data_set else None,
        "widget": [{"text": text} for text in options.examples] or None,
    }
    return ModelCardData(
        language=list(options.language) or None,
        license=options.license,
        library_name="transformers" if merged else "nlp_transfer" if is_pooled else "peft",
        pipeline_tag="text-classification",
        tags=["nlp_transfer", facts.plan["strategy"], *(["custom_code"] if is_pooled and merged else [])],
        metrics=list(figures),
        model_name=_plain(facts.title),
        eval_results=results,
        **{key: value for key, value in optional.items() if value is not None},
    ).to_yaml()


def _plain(text: str) -> str:
    """Return a name on one line, for YAML."""
    return " ".join(text.split())[:WIDTH] or "model"


def _summary(facts: CardFacts) -> str:
    task = facts.record["task"]
    output = {
        "single_label": f"chooses one of {len(task['labels']):,} labels",
        "multi_label": f"chooses any of {len(task['labels']):,} labels",
        "ordinal": f"chooses one of {len(task['labels']):,} ordered labels",
        "regression": "returns a number",
    }[task["problem"]]
    inputs = "pairs of texts" if task["pair"] else "texts"
    base = f"[{escaped(facts.encoder)}](https://hf.co/{facts.encoder})" if facts.known else escaped(facts.encoder)
    if not facts.record["encoder"].get("pretrained", True):
        base = f"The architecture of {base}, with random weights,"
    if pretrained := facts.record.get("pretrained"):
        base = f"{base.removesuffix(',')}, after {summary(Pretrained(**pretrained))},"
    strategy = _STRATEGIES[facts.plan["strategy"]]
    if not facts.record["merged"]:
        strategy = strategy.replace(", merged into the weights", "")
    return f"A model for {inputs} that {output}. {base} was adapted by {strategy} with nlp_transfer."


def _usage(facts: CardFacts, options: Options) -> str:
    record = facts.record
    where = options.repository or "path/to/this/folder"
    if not record["merged"]:
        return _adapter_usage(where, facts)
    pair = record["task"]["pair"]
    arguments = ", top_k=None" if record["task"]["problem"] == "multi_label" else ""
    arguments += ', function_to_apply="none"' if record["task"]["problem"] == "regression" else ""
    is_pooled = record["encoder"]["head"] == "pooled"
    trust = f", trust_remote_code={is_pooled}" if is_pooled else ""
    inputs = '{"text": "first text", "text_pair": "second text"}' if pair else '["a text"]'
    code = f"""
        from transformers import pipeline

        classify = pipeline("text-classification", "{where}"{trust})
        classify({inputs}, truncation=True{arguments})
    """
    sentences = []
    if is_pooled:
        sentences.append(
            "Its head (pooled states, see `pooled.py`) is not a class of transformers, hence `trust_remote_code`: read "
            "the two short files and pin a `revision`, or import nlp_transfer first, which needs neither."
        )
    sentences += rules_of(record["task"])
    if record["tokens"]["chunk"]:
        sentences.append(
            "Long texts were read in windows when it was measured, which nlp_transfer does too; transformers truncates "
            "them."
        )
    return "\n\n".join([block("python", code), *sentences, _own_usage(where, facts)])


def _adapter_usage(where: str, facts: CardFacts) -> str:
    lead = "This repository contains only an adapter, to be put on its encoder"
    if facts.record.get("pretrained"):  # the pretrained encoder is in no repository
        lead += " after its pretraining"
    elif facts.record["encoder"]["head"] == "pooled":  # no class of transformers
        lead += " and the pooled head of nlp_transfer"
    if not lead.endswith("encoder"):
        return "\n\n".join([f"{lead}:", _own_usage(where, facts), *rules_of(facts.record["task"])])
    depth = facts.record["encoder"].get("depth")
    layers = "" if depth is None else f", num_hidden_layers={depth}"
    code = f"""
        import json

        from huggingface_hub import hf_hub_download
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        labels = json.load(open(hf_hub_download("{where}", "nlp_transfer.json"), encoding="utf-8"))["task"]["labels"]
        base = AutoModelForSequenceClassification.from_pretrained(
            "{facts.encoder}", num_labels={facts.outputs}, id2label=dict(enumerate(labels)) or None{layers}
        )
        tokenizer = AutoTokenizer.from_pretrained("{where}")
        for config in (base.config, base.config.get_text_config()):
            config.pad_token_id = tokenizer.pad_token_id
        classify = pipeline("text-classification", PeftModel.from_pretrained(base, "{where}"), tokenizer=tokenizer)
    """
    ways = [f"{lead}:", block("python", code), "or", _own_usage(where, facts)]
    return "\n\n".join([*ways, *rules_of(facts.record["task"])])


def _own_usage(where: str, facts: CardFacts) -> str:
    inputs = '["first text"], ["second text"]' if facts.record["task"]["pair"] else '["a text"]'
    return block("python", f'import nlp_transfer\n\nnlp_transfer.load("{where}").predict({inputs})')


def _figures(facts: CardFacts) -> str:
    report = facts.report
    head = ["", *(title_of(row.name) for row in report.rows)]
    metrics = report.rows[0].intervals
    rows = [[name, *(format_interval(row.intervals[name]) for row in report.rows)] for name in metrics]
    basis = (
        f"{report.examples:,} rows of the {report.split} split, with {100 * report.confidence:g}% bootstrap intervals."
    )
    calibrated = ", and validation rows for calibration" if facts.plan["examples"].get("validation") else ""
    lines = [f"{table(head, rows)}\n\n{basis} Baselines had the same training rows{calibrated}."]
    if report.calibration_text:
        calibration = _calibration(facts.record["calibration"])
        lines.append(f"Probabilities and frequencies differ by {report.calibration_text}. {calibration}")
    return "\n\n".join(lines)


def _calibration(plain: Mapping[str, Any]) -> str:
    if plain["temperature"] == 1 and not plain["shifts"]:
        return "The outputs are not calibrated: no temperature was fitted."
    words = f"The outputs were divided by a temperature of {plain['temperature']:.3g}"
    if plain["shifts"]:
        words += " and then shifted, each class half of the way to its frequency"
    return f"{words}, fitted on validation rows and folded into the weights."


def _labels(facts: CardFacts) -> str:
    labels = facts.report.labels
    if not labels:
        return "None: it predicts a number."
    by_f1 = sorted(labels, key=lambda label: (math.inf if math.isnan(label.f1) else label.f1, -label.support))
    listed = by_f1[:_MAX_LABELS] if len(labels) > _MAX_LABELS else labels
    rows = [
        [label.name, f"{label.support:,g}", number(label.precision), number(label.recall), number(label.f1)]
        for label in listed
    ]
    lead = f"The {_MAX_LABELS} of {len(labels):,} labels with the lowest F1.\n\n" if len(listed) < len(labels) else ""
    return lead + table(["label", "rows", "precision", "recall", "F1"], rows)


def _data(facts: CardFacts) -> str:
    plan = facts.plan
    counts = ", ".join(f"{count:,} {split}" for split, count in plan["examples"].items())
    lines = [
        f"Source: {escaped(facts.data_set or facts.record['data']['source'])}; rows: {counts}.",
        f"Fingerprint of the rows (SHA-256): `{facts.record['data']['fingerprint']}`.",
        *(f"{escaped(note)}." for note in map(_without_places, plan["notes"]) if note),
    ]
    return bullets(lines)


def _without_places(note: str) -> str:
    """Return a note without references to rows and files, which readers do not have; "" for a note about them."""
    note = re.sub(r", for example \S.*", "", note)
    return "" if re.search(r"\S+:\d+|(^|\s)(~?/|[A-Za-z]:\\)\S", note) else note


def _training(facts: CardFacts) -> str:
    plan, environment = facts.plan, facts.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.items() if version != "missing")
    length = f"{facts.steps:,} steps of {plan['batch_size']} examples" if facts.steps else "Solved without steps"
    lines = [
        f"{plan['trainable']:,} of {plan['parameters']:,} parameters were trained; {escaped(plan['head'])}.",
        f"{length}, {plan['precision']}, on {plan['processes']} × {plan['device']}, in {facts.seconds:,.0f} s. Energy "
        "was not measured.",
        f"Encoder weights (SHA-256): `{plan['sha256']}`.",
        f"Versions: {escaped(versions)}.",
    ]
    if facts.words is None:
        return bullets([*lines, "The rows were passed from Python."])
    command = shlex.join(["nlp-transfer", *facts.words])
    return f"{bullets(lines)}\n\n{block('console', command)}"


def _limits(facts: CardFacts, options: Options) -> str:
    plan, report = facts.plan, facts.report
    lengths = plan["lengths"].get(report.split) or {}
    limit = facts.record["tokens"]["limit"]
    lines = [escaped(note) for note in report.notes]
    if facts.record["tokens"]["chunk"]:
        lines.append(f"Texts are read in windows of {limit:,} tokens.")
    else:
        cut = f"; {lengths['cut_examples']:,} {report.split} rows were" if lengths.get("cut_examples") else ""
        lines.append(f"Texts are truncated to {limit:,} tokens{cut}.")
    if not options.language:
        lines.append("The figures hold for texts like those it was measured on, in their language.")
    return bullets(lines)
