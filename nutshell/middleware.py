"""What every request passes on its way to a route, and every answer on its way back."""

import logging
import re
from asyncio import get_running_loop, timeout_at
from time import perf_counter
from uuid import uuid4

from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell.errors import failure, problem
from nutshell.log import explain, request_id
from nutshell.settings import settings

logger = logging.getLogger(__name__)

# In bytes. A batch of 100 rows with every character escaped fits.
MAX_BODY = 1024 * 1024
MAX_FIELDS = 5_000  # of its JSON: to report that each is unknown would take long
BODY_SILENCE = 30  # seconds without a byte of a body that is not complete
BODY_SECONDS = 120  # for all of it

MAX_PATH = 200  # letters of a path, or of a method, in the log
HEALTH = ("/healthz", "/readyz")

# What a page on another origin may read of an answer.
EXPOSED = ["Link", "Location", "ETag", "Retry-After", "X-Request-ID"]
EXPOSED += ["X-Total-Count", "Preference-Applied"]

SANE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)


def too_large() -> HTTPException:
    return HTTPException(413, f"A body may have {MAX_BODY} bytes at most.")


def add_root_path(scope: Scope, root: str) -> Scope:
    """The path as ASGI has it, with ROOT_PATH, whether or not the proxy has taken that off."""
    if not f"{scope['path']}/".startswith(f"{root}/"):
        path, raw_path = root + scope["path"], root.encode() + scope["raw_path"]
        scope = dict(scope, path=path, raw_path=raw_path)
    return dict(scope, root_path=root)


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
        quiet = not settings.log_health and scope["path"] in HEALTH
        path = scope["raw_path"][:MAX_PATH].decode("latin-1")  # without the query
        if settings.root_path:
            scope = add_root_path(scope, settings.root_path)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", own_id))
            await send(message)

        try:
            await self.inner(scope, receive, send_with_id)
        finally:
            took = (perf_counter() - started) * 1000
            more = scope.get("trace", "")  # of the live view, when it is on
            line = (scope["method"][:MAX_PATH], path, status, took)
            if not quiet:
                logger.info("%s %s %d %.1f ms%s", *line, more, extra={"call": line})

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        refused = len(declared) > 20 or int(declared) > MAX_BODY  # zeros may lead it
        received = quotes = colons = 0
        started = complete = False
        deadline = get_running_loop().time() + BODY_SECONDS

        async def receive_limited() -> Message:
            nonlocal received, quotes, colons, complete
            if complete:  # only `http.disconnect` can follow
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
        except Exception as error:
            if started:
                raise  # too late for another answer
            cause = f"{type(error).__name__}: {explain(error)}"
            logger.error("%s failed: %s", scope["method"][:MAX_PATH], cause, exc_info=error)
            await failure()(scope, receive, send)
