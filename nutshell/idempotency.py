"""Retries without doubles: a POST with an `Idempotency-Key` happens once, however often it is sent.

After draft-ietf-httpapi-idempotency-key-header. The rows and the answer are stored in one
transaction: after a crash there are both or neither.
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
from nutshell.fields import now
from nutshell.guards import CheckSession
from nutshell.log import explain

logger = logging.getLogger(__name__)

LIFETIME = timedelta(hours=24)
FEW = 10  # old keys that a POST with a key deletes
MANY = 1000  # old keys that the start of a process deletes at a time
# A quoted string, as in the draft, or the same without quotes.
KEY = re.compile(r'(?P<quote>"?)(?P<key>[!#-\[\]-~]{1,255})(?P=quote)')


class IdempotencyKey(SQLModel, table=True):
    """The answer that was given to the POST with this key."""

    __tablename__ = "idempotency_keys"

    # SHA-256 in hexadecimal: of the key, and of the whole request.
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
    """Raises 400 for a malformed key."""
    headers = request.headers.getlist("idempotency-key")
    given = KEY.fullmatch(headers[0])
    if given is None or len(headers) > 1:
        raise HTTPException(400, "Idempotency-Key must be one string of 1 to 255 visible letters.")
    return digest(given["key"].encode())


async def run_once(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answers with what is stored for the key, or lets `handle` answer and stores that.

    Raises 409 while the first request with the key is under way, and 422 when that was another
    request. An answer is kept for 24 hours. A request that fails leaves its key free.
    """
    key = read_key(request)
    target = f"{request.method} {request.url.path}?{request.url.query}".encode()
    fingerprint = digest(target, await request.body())
    async with database.writer.slot(), database.writer.engine.begin() as connection:
        await lock_key(connection, key)
        # Locking the row makes the commit wait for a synchronous standby, which may not have it yet.
        query = select(KEYS).where(KEYS.c.key == key).with_for_update()
        stored = (await connection.execute(query)).one_or_none()
        # A clock that was wrong may have dated it in the future.
        if stored is not None and abs(now() - stored.created_at) < LIFETIME:
            if stored.request != fingerprint:
                raise HTTPException(422, "This Idempotency-Key was used for another request.")
            answer = Response(stored.body, stored.status)
            answer.headers.raw.extend((n.encode(), v.encode("latin-1")) for n, v in stored.headers)
            return answer
        # The route's commit ends a savepoint. All is kept, or nothing, when this block ends.
        async with database.make_session(connection) as session:
            request.scope["nutshell.session"] = session
            with CheckSession(session, request):
                answer = await handle(request)
        if isinstance(answer, STREAMS):
            raise HTTPException(400, "This answer is a stream: send no Idempotency-Key.")
        if answer.status_code < 400:
            await store(connection, answer, key=key, request=fingerprint)
        return answer


async def lock_key(connection: AsyncConnection, key: str) -> None:
    # Held until the transaction ends. On SQLite a second writer waits for the first in any case.
    if connection.dialect.name == "postgresql":
        lock = func.pg_try_advisory_xact_lock(func.hashtextextended(key, 0))
        if not await connection.scalar(select(lock)):
            raise HTTPException(409, "The first request with this Idempotency-Key is under way.")


async def store(connection: AsyncConnection, answer: Response, **claim: Any) -> None:
    # A few at a time, found by their index: nobody pays for a day's worth of keys.
    gone = (KEYS.c.key == claim["key"]) | KEYS.c.key.in_(old_keys(FEW))
    await connection.execute(delete(KEYS).where(gone))
    headers = [pair for pair in answer.headers.items() if pair[0] != "content-length"]
    values = {"status": answer.status_code, "headers": headers, "body": bytes(answer.body)}
    await connection.execute(insert(KEYS).values(**claim, **values, created_at=now()))


def old_keys(limit: int) -> Select[Any]:
    old = (KEYS.c.created_at < now() - LIFETIME) | (KEYS.c.created_at > now() + LIFETIME)
    return select(KEYS.c.key).where(old).limit(limit).with_for_update(skip_locked=True)


async def purge_old_keys() -> None:
    """Deletes what no POST has deleted, in steps that keep nobody waiting. Each process starts with it."""
    try:
        while True:
            async with database.writer.slot(), database.writer.engine.begin() as connection:
                done = await connection.execute(delete(KEYS).where(KEYS.c.key.in_(old_keys(MANY))))
            if done.rowcount < MANY:
                return
    except SQLAlchemyError as error:  # no database, or no schema as yet: the next start will do it
        logger.warning("old idempotency keys were not deleted: %s", explain(error))
