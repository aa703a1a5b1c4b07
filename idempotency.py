"""Retries without doubles: a POST with an `Idempotency-Key` happens once, however often it is sent.

After draft-ietf-httpapi-idempotency-key-header. The rows and the answer are stored in one
transaction: whatever crashes when, there are both or neither.
"""

import re
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy import func, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

import database
from models import IdempotencyKey, now

LIFETIME = timedelta(hours=24)
# A quoted string as in the draft, or the same without quotes.
KEY = re.compile(r'(?P<quote>"?)(?P<key>[!#-\[\]-~]{1,255})(?P=quote)')


def digest(*parts: bytes) -> str:
    return sha256(b"\0".join(parts)).hexdigest()


class Replay(Exception):  # noqa: N818 (nothing is wrong)
    """The key has been used for this very request: here is the answer it got."""

    def __init__(self, stored: IdempotencyKey) -> None:
        self.response = Response(stored.body, stored.status, stored.headers)


async def claim_key(
    request: Request,
    idempotency_key: Annotated[
        str | SkipJsonSchema[None],
        Header(
            description="any text of your own: a repeat with it returns the first answer",
            json_schema_extra={"format": "idempotency-key", "examples": ["8e03978e-40d5-43dd"]},
        ),
    ] = None,
) -> None:
    """Opens the one transaction of a request with a key, and looks whether the key is used.

    400 for a malformed key, 409 while the first request with it is under way, 422 when that was
    another request. The key counts for its sender alone, and for 24 hours.
    """
    if idempotency_key is None:
        return
    given = KEY.fullmatch(idempotency_key)
    if given is None or len(request.headers.getlist("idempotency-key")) > 1:
        raise HTTPException(400, "Idempotency-Key must be one string of 1 to 255 visible letters.")
    sender = request.headers.get("authorization", "").encode()
    key = digest(given["key"].encode(), sender)
    target = f"{request.method} {request.url.path}?{request.url.query}".encode()
    fingerprint = digest(target, await request.body())

    connection = await request.state.resources.enter_async_context(database.writer.connect())
    await connection.begin()
    if connection.dialect.name == "postgresql":
        # Held until the transaction ends. SQLite has a single writer, and waits for it instead.
        lock = func.pg_try_advisory_xact_lock(func.hashtextextended(key, 0))
        if not await connection.scalar(select(lock)):
            raise HTTPException(409, "The first request with this Idempotency-Key is under way.")
    async with AsyncSession(connection) as session:
        stored = await session.get(IdempotencyKey, key)
    if stored is not None and stored.created_at > now() - LIFETIME:
        if stored.request != fingerprint:
            raise HTTPException(422, "This Idempotency-Key was used for another request.")
        raise Replay(stored)
    # get_session joins this transaction, so that the route's commit waits for the answer.
    request.state.transaction = connection
    request.state.claim = {"key": key, "request": fingerprint}


class IdempotentRoute(APIRoute):
    """A route that stores its answer beside the key, and only then commits."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            if "idempotency-key" not in request.headers:
                return await handle(request)
            async with AsyncExitStack() as request.state.resources:
                try:
                    response = await handle(request)
                except Replay as replay:
                    return replay.response
                # A request that fails has done nothing, and may be tried again with its key.
                if hasattr(request.state, "claim"):
                    await store(request.state.transaction, request.state.claim, response)
                return response

        return handle_once


async def store(connection: AsyncConnection, claim: dict[str, str], response: Response) -> None:
    old = col(IdempotencyKey.created_at) < now() - LIFETIME
    # A few at a time, found by their index: nobody pays for a day's worth of keys.
    few = select(IdempotencyKey.key).where(old).limit(10).with_for_update(skip_locked=True)
    same = col(IdempotencyKey.key) == claim["key"]
    await connection.execute(delete(IdempotencyKey).where(same | col(IdempotencyKey.key).in_(few)))
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    answer = {"status": response.status_code, "headers": headers, "body": bytes(response.body)}
    await connection.execute(insert(IdempotencyKey).values(**claim, **answer, created_at=now()))
    await connection.commit()


IDEMPOTENT = Depends(claim_key)
