"""No framework, no ORM, no validation: the limit of a Python process, not a way to write one."""

import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import asyncpg
import orjson

COLUMNS = "id, email, name, bio, created_at"
pool: asyncpg.Pool


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Any) -> Any:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return orjson.loads(body)


async def app(scope: Any, receive: Any, send: Any) -> None:
    global pool
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], max_size=10)
            await send({"type": message["type"] + ".complete"})
    method, user_id = scope["method"], scope["path"].removeprefix("/users").removeprefix("/")
    if method == "POST":
        data = await read(receive)
        row = await pool.fetchrow(
            f"INSERT INTO users (email, name, bio, created_at) VALUES ($1, $2, $3, $4)"
            f" RETURNING {COLUMNS}",
            data["email"],
            data["name"],
            data.get("bio"),
            datetime.now(UTC),
        )
    elif method == "PATCH":
        data = await read(receive)
        row = await pool.fetchrow(
            f"UPDATE users SET name = coalesce($1, name), bio = coalesce($2, bio) WHERE id = $3"
            f" RETURNING {COLUMNS}",
            data.get("name"),
            data.get("bio"),
            int(user_id),
        )
    elif user_id:
        row = await pool.fetchrow(f"SELECT {COLUMNS} FROM users WHERE id = $1", int(user_id))
    else:
        query = parse_qs(scope["query_string"])
        limit, offset = int(query[b"limit"][0]), int(query.get(b"offset", [0])[0])
        rows = await pool.fetch(
            f"SELECT {COLUMNS} FROM users ORDER BY id LIMIT $1 OFFSET $2", limit, offset
        )
        return await answer(send, 200, orjson.dumps([dict(row) for row in rows]))
    if row is None:
        return await answer(send, 404, b"{}")
    return await answer(send, 201 if method == "POST" else 200, orjson.dumps(dict(row)))
