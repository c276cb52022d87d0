"""The part of the page that shows all about one text: its answer, every probability, and the words that mattered."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.demo import shown
from nlp_transfer.predicting.attribution import Attribution

_BARS = 5  # labels whose probabilities are seen at once


class AnswerPanel:
    """Components that show the answer to a text, laid out where the panel is made.

    Attributes:
        about: which label the words are shown for.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        labels, number = len(task.labels), task.problem == "regression"
        self.answer = gr.HTML()
        self.bars = gr.Label(
            num_top_classes=_BARS, show_heading=False, label="Most probable labels", visible=not number
        )
        with gr.Accordion(f"All {labels} probabilities", open=False, visible=labels > _BARS):
            self.ranking = _table(["Label", "Probability"], ["65%", "35%"], show_search="search")
        self.about = gr.Dropdown(
            list(task.labels),
            label="Which words mattered for",
            num_choices_shown=None,
            visible=not number,
            interactive=True,
        )
        names = ("First text", "Second text") if task.pair else ("The text",)
        self.words = [gr.HighlightedText(label=name, show_legend=True, elem_classes="words") for name in names]
        self.legend = gr.HTML()
        unit = "number" if number else "probability"
        with gr.Accordion(f"In numbers: the {unit} with and without a word", open=False):
            self.numbers = _table(["Left out", "With it", "Without it"], ["44%", "28%", "28%"])

    @property
    def answers(self) -> list[Any]:
        """What `answered` fills, as outputs of an event."""
        return [self.answer, self.bars, self.ranking, self.about]

    @property
    def reasons(self) -> list[Any]:
        """What `explained` fills, as outputs of an event."""
        return [*self.words, self.legend, self.numbers]

    def answered(self, task: Task, answer: Prediction) -> dict[Any, Any]:
        """Return what the components show of the answer to a text, by the rules of `task`."""
        return {
            self.answer: f'<div class="answer">{html.escape(shown.headline(task, answer))}</div>',
            self.bars: gr.update(value=answer.probabilities or None),  # bare, a label could pass for an instruction
            self.ranking: shown.ranking(answer),
            self.about: shown.best_label(answer),
        }

    def explained(self, found: Attribution, about: str | None) -> dict[Any, Any]:
        """Return what they show of its words: what these speak for, a label or, where `about` is None, a number."""
        marked = dict(zip(self.words, shown.marked(found), strict=True))
        return marked | {self.legend: shown.legend(found, about), self.numbers: shown.strongest(self.task, found)}


def _table(headers: list[str], widths: list[str | int], **more: Any) -> gr.Dataframe:
    return gr.Dataframe(headers=headers, column_widths=widths, interactive=False, wrap=True, buttons=[], **more)
