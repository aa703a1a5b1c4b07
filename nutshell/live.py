"""The live view of every request's session: `TRACE=1`, then http://127.0.0.1:8000/trace.

It is for learning, on one's own machine, because it shows what callers send. Without TRACE this
module is not even imported.
"""

import asyncio
import signal
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, cast

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutshell import database
from nutshell.engines import Pool

PAGE = Path(__file__).with_name("live.html")
SHOWN = 200  # recent requests that a newly opened page shows
LONG = 300  # letters of one parameter
SAME = 3  # times that the same SELECT is run before it looks like an N+1

numbers = count(1)
STARTED = time_ns()  # tells a page when it talks to another process


@dataclass
class Step:
    """A moment or a stretch in the life of a request's session; times in ms from its start."""

    kind: str  # pool, begin, sql, commit, rollback, back, sent
    start: float
    time: float = 0
    text: str = ""
    parameters: str = ""
    rows: int | None = None
    failed: bool = False


@dataclass
class Trace:
    """One request: what it asked, and the steps of its session."""

    method: str
    path: str
    keyed: bool = False
    number: int = field(default_factory=lambda: next(numbers))
    status: int = 500
    total: float = 0
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = perf_counter()
        self.sessions: set[int] = set()
        self.unfinished: Step | None = None
        self.waited = 0.0

    def now(self) -> float:
        return (perf_counter() - self.began) * 1000

    def add(self, kind: str, **more: Any) -> Step:
        """Begins a step, and with that ends the one before."""
        self.finish()
        step = Step(kind, self.now(), **more)
        self.steps.append(step)
        return step

    def begin(self, kind: str, **more: Any) -> None:
        self.unfinished = self.add(kind, **more)

    def finish(self) -> None:
        if self.unfinished is not None:
            self.unfinished.time = self.now() - self.unfinished.start
            self.unfinished = None

    def spent(self, *kinds: str) -> float:
        return sum(step.time for step in self.steps if step.kind in kinds)

    def server_timing(self) -> str:
        """For the browser's own tools: https://www.w3.org/TR/server-timing/, in ms."""
        self.finish()
        parts = {
            "pool": self.spent("pool"),
            "sql": self.spent("begin", "sql"),
            "commit": self.spent("commit", "rollback"),
        }
        parts["app"] = self.now() - sum(parts.values())
        return ", ".join(f"{name};dur={time:.2f}" for name, time in parts.items())

    def __str__(self) -> str:
        """What the line in the log says of it."""
        statements = [step for step in self.steps if step.kind == "sql"]
        plural = "" if len(statements) == 1 else "s"
        return f", {len(statements)} statement{plural} {self.spent('begin', 'sql'):.1f} ms"

    def close(self) -> None:
        self.finish()
        self.total = self.now()
        self.warnings = list(self.noticed())

    def noticed(self) -> Iterator[str]:
        """What a newcomer should see, in words."""
        kinds = [step.kind for step in self.steps]
        writes = self.method not in database.SAFE_METHODS | {"OPTIONS"}
        if writes and self.status < 400 and "commit" not in kinds and not self.keyed:
            yield "It ended without COMMIT: nothing was kept."
        selects = Counter(
            step.text for step in self.steps if step.kind == "sql" and is_select(step.text)
        )
        for statement, times in selects.items():
            if times >= SAME:
                yield (
                    f"The same statement ran {times} times (N+1): load what it fetches together,"
                    f" with joinedload or selectinload. {statement.split('WHERE')[0].strip()}"
                )
        if "sent" in kinds and "back" in kinds[kinds.index("sent") :]:
            yield (
                "The session outlived its response: what fails after that, nobody is told."
                ' Depend on it with scope="function".'
            )
        if self.waited:
            yield (
                f"It waited {self.waited:.1f} ms for a connection: all of the pool were out."
                " See POOL_SIZE, and what holds them so long."
            )
        if len(self.sessions) > 1:
            yield (
                f"It used {len(self.sessions)} sessions: each takes a connection and knows nothing"
                " of the others' changes. Pass the request's one on."
            )


