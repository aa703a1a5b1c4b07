"""The middleware: request ids, the access log, limits on bodies, HEAD, CORS, unhandled errors."""

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
MAX_FIELDS = 5_000  # in JSON: each unknown field costs an error report
BODY_SILENCE = 30  # seconds between two chunks of a body
BODY_SECONDS = 120  # for a whole body

MAX_PATH = 200  # characters of a path, or of a method, in the log
HEALTH = ("/healthz", "/readyz")

# Response headers that pages on other origins may read.
EXPOSED = ["Link", "Location", "ETag", "Retry-After", "X-Request-ID"]
EXPOSED += ["X-Total-Count", "Preference-Applied", "Idempotency-Replayed"]

SANE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)


def too_large() -> HTTPException:
    return HTTPException(413, f"The body is larger than {MAX_BODY} bytes.")


def add_root_path(scope: Scope, root: str) -> Scope:
    """Prefixes the path with ROOT_PATH, as ASGI expects, unless the proxy has kept it."""
    if not f"{scope['path']}/".startswith(f"{root}/"):
        path, raw_path = root + scope["path"], root.encode() + scope["raw_path"]
        scope = dict(scope, path=path, raw_path=raw_path)
    return dict(scope, root_path=root)


class Edge:
    """All middleware in one class, because each layer costs every request.

    `__call__` assigns the request id and writes the access log. `answer`, inside CORS, limits the body,
    serves HEAD as GET, and turns unhandled exceptions into a 500 without details.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.inner: ASGIApp = self.answer
        if settings.cors_origins:
            self.inner = CORSMiddleware(
                self.answer,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
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
        refused = len(declared) > 20 or int(declared) > MAX_BODY  # it may have leading zeros
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
            # Each field contains two quotes and a colon.
            quotes, colons = quotes + body.count(b'"'), colons + body.count(b":")
            if min(quotes // 2, colons) > MAX_FIELDS:
                raise HTTPException(413, f"The body has more than {MAX_FIELDS} fields.")
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
            await problem(501, "Use no transfer coding but chunked.")(scope, receive, send)
            return
        try:
            await self.app(scope, receive_limited, watch_start)
        except ClientDisconnect:  # for the access log: the caller is gone
            if not started:
                await problem(400, "The body is incomplete.")(scope, receive, send)
        except Exception as error:
            if started:
                raise  # too late for another response
            cause = f"{type(error).__name__}: {explain(error)}"
            logger.error("%s failed: %s", scope["method"][:MAX_PATH], cause, exc_info=error)
            await failure()(scope, receive, send)
