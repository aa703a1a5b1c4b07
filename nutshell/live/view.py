"""The live view of every request's session: `TRACE=1`, then http://127.0.0.1:8000/trace.

It is for learning, on one's own machine, because it shows what callers send. Without TRACE this
folder is not even imported, and nothing else needs it.
"""

import asyncio
import base64
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell import access, database
from nutshell.live.conflicts import WatchedTrace, watch_conflicts
from nutshell.live.feed import SHOWN, STARTED, listeners, publish, recent, running, show
from nutshell.live.locks import watch_locks
from nutshell.live.observer import current, observe_database, observe_log
from nutshell.live.trace import MACHINERY, ROOT
from nutshell.settings import settings

PAGE = Path(__file__).with_name("page.html")
TICK = 0.1  # seconds; what takes longer is shown while it is under way
# Paths that the view leaves out: its own, and those of the documentation.
LEFT_OUT = re.compile(r"/(trace|docs)(/.*)?|/openapi\.json|/favicon\.ico")

called: set[str] = set()  # the routes
stopping = False


def describe_service() -> dict[str, Any]:
    """What a page needs to know first: the pools, and which file of the service was edited last."""
    files = [*ROOT.glob("*.py"), *MACHINERY.glob("*.py")]
    edited = max(files, key=lambda path: path.stat().st_mtime)
    return {
        "process": STARTED,
        "pools": {"reads": database.reader.size, "writes": database.writer.size},
        "database": database.writer.engine.dialect.name,
        "edited": str(edited.relative_to(ROOT)),
        "edited_at": edited.stat().st_mtime * 1000,
    }


class TraceRequests:
    """Gives every request its Trace, and shows it when the request has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        local = scope.get("path", "").removeprefix(settings.root_path)
        if scope["type"] != "http" or LEFT_OUT.fullmatch(local):
            await self.app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        path = scope["path"] + (f"?{query}" if query else "")
        keyed = any(name == b"idempotency-key" for name, _ in scope["headers"])
        trace = scope["trace"] = running[id(scope)] = WatchedTrace(scope["method"], path, keyed)
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
        except Exception as error:  # in work after the response, of which the caller does not learn
            trace.log.append(f"{type(error).__name__}: {error}")
            raise
        finally:
            del running[id(scope)]
            trace.route = getattr(scope.get("route"), "path", "")
            route = f"{trace.method} {trace.route}"
            trace.first = bool(trace.route) and route not in called
            called.add(route)
            trace.close()
            recent.append(trace)
            publish(trace)


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
    watcher = None
    if database.writer.engine.dialect.name == "postgresql":
        watcher = asyncio.create_task(watch_locks())
    yield
    if watcher:
        watcher.cancel()
        await asyncio.wait([watcher])


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
    """`service`: what describe_service says, once. `request`: a Trace, the recent ones first.

    A request that takes longer than a tick is sent several times until it is done, and once more if it
    turns out later that another request has overwritten its changes.
    """
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=10 * SHOWN)
    listeners.add(queue)
    try:
        # A service that restarts is soon back.
        yield ServerSentEvent(event="service", data=describe_service(), retry=300)
        for trace in list(recent):
            yield ServerSentEvent(event="request", data=show(trace))
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
    observe_database(running)
    observe_log()
    watch_conflicts()
