"""What every request passes on its way to a route, and every response on its way back."""

import logging
import re
from time import perf_counter

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import problem
from settings import settings

logger = logging.getLogger(__name__)

# In bytes. A batch of 100 items with every character escaped fits.
MAX_BODY = 1024 * 1024

REQUEST_ID = "X-Request-ID"


def is_sane_id(value: str) -> bool:
    return re.fullmatch(r"[\w.-]{1,64}", value, re.ASCII) is not None


class AccessLog:
    """A line for each request: method, path, status, milliseconds. Queries are left out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0

        async def observe(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, observe)
        finally:
            path = scope.get("raw_path", b"").decode("latin-1")
            took = (perf_counter() - started) * 1000
            more = scope.get("trace", "")  # of trace.py, when that is on
            logger.info("%s %s %d %.1f ms%s", scope["method"], path, status, took, more)


class AnswerDefects:
    """A 500 without internals for what nothing else has handled; the log gets all of it.

    Starlette would do this outside of all middleware: without CORS headers and request id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def observe(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, observe)
        except Exception:
            if scope["type"] != "http" or started:
                raise  # too late for another answer
            logger.exception("%s failed", scope["method"])
            await problem(500, "The service failed here; its log says how.")(scope, receive, send)


class HeadAsGet:
    """HEAD wherever there is GET, which FastAPI leaves to us; the server drops the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = dict(scope, method="GET")
        await self.app(scope, receive, send)


class LimitBody:
    """413 for a body that is too large, as soon as that is known.

    FastAPI has `max_body_size` for it, but answers in plain text where we promise a problem.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = int(declared) > MAX_BODY
        received = 0

        async def limited() -> Message:
            nonlocal received
            message: Message = {} if too_large else await receive()
            received += len(message.get("body", b""))
            if too_large or received > MAX_BODY:
                raise HTTPException(413, f"A body may have {MAX_BODY} bytes at most.")
            return message

        await self.app(scope, limited, send)


CORS = Middleware(
    CORSMiddleware,
    allow_origins=settings.cors_origins,
    allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
    allow_headers=["*"],
    expose_headers=["Link", "Location", "ETag", "Retry-After", REQUEST_ID],
)

# The first is the outermost.
MIDDLEWARE = [
    Middleware(CorrelationIdMiddleware, header_name=REQUEST_ID, validator=is_sane_id),
    Middleware(AccessLog),
    *([CORS] if settings.cors_origins else []),
    Middleware(AnswerDefects),
    Middleware(HeadAsGet),
    Middleware(LimitBody),
]
