"""The page: what stands where, and what is done for whom. All it shows comes from `shown`."""

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

_FEWEST = 16  # parts of a text, however long it is
_SHORT = 200  # characters of a text in the table
_HIDDEN: dict[str, Any] = {"api_visibility": "private"}
_MODEL: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}  # it answers one call at a time
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

Handler = Callable[..., Any]  # what it returns is shown; None: nothing changes


def make_page(labeller: Labeller, settings: Settings, *, name: str, folder: Path) -> gr.Blocks:
    """Return the page of a model.

    Args:
        labeller: the model.
        settings: the groups `demo`, `predict` and `data` count.
        name: what the model is called.
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
    """Lay out what sets the rule by which the model abstains."""
    moved = "; once it is moved, nothing is promised of wrong labels" if task.risk else ""
    return gr.Slider(
        0,
        1,
        _shown(task),
        step=0.01,
        label="Abstain below probability",
        info=f"the model gives no label where its best one is less probable; 0: it always gives one{moved}",
        visible=shown.can_abstain(task),
    )


def _shown(task: Task) -> float:
    """Return where the slider is at first; a model that always abstains does so below more than it can show."""
    return min(task.abstain_below, 1.0)


def _following(labeller: Labeller, threshold: float) -> Labeller:
    """Return the model as it decides with the slider where it is; with its own rule where nobody has moved it."""
    shown_at = _shown(labeller.record.task)
    if threshold in (shown_at, round(shown_at, 2)):
        return labeller
    return labeller.with_rules(DecisionSettings(abstain_below=threshold))


def _texts_tab(labeller: Labeller, limits: DemoSettings) -> None:
    """Lay out what takes texts and shows a table of answers, where there are many, and all about one of them."""
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
                    max_chars=_SHORT,
                    column_widths=shown.widths(task),
                )
                current = [gr.Textbox(visible=False) for _ in names]
                panel = AnswerPanel(task)
    told = functools.partial(_told, problem, {results: gr.update(visible=False)} | dict.fromkeys(current, ""))

    @told
    def label(threshold: float, lines: bool, *typed: str) -> dict[Any, Any]:
        texts, pairs = read_texts(typed[0], typed[1] if task.pair else None, limits, lines=lines)
        columns = [texts] if pairs is None else [texts, pairs]
        answered = shown.rows(columns, _following(labeller, threshold).predict(texts, pairs))
        first = {box: column[0] for box, column in zip(current, columns, strict=True)}
        return {results: gr.update(visible=True), table: gr.update(value=answered, visible=len(texts) > 1)} | first

    def relabel(chosen: str, *given: Any) -> Any:
        """Label again, if that was done, and leave the text that is looked at."""
        return {part: value for part, value in label(*given).items() if part not in current} if chosen else gr.skip()

    @told
    def detail(threshold: float, *texts: str) -> dict[Any, Any] | None:
        if not any(texts):
            return None
        judge = _following(labeller, threshold)
        (answer,) = judge.predict(*([text] for text in texts))
        return panel.answered(judge.record.task, answer)

    def judge(*given: Any) -> Any:
        return detail(*given).get(panel.answer, gr.skip())

    @told
    def explain(about: str | None, *texts: str) -> dict[Any, Any] | None:
        if not any(texts):
            return None
        output = task.labels.index(about) if about else 0
        most = max(_FEWEST, limits.effort // sum(map(len, texts)))
        return panel.explained(attribute(labeller, *texts, output=output, most=most), about)

    def choose(event: gr.SelectData) -> dict[Any, Any]:
        return dict(zip(current, event.row_value[-len(current) :], strict=True))

    asked, seen = [threshold, lines, *boxes], [problem, results, *current]

    def look(event: Any) -> None:
        """Show all about the text that is looked at, the answer before the words."""
        shows = event.then(detail, [threshold, *current], [*seen, *panel.answers], **_MODEL, **_HIDDEN)
        shows.then(explain, [panel.about, *current], [*seen, *panel.reasons], **_MODEL, **_HIDDEN)

    look(button.click(label, asked, [*seen, table], api_name="label", **_MODEL))
    look(table.select(choose, None, current, **_HIDDEN))
    threshold.release(relabel, [current[0], *asked], [problem, results, table], **_MODEL, **_HIDDEN).then(
        judge, [threshold, *current], panel.answer, **_MODEL, **_HIDDEN
    )
    panel.about.input(explain, [panel.about, *current], [*seen, *panel.reasons], **_MODEL, **_HIDDEN)


def _file_tab(labeller: Labeller, settings: Settings, folder: Path) -> None:
    """Lay out what takes a file and gives it back labelled."""
    gr.HTML(f"<p>{shown.wanted_file(labeller.record, settings.data.columns)}</p>")
    upload = gr.File(label="File", file_types=[*ENDINGS], height=140)
    threshold = _slider(labeller.record.task)
    button = gr.Button("Label the file", variant="primary")
    problem = gr.HTML(visible=False)
    made = gr.DownloadButton(visible=False)

    def label(threshold: float, path: str | None) -> dict[Any, Any]:
        if path is None:
            raise UserError("there is no file yet: choose one first")
        labelled, count = label_file(_following(labeller, threshold), Path(path), settings, folder)
        words = f"Download {labelled.name} ({counted(count, 'row')})"
        return {made: gr.update(label=words, value=str(labelled), visible=True)}

    answer = _told(problem, {made: gr.update(visible=False)}, label)
    button.click(answer, [threshold, upload], [problem, made], api_name="label_file", **_MODEL)


def _told(problem: gr.HTML, hidden: dict[Any, Any], answer: Handler) -> Handler:
    """Return a handler that shows what is wrong as a sentence, in place of the results."""

    def told(*given: Any) -> Any:
        try:
            found = answer(*given)
            return gr.skip() if found is None else found | {problem: gr.update(visible=False)}
        except UserError as error:
            sentence = str(error)
        except Exception as error:  # its words may quote a text
            say_failure(error)
            sentence = "the model failed on this; what failed is told where the page was started"
        said = f'<p class="problem" role="alert">{html.escape(sentence)}</p>'
        return hidden | {problem: gr.update(value=said, visible=True)}

    return told
