"""The live view of every request's session: `TRACE=1`, then http://127.0.0.1:8000/trace.

It is for learning, on one's own machine, because it shows what callers send. Without TRACE this
module is not even imported.
"""

import asyncio
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell import database
from nutshell.engines import Pool
from nutshell.trace import Trace, readable

PAGE = Path(__file__).with_name("live.html")
SHOWN = 200  # recent requests that a newly opened page shows
TICK = 0.1  # seconds; what takes longer is shown while it is under way

STARTED = time_ns()  # tells a page when it talks to another process

current: ContextVar[Trace | None] = ContextVar("trace", default=None)
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


def watch_pool(name: str, pool: Pool, *, autocommits: bool) -> None:
    """Notes what the pool and its engine do for the request under way."""
    engine = pool.engine.sync_engine
    queue = cast(QueuePool, engine.pool)
    connect, slot = queue.connect, pool.slot

    @asynccontextmanager
    async def timed_slot() -> AsyncIterator[None]:
        if (trace := current.get()) is None:
            async with slot():
                yield
            return
        session = trace.open("session", text=name)
        wait = trace.open("wait", text=name, failed=True) if pool.free.locked() else None
        try:
            async with slot():
                if wait is not None:
                    trace.shut(wait)
                    wait.failed = False
                yield
        finally:
            trace.finish()
            trace.shut(wait)
            trace.shut(session)

    def timed_connect() -> Any:
        # SQLAlchemy has an event for a connection given, and none for one asked for.
        if (trace := current.get()) is None:
            return connect()
        if not any(span.text == name and span.end is None for span in trace.of("session")):
            trace.strays[name] = trace.open("session", text=name)
        trace.begin("connect", text=name)
        try:
            return connect()
        finally:
            trace.finish()

    pool.slot = timed_slot  # type: ignore[method-assign]
    queue.connect = timed_connect  # type: ignore[method-assign]

    def listen(event_name: str, function: Callable[..., None]) -> None:
        event.listen(engine, event_name, function)

    def before(_: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        if trace := current.get():
            kind = "begin" if statement.startswith("BEGIN") else "sql"
            trace.begin(kind, text=statement, parameters=readable(parameters))

    def after(_: Any, cursor: Any, *more: Any) -> None:
        if (trace := current.get()) and trace.step:
            # SQLite counts no rows that it only reads; the adapter has fetched them already.
            read = len(getattr(cursor, "_rows", ()))
            trace.step.rows = cursor.rowcount if cursor.rowcount >= 0 else read
            trace.finish()

    def failed(_: Any) -> None:
        if (trace := current.get()) and trace.step:
            trace.step.failed = True
            trace.finish()

    def mark(kind: str) -> Callable[..., None]:
        def step(connection: Connection) -> None:
            # A connection that autocommits has another isolation only while a snapshot lasts.
            transacts = not autocommits or "isolation_level" in connection.get_execution_options()
            if transacts and (trace := current.get()):
                trace.begin(kind)

        return step

    def opened(*_: Any) -> None:
        if (trace := current.get()) and trace.step:
            trace.step.opened = True

    def back(*_: Any) -> None:
        if trace := current.get():
            trace.finish()
            trace.shut(trace.strays.pop(name, None))

    listen("before_cursor_execute", before)
    listen("after_cursor_execute", after)
    listen("handle_error", failed)
    listen("connect", opened)
    listen("checkin", back)
    listen("commit", mark("commit"))
    listen("rollback", mark("rollback"))
    if engine.dialect.name != "sqlite":  # there it is a statement: see engines.py
        listen("begin", mark("begin"))


def count_session(session: Session, _: Any, connection: Any) -> None:
    # A session on a connection that is out already takes none: see idempotency.py.
    if (trace := current.get()) and isinstance(session.bind, Engine):
        trace.sessions.add(session.hash_key)


class LogHandler(logging.Handler):
    """Shows with a request what the log says of it: why it got a 500 or a 503."""

    def emit(self, record: logging.LogRecord) -> None:
        if trace := current.get():
            words = record.getMessage()
            if record.exc_info and (error := record.exc_info[1]):
                words = f"{type(error).__name__}: {error}"
            trace.log.append(words)


log_handler = LogHandler(logging.WARNING)


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


router = APIRouter(include_in_schema=False, lifespan=lifespan)


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


def watch(app: FastAPI, check: Callable[[Request], None]) -> None:
    """Adds the view to the app, for the callers that `check` lets pass."""

    async def check_access(request: Request) -> None:
        check(request)

    app.add_middleware(TraceRequests)
    app.include_router(router, dependencies=[Depends(check_access)])
    watch_pool("reads", database.reader, autocommits=True)
    watch_pool("writes", database.writer, autocommits=False)
    event.listen(Session, "after_begin", count_session)
    logging.getLogger("nutshell").addHandler(log_handler)
