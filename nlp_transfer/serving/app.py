"""The routes: what is asked and answered over HTTP. Every failure is JSON with one sentence; no text is logged."""

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

_AGAIN = {"Retry-After": "1"}  # seconds
_DROPPED = 2**28  # bytes of a body over the limit that are read all the same
_FAILURES = {
    400: "what was sent is no HTTP",
    408: "the body did not come in time",
    413: "the request is over a limit, which is named",
    415: "the body is not declared as application/json",
    422: "the request cannot be read",
    500: "the model could not answer",
    503: "too many texts wait, or the server is stopping; try again after Retry-After seconds",
    504: "there was no answer in time; what had not begun is not computed",
}


@dataclass(frozen=True)
class Served:
    """What is told of the model: nothing of the machine.

    Attributes:
        name: ``owner/name``, or the name of the run's folder.
        revision: commit of the Hub; None for a model of this machine.
        sha256: of the weights; None where none is recorded.
        task: what it predicts.
        versions: of the libraries it runs on.
    """

    name: str
    revision: str | None
    sha256: str | None
    task: Task
    versions: dict[str, str]


def make_app(served: Served, batcher: Batcher[Prediction], limits: ServeSettings) -> FastAPI:
    """Return the application; `batcher` must answer as the model that `served` tells of."""
    app = FastAPI(title="nlp_transfer", version=__version__, summary=f"{served.name}: {served.task.problem}")
    app.add_exception_handler(StarletteHTTPException, _refuse)
    app.add_middleware(_Guard)
    kind = PairedTexts if served.task.pair else SingleTexts
    schema = {"application/json": {"schema": request_schema(kind, limits)}}

    @app.post(
        "/predict",
        summary="Label texts",
        response_model=Answers,
        responses={status: {"model": Error, "description": what} for status, what in _FAILURES.items()},
        openapi_extra={"requestBody": {"required": True, "content": schema}},
    )
    async def predict(request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + limits.seconds
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send JSON, and say so: Content-Type: application/json")
        if batcher.full or not batcher.ready:
            raise _busy(batcher)  # before a body is read that nobody has time for
        try:
            wanted = read_request(kind, await _body(request, limits, deadline), limits)
        except TooLarge as error:
            raise HTTPException(413, str(error)) from None
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        answers = await _answers(request, batcher, wanted, limits, deadline)
        return _json({"predictions": [_plain(answer, wanted.top_k) for answer in answers]})

    @app.get(
        "/health",
        summary="Whether requests are answered",
        response_model=Health,
        responses={503: {"model": Health, "description": "the server is stopping"}},
    )
    async def health() -> Response:
        return _json({"live": True, "ready": batcher.ready}, status=200 if batcher.ready else 503)

    @app.get("/info", summary="Which model answers, and what it takes", response_model=Info)
    async def info() -> Response:
        task = served.task
        most = {name: getattr(limits, name) for name in ("texts", "characters", "bytes", "seconds")}
        own = {"model": served.name, "revision": served.revision, "sha256": served.sha256, "versions": served.versions}
        return _json(own | {"problem": task.problem, "labels": task.labels, "pair": task.pair, "limits": most})

    return app


async def _body(request: Request, limits: ServeSettings, deadline: float) -> bytes:
    """Return the body; not more of it is kept than a request may have.

    What comes beyond that is dropped: a connection that is closed while the client still sends is reset, and the client
    would not hear why. One that waits for leave to send is told at once.
    """
    too_much = HTTPException(
        413, f"the body has more than {limits.bytes:,} bytes; send fewer texts a request", {"Connection": "close"}
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.bytes + ("expect" not in request.headers) * _DROPPED:
        raise too_much
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout_at(deadline):
            async for part in request.stream():
                size += len(part)
                if size <= limits.bytes:
                    body += part
                elif size > limits.bytes + _DROPPED:
                    raise too_much
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {limits.seconds:g} seconds") from None
    if size > limits.bytes:
        raise too_much
    return bytes(body)


async def _answers(
    request: Request, batcher: Batcher[Prediction], wanted: SingleTexts, limits: ServeSettings, deadline: float
) -> Sequence[Prediction]:
    """Wait for the answers, for the end of time, or until nobody listens any more."""
    try:
        submitted = batcher.submit(*wanted.columns)
    except (Full, Closed):
        raise _busy(batcher) from None
    answer = asyncio.wrap_future(submitted)
    gone = asyncio.ensure_future(_gone(request))
    try:
        left = deadline - asyncio.get_running_loop().time()
        either: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
    except UserError as error:  # memory, or weights that give no number
        raise HTTPException(500, str(error)) from None
    except Exception as error:  # its words may quote a text
        say_failure(error)
        raise HTTPException(500, "the model failed on this request; what failed is in the server's log") from None
    finally:
        submitted.cancel()  # its texts leave the queue before the answer leaves the server
        answer.cancel()
        gone.cancel()
    raise HTTPException(504, f"there was no answer within {limits.seconds:g} seconds; send fewer texts, or later")


async def _gone(request: Request) -> None:
    while not await request.is_disconnected() and (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(batcher: Batcher[Prediction]) -> HTTPException:
    why = "too many texts wait" if batcher.ready else "the server is stopping"
    return HTTPException(503, f"{why}; try again later", _AGAIN)


def _plain(answer: Prediction, top_k: int | None) -> dict[str, Any]:
    likely = answer.probabilities
    if top_k is not None:
        likely = dict(sorted(likely.items(), key=lambda item: -item[1])[:top_k])
    ruled = {name: getattr(answer, name) for name in ("unknown", "set", "low", "high")}
    said = {name: value for name, value in ruled.items() if value is not None}
    return {"label": answer.label, "probabilities": likely, "abstains": answer.abstains} | said


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _json({"error": str(error.detail)}, status=error.status_code, headers=error.headers)


def _json(content: dict[str, Any], *, status: int = 200, headers: Any = None) -> Response:
    # Escaped: a label may hold what UTF-8 cannot.
    return Response(json.dumps(content).encode(), status, headers, "application/json")


class _Guard:
    """Lets no mistake of ours through to the server, which would log it with its words."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def note(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception as error:
            say_failure(error)
            if scope["type"] == "http" and not began:
                sentence = "this is a mistake of nlp_transfer, not of yours"
                await _json({"error": sentence}, status=500)(scope, receive, send)
