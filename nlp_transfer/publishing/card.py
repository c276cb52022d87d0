"""The model card: what was measured, written as the Hub's README.md. No text of the data gets into it.

It reads what a run wrote about itself; whatever comes from data or names (labels, columns, files) is escaped.
"""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nlp_transfer.evaluation.formatting import number, shown, title_of
from nlp_transfer.evaluation.report import Report

FILE = "README.md"
_ROWS = 40  # labels shown one by one; of more, those that fare worst
_WIDTH = 60  # characters of a name
# What Markdown reads as its own: within a line, and where one starts.
_MARKS = re.compile(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")
_STARTS = re.compile(r"^([#+-](?=[\s#+-]|$)|\d+(?=[.)](?:\s|$)))")
_WAYS = {
    "probe": "a linear head on the frozen encoder",
    "finetune": "fine-tuning",
    "lora": "LoRA, merged into the weights",
    "adapter": "a PEFT adapter, merged into the weights",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        title: of the card: the run's name.
        record: of the artefact, as `artefact.Record.to_json` returns it.
        report: the figures.
        plan: of the run, as `plan.Plan.to_json` returns it.
        environment: versions.
        words: key=value words that make the run; None where its rows were given from Python.
        seconds: that the training took.
        steps: of the optimizer.
        encoder: the encoder's name as others may read it; `known` if it can be had from the Hub by it.
        data_set: id of the Hub data set, or None.
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

    @property
    def outputs(self) -> int:
        """Logits a text."""
        return len(self.record["task"]["labels"]) or 1


@dataclass(frozen=True)
class Wishes:
    """What only the publisher knows: the repository, a licence, languages, texts to show in the Hub's widget."""

    repository: str | None = None
    license: str | None = None
    language: Sequence[str] = ()
    examples: Sequence[str] = ()


def render(facts: Facts, wishes: Wishes) -> str:
    """Return the whole card: YAML header and Markdown."""
    parts = [
        f"---\n{_header(facts, wishes)}\n---",
        f"# {escaped(facts.title)}",
        _summary(facts),
        f"**{escaped(facts.report.verdict)}**",
        f"## How to use it\n\n{_usage(facts, wishes)}",
        f"## Figures\n\n{_figures(facts.report)}",
        f"## Labels\n\n{_labels(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Limits\n\n{_limits(facts, wishes)}",
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str, width: int | None = None) -> str:
    """Return a text as Markdown shows it literally, on one line: no table, heading, list or HTML is made of it."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    if width and len(line) > width:
        line = line[: width - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKS.sub(r"\\\1", line)
    return _STARTS.sub(lambda found: f"&#{ord(found[1][0])};{found[1][1:]}", line)


def _header(facts: Facts, wishes: Wishes) -> str:
    report, merged, own_head = facts.report, facts.record["merged"], facts.record["encoder"]["head"] == "pooled"
    figures = report.rows[0].intervals
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=facts.data_set or "private",
            dataset_name=_plain(facts.data_set or "rows of its publisher"),
            dataset_split=report.split,
            metric_type=metric,
            metric_value=round(interval.value, 6),
        )
        for metric, interval in figures.items()
        if not math.isnan(interval.value)
    ]
    known: dict[str, Any] = {
        "base_model": facts.encoder if facts.known else None,
        "base_model_relation": ("finetune" if merged else "adapter") if facts.known else None,
        "datasets": [facts.data_set] if facts.data_set else None,
        "widget": [{"text": text} for text in wishes.examples] or None,
    }
    return ModelCardData(
        language=list(wishes.language) or None,
        license=wishes.license,
        library_name="transformers" if merged else "nlp_transfer" if own_head else "peft",
        pipeline_tag="text-classification",
        tags=["nlp_transfer", facts.plan["strategy"], *(["custom_code"] if own_head and merged else [])],
        metrics=list(figures),
        model_name=_plain(facts.title),
        eval_results=results,
        **{key: value for key, value in known.items() if value is not None},
    ).to_yaml()


def _plain(text: str) -> str:
    """Return a name on one line, as a value in YAML."""
    return " ".join(text.split())[:_WIDTH] or "model"


def _summary(facts: Facts) -> str:
    task = facts.record["task"]
    what = {
        "single_label": f"chooses one of {len(task['labels']):,} labels",
        "multi_label": f"chooses any of {len(task['labels']):,} labels",
        "ordinal": f"chooses one of {len(task['labels']):,} ordered labels",
        "regression": "returns a number",
    }[task["problem"]]
    read = "pairs of texts" if task["pair"] else "texts"
    base = f"[{escaped(facts.encoder)}](https://hf.co/{facts.encoder})" if facts.known else escaped(facts.encoder)
    way = _WAYS[facts.plan["strategy"]]
    if not facts.record["merged"]:
        way = way.replace(", merged into the weights", "")
    return f"A classifier of {read} that {what}. {base} was adapted by {way} with nlp_transfer."


def _usage(facts: Facts, wishes: Wishes) -> str:
    record = facts.record
    where = wishes.repository or "path/to/this/folder"
    if not record["merged"]:
        return _adapter_usage(where, facts)
    pair = record["task"]["pair"]
    more = ", top_k=None" if record["task"]["problem"] == "multi_label" else ""
    more += ', function_to_apply="none"' if record["task"]["problem"] == "regression" else ""
    own = record["encoder"]["head"] == "pooled"
    trust = f", trust_remote_code={own}" if own else ""
    asked = '{"text": "first text", "text_pair": "second text"}' if pair else '["a text"]'
    code = f"""
        from transformers import pipeline

        classify = pipeline("text-classification", "{where}"{trust})
        classify({asked}, truncation=True{more})
    """
    sentences = []
    if own:
        sentences.append(
            "Its head (pooled states, see `pooled.py`) is no class of transformers, hence `trust_remote_code`: read "
            "the two short files and pin a `revision`, or import nlp_transfer first, which needs neither."
        )
    if record["task"]["problem"] == "multi_label":
        sentences.append("A label is chosen from a score of 0.5 on.")
    if record["tokens"]["chunk"]:
        sentences.append(
            "Long texts were read in windows when it was measured; transformers cuts them, nlp_transfer reads them as "
            "then."
        )
    return "\n\n".join([_block("python", code), *sentences, _ours(where, facts)])


def _adapter_usage(where: str, facts: Facts) -> str:
    said = "It holds an adapter alone, to be put on its encoder"
    if facts.record["encoder"]["head"] == "pooled":  # no class of transformers
        return f"{said} and a head of ours:\n\n{_ours(where, facts)}"
    code = f"""
        import json

        from huggingface_hub import hf_hub_download
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        labels = json.load(open(hf_hub_download("{where}", "nlp_transfer.json"), encoding="utf-8"))["task"]["labels"]
        base = AutoModelForSequenceClassification.from_pretrained(
            "{facts.encoder}", num_labels={facts.outputs}, id2label=dict(enumerate(labels)) or None
        )
        tokenizer = AutoTokenizer.from_pretrained("{where}")
        base.config.pad_token_id = tokenizer.pad_token_id
        classify = pipeline("text-classification", PeftModel.from_pretrained(base, "{where}"), tokenizer=tokenizer)
    """
    return f"{said}:\n\n{_block('python', code)}\n\nor\n\n{_ours(where, facts)}"


def _ours(where: str, facts: Facts) -> str:
    asked = '["first text"], ["second text"]' if facts.record["task"]["pair"] else '["a text"]'
    return _block("python", f'import nlp_transfer\n\nnlp_transfer.load("{where}").predict({asked})')


def _figures(report: Report) -> str:
    head = ["", *(title_of(row.name) for row in report.rows)]
    rows = [[metric, *(shown(row.intervals[metric]) for row in report.rows)] for metric in report.rows[0].intervals]
    said = (
        f"{report.examples:,} rows of the split {report.split}; bootstrap intervals of {100 * report.confidence:g} %."
    )
    return f"{_table(head, rows)}\n\n{said} Floors were fitted to the same training rows."


def _labels(facts: Facts) -> str:
    labels = facts.report.labels
    if not labels:
        return "None: it predicts a number."
    known = sorted(labels, key=lambda label: (math.inf if math.isnan(label.f1) else label.f1, -label.support))
    listed = known[:_ROWS] if len(labels) > _ROWS else labels
    rows = [
        [label.name, f"{label.support:,g}", number(label.precision), number(label.recall), number(label.f1)]
        for label in listed
    ]
    more = f"The {_ROWS} of {len(labels):,} labels that fare worst.\n\n" if len(labels) > _ROWS else ""
    return more + _table(["label", "rows", "precision", "recall", "F1"], rows)


def _data(facts: Facts) -> str:
    plan = facts.plan
    counts = ", ".join(f"{count:,} {split}" for split, count in plan["examples"].items())
    lines = [
        f"Source: {escaped(facts.data_set or facts.record['data']['source'])}; rows: {counts}.",
        f"Fingerprint of the rows (SHA-256): `{facts.record['data']['fingerprint']}`.",
        *(f"{escaped(note)}." for note in map(_without_places, plan["notes"]) if note),
    ]
    return _list(lines)


def _without_places(note: str) -> str:
    """Return a note without the rows and files it points to, which only their owner has; "" where it is about them."""
    note = re.sub(r", for example \S.*", "", note)
    return "" if re.search(r"\S+:\d+|(^|\s)(~?/|[A-Za-z]:\\)\S", note) else note


def _training(facts: Facts) -> str:
    plan, environment = facts.plan, facts.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.items() if version != "missing")
    how = f"{facts.steps:,} steps of {plan['batch_size']} examples" if facts.steps else "Solved without steps"
    lines = [
        f"{plan['trainable']:,} of {plan['parameters']:,} parameters learned; {escaped(plan['head'])}.",
        f"{how}, {plan['precision']}, on {plan['processes']} × {plan['device']}, in {facts.seconds:,.0f} s. Energy was "
        "not measured.",
        f"Encoder weights (SHA-256): `{plan['sha256']}`.",
        f"Versions: {escaped(versions)}.",
    ]
    if facts.words is None:
        return _list([*lines, "The rows were given from Python."])
    command = shlex.join(["nlp-transfer", "adapt", *facts.words])
    return f"{_list(lines)}\n\n{_block('console', command)}"


def _limits(facts: Facts, wishes: Wishes) -> str:
    plan, report = facts.plan, facts.report
    lengths = plan["lengths"].get(report.split) or {}
    limit = facts.record["tokens"]["limit"]
    lines = [escaped(note) for note in report.notes]
    if facts.record["tokens"]["chunk"]:
        lines.append(f"Texts are read in windows of {limit:,} tokens.")
    else:
        cut = f"; {lengths['cut_examples']:,} {report.split} rows were" if lengths.get("cut_examples") else ""
        lines.append(f"Texts are cut after {limit:,} tokens{cut}.")
    if report.labels:
        lines.append("Calibration was judged by the log loss alone; no temperature was fitted.")
    if not wishes.language:
        lines.append("The figures hold for texts like those it was measured on, in their language.")
    return _list(lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escaped(cell, _WIDTH) for cell in cells) + " |"

    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)])


def _block(language: str, code: str) -> str:
    """Return a fenced block whose fence is longer than any in the code."""
    longest = max((len(found) for found in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{textwrap.dedent(code).strip()}\n{fence}"
