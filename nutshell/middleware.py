"""What every request passes on its way to a route, and every answer on its way back."""

import logging
import re
from asyncio import get_running_loop, timeout_at
from contextvars import ContextVar
from time import perf_counter
from uuid import uuid4

from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell.errors import failure, problem
from nutshell.settings import settings

logger = logging.getLogger(__name__)

# In bytes. A batch of 100 rows with every character escaped fits.
MAX_BODY = 1024 * 1024
MAX_FIELDS = 5_000  # of its JSON: to report that each is unknown would take long
BODY_SILENCE = 30  # seconds without a byte of a body that is not complete
BODY_SECONDS = 120  # for all of it

MAX_PATH = 200  # letters of a path, or of a method, in the log

# What a page on another origin may read of an answer.
EXPOSED = ["Link", "Location", "ETag", "Retry-After", "X-Request-ID"]
EXPOSED += ["X-Total-Count", "Preference-Applied"]

# Of the request under way: in its answer, and in every line of the log.
request_id: ContextVar[str] = ContextVar("request_id", default="-")
SANE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)


# The letters that can be in an address. By words, the search looks at each letter once.
WORD = re.compile(r"[^\s'\"()=/&]+")


def hide_address(word: re.Match[str]) -> str:
    return "(e-mail)" if "@" in word[0] or "%40" in word[0] else word[0]


def too_large() -> HTTPException:
    return HTTPException(413, f"A body may have {MAX_BODY} bytes at most.")


class Formatter(logging.Formatter):
    """Adds the request id, and hides e-mail addresses."""

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        line = super().format(record)
        return WORD.sub(hide_address, line) if "@" in line or "%40" in line else line


class Edge:
    """The outermost part of the app. It is one middleware, because each costs every request.

    `__call__` gives a request its id and its line in the log; `answer`, inside of CORS, limits the
    body, answers HEAD as GET, and turns what nobody has handled into a 500 without internals.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.inner: ASGIApp = self.answer
        if settings.cors_origins:
            self.inner = CORSMiddleware(
                self.answer,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        own_id = given if SANE_ID.fullmatch(given) else uuid4().hex.encode()
        request_id.set(own_id.decode())

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", own_id))
            await send(message)

        try:
            await self.inner(scope, receive, send_with_id)
        finally:
            method = scope["method"][:MAX_PATH]
            path = scope["raw_path"][:MAX_PATH].decode("latin-1")  # without the query
            took = (perf_counter() - started) * 1000
            more = scope.get("trace", "")  # of trace.py, when the live view is on
            logger.info("%s %s %d %.1f ms%s", method, path, status, took, more)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        refused = len(declared) > 20 or int(declared) > MAX_BODY  # zeros may lead it
        received = quotes = colons = 0
        started = complete = False
        deadline = get_running_loop().time() + BODY_SECONDS

        async def receive_limited() -> Message:
            nonlocal received, quotes, colons, complete
            if complete:  # what is left to hear of is that the client goes away
                return await receive()
            if refused:
                raise too_large()
            try:
                async with timeout_at(min(deadline, get_running_loop().time() + BODY_SILENCE)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The body did not arrive in time.") from None
            body = message.get("body", b"")
            received += len(body)
            if received > MAX_BODY:
                raise too_large()
            # A field has two quotes and a colon.
            quotes, colons = quotes + body.count(b'"'), colons + body.count(b":")
            if min(quotes // 2, colons) > MAX_FIELDS:
                raise HTTPException(413, f"A body may have {MAX_FIELDS} fields at most.")
            complete = not message.get("more_body")
            return message

        async def watch_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        if scope["method"] == "HEAD":  # the server drops the body
            scope = dict(scope, method="GET")
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            # RFC 9112, 6.1
            await problem(501, "Send the body as it is, or chunked.")(scope, receive, send)
            return
        try:
            await self.app(scope, receive_limited, watch_start)
        except ClientDisconnect:  # for the log: nobody hears it
            if not started:
                await problem(400, "The body did not arrive whole.")(scope, receive, send)
        except Exception:
            if started:
                raise  # too late for another answer
            logger.exception("%s failed", scope["method"][:MAX_PATH])
            await failure()(scope, receive, send)
