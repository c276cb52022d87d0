"""Convert predictions to what the page shows: sentences, rows, bars and highlighted words. Independent of Gradio."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import percentage
from nlp_transfer.evaluation.selective import CONFIDENCE

if TYPE_CHECKING:
    from nlp_transfer.artefact.record import Record
    from nlp_transfer.data.task import Task
    from nlp_transfer.decision.labelling import Prediction
    from nlp_transfer.predicting.attribution import Attribution
    from nlp_transfer.settings import ColumnSettings

_MAX_STRONGEST = 12  # words in the table of the strongest words
_MAX_PART = 60  # characters of a part of a text in that table
_MAX_LABELS = 8  # labels named at the top of the page


def purpose(task: Task) -> str:
    """Return a description of what the model predicts, as HTML."""
    example = "pair of texts" if task.pair else "text"
    if task.problem == "regression":
        return f"This model gives every {example} a number."
    names = html.escape(", ".join(task.labels[:_MAX_LABELS])) + (" …" if len(task.labels) > _MAX_LABELS else "")
    if task.problem == "multi_label":
        return f"This model gives every {example} none, one or several of {len(task.labels)} labels: {names}"
    sentence = f"This model gives every {example} one of {len(task.labels)} labels: {names}"
    return f"{sentence}.{_guarantee(task)}" if task.risk else sentence


def _guarantee(task: Task) -> str:
    """Return a sentence about the model's limit on wrong labels."""
    wrong = f"at most {percentage(task.risk)} of the labels it gives are wrong"
    if task.abstain_below > 1:
        return f" It abstains on every one: its validation rows do not show that {wrong}."
    least = f"abstains below {percent(task.abstain_below)}" if task.abstain_below else "never abstains"
    return f" It {least}: {wrong}, with {CONFIDENCE:.0%} confidence and for texts like its validation rows."


def wanted_file(record: Record, columns: ColumnSettings) -> str:
    """Return the required format of an uploaded file, as HTML."""
    names = [getattr(columns, role) or record.roles.get(role, role) for role in ("text", "text_pair")]
    codes = [f"<code>{html.escape(name)}</code>" for name in names[: 1 + record.task.pair]]
    required = f"columns {' and '.join(codes)}" if record.task.pair else f"a column {codes[0]}"
    tables = f"A CSV or TSV file (UTF-8, commas or tabs) whose first line names its columns, with {required}"
    formats = f"{tables}; or JSON lines with the same"
    return formats + ("." if record.task.pair else "; or a text file with one text per line.")


def can_abstain(task: Task) -> bool:
    """Return whether the model predicts one label, and so can abstain if its probability is too low."""
    return task.problem in ("single_label", "ordinal")


def headline(task: Task, answer: Prediction) -> str:
    """Return the prediction for one text as a short sentence."""
    if isinstance(answer.label, float):
        if answer.low is None or answer.high is None:
            return f"{answer.label:.4g}"
        return f"{answer.label:.4g} ({answer.low:.4g} to {answer.high:.4g}, {percent(task.coverage)} interval)"
    if isinstance(answer.label, list):
        return ", ".join(answer.label) or f"none of the labels ({_threshold(task)})"
    probability = percent(max(answer.probabilities.values()))
    if answer.abstains:
        reason = f"less than {percent(task.abstain_below)}"
        if task.risk:
            always = task.abstain_below > 1
            limit = f"at most {percentage(task.risk)} of its labels may be wrong"
            reason = f"and no probability is enough where {limit}" if always else f"{reason}, because {limit}"
        sentence = f"abstains: its best label, {answer.label}, has {probability}, {reason}"
    else:
        sentence = f"{answer.label} ({probability})"
    sentence = f"unlike all it knows; best guess: {sentence}" if answer.unknown else sentence
    return sentence if answer.set is None else f"{sentence}; {percent(task.coverage)} set: {', '.join(answer.set)}"


def _threshold(task: Task) -> str:
    if isinstance(task.threshold, tuple):
        return "none reaches its own threshold"
    return f"no probability reaches {percent(task.threshold)}"


