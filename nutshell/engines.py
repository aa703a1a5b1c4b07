"""Two engines, each with a pool: one reads in autocommit, the other writes in transactions."""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

import psycopg
from sqlalchemy import URL, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from nutshell.guards import follow_change
from nutshell.sqlite import begin_immediate, on_long, prepare_engine

WAIT = 4  # seconds that a request waits for a connection
HOLD = 4  # seconds that it may hold one
# Overrides HOLD for background work.
longest_hold: ContextVar[float] = ContextVar("longest_hold")
CANCEL = 1  # seconds to wait for the server to cancel a statement

# These override the defaults of the server, database and role, with which psycopg cannot read every
# value: year 1 in another time zone, dates in the German style. libpq takes them from the environment;
# poolers refuse startup `options`.
os.environ.update(PGTZ="UTC", PGDATESTYLE="ISO")
POSTGRESQL = {
    "client_encoding": "utf8",
    "connect_timeout": WAIT,
    # A firewall may drop a connection silently. The kernel notices within half a minute, before a
    # request has to.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Prepared statements fail behind poolers in transaction mode.
    "prepare_threshold": None,
}


# Returns a context for "slot", "wait" or "connect", which is entered for as long as that takes.
Observer = Callable[[str], AbstractContextManager[object]]


class ObservedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy has an event for a connection given, and none for one asked for."""

    observer: Observer = nullcontext

    def connect(self) -> PoolProxiedConnection:
        with self.observer("connect"):
            return super().connect()


class Pool:
    """An engine, and the queue of requests that wait for one of its connections."""

    def __init__(self, engine: AsyncEngine, size: int, spare: int = 0) -> None:
        self.engine = engine
        self.size = size
        self.spare = spare  # additional connections, for long statements
        # SQLAlchemy's pool is not fair: a new request may overtake those that wait (issue 7679). A
        # semaphore serves them in order.
        self.free = asyncio.Semaphore(size)
        self.observer: Observer = nullcontext

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Admits as many requests at a time as there are connections, in the order of arrival.

        Raises SQLAlchemy's TimeoutError after four seconds.
        """
        with self.observer("slot"):
            if self.free.locked():
                try:
                    with self.observer("wait"):
                        async with asyncio.timeout(WAIT):
                            await self.free.acquire()
                except TimeoutError:
                    raise PoolTimeout("every connection stayed busy") from None
            else:
                await self.free.acquire()
            slot = Slot(self)
            on_long.set(slot.lend)
            try:
                yield
            finally:
                slot.give_back()

    async def begin_snapshot(self, session: AsyncSession) -> None:
        """Begins a read-only transaction in which every statement sees the same moment."""
        if self.engine.dialect.name == "postgresql":
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            await session.connection(execution_options=options)
        else:
            # With this level SQLAlchemy rolls back at the end. BEGIN has to be sent, because the driver
            # does not.
            options = {"isolation_level": "SERIALIZABLE"}
            connection = await session.connection(execution_options=options)
            await connection.exec_driver_sql("BEGIN")


class Slot:
    """The right of a request to one of the pool's connections."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.held = True

    def lend(self) -> None:
        """Moves a request with a long statement to a spare connection, and admits the next request."""
        if self.held and self.pool.spare:
            self.held = False
            self.pool.spare -= 1
            self.pool.free.release()

    def give_back(self) -> None:
        if self.held:
            self.held = False
            self.pool.free.release()
        else:
            self.pool.spare += 1


def make_pools(url: URL, size: int, read_url: URL | None = None) -> tuple[Pool, Pool]:
    """Creates the reader and the writer. They connect on first use."""
    # Connections to a file are cheap, so long searches get additional ones.
    spare = 3 * size if url.get_backend_name() == "sqlite" else 0
    reader = make_engine(read_url or url, size + spare, autocommit=True)
    # SQLite has one write lock. With one connection, writers queue here in order instead of competing
    # for the lock.
    writer_size = 1 if url.get_backend_name() == "sqlite" else size
    writer = make_engine(url, writer_size)
    event.listen(writer.sync_engine, "before_cursor_execute", follow_change)
    if url.get_backend_name() == "sqlite":
        event.listen(writer.sync_engine, "begin", begin_immediate)
    return Pool(reader, size, spare), Pool(writer, writer_size)


def make_engine(url: URL, size: int, *, autocommit: bool = False) -> AsyncEngine:
    options: dict[str, Any] = {
        "poolclass": ObservedPool,
        "pool_size": size,
        "max_overflow": 0,
        "pool_timeout": WAIT,
        "hide_parameters": True,  # the log must not contain callers' data
    }
    if autocommit:
        # A single statement needs no transaction, and takes one round trip instead of three.
        options |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    if url.get_backend_name() == "sqlite":
        # The driver must not begin transactions by itself, because it does so too late. mode=rw prevents
        # a new file when the service's own is missing.
        options["connect_args"] = {"isolation_level": None, "timeout": WAIT}
        file = URL.create(
            "sqlite+aiosqlite",
            database=f"file:{quote(url.database or '')}",
            query={"mode": "rw", "uri": "true"},
        )
        engine = create_async_engine(file, **options)
        # A long statement may first wait for others.
        prepare_engine(engine, url.database, lambda: WAIT + longest_hold.get(HOLD))
        return engine
    options["connect_args"] = POSTGRESQL
    engine = create_async_engine(url, **options)
    event.listen(engine.sync_engine, "checkout", check_connection)
    event.listen(engine.sync_engine, "checkout", set_deadline)
    event.listen(engine.sync_engine, "checkin", clear_deadline)
    event.listen(engine.sync_engine, "handle_error", leave_read_only_server)
    return engine


def check_connection(connection: Any, _: object, __: object) -> None:
    """Discards a connection that the server has closed, so that the pool opens another.

    This sends no query: an idle socket is readable only when the server is closing it.
    """
    driver = connection.driver_connection
    if driver.closed:
        raise DisconnectionError
    line = select.poll()
    line.register(driver.fileno(), select.POLLIN)
    if line.poll(0):
        raise DisconnectionError


def set_deadline(connection: Any, record: Any, _: object) -> None:
    # A frozen server never answers, and the driver has no timeout.
    driver = connection.driver_connection
    late = asyncio.get_running_loop().call_later(longest_hold.get(HOLD), give_up, driver, record)
    record.record_info["deadline"] = late


def clear_deadline(connection: Any, record: Any) -> None:
    # A failed connection has no deadline.
    if deadline := record.record_info.pop("deadline", None):
        deadline.cancel()


def give_up(driver: psycopg.AsyncConnection, record: Any) -> None:
    """Closes the connection past its deadline: the driver reports an error, and the caller gets a 503.

    The statement is cancelled only afterwards. The server answers a cancelled commit that waits for a
    synchronous standby with success, although the standby does not have it.
    """
    hang_up(driver)
    # The event loop keeps no reference to its tasks.
    record.record_info["cancel"] = asyncio.create_task(cancel(driver))


async def cancel(driver: psycopg.AsyncConnection) -> None:
    """Cancels the statement on the server, whose process would otherwise continue."""
    with suppress(psycopg.Error, OSError):
        await driver.cancel_safe(timeout=CANCEL)


def hang_up(driver: psycopg.AsyncConnection) -> None:
    with suppress(psycopg.Error, OSError), socket.fromfd(driver.fileno(), 0, 0) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def leave_read_only_server(context: ExceptionContext) -> None:
    # The primary has become a standby. With several hosts in the URL, a new connection finds the new
    # primary.
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True