def is_select(statement: str) -> bool:
    return statement.lstrip().upper().startswith("SELECT")


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
recent: deque[dict[str, Any]] = deque(maxlen=SHOWN)
listeners: set[asyncio.Queue[tuple[str, Any]]] = set()
waiting: Counter[str] = Counter()
stopping = False


def publish(kind: str, data: Any) -> None:
    for listener in listeners:
        if not listener.full():  # a page that cannot follow misses some
            listener.put_nowait((kind, data))


def pools() -> dict[str, dict[str, int]]:
    """The connections of each pool: how many there can be, are out, and are waited for."""
    return {
        name: {
            "size": pool.size,
            "out": cast(QueuePool, pool.engine.sync_engine.pool).checkedout(),
            "waiting": waiting[name],
        }
        for name, pool in (("reads", database.reader), ("writes", database.writer))
    }


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
        trace = scope["trace"] = Trace(scope["method"], path, keyed)
        current.set(trace)

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                MutableHeaders(scope=message)["Server-Timing"] = trace.server_timing()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                trace.add("sent")

        try:
            await self.app(scope, receive, observe)
        finally:
            trace.close()
            shown = asdict(trace) | {"process": str(STARTED), "pools": pools()}
            recent.append(shown)
            publish("request", shown)


def watch_pool(name: str, pool: Pool, *, autocommits: bool) -> None:
    """Notes what the pool and its engine do for the request under way."""
    engine = pool.engine.sync_engine
    queue = cast(QueuePool, engine.pool)
    connect, turn = queue.connect, pool.turn

    @asynccontextmanager
    async def timed_turn() -> AsyncIterator[None]:
        trace = current.get() if pool.free.locked() else None
        if trace is not None:
            trace.begin("pool", text=name)  # connected() ends it
            waiting[name] += 1
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(turn())
            finally:
                if trace is not None:
                    trace.waited = trace.now() - trace.steps[-1].start
                    waiting[name] -= 1
            yield

    def timed_connect() -> Any:
        # SQLAlchemy has an event for a connection given, and none for one asked for.
        trace = current.get()
        if trace is None:
            return connect()
        if trace.unfinished is None or trace.unfinished.kind != "pool":
            trace.begin("pool", text=name)
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
        if trace := current.get():
            # SQLite counts no rows that it only reads; the adapter has fetched them already.
            read = len(getattr(cursor, "_rows", ()))
            trace.finish()
            trace.steps[-1].rows = cursor.rowcount if cursor.rowcount >= 0 else read

    def failed(_: Any) -> None:
        if (trace := current.get()) and trace.unfinished:
            trace.unfinished.failed = True
            trace.finish()

    def mark(kind: str) -> Callable[..., None]:
        def step(*_: Any) -> None:
            if trace := current.get():
                trace.begin(kind)

        return step

    def back(*_: Any) -> None:
        if trace := current.get():
            trace.add("back", text=name)

    listen("before_cursor_execute", before)
    listen("after_cursor_execute", after)
    listen("handle_error", failed)
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
    yield


router = APIRouter(include_in_schema=False, lifespan=lifespan)


@router.get("/trace")
async def read_trace() -> FileResponse:
    return FileResponse(PAGE)


@router.get("/trace/events", response_class=EventSourceResponse)
async def stream_events() -> AsyncIterator[ServerSentEvent]:
    """`request`: a Trace, the recent ones first. `pools`: their state, when that has changed."""
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(maxsize=10 * SHOWN)
    listeners.add(queue)
    known = pools()
    try:
        yield ServerSentEvent(event="pools", data=known)
        for trace in list(recent):
            yield ServerSentEvent(event="request", data=trace)
        while not stopping:
            try:
                async with asyncio.timeout(0.25):
                    kind, data = await queue.get()
                yield ServerSentEvent(event=kind, data=data)
            except TimeoutError:
                if (state := pools()) != known:
                    known = state
                    yield ServerSentEvent(event="pools", data=state)
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
