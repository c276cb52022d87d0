"""The HTTP routes. Every error is JSON with one sentence; texts are never logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nlp_transfer import __version__
from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.errors import UserError
from nlp_transfer.serving.batching import Batcher, Closed, Full
from nlp_transfer.serving.host import say_failure
from nlp_transfer.serving.schemas import (
    Answers,
    Error,
    Health,
    Info,
    PairedTexts,
    SingleTexts,
    TooLarge,
    read_request,
    request_schema,
)
from nlp_transfer.verb_settings import ServeSettings

_RETRY = {"Retry-After": "1"}  # seconds
_DROPPED = 2**28  # bytes beyond the limit of a body that are read and dropped
_ERRORS = {
    400: "the request is not valid HTTP",
    408: "the body did not arrive in time",
    413: "the request exceeds a limit, which the message names",
    415: "the content type is not application/json",
    422: "the request is invalid",
    500: "the model could not answer",
    503: "too many texts are waiting, or the server is stopping; try again after Retry-After seconds",
    504: "there was no answer in time; texts still waiting are not computed",
}


@dataclass(frozen=True)
class Served:
    """Public information about the served model, without any about the machine.

    Attributes:
        name: ``owner/name``, or the name of the run's folder.
        revision: commit of the Hub; None for a local model.
        sha256: of the weights; None if not recorded.
        task: what it predicts.
        versions: of the libraries in use.
    """

    name: str
    revision: str | None
    sha256: str | None
    task: Task
    versions: dict[str, str]


def make_app(served: Served, batcher: Batcher[Prediction], limits: ServeSettings) -> FastAPI:
    """Return the application; `batcher` must predict with the model that `served` describes."""
    app = FastAPI(title="nlp_transfer", version=__version__, summary=f"{served.name}: {served.task.problem}")
    app.add_exception_handler(StarletteHTTPException, _error_response)
    app.add_middleware(_Guard)
    kind = PairedTexts if served.task.pair else SingleTexts
    schema = {"application/json": {"schema": request_schema(kind, limits)}}

    @app.post(
        "/predict",
        summary="Label texts",
        response_model=Answers,
        responses={status: {"model": Error, "description": text} for status, text in _ERRORS.items()},
        openapi_extra={"requestBody": {"required": True, "content": schema}},
    )
    async def predict(request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + limits.seconds
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send JSON with the header Content-Type: application/json")
        if batcher.full or not batcher.ready:
            raise _busy(batcher)  # before reading the body
        try:
            content = read_request(kind, await _body(request, limits, deadline), limits)
        except TooLarge as error:
            raise HTTPException(413, str(error)) from None
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        predictions = await _predictions(request, batcher, content, limits, deadline)
        return _json({"predictions": [_plain(prediction, content.top_k) for prediction in predictions]})

    @app.get(
        "/health",
        summary="Whether the server accepts requests",
        response_model=Health,
        responses={503: {"model": Health, "description": "the server is stopping"}},
    )
    async def health() -> Response:
        return _json({"live": True, "ready": batcher.ready}, status=200 if batcher.ready else 503)

    @app.get("/info", summary="The model, its labels and the limits of a request", response_model=Info)
    async def info() -> Response:
        task = served.task
        limit = {name: getattr(limits, name) for name in ("texts", "characters", "bytes", "seconds")}
        model = {"model": served.name, "revision": served.revision, "sha256": served.sha256}
        labels = {"problem": task.problem, "labels": task.labels, "pair": task.pair}
        return _json(model | {"versions": served.versions} | labels | {"limits": limit})

    return app


async def _body(request: Request, limits: ServeSettings, deadline: float) -> bytes:
    """Return the body, of which no more is kept than a request may have.

    Up to `_DROPPED` further bytes are read and dropped: closing a connection while the client still sends resets it, so
    that the client would not see the error. With ``Expect: 100-continue`` the client gets the error before it sends.
    """
    too_large = HTTPException(
        413, f"the body has more than {limits.bytes:,} bytes; send fewer texts per request", {"Connection": "close"}
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.bytes + ("expect" not in request.headers) * _DROPPED:
        raise too_large
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout_at(deadline):
            async for part in request.stream():
                size += len(part)
                if size <= limits.bytes:
                    body += part
                elif size > limits.bytes + _DROPPED:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {limits.seconds:g} seconds") from None
    if size > limits.bytes:
        raise too_large
    return bytes(body)


async def _predictions(
    request: Request, batcher: Batcher[Prediction], content: SingleTexts, limits: ServeSettings, deadline: float
) -> Sequence[Prediction]:
    """Wait for the predictions, the deadline, or the client to disconnect."""
    try:
        submitted = batcher.submit(*content.columns)
    except (Full, Closed):
        raise _busy(batcher) from None
    predictions = asyncio.wrap_future(submitted)
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        seconds = deadline - asyncio.get_running_loop().time()
        either: set[asyncio.Future[Any]] = {predictions, disconnected}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if predictions.done():
            return predictions.result()
    except UserError as error:  # out of memory, or outputs that are not finite
        raise HTTPException(500, str(error)) from None
    except Exception as error:  # its message may quote a text
        say_failure(error)
        raise HTTPException(500, "the model failed on this request; see the server's log") from None
    finally:
        submitted.cancel()  # removes its texts from the queue before the response is sent
        predictions.cancel()
        disconnected.cancel()
    raise HTTPException(504, f"there was no answer within {limits.seconds:g} seconds; send fewer texts, or later")


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected() and (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(batcher: Batcher[Prediction]) -> HTTPException:
    cause = "too many texts are waiting" if batcher.ready else "the server is stopping"
    return HTTPException(503, f"{cause}; try again later", _RETRY)


def _plain(prediction: Prediction, top_k: int | None) -> dict[str, Any]:
    """Return a prediction as plain values, with at most `top_k` probabilities."""
    probabilities = prediction.probabilities
    if top_k is not None:
        probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top_k])
    optional = {name: getattr(prediction, name) for name in ("unknown", "set", "low", "high")}
    optional = {name: value for name, value in optional.items() if value is not None}
    return {"label": prediction.label, "probabilities": probabilities, "abstains": prediction.abstains} | optional


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _json({"error": str(error.detail)}, status=error.status_code, headers=error.headers)


def _json(content: dict[str, Any], *, status: int = 200, headers: Any = None) -> Response:
    # As ASCII, because a label may contain a surrogate that UTF-8 cannot encode.
    return Response(json.dumps(content).encode(), status, headers, "application/json")


class _Guard:
    """Middleware that keeps unexpected exceptions from the server, which would log their messages."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            say_failure(error)
            if scope["type"] == "http" and not has_started:
                sentence = "this is a bug in nlp_transfer"
                await _json({"error": sentence}, status=500)(scope, receive, send)
