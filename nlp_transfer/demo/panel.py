"""The panel with the details of one text: its prediction, all probabilities, and the words that mattered."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.demo import shown
from nlp_transfer.predicting.attribution import Attribution

_BARS = 5  # labels with a probability bar


class AnswerPanel:
    """Components that show the prediction for a text; creating the panel lays them out.

    Attributes:
        about: selects the label for which the words are explained.
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
        """The components that `answered` updates, as outputs of an event."""
        return [self.answer, self.bars, self.ranking, self.about]

    @property
    def reasons(self) -> list[Any]:
        """The components that `explained` updates, as outputs of an event."""
        return [*self.words, self.legend, self.numbers]

    def answered(self, task: Task, answer: Prediction) -> dict[Any, Any]:
        """Return updates that show the prediction for a text, by the decision rules of `task`."""
        return {
            self.answer: f'<div class="answer">{html.escape(shown.headline(task, answer))}</div>',
            self.bars: gr.update(value=answer.probabilities or None),  # a bare dict could pass for an update
            self.ranking: shown.ranking(answer),
            self.about: shown.best_label(answer),
        }

    def explained(self, attribution: Attribution, about: str | None) -> dict[Any, Any]:
        """Return updates that show the attribution of words to the label `about`, or to the number if it is None."""
        marked = dict(zip(self.words, shown.marked(attribution), strict=True))
        legend, numbers = shown.legend(attribution, about), shown.strongest(self.task, attribution)
        return marked | {self.legend: legend, self.numbers: numbers}


def _table(headers: list[str], widths: list[str | int], **more: Any) -> gr.Dataframe:
    return gr.Dataframe(headers=headers, column_widths=widths, interactive=False, wrap=True, buttons=[], **more)
