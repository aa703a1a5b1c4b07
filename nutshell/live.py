"""The live view of every request's session: `TRACE=1`, then http://127.0.0.1:8000/trace.

It is for learning, on one's own machine, because it shows what callers send. Without TRACE this
module is not even imported.
"""

import asyncio
import linecache
import logging
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, time_ns
from types import FrameType
from typing import Any, cast

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell import database, engines
from nutshell.engines import Pool

PAGE = Path(__file__).with_name("live.html")
ROOT = Path(__file__).parents[1]
SHOWN = 200  # recent requests that a newly opened page shows
LONG = 300  # letters of one parameter
SAME = 3  # times that the same SELECT is run before it looks like an N+1
PASSED_BY = (__file__, engines.__file__)  # on the way from the program to the database
TICK = 0.1  # seconds; what takes longer is shown while it is under way

numbers = count(1)
STARTED = time_ns()  # tells a page when it talks to another process
CLOCK = STARTED / 1e6 - perf_counter() * 1000  # ms from perf_counter's zero to that of Unix time


@dataclass
class Span:
    """A stretch in the life of a request, in ms from its start. The kinds, from the outside in:

    session (from the first need of a connection to its return), wait and connect; transaction,
    begin, commit and rollback; sql. And sent, the moment when the response was out.
    """

    kind: str
    start: float
    end: float | None = None  # None: it is under way
    text: str = ""  # the statement, or the pool
    parameters: str = ""
    rows: int | None = None
    failed: bool = False
    opened: bool = False  # a connection that the pool did not have
    line: str = ""  # of the program, from where the database was asked
    code: str = ""


@dataclass
class Trace:
    """One request: what it asked, and the spans of its life."""

    method: str
    path: str
    keyed: bool = False
    number: int = field(default_factory=lambda: next(numbers))
    at: float = 0  # ms of Unix time
    route: str = ""
    first: bool = False  # of its route, since the process started
    status: int = 500
    total: float = 0  # ms, so far
    done: bool = False
    spans: list[Span] = field(default_factory=list)
    log: list[str] = field(default_factory=list)  # warnings and errors
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = perf_counter() * 1000
        self.at = CLOCK + self.began
        self.step: Span | None = None  # with the database, under way
        self.transaction: Span | None = None
        self.strays: dict[str, Span] = {}  # sessions that took a connection without a turn, by pool
        self.sessions: set[int] = set()
        self.left_open = False

    def now(self) -> float:
        return perf_counter() * 1000 - self.began

    def open(self, kind: str, **more: Any) -> Span:
        span = Span(kind, self.now(), **more)
        self.spans.append(span)
        return span

    def shut(self, span: Span | None) -> None:
        if span is not None and span.end is None:
            span.end = self.now()

    def begin(self, kind: str, **more: Any) -> Span:
        """Begins a step with the database, and with that ends the one before."""
        self.finish()
        if kind == "begin":
            self.transaction = self.open("transaction")
        line, code = find_line()
        self.step = self.open(kind, line=line, code=code, **more)
        return self.step

    def finish(self) -> None:
        if (step := self.step) is None:
            return
        self.shut(step)
        if step.kind in ("commit", "rollback") and self.transaction is not None:
            self.transaction.end = step.end
        self.step = None

    def of(self, *kinds: str) -> list[Span]:
        return [span for span in self.spans if span.kind in kinds]

    def spent(self, *kinds: str) -> float:
        return sum((span.end or self.now()) - span.start for span in self.of(*kinds))

    def server_timing(self) -> str:
        """For the browser's own tools: https://www.w3.org/TR/server-timing/, in ms."""
        self.finish()
        parts = {
            "pool": self.spent("wait", "connect"),
            "sql": self.spent("begin", "sql"),
            "commit": self.spent("commit", "rollback"),
        }
        parts["app"] = self.now() - sum(parts.values())
        return ", ".join(f"{name};dur={time:.2f}" for name, time in parts.items())

    def __str__(self) -> str:
        """What the line in the log says of it."""
        statements = len(self.of("sql"))
        plural = "" if statements == 1 else "s"
        return f", {statements} statement{plural} {self.spent('begin', 'sql'):.1f} ms"

    def close(self) -> None:
        self.finish()
        self.left_open = any(span.end is None for span in self.of("transaction"))
        for span in self.spans:
            self.shut(span)
        self.total, self.done = self.now(), True
        self.notes, self.warnings = list(self.noted()), list(self.noticed())

    def noted(self) -> Iterator[str]:
        """What is worth knowing, and no mistake."""
        if self.first:
            yield "The first call of its route since the start: it also loads what others find loaded."
        stores = any("INTO idempotency_keys" in span.text for span in self.of("sql"))
        if self.keyed and self.status < 400 and self.of("commit") and not stores:
            yield "Replayed from its key: the stored answer of the first request, nothing done anew."

    def noticed(self) -> Iterator[str]:
        """What a newcomer should see, in words."""
        commits, rollbacks = self.of("commit"), self.of("rollback")
        writes = self.method not in database.SAFE_METHODS | {"OPTIONS"}
        if writes and self.status < 400 and not commits:
            yield "It ended without COMMIT: nothing was kept."
        if len(commits) > 1:
            yield (
                f"It has {len(commits)} COMMITs: when it fails between them, half of it is kept."
                " Commit once, at the end."
            )
        elif commits and rollbacks and self.status >= 400:
            yield "It failed after a COMMIT: a part of it is kept."
        selects = Counter((span.text, span.line) for span in self.of("sql") if is_select(span.text))
        for (statement, line), times in selects.items():
            if times >= SAME:
                yield (
                    f"The same statement ran {times} times (N+1), from {line}: load what it fetches"
                    f" together, with joinedload or selectinload."
                    f" {statement.split('WHERE')[0].strip()}"
                )
        sent = next((span.start for span in self.of("sent")), self.now())
        if any(span.end and span.end > sent for span in self.of("session")):
            yield (
                "The session outlived its response: what fails after that, nobody is told."
                ' Depend on it with scope="function".'
            )
        if self.left_open:
            yield "It left a transaction open: whoever commits it keeps what this request did."
        if commits and not self.of("transaction"):
            yield "It committed what it had not begun: the session is not its own."
        for wait in self.of("wait"):
            yield f"It waited {(wait.end or 0) - wait.start:.1f} ms. {why_wait(wait.text)}"
        if len(self.sessions) > 1:
            yield (
                f"It used {len(self.sessions)} sessions: each takes a connection and knows nothing"
                " of the others' changes. Pass the request's one on."
            )


