"""The demo page as a web application that works offline: the browser contacts no other host."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI
from gradio import queueing, routes
from starlette.datastructures import MutableHeaders
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.demo.page import STYLE, make_page
from nlp_transfer.errors import UserError
from nlp_transfer.serving.host import say_failure
from nlp_transfer.settings import Settings

_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # local fonts, also for cells and labels
# Forbids the browser to load what Gradio's page would request from other hosts.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class StoppableLabeller(Labeller):
    """A model that can be stopped, so that a long file does not delay the end of the server.

    Attributes:
        ended: if set, this model, also with other decision rules, refuses to predict.
    """

    def __init__(self, labeller: Labeller) -> None:
        self.record, self.detector, self._labeller = labeller.record, labeller.detector, labeller
        self.ended = threading.Event()

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the logits of the model.

        Raises:
            UserError: after it was stopped, and as the model does.
        """
        if self.ended.is_set():
            raise UserError("the page is being stopped")
        return self._labeller.logits(texts, pairs)

    def answers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the answers of the model; for errors see `logits`."""
        if self.ended.is_set():
            raise UserError("the page is being stopped")
        return self._labeller.answers(texts, pairs)


class _Policy:
    """Middleware that adds the content security policy to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self.app(scope, receive, add)


class _Failures:
    """Replaces the module `traceback` in Gradio, which would print error messages that may quote a text."""

    @staticmethod
    def print_exc() -> None:
        error = sys.exception()
        assert isinstance(error, Exception)
        say_failure(error)


def make_site(labeller: Labeller, settings: Settings, *, name: str, folder: Path) -> tuple[FastAPI, Callable[[], None]]:
    """Return the application, and a function that stops it.

    Args:
        labeller: the model.
        settings: see ``page.make_page``.
        name: of the model.
        folder: for labelled files.
    """
    for module in (queueing, routes):
        vars(module)["traceback"] = _Failures
    app = FastAPI(openapi_url=None)
    app.add_middleware(_Policy)
    stoppable = StoppableLabeller(labeller)
    gr.mount_gradio_app(
        app,
        make_page(stoppable, settings, name=name, folder=folder),
        path="/",
        theme=gr.themes.Default(font=_FONTS, font_mono=_FONTS),
        css=STYLE,
        footer_links=[],
        run_history=False,  # would store texts in the browser
        max_file_size=settings.demo.bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    inner: Any
    (inner,) = (route.app for route in app.routes if isinstance(route, Mount))

    def stop() -> None:
        stoppable.ended.set()
        inner.stop_event.set()  # closes the connections of open pages

    return app, stop
