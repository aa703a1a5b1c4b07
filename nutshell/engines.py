"""Two engines with a pool each: one reads on autocommit, the other writes in transactions."""

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

import psycopg
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

WAIT = 4  # seconds that a request waits for a connection
HOLD = 4  # seconds that it may keep one
LONG = 100_000  # instructions of SQLite, some milliseconds, after which a statement is long
PAUSE = 0.01  # seconds until a long statement looks again whether it is its turn
CANCEL = 1  # seconds that the server has, after those, to stop what it does for it


class Pool:
    """An engine, and the queue of the requests that wait for one of its connections."""

    def __init__(self, engine: AsyncEngine, size: int, spare: int = 0) -> None:
        self.engine = engine
        self.size = size
        self.spare = spare  # connections beyond those, for long statements
        # SQLAlchemy's pool hands a connection to whoever asks next, however long others have
        # waited (its issue 7679). A semaphore serves them in the order of asking.
        self.free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Lets in as many requests at a time as there are connections.

        Raises SQLAlchemy's TimeoutError after four seconds: every connection stayed busy.
        """
        if self.free.locked():
            try:
                async with asyncio.timeout(WAIT):
                    await self.free.acquire()
            except TimeoutError:
                raise PoolTimeout("every connection stayed busy") from None
        else:
            await self.free.acquire()
        turn = Turn(self)
        current_turn.set(turn)
        try:
            yield
        finally:
            turn.end()


class Turn:
    """The right of a request to one connection."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.counts = True

    def lend(self) -> None:
        """Lets another request in while this one's statement takes long, on a spare connection."""
        if self.counts and self.pool.spare:
            self.counts = False
            self.pool.spare -= 1
            self.pool.free.release()

    def end(self) -> None:
        if self.counts:
            self.counts = False
            self.pool.free.release()
        else:
            self.pool.spare += 1


current_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def make_pools(url: URL, size: int, read_url: URL | None = None) -> tuple[Pool, Pool]:
    """Makes the reader and the writer. They connect on first use."""
    # Connections to a file are cheap: long searches have some of their own.
    spare = 3 * size if url.get_backend_name() == "sqlite" else 0
    reader = make_engine(read_url or url, size + spare, autocommit=True)
    # SQLite has one write lock. With one connection the writers queue here, in order, and do not
    # fight for the lock.
    writer_size = 1 if url.get_backend_name() == "sqlite" else size
    writer = make_engine(url, writer_size)
    if url.get_backend_name() == "sqlite":
        event.listen(writer.sync_engine, "begin", begin_immediate)
    return Pool(reader, size, spare), Pool(writer, writer_size)


def make_engine(url: URL, size: int, *, autocommit: bool = False) -> AsyncEngine:
    options: dict[str, Any] = {
        "pool_size": size,
        "max_overflow": 0,
        "pool_timeout": WAIT,
        "hide_parameters": True,  # errors are logged, and callers' data must not be
    }
    if autocommit:
        # A single statement needs no transaction. Without one it takes one round trip, not three.
        options |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    if url.get_backend_name() == "sqlite":
        # The driver must not begin transactions by itself: it begins them too late. mode=rw makes
        # no new file when the service's own is gone.
        options["connect_args"] = {"isolation_level": None, "timeout": WAIT}
        file = URL.create(
            "sqlite+aiosqlite",
            database=f"file:{quote(url.database or '')}",
            query={"mode": "rw", "uri": "true"},
        )
        engine = create_async_engine(file, **options)
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
        queue_long_statements(engine)
        event.listen(engine.sync_engine, "connect", remember_file(url.database))
        event.listen(engine.sync_engine, "checkout", check_file(url.database))
        return engine
    # Prepared statements break behind proxies that pool by transaction.
    options["connect_args"] = {"prepare_threshold": None, "connect_timeout": WAIT}
    engine = create_async_engine(url, **options)
    event.listen(engine.sync_engine, "checkout", check_connection)
    event.listen(engine.sync_engine, "checkout", set_deadline)
    event.listen(engine.sync_engine, "checkin", clear_deadline)
    event.listen(engine.sync_engine, "handle_error", leave_read_only_server)
    return engine


def prepare_sqlite(connection: Any, _: object) -> None:
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):  # WAL: see migrations/env.py
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() knows only ASCII.
    connection.create_function("lower", 1, lower, deterministic=True)


class Statement:
    """What a connection to SQLite runs: since when, and whether it has turned out to be long."""

    began = 0.0
    long = False
    turn: Turn | None = None


