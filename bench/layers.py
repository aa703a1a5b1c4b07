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

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

import uvloop
from postgres import Postgres
from report import table, versions, write
from run import FILL

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
    from asgi import call
    from fastapi import Depends, Query
    from pydantic import TypeAdapter
    from sqlalchemy import bindparam, select
    from uvicorn import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    import database
    import main
    from conditional import ConditionsDep
    from database import AsyncSession, SessionDep, by_id, reader
    from models import Id, User, UserFilter, UserRead, select_page

    # Routes that stop after a layer.
    @main.app.get("/layers/access", dependencies=[Depends(main.check_access)])
    async def access() -> None: ...

    @main.app.get("/layers/{user_id}/read", dependencies=[Depends(main.check_access)])
    async def read(user_id: Id, conditions: ConditionsDep) -> None: ...

    @main.app.get("/layers/{user_id}/session", dependencies=[Depends(main.check_access)])
    async def session(user_id: Id, conditions: ConditionsDep, session: SessionDep) -> None: ...

    @main.app.get("/layers/page", dependencies=[Depends(main.check_access)])
    async def read_query(page: Annotated[UserFilter, Query()]) -> None: ...

    users: Any = User.__table__  # type: ignore[attr-defined]
    one = select(users).where(users.c.id == bindparam("id"))
    fifty = UserFilter()
    page = fifty.select(User, UserRead)
    async with AsyncSession(reader) as opened:
        user = await opened.get(User, 77)
        rows = (await opened.exec(page, params=fifty.values())).all()
    answer, answers = TypeAdapter(UserRead), TypeAdapter(list[UserRead])
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
    protocol = HttpToolsProtocol(config, ServerState(), {})
    protocol.connection_made(Transport())
    done = asyncio.Event()

    async def serve() -> None:
        done.clear()
        protocol.data_received(b"GET /users/77 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n\r\n")
        await done.wait()
        await asyncio.sleep(0)

    async def open_session() -> None:
        async with AsyncSession(reader):
            pass

    async def connect() -> None:
        async with reader.connect():
            pass

    async def execute(query: Any, parameters: dict[str, Any]) -> None:
        async with reader.connect() as connection:
            (await connection.execute(query, parameters)).all()

    async def load() -> None:
        async with AsyncSession(reader) as session:
            await session.get(User, 77)

    async def load_page() -> None:
        async with AsyncSession(reader) as session:
            (await session.exec(page, params=fifty.values())).all()

    async def build() -> None:
        by_id.__wrapped__(User, False)

    async def build_page() -> None:
        select_page.__wrapped__(User, UserRead, "asc", False, False)

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
            "execute page": lambda: execute(page, fifty.values()),
            "load": load,
            "load page": load_page,
            "query": asking("/layers/page?limit=50"),
            "build": build,
            "find": lambda: now(by_id, User, False),
            "build page": build_page,
            "find page": lambda: now(fifty.select, User, UserRead),
            "validate": lambda: now(answer.validate_python, user, from_attributes=True),
            "validate page": lambda: now(answers.validate_python, rows, from_attributes=True),
            "serialize": lambda: now(answer.dump_json, user),
            "serialize page": lambda: now(answers.dump_json, shown),
            "GET one": asking("/users/77"),
            "list of 50": asking("/users?limit=50"),
        }
    )
    await database.reader.dispose()
    await database.writer.dispose()
    framework = seen["framework"]
    ours = {
        "server: uvicorn's HTTP, without the sockets": (seen["server"],) * 2,
        "framework: middleware, log line, routing": (framework,) * 2,
        "dependencies: who may call": (seen["access"] - framework,) * 2,
        "dependencies: path and headers; query": (
            seen["parameters"] - seen["access"],
            seen["query"] - seen["access"],
        ),
        "session: made, handed over, closed": (seen["session"] - seen["parameters"],) * 2,
        "connection: out of the pool and back": (seen["checkout"],) * 2,
        "statement: built": (seen["find"], seen["find page"]),
        "statement: executed (Core, psycopg, the wire)": (
            seen["execute one"] - seen["checkout"],
            seen["execute page"] - seen["checkout"],
        ),
        "rows to objects, and the session's part in it": (
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
    return table(["layer", "GET one", "list of 50"], lines) + (
        f"\nBuilding the statements anew each time would add {seen['build']:.0f} and"
        f" {seen['build page']:.0f} µs, and the search for their cached forms.\n"
    )


def main() -> None:
    server = Postgres(log_statement="none")
    try:
        url = server.create_database("filled").render_as_string(hide_password=False)
        os.environ |= {"DATABASE_URL": url, "POOL_SIZE": "10"}
        from alembic import command

        import main
        import serve

        command.upgrade(main.MIGRATIONS, "head")
        server.execute(FILL, "filled")
        with open(os.devnull, "w") as nowhere:
            sys.stdout, terminal = nowhere, sys.stdout
            logging.config.dictConfig(serve.LOGGING)
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
