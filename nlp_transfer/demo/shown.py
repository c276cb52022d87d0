"""What a model answered as what is shown of it: sentences, rows, bars and marked words. It knows no Gradio."""

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

_STRONGEST = 12  # words in the table of them
_BRIEF = 60  # characters of a part of a text in that table
_NAMED = 8  # labels that the head of the page names


def purpose(task: Task) -> str:
    """Return what the model does with a text, as HTML."""
    what = "pair of texts" if task.pair else "text"
    if task.problem == "regression":
        return f"This model gives every {what} a number."
    names = html.escape(", ".join(task.labels[:_NAMED])) + (" …" if len(task.labels) > _NAMED else "")
    if task.problem == "multi_label":
        return f"This model gives every {what} none, one or several of {len(task.labels)} labels: {names}"
    said = f"This model gives every {what} one of {len(task.labels)} labels: {names}"
    return f"{said}.{_promise(task)}" if task.risk else said


def _promise(task: Task) -> str:
    wrong = f"at most {percentage(task.risk)} of the labels it gives are wrong"
    if task.abstain_below > 1:
        return f" It abstains on every one: its validation rows do not show that {wrong}."
    least = f"abstains below {percent(task.abstain_below)}" if task.abstain_below else "never abstains"
    return f" It {least}: {wrong}, with {CONFIDENCE:.0%} confidence and for texts like its validation rows."


def wanted_file(record: Record, columns: ColumnSettings) -> str:
    """Return what a file must look like, as HTML."""
    names = [getattr(columns, role) or record.roles.get(role, role) for role in ("text", "text_pair")]
    wanted = [f"<code>{html.escape(name)}</code>" for name in names[: 1 + record.task.pair]]
    has = f"columns {' and '.join(wanted)}" if record.task.pair else f"a column {wanted[0]}"
    tables = f"A CSV or TSV file (UTF-8, commas or tabs) whose first line names its columns, with {has}"
    kinds = f"{tables}; or JSON lines with the same"
    return kinds + ("." if record.task.pair else "; or a text file with one text a line.")


def can_abstain(task: Task) -> bool:
    """Return whether there is one best label, which may be too improbable to be given."""
    return task.problem in ("single_label", "ordinal")


def headline(task: Task, answer: Prediction) -> str:
    """Return the answer to one text as a sentence or less."""
    if isinstance(answer.label, float):
        if answer.low is None or answer.high is None:
            return f"{answer.label:.4g}"
        return f"{answer.label:.4g} ({answer.low:.4g} to {answer.high:.4g}, {percent(task.coverage)} interval)"
    if isinstance(answer.label, list):
        return ", ".join(answer.label) or f"none of the labels ({_unreached(task)})"
    likely = percent(max(answer.probabilities.values()))
    if answer.abstains:
        least = f"less than {percent(task.abstain_below)}"
        if task.risk:
            never = task.abstain_below > 1
            wrong = f"of its labels at most {percentage(task.risk)} are to be wrong"
            least = f"and no probability is enough where {wrong}" if never else f"{least}, for {wrong}"
        said = f"abstains: its best label, {answer.label}, has {likely}, {least}"
    else:
        said = f"{answer.label} ({likely})"
    said = f"unlike all it knows; best guess: {said}" if answer.unknown else said
    return said if answer.set is None else f"{said}; {percent(task.coverage)} set: {', '.join(answer.set)}"


def _unreached(task: Task) -> str:
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
    """Return how wide these columns are: the texts take what the answers leave."""
    answers = {"regression": [20], "multi_label": [40]}.get(task.problem, [26, 18] if task.coverage else [35, 26])
    answers += [20] if task.coverage else []
    texts = 2 if task.pair else 1
    return [f"{width}%" for width in [*answers, *[(100 - sum(answers)) // texts] * texts]]


def rows(columns: Sequence[Sequence[str]], answers: Sequence[Prediction]) -> list[list[str]]:
    """Return one row a text: what was answered, the text, and its pair if there is one."""
    return [[*_cells(answer), *texts] for *texts, answer in zip(*columns, answers, strict=True)]


def _cells(answer: Prediction) -> list[str]:
    if isinstance(answer.label, float):
        return [f"{answer.label:.4g}", *([] if answer.low is None else [f"{answer.low:.4g} to {answer.high:.4g}"])]
    if isinstance(answer.label, list):
        return [", ".join(f"{name} ({percent(answer.probabilities[name])})" for name in answer.label) or "(none)"]
    label = f"abstains ({answer.label}?)" if answer.abstains else answer.label
    label = f"unknown ({answer.label}?)" if answer.unknown else label
    named = [] if answer.set is None else [", ".join(answer.set)]
    return [label, percent(max(answer.probabilities.values())), *named]


def ranking(answer: Prediction) -> list[list[str]]:
    """Return every label with its probability, the most probable first."""
    likely = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return [[name, percent(share)] for name, share in likely]


def best_label(answer: Prediction) -> str | None:
    """Return the most probable label, or None for a number."""
    return max(answer.probabilities, key=answer.probabilities.__getitem__) if answer.probabilities else None


def marked(found: Attribution) -> list[list[tuple[str, float | None]]]:
    """Return the parts of each text with how strongly they are marked: from -1 to 1, which the strongest has."""
    scale = max((abs(score) for _, score in _scored(found)), default=0.0) or 1.0
    return [[(each.text, None if each.score is None else each.score / scale) for each in text] for text in found.texts]


def legend(found: Attribution, about: str | None) -> str:
    """Return what the marks mean, as HTML.

    Args:
        found: what is marked.
        about: the label that it is about; None for a number.
    """
    what = "the number" if about is None else f"the probability of <b>{html.escape(about)}</b>"
    left = f"each {found.grouped} neighbouring words, for it is long" if found.grouped > 1 else "each word"
    return (
        f"<p>The text was read again without {left}. <b>Red</b>, above 0: {what} falls then. <b>Purple</b>, below 0: "
        "it rises. The stronger the colour, the more; 1 is the strongest of this text.</p>"
    )


def strongest(task: Task, found: Attribution) -> list[list[str]]:
    """Return the words that mattered most: each, what the model says with it and what it would say without it."""

    def said(evidence: float) -> str:
        return f"{evidence:.4g}" if task.problem == "regression" else percent((1 + math.tanh(evidence / 2)) / 2)

    first = sorted(_scored(found), key=lambda pair: -abs(pair[1]))[:_STRONGEST]
    return [[_brief(text), said(found.evidence), said(found.evidence - score)] for text, score in first]


def _brief(text: str) -> str:
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF // 2]} … {text[-_BRIEF // 2 :]}"


def _scored(found: Attribution) -> list[tuple[str, float]]:
    return [(each.text, each.score) for text in found.texts for each in text if each.score is not None]


def percent(share: float) -> str:
    """Return a probability for people: never 0 % or 100 % where it is neither."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"
