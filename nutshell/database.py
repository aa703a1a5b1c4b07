"""The session-per-request pattern, on one screen. engines.py makes the two pools."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.engines import make_pools
from nutshell.settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD"})  # RFC 9110, section 9.2.1

# The reader's connections autocommit. The reader may be a replica. The writer has transactions.
reader, writer = make_pools(settings.database_url, settings.pool_size, settings.database_read_url)


def make_session(bind: AsyncEngine | AsyncConnection, *, safe: bool = False) -> AsyncSession:
    # expire_on_commit=False: the response is built after the commit, from what is loaded already.
    # create_savepoint: on a connection that is in a transaction already (idempotency.py has one),
    # commit() releases a savepoint, and the transaction stays open.
    return AsyncSession(
        bind,
        expire_on_commit=False,
        join_transaction_mode="create_savepoint",
        info={"safe": safe},
    )


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Gives a request its own session, and closes it when the response is built, but not yet sent.

    GET and HEAD run in autocommit. Any other method runs in one transaction, from its first
    statement on: the route must call commit(), and closing rolls back what it did not commit.
    """
    if hasattr(request.state, "session"):
        # A POST with an Idempotency-Key: idempotency.py has made its session, and closes it.
        yield request.state.session
        return
    safe = request.method in SAFE_METHODS
    pool = reader if safe else writer
    # A turn: the right to one connection, within four seconds or 503. The first statement takes it.
    async with pool.turn(), aclosing(make_session(pool.engine, safe=safe)) as session:
        yield session


# scope="function" closes the session before the response is sent. By default FastAPI closes it
# afterwards, when a failure can no longer be reported to the caller.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


@event.listens_for(Session, "before_flush")
def refuse_write(session: Session, *_: Any) -> None:
    # In autocommit a write would stay, even if the route failed later.
    if session.info.get("safe"):
        raise RuntimeError("A route of a safe method (GET, HEAD) must not write.")
