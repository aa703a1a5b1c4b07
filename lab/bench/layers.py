"""One request taken apart: µs of CPU time for each layer. `make layers` runs it.

Every figure is the smallest of several interleaved rounds in one process, one request at a time,
with PostgreSQL on the same machine; what the database's own processes spend is not in it.
"""

import asyncio
import gc
import logging.config
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).parents[2]

import uvloop

from lab.bench.report import table, versions, write
from lab.bench.run import FILL
from nutshell.tests.postgres import Postgres

ROUNDS = 7
TIMES = 300


async def measure(layers: dict[str, Callable[[], Awaitable[Any]]]) -> dict[str, float]:
    """µs of CPU time of one call of each."""
    best = dict.fromkeys(layers, float("inf"))
    for turn in range(ROUNDS + 1):  # the first fills caches
        for name, function in layers.items():
            before = time.process_time()
            for _ in range(TIMES):
                await function()
            spent = (time.process_time() - before) / TIMES * 1e6
            if turn:
                best[name] = min(best[name], spent)
    return best


async def take_apart() -> str:
    from fastapi import Query
    from pydantic import TypeAdapter
    from sqlalchemy import bindparam, select
    from sqlmodel.ext.asyncio.session import AsyncSession
    from uvicorn import Config
    from uvicorn.server import ServerState

    import main
    from models import User, UserFilter, UserRead
    from nutshell.database import SessionDep, SnapshotDep, reader
    from nutshell.fields import Id
    from nutshell.protocol import Protocol
    from nutshell.tests.asgi import call

    # Routes that stop after a layer.
    @main.app.get("/layers/access")
    async def access() -> None: ...

    @main.app.get("/layers/{user_id}/read")
    async def read(user_id: Id) -> None: ...

    @main.app.get("/layers/{user_id}/session")
    async def session(user_id: Id, session: SessionDep) -> None: ...

    @main.app.get("/layers/{user_id}/snapshot", response_model=UserRead)
    async def read_snapshot(user_id: Id, session: SnapshotDep) -> User:
        return await session.get_one(User, user_id)

    @main.app.get("/layers/page")
    async def read_query(page: Annotated[UserFilter, Query()]) -> None: ...

    engine = reader.engine
    users: Any = User.__table__  # type: ignore[attr-defined]
    one = select(users).where(users.c.id == bindparam("id"))
    fifty = UserFilter()
    (page,) = fifty.in_order(fifty.select(User, UserRead))
    page = page.limit(fifty.size + 1)
    async with AsyncSession(engine) as opened:
        user = await opened.get_one(User, 77)
        rows = (await opened.exec(page)).all()
    answer, answers = TypeAdapter(UserRead), TypeAdapter(list[UserRead])
    shown_one = answer.validate_python(user, from_attributes=True)
    shown = answers.validate_python(rows, from_attributes=True)

    def asking(target: str) -> Callable[[], Awaitable[Any]]:
        return lambda: call(main.app, "GET", target)

    class Transport(asyncio.Transport):
        def is_closing(self) -> bool:
            return False

        def resume_reading(self) -> None: ...

        def write(self, data: Any) -> None:
            if b"hello" in data:
                done.set()

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    config = Config(hello, log_config=None, access_log=False, server_header=False)
    config.load()
    protocol = Protocol(config, ServerState(), {})
    protocol.connection_made(Transport())
    done = asyncio.Event()

    async def serve() -> None:
        done.clear()
        protocol.data_received(b"GET /users/77 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n\r\n")
        await done.wait()
        await asyncio.sleep(0)

    async def open_session() -> None:
        async with AsyncSession(engine):
            pass

    async def connect() -> None:
        async with engine.connect():
            pass

    async def execute(query: Any, parameters: dict[str, Any]) -> None:
        async with engine.connect() as connection:
            (await connection.execute(query, parameters)).all()

    async def load() -> None:
        async with AsyncSession(engine) as session:
            await session.get_one(User, 77)

    async def load_page() -> None:
        async with AsyncSession(engine) as session:
            (await session.exec(page)).all()

    async def now(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        function(*arguments, **options)

    seen = await measure(
        {
            "server": serve,
            "framework": asking("/healthz"),
            "access": asking("/layers/access"),
            "parameters": asking("/layers/77/read"),
            "session": asking("/layers/77/session"),
            "open": open_session,
            "checkout": connect,
            "execute one": lambda: execute(one, {"id": 77}),
            "execute page": lambda: execute(page, {}),
            "load": load,
            "load page": load_page,
            "query": asking("/layers/page?limit=50"),
            "build page": lambda: now(lambda: fifty.in_order(fifty.select(User, UserRead))),
            "validate": lambda: now(answer.validate_python, user, from_attributes=True),
            "validate page": lambda: now(answers.validate_python, rows, from_attributes=True),
            "serialize": lambda: now(answer.dump_json, shown_one),
            "serialize page": lambda: now(answers.dump_json, shown),
            "GET one": asking("/users/77"),
            "snapshot": asking("/layers/77/snapshot"),
            "list of 50": asking("/users?limit=50"),
        }
    )
    await engine.dispose()
    framework = seen["framework"]
    ours = {
        "server: uvicorn's HTTP, without the sockets": (seen["server"],) * 2,
        "framework: middleware, log line, routing": (framework,) * 2,
        "who may call": (seen["access"] - framework,) * 2,
        "parameters: path; query": (
            seen["parameters"] - seen["access"],
            seen["query"] - seen["access"],
        ),
        "session: its turn, made, handed over, closed": (seen["session"] - seen["parameters"],) * 2,
        "connection: out of the pool and back": (seen["checkout"],) * 2,
        "statement: built (of GET one: in the next but one)": (0, seen["build page"]),
        "statement: executed (Core, psycopg, the wire)": (
            seen["execute one"] - seen["checkout"],
            seen["execute page"] - seen["checkout"],
        ),
        "rows to objects or dicts, and the session's part in it": (
            seen["load"] - seen["open"] - seen["execute one"],
            seen["load page"] - seen["open"] - seen["execute page"],
        ),
        "validation": (seen["validate"], seen["validate page"]),
        "serialization": (seen["serialize"], seen["serialize page"]),
    }
    lines = [[name, *(f"{value:.0f}" for value in pair)] for name, pair in ours.items()]
    wholes = (seen["GET one"] + seen["server"], seen["list of 50"] + seen["server"])
    sums = [sum(pair[side] for pair in ours.values()) for side in (0, 1)]
    rest = [f"{whole - known:.0f}" for whole, known in zip(wholes, sums, strict=True)]
    lines.append(["the rest, by subtraction", *rest])
    lines.append(["**whole request**", *(f"**{whole:.0f}**" for whole in wholes)])
    more = seen["snapshot"] - seen["GET one"]
    return table(["layer", "GET one", "list of 50"], lines) + (
        f"\n\nFrom a snapshot, GET one takes {more:.0f} µs more (BEGIN and ROLLBACK, each a round trip),"
        f" {seen['snapshot'] / seen['GET one']:.2f} times as much."
    )


def main() -> None:
    server = Postgres(log_statement="none")
    try:
        from alembic import command

        from nutshell.settings import settings

        # Before the engines are made, which is when nutshell.database is imported.
        settings.database_url = server.create_database("filled")
        settings.pool_size = 10
        settings.open_local = True

        from nutshell.log import LOGGING
        from nutshell.migrate import MIGRATIONS

        command.upgrade(MIGRATIONS, "head")
        server.execute(FILL, "filled")
        with open(os.devnull, "w") as nowhere:
            sys.stdout, terminal = nowhere, sys.stdout
            logging.config.dictConfig(LOGGING)
            sys.stdout = terminal
            gc.collect()
            gc.freeze()
            text = uvloop.run(take_apart())
    finally:
        server.close()
    write(
        "A request taken apart",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions()}. µs of CPU time, one request at a time.\n\n"
        + text,
    )


if __name__ == "__main__":
    main()
