"""The live view of every request's session: `TRACE=1`, then http://127.0.0.1:8000/trace.

It is for learning, on one's own machine, because it shows what callers send. Without TRACE this
folder is not even imported, and nothing else needs it.
"""

import asyncio
import base64
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell import access, database
from nutshell.live.observer import current, observe_database, observe_log
from nutshell.live.trace import Trace
from nutshell.settings import settings

PAGE = Path(__file__).with_name("page.html")
SHOWN = 200  # recent requests that a newly opened page shows
TICK = 0.1  # seconds; what takes longer is shown while it is under way

STARTED = time_ns()  # tells a page when it talks to another process

running: dict[int, Trace] = {}
recent: deque[dict[str, Any]] = deque(maxlen=SHOWN)
listeners: set[asyncio.Queue[dict[str, Any]]] = set()
called: set[str] = set()  # the routes
stopping = False


def show(trace: Trace) -> dict[str, Any]:
    if not trace.done:
        trace.total = trace.now()
    return asdict(trace) | {"process": str(STARTED)}


def pools() -> dict[str, int]:
    """How many connections each pool has."""
    return {"reads": database.reader.size, "writes": database.writer.size}


class TraceRequests:
    """Gives every request its Trace, and shows it when the request has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/trace"):
            await self.app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        path = scope["path"] + (f"?{query}" if query else "")
        keyed = any(name == b"idempotency-key" for name, _ in scope["headers"])
        trace = scope["trace"] = running[id(scope)] = Trace(scope["method"], path, keyed)
        current.set(trace)

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                MutableHeaders(scope=message)["Server-Timing"] = trace.server_timing()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                trace.shut(trace.open("sent"))

        try:
            await self.app(scope, receive, observe)
        finally:
            del running[id(scope)]
            trace.route = getattr(scope.get("route"), "path", "")
            route = f"{trace.method} {trace.route}"
            trace.first = bool(trace.route) and route not in called
            called.add(route)
            trace.close()
            recent.append(shown := show(trace))
            for listener in listeners:
                if not listener.full():  # a page that cannot follow misses some
                    listener.put_nowait(shown)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Ends the pages' streams when the process is told to stop, because it waits for them."""

    def stop_with(number: signal.Signals) -> None:
        told = signal.getsignal(number)

        def stop(number: int, frame: Any) -> None:
            global stopping
            stopping = True
            if callable(told):
                told(number, frame)

        if callable(told):
            signal.signal(number, stop)

    stop_with(signal.SIGTERM)
    stop_with(signal.SIGINT)
    await open_connections()
    yield


async def open_connections() -> None:
    """Fills the pools, so that the first requests look like the others."""
    for pool in (database.reader, database.writer):
        async with AsyncExitStack() as stack:
            with suppress(SQLAlchemyError):  # /readyz says what is wrong
                for _ in range(pool.size):
                    await stack.enter_async_context(pool.engine.connect())


async def check_access(request: Request) -> None:
    """Lets in local calls alone, and where a token is set, only with it.

    It takes a token as a password too: a browser asks for it, and an EventSource cannot send a
    header of its own.
    """
    if not access.is_local(request):
        raise HTTPException(403, "The trace is for local calls only.")
    tokens = (settings.api_token, settings.api_read_token)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not any(tokens) or scheme.lower() == "bearer":
        access.check_access(request)
        return
    password = ""
    with suppress(ValueError):  # not base64
        password = base64.b64decode(given).decode("latin-1").partition(":")[2]
    if scheme.lower() != "basic" or not any(access.is_among(each, password) for each in tokens):
        headers = {"WWW-Authenticate": 'Basic realm="The password is the API_TOKEN"'}
        raise HTTPException(401, "Give the token as the password, for any user.", headers)


router = APIRouter(include_in_schema=False, dependencies=[Depends(check_access)], lifespan=lifespan)


@router.get("/trace")
async def read_trace() -> FileResponse:
    return FileResponse(PAGE)


@router.get("/trace/events", response_class=EventSourceResponse)
async def stream_events() -> AsyncIterator[ServerSentEvent]:
    """`pools`: their sizes, once. `request`: a Trace, the recent ones first.

    A request that takes longer than a tick comes several times, until it is done.
    """
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=10 * SHOWN)
    listeners.add(queue)
    try:
        # A service that restarts is soon back.
        yield ServerSentEvent(event="pools", data=pools(), retry=300)
        for shown in list(recent):
            yield ServerSentEvent(event="request", data=shown)
        tick = perf_counter() + TICK
        while not stopping:
            new = None
            with suppress(TimeoutError):
                async with asyncio.timeout(tick - perf_counter()):
                    new = await queue.get()
            if new is not None:
                yield ServerSentEvent(event="request", data=new)
            if perf_counter() >= tick:
                for trace in list(running.values()):
                    if trace.now() > TICK * 1000:
                        yield ServerSentEvent(event="request", data=show(trace))
                tick = perf_counter() + TICK
    finally:
        listeners.discard(queue)


def watch(app: FastAPI) -> None:
    """Adds the view to the app."""
    app.add_middleware(TraceRequests)
    app.include_router(router)
    observe_database()
    observe_log()
