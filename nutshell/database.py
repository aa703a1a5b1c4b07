"""The session-per-request pattern, on one screen. engines.py makes the two pools."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.engines import HOLD, longest_hold, make_pools
from nutshell.guards import CheckSession, Record
from nutshell.settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD"})  # RFC 9110, section 9.2.1

# The reader's connections autocommit. The reader may be a replica. The writer has transactions.
reader, writer = make_pools(settings.database_url, settings.pool_size, settings.database_read_url)


def make_session(bind: AsyncEngine | AsyncConnection, *, safe: bool = False) -> AsyncSession:
    # expire_on_commit=False: the response is built after the commit, from what is loaded already.
    # close_resets_only=False: a session that is used after it was closed raises an error. By default
    # it would check out another connection, and nobody would return it.
    # create_savepoint: on a connection that is in a transaction already (idempotency.py has one),
    # commit() releases a savepoint, and the transaction stays open.
    return AsyncSession(
        bind,
        expire_on_commit=False,
        close_resets_only=False,
        join_transaction_mode="create_savepoint",
        info={"record": Record(safe=safe)},
    )


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Gives a request its own session, and closes it when the response is built, but not yet sent.

    GET and HEAD run in autocommit. Any other method runs in one transaction, from its first
    statement on: the route must call commit(), and it is an error, answered with 500, to leave
    something uncommitted.
    """
    if keyed := request.scope.get("nutshell.session"):
        # A POST with an Idempotency-Key: idempotency.py has made its session, and closes it.
        yield keyed
        return
    safe = request.method in SAFE_METHODS
    pool = reader if safe else writer
    # Wait up to four seconds for a free slot in the pool, else 503. The first statement checks the
    # connection out.
    async with pool.slot(), aclosing(make_session(pool.engine, safe=safe)) as session:
        with CheckSession(session, request):
            yield session


# scope="function" closes the session before the response is sent. By default FastAPI runs code after
# `yield` once the response is sent, when a failure can no longer be reported to the caller.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


async def get_snapshot(session: SessionDep) -> AsyncSession:
    """Gives a GET of several statements a session in which all of them see the same moment.

    In autocommit each statement sees what is committed when it runs, so an answer put together from
    two of them may never have been true. A snapshot is a transaction that reads only.
    """
    await take_snapshot(session)
    return session


SnapshotDep = Annotated[AsyncSession, Depends(get_snapshot, scope="function")]


async def take_snapshot(session: AsyncSession) -> None:
    """Begins a snapshot, which ends with the session: what follows sees the same moment."""
    record: Record = session.info["record"]
    if not record.safe:
        raise RuntimeError("A snapshot reads only: it is for GET and HEAD.")
    if not record.snapshot:
        record.snapshot = True
        if session.in_transaction():
            # After an earlier statement, in autocommit, this only returns the connection to the pool.
            # A new isolation level is for a connection that is new to the session.
            await session.commit()
        await reader.begin_snapshot(session)


@asynccontextmanager
async def background_session(
    *, safe: bool = False, hold: float = HOLD
) -> AsyncIterator[AsyncSession]:
    """Gives work after the answer a session of its own: a background task, or a stream.

    The session of the request is closed by then. This one waits for a slot in the pool as requests
    do, and may keep its connection for `hold` seconds. It must be committed, unless it is `safe`: then
    it reads, from one snapshot.
    """
    pool = reader if safe else writer
    longest_hold.set(hold)
    async with pool.slot(), aclosing(make_session(pool.engine, safe=safe)) as session:
        with CheckSession(session):
            if safe:
                await take_snapshot(session)
            yield session
