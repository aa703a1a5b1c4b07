"""Safe retries: a POST with an `Idempotency-Key` is executed once, however often it is sent.

This follows draft-ietf-httpapi-idempotency-key-header. The rows and the response are stored in one
transaction, so that after a crash both exist or neither.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from fastapi import HTTPException, Request, Response
from sqlalchemy import JSON, Select, Table, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import Field, SQLModel

from nutshell import database
from nutshell.conditional import STREAMS
from nutshell.errors import Refused
from nutshell.fields import now
from nutshell.guards import CheckSession
from nutshell.log import explain

logger = logging.getLogger(__name__)

LIFETIME = timedelta(hours=24)
FEW = 10  # expired keys that each POST with a key deletes
MANY = 1000  # expired keys that each step at startup deletes
# The draft requires quotes. Most clients send none.
KEY = re.compile(r'(?P<quote>"?)(?P<key>[!#-\[\]-~]{1,255})(?P=quote)')


class IdempotencyKey(SQLModel, table=True):
    """The response to the POST with this key."""

    __tablename__ = "idempotency_keys"

    # Hexadecimal SHA-256 digests of the key with its caller, and of the whole request.
    key: str = Field(primary_key=True, max_length=64)
    request: str = Field(max_length=64)
    status: int
    headers: list[tuple[str, str]] = Field(sa_type=JSON)
    body: bytes
    created_at: datetime = Field(default_factory=now, index=True)


KEYS: Table = IdempotencyKey.__table__  # type: ignore[attr-defined]


def digest(*parts: bytes) -> str:
    return sha256(b"\0".join(parts)).hexdigest()


def read_key(request: Request) -> str:
    """Returns the caller's key: nobody else gets its response. Raises 400 for a malformed key."""
    headers = request.headers.getlist("idempotency-key")
    given = KEY.fullmatch(headers[0])
    if given is None or len(headers) > 1:
        raise HTTPException(
            400, "Idempotency-Key must be one string of 1 to 255 printable ASCII characters."
        )
    caller = request.state.caller
    owner = [] if caller is None else [str(getattr(caller, "id", caller)).encode()]
    return digest(given["key"].encode(), *owner)


async def run_once(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Returns the response stored for the key, or calls `handle` and stores its response for 24 hours.

    Raises 409 while the first request with the key is in progress, and 422 if that was a different
    request. The response of a failed request is not stored.
    """
    key = read_key(request)
    target = f"{request.method} {request.url.path}?{request.url.query}".encode()
    fingerprint = digest(target, await request.body())
    async with database.writer.slot(), database.writer.engine.begin() as connection:
        await lock_key(connection, key)
        # The lock makes the commit wait for a synchronous standby, which may not have the row yet.
        query = select(KEYS).where(KEYS.c.key == key).with_for_update()
        stored = (await connection.execute(query)).one_or_none()
        # A wrong clock may have dated it in the future.
        if stored is not None and abs(now() - stored.created_at) < LIFETIME:
            if stored.request != fingerprint:
                message = "This Idempotency-Key was used for a different request."
                raise Refused(422, message, loc=("header", "Idempotency-Key"), type="key_reused")
            answer = Response(stored.body, stored.status, {"Idempotency-Replayed": "true"})
            answer.headers.raw.extend((n.encode(), v.encode("latin-1")) for n, v in stored.headers)
            return answer
        # The route's commit releases a savepoint. The transaction ends with this block.
        async with database.make_session(connection) as session:
            request.scope["nutshell.session"] = session
            with CheckSession(session, request):
                answer = await handle(request)
        if isinstance(answer, STREAMS):
            raise HTTPException(400, "This response is a stream: send no Idempotency-Key.")
        if answer.status_code < 400:
            await store(connection, answer, key=key, request=fingerprint)
        return answer


async def lock_key(connection: AsyncConnection, key: str) -> None:
    # It is held until the transaction ends. On SQLite, writers wait for each other anyway.
    if connection.dialect.name == "postgresql":
        lock = func.pg_try_advisory_xact_lock(func.hashtextextended(key, 0))
        if not await connection.scalar(select(lock)):
            message = "The first request with this Idempotency-Key is in progress."
            raise HTTPException(409, message, {"Retry-After": "1"})


async def store(connection: AsyncConnection, answer: Response, **claim: Any) -> None:
    # Delete a few expired keys at a time, so that no request pays for a whole day.
    gone = (KEYS.c.key == claim["key"]) | KEYS.c.key.in_(old_keys(FEW))
    await connection.execute(delete(KEYS).where(gone))
    headers = [pair for pair in answer.headers.items() if pair[0] != "content-length"]
    values = {"status": answer.status_code, "headers": headers, "body": bytes(answer.body)}
    await connection.execute(insert(KEYS).values(**claim, **values, created_at=now()))


def old_keys(limit: int) -> Select[Any]:
    old = (KEYS.c.created_at < now() - LIFETIME) | (KEYS.c.created_at > now() + LIFETIME)
    return select(KEYS.c.key).where(old).limit(limit).with_for_update(skip_locked=True)


async def purge_old_keys() -> None:
    """Deletes all expired keys at startup, in small transactions that do not block requests."""
    try:
        while True:
            async with database.writer.slot(), database.writer.engine.begin() as connection:
                done = await connection.execute(delete(KEYS).where(KEYS.c.key.in_(old_keys(MANY))))
            if done.rowcount < MANY:
                return
    except SQLAlchemyError as error:  # no database or no schema yet: left to the next startup
        logger.warning("Expired idempotency keys were not deleted: %s", explain(error))
