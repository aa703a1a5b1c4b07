"""The session-per-request pattern, whole. How the pools are made: engines.py."""

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

reader, writer = make_pools(settings.database_url, settings.pool_size, settings.database_read_url)


def make_session(bind: AsyncEngine | AsyncConnection, *, safe: bool = False) -> AsyncSession:
    # expire_on_commit=False: the response is built after the commit, from what is loaded already.
    # On a connection that has a transaction, a commit ends a savepoint: see idempotency.py.
    return AsyncSession(
        bind,
        expire_on_commit=False,
        join_transaction_mode="create_savepoint",
        info={"safe": safe},
    )


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Gives a request its own session, and closes it when the route has ended.

    A safe method reads, and each statement commits by itself. Any other method writes, in one
    transaction, which the route commits. What it has not committed is rolled back.
    """
    if hasattr(request.state, "session"):  # of a POST with an Idempotency-Key: idempotency.py
        yield request.state.session
        return
    safe = request.method in SAFE_METHODS
    pool = reader if safe else writer
    async with pool.turn(), aclosing(make_session(pool.engine, safe=safe)) as session:
        yield session


# scope="function" closes the session before the response is sent. By default FastAPI closes it
# afterwards, when a failure can no longer be reported to the caller.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


@event.listens_for(Session, "before_flush")
def refuse_write(session: Session, *_: Any) -> None:
    # The reader's statements commit by themselves, so nothing could roll this one back.
    if session.info.get("safe"):
        raise RuntimeError("A route of a safe method (GET, HEAD) must not write.")