def header(task: Task) -> list[str]:
    """Return the names of the columns of `rows`."""
    answers = {"regression": ["Number"], "multi_label": ["Labels"]}.get(task.problem, ["Label", "Probability"])
    if task.coverage:
        answers.append(f"{percent(task.coverage)} {'interval' if task.problem == 'regression' else 'set'}")
    return [*answers, *(("First text", "Second text") if task.pair else ("Text",))]


def widths(task: Task) -> list[str | int]:
    """Return the widths of these columns; the texts take the rest."""
    answers = {"regression": [20], "multi_label": [40]}.get(task.problem, [26, 18] if task.coverage else [35, 26])
    answers += [20] if task.coverage else []
    texts = 2 if task.pair else 1
    return [f"{width}%" for width in [*answers, *[(100 - sum(answers)) // texts] * texts]]


def rows(columns: Sequence[Sequence[str]], answers: Sequence[Prediction]) -> list[list[str]]:
    """Return one row per text: the prediction, the text, and its pair if there is one."""
    return [[*_cells(answer), *texts] for *texts, answer in zip(*columns, answers, strict=True)]


def _cells(answer: Prediction) -> list[str]:
    if isinstance(answer.label, float):
        return [f"{answer.label:.4g}", *([] if answer.low is None else [f"{answer.low:.4g} to {answer.high:.4g}"])]
    if isinstance(answer.label, list):
        return [", ".join(f"{name} ({percent(answer.probabilities[name])})" for name in answer.label) or "(none)"]
    label = f"abstains ({answer.label}?)" if answer.abstains else answer.label
    label = f"unknown ({answer.label}?)" if answer.unknown else label
    label_set = [] if answer.set is None else [", ".join(answer.set)]
    return [label, percent(max(answer.probabilities.values())), *label_set]


def ranking(answer: Prediction) -> list[list[str]]:
    """Return every label with its probability, the most probable first."""
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return [[name, percent(probability)] for name, probability in ranked]


def best_label(answer: Prediction) -> str | None:
    """Return the most probable label, or None for a number."""
    return max(answer.probabilities, key=answer.probabilities.__getitem__) if answer.probabilities else None


def marked(attribution: Attribution) -> list[list[tuple[str, float | None]]]:
    """Return the parts of each text with their scores, scaled to [-1, 1] by the strongest."""
    scale = max((abs(score) for _, score in _scored(attribution)), default=0.0) or 1.0
    return [
        [(part.text, None if part.score is None else part.score / scale) for part in text] for text in attribution.texts
    ]


def legend(attribution: Attribution, about: str | None) -> str:
    """Return the meaning of the highlighting, as HTML.

    Args:
        attribution: what is highlighted.
        about: the label that is explained; None for a number.
    """
    output = "the number" if about is None else f"the probability of <b>{html.escape(about)}</b>"
    group = attribution.grouped
    omitted = f"each {group} neighbouring words, because it is long" if group > 1 else "each word"
    return (
        f"<p>The text was read again without {omitted}. <b>Red</b>, above 0: {output} decreases without it. "
        "<b>Purple</b>, below 0: it increases. The stronger the colour, the larger the change; 1 is the largest in "
        "this text.</p>"
    )


def strongest(task: Task, attribution: Attribution) -> list[list[str]]:
    """Return the words that mattered most, each with the output of the model with and without it."""

    def output(evidence: float) -> str:
        return f"{evidence:.4g}" if task.problem == "regression" else percent((1 + math.tanh(evidence / 2)) / 2)

    top = sorted(_scored(attribution), key=lambda pair: -abs(pair[1]))[:_MAX_STRONGEST]
    evidence = attribution.evidence
    return [[_brief(text), output(evidence), output(evidence - score)] for text, score in top]


def _brief(text: str) -> str:
    return text if len(text) <= _MAX_PART else f"{text[: _MAX_PART // 2]} … {text[-_MAX_PART // 2 :]}"


def _scored(attribution: Attribution) -> list[tuple[str, float]]:
    return [(part.text, part.score) for text in attribution.texts for part in text if part.score is not None]


def percent(probability: float) -> str:
    """Format a probability as a percentage; only exactly 0 and 1 appear as 0% and 100%."""
    if 0 < probability < 0.001:
        return "< 0.1%"
    if 0.999 < probability < 1:
        return "> 99.9%"
    return f"{100 * probability:.1f}%"
