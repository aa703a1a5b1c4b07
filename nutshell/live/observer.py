"""Records in the current request's Trace what the pools, the engines and the log do for it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session

from nutshell import database
from nutshell.engines import ObservedPool, Pool
from nutshell.guards import TORN
from nutshell.live.trace import Trace, readable

current: ContextVar[Trace | None] = ContextVar("trace", default=None)

OWNER = "nutshell.trace"  # in a connection's info: the request that has checked it out
BACKEND = "nutshell.backend"  # and the id of PostgreSQL's process behind it
owners: dict[int, Trace] = {}  # by that id


def observe_pool(name: str, pool: Pool, running: dict[int, Trace], *, autocommits: bool) -> None:
    """Records what the pool and its engine do for the current request."""
    engine = pool.engine.sync_engine

    @contextmanager
    def observe(step: str) -> Iterator[None]:
        if (trace := current.get()) is None:
            yield
        elif step == "connect":
            if not trace.holds(name):
                trace.strays[name] = trace.open("session", text=name)
            trace.backend = None
            trace.begin("connect", text=name)
            try:
                yield
            finally:
                trace.finish()
        elif step == "slot":
            session = trace.open("session", text=name)
            try:
                yield
            finally:
                trace.finish()
                trace.shut(session)
        else:
            # The session begins when the wait is over.
            session = trace.of("session")[-1]
            trace.spans.remove(session)
            holders = [other.number for other in running.values() if other.holds(name)]
            wait = trace.open("wait", text=name, failed=True, by=holders)
            try:
                yield
                wait.failed = False
            finally:
                trace.shut(wait)
            session.start = trace.now()
            trace.spans.append(session)

    pool.observer = cast(ObservedPool, engine.pool).observer = observe

    def listen(event_name: str, function: Callable[..., None]) -> None:
        event.listen(engine, event_name, function)

    def begin(trace: Trace, connection: Connection, kind: str, **more: Any) -> None:
        info = {} if connection.invalidated else connection.info
        owner = info.get(OWNER)
        if owner not in (None, trace) and name not in trace.strays:
            # Another request has checked this connection out, and perhaps begun a transaction.
            borrowed: dict[str, Any] = {"by": [owner.number]}
            trace.strays[name] = trace.open("session", text=name, **borrowed)
            if not autocommits and kind != "begin":
                trace.transaction = trace.open("transaction", **borrowed)
        trace.backend = info.get(BACKEND)
        trace.begin(kind, snapshot=autocommits, **more)

    def before(connection: Connection, _: Any, statement: str, parameters: Any, *more: Any) -> None:
        if trace := current.get():
            kind = "begin" if statement.startswith("BEGIN") else "sql"
            begin(trace, connection, kind, text=statement, parameters=readable(parameters))

    def after(_: Any, cursor: Any, *more: Any) -> None:
        if (trace := current.get()) and trace.step:
            # SQLite counts no rows that it only reads; the adapter has fetched them already.
            read = len(getattr(cursor, "_rows", ()))
            trace.step.rows = cursor.rowcount if cursor.rowcount >= 0 else read
            trace.finish()

    def failed(context: ExceptionContext) -> None:
        if (trace := current.get()) and trace.step:
            trace.step.failed = True
            trace.step.error = " ".join(str(context.original_exception).split())
            trace.finish()

    def mark(kind: str) -> Callable[..., None]:
        def step(connection: Connection) -> None:
            # A connection that autocommits has another isolation level only during a snapshot.
            transacts = not autocommits or "isolation_level" in connection.get_execution_options()
            if transacts and (trace := current.get()):
                begin(trace, connection, kind)

        return step

    def opened(*_: Any) -> None:
        if (trace := current.get()) and trace.step:
            trace.step.opened = True

    def out(connection: Any, record: Any, _: Any) -> None:
        trace = record.info[OWNER] = current.get()
        if engine.dialect.name == "postgresql" and trace:
            backend = record.info[BACKEND] = connection.driver_connection.info.backend_pid
            owners[backend] = trace

    def back(_: Any, record: Any) -> None:
        owner: Trace | None = record.info.pop(OWNER, None)
        owners.pop(record.info.pop(BACKEND, 0), None)
        if owner:
            owner.shut(owner.strays.pop(name, None))
        if trace := current.get():
            trace.finish()
            trace.shut(trace.strays.pop(name, None))

    listen("before_cursor_execute", before)
    listen("after_cursor_execute", after)
    listen("handle_error", failed)
    listen("connect", opened)
    listen("checkout", out)
    listen("checkin", back)
    listen("commit", mark("commit"))
    listen("rollback", mark("rollback"))
    if engine.dialect.name != "sqlite":  # there it is a statement: see engines.py
        listen("begin", mark("begin"))


def count_session(session: Session, _: Any, connection: Any) -> None:
    # A session on a connection that is already checked out takes none: see idempotency.py.
    trace = current.get()
    if trace and trace.sent is None and isinstance(session.bind, Engine):
        trace.sessions.add(session.hash_key)


class LogHandler(logging.Handler):
    """Shows what the log says about a request with it: why it got a 500 or a 503."""

    def emit(self, record: logging.LogRecord) -> None:
        if trace := current.get():
            words = record.getMessage()
            if record.exc_info and (error := record.exc_info[1]):
                words = f"{type(error).__name__}: {error}"
            if record.msg == TORN:
                trace.torn = words
            else:
                trace.log.append(words)


log_handler = LogHandler(logging.WARNING)


def observe_database(running: dict[int, Trace]) -> None:
    observe_pool("reads", database.reader, running, autocommits=True)
    observe_pool("writes", database.writer, running, autocommits=False)
    event.listen(Session, "after_begin", count_session)


def observe_log() -> None:
    logging.getLogger("nutshell").addHandler(log_handler)
