"""Notes in the Trace of the request under way what the pools, the engines and the log do for it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from nutshell import database
from nutshell.engines import ObservedPool, Pool
from nutshell.live.trace import Trace, readable

current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def observe_pool(name: str, pool: Pool, *, autocommits: bool) -> None:
    """Notes what the pool and its engine do for the request under way."""
    engine = pool.engine.sync_engine

    @contextmanager
    def observe(step: str) -> Iterator[None]:
        if (trace := current.get()) is None:
            yield
        elif step == "connect":
            if not any(span.text == name and span.end is None for span in trace.of("session")):
                trace.strays[name] = trace.open("session", text=name)
            trace.begin("connect", text=name)
            try:
                yield
            finally:
                trace.finish()
        else:
            waits = step == "wait"
            span = trace.open("wait" if waits else "session", text=name, failed=waits)
            try:
                yield
                span.failed = False
            finally:
                trace.finish()
                trace.shut(span)

    pool.observer = cast(ObservedPool, engine.pool).observer = observe

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


def observe_database() -> None:
    observe_pool("reads", database.reader, autocommits=True)
    observe_pool("writes", database.writer, autocommits=False)
    event.listen(Session, "after_begin", count_session)


def observe_log() -> None:
    logging.getLogger("nutshell").addHandler(log_handler)