def why_wait(pool: str) -> str:
    if pool == "writes" and database.writer.engine.dialect.name == "sqlite":
        return "SQLite has one writer at a time, and the others queue here."
    size = pools()[pool]
    return (
        f"All {size} connections for {pool} were out: see what holds them so long, and POOL_SIZE."
    )


def is_select(statement: str) -> bool:
    return statement.lstrip().upper().startswith("SELECT")


def frames() -> Iterator[FrameType]:
    """The callers, from the inside out. SQLAlchemy runs its own part in a greenlet."""
    greenlet = getcurrent()
    frame: FrameType | None = sys._getframe(1)
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        if greenlet.parent is None:
            return
        greenlet, frame = greenlet.parent, greenlet.parent.gr_frame


def find_line() -> tuple[str, str]:
    """The line of a route, or of what it calls, that asks the database; else that of the machinery."""
    machinery: FrameType | None = None
    for frame in frames():
        file = frame.f_code.co_filename
        if file.startswith(f"{ROOT}/") and not file.startswith(f"{sys.prefix}/"):
            if not file.startswith(f"{PAGE.parent}/"):
                return show_line(frame)
            if file not in PASSED_BY:
                machinery = machinery or frame
    return show_line(machinery) if machinery else ("", "")


def show_line(frame: FrameType) -> tuple[str, str]:
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f"{Path(file).relative_to(ROOT)}:{number}", linecache.getline(file, number).strip()


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
    connect, turn = queue.connect, pool.turn

    @asynccontextmanager
    async def timed_turn() -> AsyncIterator[None]:
        if (trace := current.get()) is None:
            async with turn():
                yield
            return
        session = trace.open("session", text=name)
        wait = trace.open("wait", text=name, failed=True) if pool.free.locked() else None
        try:
            async with turn():
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

    pool.turn = timed_turn  # type: ignore[method-assign]
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
        def step(*_: Any) -> None:
            if trace := current.get():
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
    if not autocommits:
        listen("commit", mark("commit"))
        listen("rollback", mark("rollback"))
        if engine.dialect.name != "sqlite":  # there it is a statement: see engines.py
            listen("begin", mark("begin"))


def count_session(session: Session, _: Any, connection: Any) -> None:
    # A session on a connection that is out already takes none: see idempotency.py.
    if (trace := current.get()) and isinstance(session.bind, Engine):
        trace.sessions.add(session.hash_key)


def readable(parameters: Any) -> str:
    def short(value: Any) -> str:
        text = repr(value)
        return text if len(text) <= LONG else f"{text[:LONG]}…"

    if isinstance(parameters, list):  # of one statement for several rows
        return "; ".join(readable(one) for one in parameters)
    if isinstance(parameters, dict):
        return ", ".join(f"{name}={short(value)}" for name, value in parameters.items())
    return ", ".join(short(value) for value in parameters or ())


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


def watch(app: FastAPI, is_local: Callable[[Request], bool]) -> None:
    """Adds the view to the app, for calls of this machine alone."""

    async def check_local(request: Request) -> None:
        if not is_local(request):
            raise HTTPException(403, "The trace is for local calls only.")

    app.add_middleware(TraceRequests)
    app.include_router(router, dependencies=[Depends(check_local)])
    watch_pool("reads", database.reader, autocommits=True)
    watch_pool("writes", database.writer, autocommits=False)
    event.listen(Session, "after_begin", count_session)
    logging.getLogger("nutshell").addHandler(log_handler)