def queue_long_statements(engine: AsyncEngine) -> None:
    """Lets one long statement run at a time, the oldest first, and interrupts it after a limit.

    Each runs in a thread of its own. Several that scan a large table would leave no processor to
    the short ones, nor to the event loop. They do not hold up those that wait for a connection.
    """
    long: set[Statement] = set()

    def watch(connection: Any, record: Any) -> None:
        statement = record.info["statement"] = Statement()
        loop = asyncio.get_running_loop()

        def pause() -> bool:
            """SQLite calls this in the connection's thread. True interrupts the statement."""
            if not statement.long:
                statement.long = True
                long.add(statement)
                if statement.turn is not None:
                    loop.call_soon_threadsafe(statement.turn.lend)
            while (now := time.monotonic()) < statement.began + WAIT + HOLD:
                # A request that was cancelled may have left one behind: that one is no obstacle.
                if not any(
                    now - WAIT - HOLD < other.began < statement.began for other in list(long)
                ):
                    return False
                time.sleep(PAUSE)
            return True

        connection.run_async(lambda driver: driver.set_progress_handler(pause, LONG))

    def begin(connection: Connection, *_: Any) -> None:
        statement: Statement = connection.connection.info["statement"]
        if statement.long:  # the one before was cancelled
            long.discard(statement)
        statement.began, statement.long = time.monotonic(), False
        statement.turn = current_turn.get()

    def end(connection: Connection, *_: Any) -> None:
        statement: Statement = connection.connection.info["statement"]
        if statement.long:
            long.discard(statement)

    def fail(context: ExceptionContext) -> None:
        if context.connection is not None:
            end(context.connection)

    event.listen(engine.sync_engine, "connect", watch)
    event.listen(engine.sync_engine, "before_cursor_execute", begin)
    event.listen(engine.sync_engine, "after_cursor_execute", end)
    event.listen(engine.sync_engine, "handle_error", fail)


def file_number(path: str | None) -> tuple[int, int] | None:
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remember_file(path: str | None) -> Callable[..., None]:
    def remember(_: object, record: Any) -> None:
        record.info["file"] = file_number(path)

    return remember


def check_file(path: str | None) -> Callable[..., None]:
    """Leaves a connection to a file that has been deleted or replaced: what it stores is lost."""

    def check(_: object, record: Any, __: object) -> None:
        if record.info["file"] != file_number(path):
            raise DisconnectionError

    return check


def lower(text: str | None) -> str | None:
    return text and text.lower()


def begin_immediate(connection: Connection) -> None:
    # Takes the write lock at once, and waits for it. A transaction that reads first and takes the
    # lock later fails with "database is locked", however long it waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def check_connection(connection: Any, _: object, __: object) -> None:
    """Leaves a connection that the server has closed, by a restart or because nobody used it.

    The pool then makes another. Nothing is asked: bytes on an idle line mean that it ends.
    """
    driver = connection.driver_connection
    if driver.closed:
        raise DisconnectionError
    line = select.poll()
    line.register(driver.fileno(), select.POLLIN)
    if line.poll(0):
        raise DisconnectionError


def set_deadline(connection: Any, record: Any, _: object) -> None:
    # A frozen database never answers, and its driver waits for ever.
    driver = connection.driver_connection
    loop = asyncio.get_running_loop()
    record.record_info["deadline"] = loop.call_later(HOLD, cut, driver, record)


def clear_deadline(connection: Any, record: Any) -> None:
    # A connection that could not be made has no deadline.
    if deadline := record.record_info.pop("deadline", None):
        deadline.cancel()


def cut(driver: psycopg.AsyncConnection, record: Any) -> None:
    """Leaves the connection: the driver reports that it is lost, and the caller gets a 503.

    The server is asked to stop only after that. To a commit that waits for a synchronous standby
    it would answer that it is done, and the standby would not have it.
    """
    hang_up(driver)
    # The loop itself does not keep its tasks.
    record.record_info["cancel"] = asyncio.create_task(cancel(driver))


async def cancel(driver: psycopg.AsyncConnection) -> None:
    """Ends what the server does for the connection, so that its process does not wait on."""
    with suppress(psycopg.Error, OSError):
        await driver.cancel_safe(timeout=CANCEL)


def hang_up(driver: psycopg.AsyncConnection) -> None:
    with suppress(psycopg.Error, OSError), socket.fromfd(driver.fileno(), 0, 0) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def leave_read_only_server(context: ExceptionContext) -> None:
    # A primary that has become a standby refuses to write. A new connection, to a URL with several
    # hosts, finds the new primary.
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True
