"""The session-per-request pattern. engines.py creates the two pools."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.engines import HOLD, longest_hold, make_pools
from nutshell.guards import CheckSession, Record
from nutshell.settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD"})  # those of RFC 9110, section 9.2.1, that reach a route

# The reader autocommits each statement, and may be a replica. The writer uses transactions.
reader, writer = make_pools(settings.database_url, settings.pool_size, settings.database_read_url)


def make_session(bind: AsyncEngine | AsyncConnection, *, safe: bool = False) -> AsyncSession:
    # expire_on_commit=False: the response is built after the commit, from attributes already loaded.
    # close_resets_only=False: using a closed session raises an error. By default it would check
    # out another connection, which nothing returns to the pool.
    # create_savepoint: if the connection is already in a transaction, as in idempotency.py, the session
    # works in a savepoint. Its commit() releases that, and the transaction stays open.
    return AsyncSession(
        bind,
        expire_on_commit=False,
        close_resets_only=False,
        join_transaction_mode="create_savepoint",
        info={"record": Record(safe=safe)},
    )


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Gives each request its own session, and closes it after the response is built, before it is sent.

    GET and HEAD run in autocommit. Every other method runs in one transaction, which begins with the
    first statement. If the route changes something and does not commit it, the response is a 500 and
    the change is rolled back.
    """
    if keyed := request.scope.get("nutshell.session"):
        # A POST with an Idempotency-Key: idempotency.py has created its session, and closes it.
        yield keyed
        return
    safe = request.method in SAFE_METHODS
    pool = reader if safe else writer
    # Wait up to four seconds for a free slot in the pool, else 503. The connection itself is checked
    # out by the first statement.
    async with pool.slot(), aclosing(make_session(pool.engine, safe=safe)) as session:
        with CheckSession(session, request):
            yield session


# scope="function" closes the session before the response is sent. By default FastAPI runs the code after
# `yield` only after that, too late to report a failure to the caller.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


async def get_snapshot(session: SessionDep) -> AsyncSession:
    """Gives a GET that runs several statements a session in which all of them see the same moment.

    In autocommit, each statement sees whatever was committed when it ran, so a response that combines
    two statements may describe a state that never existed. A snapshot is a read-only transaction.
    `reply.page` takes one itself where a list needs it.
    """
    await take_snapshot(session)
    return session


SnapshotDep = Annotated[AsyncSession, Depends(get_snapshot, scope="function")]


async def take_snapshot(session: AsyncSession) -> None:
    """Begins a snapshot that lasts until the session closes."""
    record: Record = session.info["record"]
    if not record.safe:
        raise RuntimeError(
            "A snapshot is read-only: use it in a GET, or in background_session(safe=True)."
        )
    if not record.snapshot:
        record.snapshot = True
        if session.in_transaction():
            # An earlier statement has committed itself, so this only returns the connection to the pool:
            # the isolation level is set when a session checks out a connection.
            await session.commit()
        await reader.begin_snapshot(session)


@asynccontextmanager
async def background_session(
    *, safe: bool = False, hold: float = HOLD
) -> AsyncIterator[AsyncSession]:
    """Provides a session for work done after the response: a background task or a stream.

    The request's session is closed by then. Like a request, this one waits for a slot in the pool. It
    may keep its connection for up to `hold` seconds. Its changes must be committed, unless `safe` is
    true: then it reads, from one snapshot.
    """
    pool = reader if safe else writer
    longest_hold.set(hold)
    async with pool.slot(), aclosing(make_session(pool.engine, safe=safe)) as session:
        with CheckSession(session):
            if safe:
                await take_snapshot(session)
            yield session
