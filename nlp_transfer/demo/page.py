"""The demo page: its layout and event handlers. Its texts and tables come from `shown`."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.demo import shown
from nlp_transfer.demo.files import ENDINGS, label_file
from nlp_transfer.demo.panel import AnswerPanel
from nlp_transfer.demo.reading import read_texts
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.attribution import attribute
from nlp_transfer.serving.host import say_failure
from nlp_transfer.settings import DecisionSettings, Settings
from nlp_transfer.verb_settings import DemoSettings
from nlp_transfer.wording import counted

_MIN_PASSES = 16  # of the model to explain a prediction, however long the text is
_MAX_CELL = 200  # characters of a text in the table
_HIDDEN: dict[str, Any] = {"api_visibility": "private"}
_MODEL: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}  # one call of the model at a time
STYLE = """
footer { display: none !important }
.prose { overflow-wrap: anywhere }
.problem { color: var(--error-text-color); background: var(--error-background-fill);
  border: 1px solid var(--error-border-color); border-radius: var(--radius-lg); padding: var(--spacing-lg) }
.words .textfield { display: block; max-height: 25rem; overflow: hidden auto;
  word-break: normal; overflow-wrap: anywhere }
.words .token-container { display: inline }
.answer { font-size: var(--text-xl); font-weight: 600 }
"""

Handler = Callable[..., Any]  # returns updates of components; None: no update


def make_page(labeller: Labeller, settings: Settings, *, name: str, folder: Path) -> gr.Blocks:
    """Return the page of a model.

    Args:
        labeller: the model.
        settings: of which `demo`, `predict` and `data` are used.
        name: of the model.
        folder: for labelled files.
    """
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>{html.escape(name)}</h1><p>{shown.purpose(labeller.record.task)}</p>")
        with gr.Tab("Texts"):
            _texts_tab(labeller, settings.demo)
        with gr.Tab("A file"):
            _file_tab(labeller, settings, folder)
    return page


def _slider(task: Task) -> gr.Slider:
    """Return a slider for the probability below which the model abstains."""
    moved = "; once it is moved, the share of wrong labels is no longer guaranteed" if task.risk else ""
    return gr.Slider(
        0,
        1,
        _initial(task),
        step=0.01,
        label="Abstain below probability",
        info=f"the model gives no label if the best one is less probable; 0: it always gives one{moved}",
        visible=shown.can_abstain(task),
    )


def _initial(task: Task) -> float:
    """Return the initial value of the slider; the threshold of a model that always abstains is above 1."""
    return min(task.abstain_below, 1.0)


def _with_threshold(labeller: Labeller, threshold: float) -> Labeller:
    """Return the model with the rule of the slider, or with its own rule if the slider was not moved."""
    initial = _initial(labeller.record.task)
    if threshold in (initial, round(initial, 2)):
        return labeller
    return labeller.with_rules(DecisionSettings(abstain_below=threshold))


def _texts_tab(labeller: Labeller, limits: DemoSettings) -> None:
    """Lay out the inputs for texts, a table of predictions if there are several, and the details of one of them."""
    task = labeller.record.task
    names = ("First texts", "Second texts") if task.pair else ("Texts",)
    with gr.Row():
        with gr.Column():
            boxes = [gr.Textbox(label=each, lines=6, max_lines=20, placeholder="Type or paste here") for each in names]
            lines = gr.Checkbox(True, label="Each line is a text of its own")
            threshold = _slider(task)
            button = gr.Button("Label", variant="primary")
        with gr.Column():
            problem = gr.HTML(visible=False)
            with gr.Column(visible=False) as results:
                table = gr.Dataframe(
                    headers=shown.header(task),
                    label="Answers: choose a row to see more of it below",
                    interactive=False,
                    wrap=True,
                    max_chars=_MAX_CELL,
                    column_widths=shown.widths(task),
                )
                current = [gr.Textbox(visible=False) for _ in names]
                panel = AnswerPanel(task)
    show_errors = functools.partial(
        _showing_errors, problem, {results: gr.update(visible=False)} | dict.fromkeys(current, "")
    )

    @show_errors
    def label(threshold: float, lines: bool, *typed: str) -> dict[Any, Any]:
        texts, pairs = read_texts(typed[0], typed[1] if task.pair else None, limits, lines=lines)
        columns = [texts] if pairs is None else [texts, pairs]
        rows = shown.rows(columns, _with_threshold(labeller, threshold).predict(texts, pairs))
        first = {box: column[0] for box, column in zip(current, columns, strict=True)}
        return {results: gr.update(visible=True), table: gr.update(value=rows, visible=len(texts) > 1)} | first

    def relabel(selected: str, *inputs: Any) -> Any:
        """Label the texts again, if they were labelled before, and keep the selected one."""
        if not selected:
            return gr.skip()
        return {component: value for component, value in label(*inputs).items() if component not in current}

    @show_errors
    def detail(threshold: float, *texts: str) -> dict[Any, Any] | None:
        if not any(texts):
            return None
        model = _with_threshold(labeller, threshold)
        (prediction,) = model.predict(*([text] for text in texts))
        return panel.answered(model.record.task, prediction)

    def headline(*inputs: Any) -> Any:
        return detail(*inputs).get(panel.answer, gr.skip())

    @show_errors
    def explain(about: str | None, *texts: str) -> dict[Any, Any] | None:
        if not any(texts):
            return None
        output = task.labels.index(about) if about else 0
        passes = max(_MIN_PASSES, limits.effort // sum(map(len, texts)))
        return panel.explained(attribute(labeller, *texts, output=output, most=passes), about)

    def select(event: gr.SelectData) -> dict[Any, Any]:
        return dict(zip(current, event.row_value[-len(current) :], strict=True))

    inputs, common = [threshold, lines, *boxes], [problem, results, *current]

    def then_show_details(event: Any) -> None:
        """Show the prediction for the selected text after an event, and then its explanation."""
        shows = event.then(detail, [threshold, *current], [*common, *panel.answers], **_MODEL, **_HIDDEN)
        shows.then(explain, [panel.about, *current], [*common, *panel.reasons], **_MODEL, **_HIDDEN)

    then_show_details(button.click(label, inputs, [*common, table], api_name="label", **_MODEL))
    then_show_details(table.select(select, None, current, **_HIDDEN))
    threshold.release(relabel, [current[0], *inputs], [problem, results, table], **_MODEL, **_HIDDEN).then(
        headline, [threshold, *current], panel.answer, **_MODEL, **_HIDDEN
    )
    panel.about.input(explain, [panel.about, *current], [*common, *panel.reasons], **_MODEL, **_HIDDEN)


def _file_tab(labeller: Labeller, settings: Settings, folder: Path) -> None:
    """Lay out the upload of a file and the download of its labelled copy."""
    gr.HTML(f"<p>{shown.wanted_file(labeller.record, settings.data.columns)}</p>")
    upload = gr.File(label="File", file_types=[*ENDINGS], height=140)
    threshold = _slider(labeller.record.task)
    button = gr.Button("Label the file", variant="primary")
    problem = gr.HTML(visible=False)
    download = gr.DownloadButton(visible=False)

    def label(threshold: float, path: str | None) -> dict[Any, Any]:
        if path is None:
            raise UserError("there is no file yet: choose one first")
        labelled, count = label_file(_with_threshold(labeller, threshold), Path(path), settings, folder)
        caption = f"Download {labelled.name} ({counted(count, 'row')})"
        return {download: gr.update(label=caption, value=str(labelled), visible=True)}

    handler = _showing_errors(problem, {download: gr.update(visible=False)}, label)
    button.click(handler, [threshold, upload], [problem, download], api_name="label_file", **_MODEL)


def _showing_errors(problem: gr.HTML, hidden: dict[Any, Any], handler: Handler) -> Handler:
    """Wrap a handler so that its errors are shown as a sentence, and its results are hidden then."""

    def wrapped(*inputs: Any) -> Any:
        try:
            updates = handler(*inputs)
            return gr.skip() if updates is None else updates | {problem: gr.update(visible=False)}
        except UserError as error:
            sentence = str(error)
        except Exception as error:  # its message may quote a text
            say_failure(error)
            sentence = "the model failed on this; the terminal in which the page was started shows the error"
        alert = f'<p class="problem" role="alert">{html.escape(sentence)}</p>'
        return hidden | {problem: gr.update(value=alert, visible=True)}

    return wrapped
