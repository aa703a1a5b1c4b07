"""The session-per-request pattern, whole: two engines, and `get_session` that uses them."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD"})  # the safe ones that we route: RFC 9110, 9.2.1


def make_engines(
    url: URL, pool_size: int, read_url: URL | None = None
) -> tuple[AsyncEngine, AsyncEngine]:
    """The reader and the writer, a pool each. They connect on first use."""
    pool: dict[str, Any] = {
        "pool_size": pool_size,
        # No overflow: a request waits its turn, and never longer than these seconds.
        "max_overflow": 0,
        "pool_timeout": 5,
        "hide_parameters": True,  # an error's text ends in the log, what callers send must not
    }
    # A single statement needs no transaction: without one a read is one round trip, not three.
    autocommit: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
    }
    if url.get_backend_name() != "sqlite":
        # Statements prepared on the server break behind proxies that pool by transaction.
        pool["connect_args"] = {"prepare_threshold": None, "connect_timeout": 5}
        reader = create_async_engine(read_url or url, **pool, **autocommit)
        return reader, create_async_engine(url, **pool)

    url = url.set(drivername="sqlite+aiosqlite")
    # The driver must not begin transactions by itself, for it would begin them too late.
    pool["connect_args"] = {"isolation_level": None, "timeout": 5}
    reader = create_async_engine(url, **pool, **autocommit)
    # SQLite has one write lock: one connection makes writers queue here, fairly, and not there.
    writer = create_async_engine(url, **pool | {"pool_size": 1})
    for engine in (reader, writer):
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    event.listen(writer.sync_engine, "begin", begin_immediate)
    return reader, writer


def prepare_sqlite(connection: Any, _: object) -> None:
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):  # WAL: see migrations/env.py
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() knows only ASCII.
    connection.create_function("lower", 1, lower, deterministic=True)


def lower(text: str | None) -> str | None:
    return text and text.lower()


def begin_immediate(connection: Connection) -> None:
    # A transaction that reads first and asks for the write lock later can fail with "database is
    # locked" however long it waits; this asks at once, and waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


reader, writer = make_engines(settings.database_url, settings.pool_size, settings.database_read_url)


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """One session for one request. What the route has not committed when it ends is rolled back.

    A safe method reads, each statement for itself; any other writes, in one transaction.
    """
    engine = reader if request.method in SAFE_METHODS else writer
    # expire_on_commit=False: the response is built after the commit from what is loaded already.
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


# scope="function" closes the session before the response leaves. By default that happens after,
# and whatever fails then fails behind the back of a caller who was told that all is well.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
