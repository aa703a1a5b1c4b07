"""The session-per-request pattern, seen from outside and from the database."""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Engines, Wire, assert_problem, create
from fastapi import FastAPI
from sqlalchemy import URL, text
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.types import Message, Receive, Scope, Send

import database
import main
from database import SessionDep
from models import IdempotencyKey, Item


@pytest.fixture
def extra_routes() -> Iterator[FastAPI]:
    """Lets a test add routes of its own to the service, and takes them off again."""
    before = list(main.app.router.routes)
    yield main.app
    main.app.router.routes[:] = before


def checked_out(engines: Engines) -> int:
    pools = (engines.reader.pool, engines.writer.pool)
    return sum(pool.checkedout() for pool in pools if isinstance(pool, AsyncAdaptedQueuePool))


async def test_each_request_gets_its_own_session(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[AsyncSession] = []

    class Counted(AsyncSession):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(database, "AsyncSession", Counted)
    await asyncio.gather(*(client.get("/users") for _ in range(10)))
    await create(client, "/items", name="Engine")
    assert len({id(session) for session in made}) == len(made) == 11


async def test_session_is_closed_before_response_leaves(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    out: list[tuple[str, int]] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            out.append((message["type"], checked_out(engines)))
            await send(message)

        await main.app(scope, receive, watch)

    inside: list[int] = []
    commit = AsyncSession.commit

    async def observe(session: AsyncSession) -> None:
        await commit(session)
        await session.connection()
        inside.append(checked_out(engines))

    monkeypatch.setattr(AsyncSession, "commit", observe)
    transport = httpx.ASGITransport(watched)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post("/items", json={"name": "Engine"})).status_code == 201
        assert (await client.post("/todos", json={"title": "a", "owner_id": 1})).status_code == 409
    assert inside == [1], "the session held a connection while the route ran"
    assert out == [("http.response.start", 0), ("http.response.body", 0)] * 2


async def test_route_that_raises_after_add_leaves_nothing(
    client: httpx.AsyncClient, session: AsyncSession, extra_routes: FastAPI, engines: Engines
) -> None:
    @extra_routes.post("/raise")
    async def add_then_raise(session: SessionDep) -> None:
        session.add(Item(name="Lost"))
        await session.flush()
        raise RuntimeError("after the flush")

    response = await client.post("/raise")
    assert_problem(response, 500)
    assert "after the flush" not in response.text
    assert (await session.exec(select(Item))).all() == []
    assert checked_out(engines) == 0


async def test_constraint_that_the_schemas_should_keep_is_a_defect(
    client: httpx.AsyncClient, extra_routes: FastAPI
) -> None:
    @extra_routes.post("/nameless")
    async def add_without_name(session: SessionDep) -> None:
        session.add(Item(name=None))  # type: ignore[arg-type]
        await session.commit()

    response = await client.post("/nameless")
    assert_problem(response, 500)
    assert "name" not in response.json()["detail"]


async def test_route_that_forgets_commit_stores_nothing(
    client: httpx.AsyncClient, session: AsyncSession, extra_routes: FastAPI
) -> None:
    @extra_routes.post("/forget")
    async def add_without_commit(session: SessionDep) -> int:
        item = Item(name="Lost")
        session.add(item)
        await session.flush()
        assert item.id is not None
        return item.id

    assert (await client.post("/forget")).status_code == 200
    assert (await session.exec(select(Item))).all() == []


async def test_read_is_one_statement_without_transaction(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    await client.get(f"/users/{user['id']}")
    for method in ("GET", "HEAD"):
        wire.clear()
        assert (await client.request(method, f"/users/{user['id']}")).status_code == 200
        assert wire.verbs() == ["SELECT"]


async def test_create_is_one_transaction_with_one_statement(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    await create(client, "/users", email="bob@example.com", name="Bob")
    wire.clear()
    await create(client, "/todos", title="Cards", owner_id=user["id"])
    assert wire.verbs() == ["BEGIN", "INSERT", "COMMIT"]


async def test_refused_create_is_rolled_back(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    await create(client, "/users", email="bob@example.com", name="Bob")
    wire.clear()
    response = await client.post("/users", json={"email": user["email"], "name": "Ada"})
    assert response.status_code == 409
    assert wire.verbs() == ["BEGIN", "INSERT", "ROLLBACK"]


async def test_sqlite_writers_begin_immediate_and_readers_do_not(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    if wire.log:
        pytest.skip("PostgreSQL has no BEGIN IMMEDIATE")
    await client.patch(f"/users/{user['id']}", json={"name": "Ada King"})
    wire.clear()
    await client.patch(f"/users/{user['id']}", json={"name": "Ada"}, headers={"if-match": "*"})
    statements = wire.statements()
    assert statements[0] == "BEGIN IMMEDIATE"
    assert wire.verbs() == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]


async def test_sqlite_connections_are_prepared(engines: Engines) -> None:
    if engines.reader.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has no pragmas")
    for engine in (engines.reader, engines.writer):
        async with engine.connect() as connection:
            values = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert values == ["wal", 1, 1, 4000]


async def test_connections_return_to_the_pool(
    client: httpx.AsyncClient, user: dict[str, Any], engines: Engines, extra_routes: FastAPI
) -> None:
    @extra_routes.post("/raise")
    async def add_then_raise(session: SessionDep) -> None:
        session.add(Item(name="Lost"))
        await session.flush()
        raise RuntimeError

    def requests(number: int) -> Iterator[Awaitable[httpx.Response]]:
        yield client.get("/posts")
        yield client.get("/users/999999")
        yield client.post("/items", json={"name": f"Item {number}"})
        yield client.post("/items", json={"name": ""})
        yield client.post("/users", json={"email": user["email"], "name": "Ada"})
        yield client.post("/todos", json={"title": "a", "owner_id": 999_999})
        yield client.patch(f"/users/{user['id']}", json={"name": f"Ada {number}"})
        yield client.delete("/posts/999999")
        yield client.post("/raise")
        yield client.get("/readyz")

    responses = [r for n in range(20) for r in await asyncio.gather(*requests(n))]
    assert len(responses) == 200
    statuses = {response.status_code for response in responses}
    assert statuses == {200, 201, 404, 409, 422, 500}
    assert checked_out(engines) == 0
    assert len((await client.get("/items")).json()) == 20


async def queue_up(url: URL, *names: str, give_up: int | None = None) -> list[str]:
    """Who gets a pool's only connection, in turn. A newcomer asks when it has just come back."""
    engine, _ = database.make_engines(url, 1)
    served: list[str] = []

    async def borrow(name: str) -> None:
        async with asyncio.timeout(2), engine.connect():
            served.append(name)
            await asyncio.sleep(0)

    held = await engine.connect()
    waiting = []
    for name in names:
        waiting.append(asyncio.create_task(borrow(name)))
        await asyncio.sleep(0.01)
    await held.close()
    # The first has its turn now, but has not woken up to it yet.
    if give_up is not None:
        waiting[give_up].cancel()
    await borrow("newcomer")
    await asyncio.gather(*waiting, return_exceptions=True)
    await engine.dispose()
    return served


async def test_connections_are_lent_in_the_order_in_which_they_are_asked_for(url: URL) -> None:
    assert await queue_up(url, "first", "second") == ["first", "second", "newcomer"]


@pytest.mark.parametrize(("give_up", "left"), [(0, "second"), (1, "first")])
async def test_connection_is_not_lost_with_who_waits_for_it(
    url: URL, give_up: int, left: str
) -> None:
    assert await queue_up(url, "first", "second", give_up=give_up) == [left, "newcomer"]


async def test_get_locks_when_asked_and_never_else(
    client: httpx.AsyncClient, engines: Engines, wire: Wire
) -> None:
    def locks() -> int:
        # SQLite locks the whole database.
        return wire.log.read_text().count("FOR UPDATE") if isinstance(wire.log, Path) else 0

    item = await create(client, "/items", name="Engine")
    for options in ({}, {"with_for_update": False}, {"with_for_update": True}):
        before = locks()
        async with database.AsyncSession(engines.writer) as session:
            row = await session.get(Item, item["id"], **options)
            assert row is not None
            assert row.name == "Engine"
            assert await session.get(Item, (item["id"],)) is row
            assert await session.get(Item, item["id"] + 1) is None
        if wire.log is not None:
            assert locks() - before == sum(options.values())


async def test_update_shows_in_the_row_that_was_read_before(
    client: httpx.AsyncClient, engines: Engines
) -> None:
    item = await create(client, "/items", name="Engine")
    async with database.AsyncSession(engines.writer) as session:
        row = await session.get(Item, item["id"])
        assert row is not None
        assert await session.update(Item, item["id"], {"name": "Difference engine"}) is row
        assert (row.name, row.version) == ("Difference engine", 2)
        assert await session.update(Item, item["id"], {}) is row
        assert await session.update(Item, item["id"] + 1, {"name": "None"}) is None
        await session.commit()
    stored = await client.get(f"/items/{item['id']}")
    assert stored.json() == item | {"name": "Difference engine"}


async def test_update_does_without_a_version(session: AsyncSession, engines: Engines) -> None:
    key = IdempotencyKey(key="a", request="b", status=201, headers={}, body=b"")
    async with database.AsyncSession(engines.writer) as writing:
        writing.add(key)
        await writing.flush()
        assert await writing.update(IdempotencyKey, "a", {"status": 204, "headers": {"a": "b"}})
        await writing.commit()
    (stored,) = (await session.exec(select(IdempotencyKey))).all()
    assert (stored.status, stored.headers, stored.request) == (204, {"a": "b"}, "b")
