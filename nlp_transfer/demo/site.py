"""The page as an application for a browser on a machine without internet: it asks no other host for anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request, Response
from gradio import queueing, routes
from starlette.middleware.base import RequestResponseEndpoint
from starlette.routing import Mount

from nlp_transfer.demo.page import STYLE, make_page
from nlp_transfer.labelling import Labeller
from nlp_transfer.serving.host import say_failure
from nlp_transfer.settings import Settings

_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # of the machine; for cells and labels as well
# Whatever the library's page would ask of other hosts, the browser does not.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class _Failures:
    """In the place of the module `traceback` in Gradio, which would print with an error the text it came from."""

    @staticmethod
    def print_exc() -> None:
        error = sys.exception()
        assert isinstance(error, Exception)
        say_failure(error)


def make_site(labeller: Labeller, settings: Settings, *, name: str, folder: Path) -> tuple[FastAPI, Callable[[], None]]:
    """Return the application, and what to call when it is told to stop.

    Args:
        labeller: the model.
        settings: see ``page.make_page``.
        name: what the model is called.
        folder: for labelled files.
    """
    for module in (queueing, routes):
        vars(module)["traceback"] = _Failures
    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def keep_to_this_host(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    gr.mount_gradio_app(
        app,
        make_page(labeller, settings, name=name, folder=folder),
        path="/",
        theme=gr.themes.Default(font=_FONTS, font_mono=_FONTS),
        css=STYLE,
        footer_links=[],
        run_history=False,  # which keeps texts in the browser
        max_file_size=settings.demo.bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    inner: Any
    (inner,) = (route.app for route in app.routes if isinstance(route, Mount))
    return app, inner.stop_event.set  # every open page holds a connection until then
