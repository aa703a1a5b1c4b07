"""Alive, and ready."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, Connection, make_url, text

from nutshell.tests.fixtures import Pools, assert_problem, use_pools
from nutshell import health
from nutshell.health import HEAD, Prober
from nutshell.settings import settings
from nutshell.tests.postgres import Postgres


async def test_healthz_is_alive(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {"status": "ok"}


async def test_readyz_is_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {"status": "ok", "schema": "current"}


async def set_revision(pools: Pools, revision: str) -> None:
    async with pools.writer.engine.begin() as connection:
        update = text("UPDATE alembic_version SET version_num = :revision")
        await connection.execute(update, {"revision": revision})


async def test_readyz_tells_of_a_schema_that_is_ahead_and_of_its_return(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FRESH", 0)
    looks: list[Connection] = []

    def find_missing(connection: Connection) -> list[str]:
        looks.append(connection)
        return []  # the service's own tables are not in this database

    monkeypatch.setattr(health, "find_missing", find_missing)
    try:
        await set_revision(pools, "later")
        for _ in range(3):
            assert (await client.get("/readyz")).json() == {"status": "ok", "schema": "ahead"}
        assert len(looks) == 1, "it compares the schema with the models once"
    finally:
        await set_revision(pools, str(HEAD))
    assert (await client.get("/readyz")).json() == {"status": "ok", "schema": "current"}


async def test_readyz_with_another_schema_is_unavailable(
    client: httpx.AsyncClient,
    pools: Pools,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(health, "FRESH", 0)
    monkeypatch.setattr(health, "KNOWN", {"earlier", str(HEAD)})

    await set_revision(pools, "earlier")
    try:
        for _ in range(3):
            assert_problem(await client.get("/readyz"), 503)
        assert (await client.get("/healthz")).status_code == 200
    finally:
        await set_revision(pools, str(HEAD))
    assert (await client.get("/readyz")).status_code == 200
    told = [record.getMessage() for record in caplog.records if record.name == health.__name__]
    assert len(told) == 1, "each change is told once"


@pytest.mark.parametrize(
    "away", ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://a:b@127.0.0.1:1/c"]
)
async def test_readyz_without_database_is_unavailable(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    monkeypatch.setattr(health, "prober", Prober(make_url(away)))
    answer = await client.get("/readyz")
    assert_problem(answer, 503)
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["retry-after"]) > 0
    assert (await client.get("/healthz")).status_code == 200


async def test_database_is_asked_once_a_second_however_many_ask(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    ask = pools.prober.ask

    async def count() -> tuple[str | None, str]:
        asked.append(None)
        return await ask()

    monkeypatch.setattr(pools.prober, "ask", count)
    clock = [1000.0]
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for later, expected in ((0.0, 1), (0.9, 1), (0.2, 2), (0.9, 2)):
        clock[0] += later
        for _ in range(3):
            assert (await client.get("/readyz")).status_code == 200
        assert len(asked) == expected


@pytest.fixture
async def caller(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app on whatever pools the test uses."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as caller:
        yield caller


async def test_down_unmigrated_and_read_only_are_told_apart(
    caller: httpx.AsyncClient,
    empty_url: URL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(health, "FRESH", 0)
    touch(empty_url)
    pools = Pools(empty_url, 1)
    use_pools(pools, monkeypatch)
    with caplog.at_level(logging.INFO, "nutshell.health"):
        for _ in range(3):
            answer = await caller.get("/readyz")
            assert_problem(answer, 503)
            assert "alembic upgrade head" in answer.json()["detail"]
        if empty_url.get_backend_name() == "postgresql":
            async with pools.writer.engine.begin() as connection:
                await connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
                insert = text("INSERT INTO alembic_version VALUES (:head)")
                await connection.execute(insert, {"head": HEAD})
                name = empty_url.database
                await connection.execute(
                    text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                )
            await pools.prober.engine.dispose()
            answer = await caller.get("/readyz")
            assert_problem(answer, 503)
            assert answer.json()["detail"] == "The database is read-only."
        await pools.prober.engine.dispose()
        monkeypatch.setattr(
            pools.prober,
            "engine",
            Prober(make_url("postgresql+psycopg://u:p@127.0.0.1:1/x")).engine,
        )
        for _ in range(3):
            answer = await caller.get("/readyz")
            assert_problem(answer, 503)
            assert answer.json()["detail"] == "The database does not answer."
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(set(messages)), "each change is told once"
    assert "Connection refused" in messages[-1]
    assert all("\n" not in message for message in messages)
    await pools.dispose()


async def test_every_call_to_an_unmigrated_database_is_unavailable_and_one_line(
    caller: httpx.AsyncClient,
    empty_url: URL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    touch(empty_url)
    pools = Pools(empty_url, 1)
    use_pools(pools, monkeypatch)
    await caller.get("/readyz")  # whose line is no call's
    with caplog.at_level(logging.WARNING):
        for call in (
            caller.get("/books"),
            caller.get("/books/1"),
            caller.post("/books", json={"title": "a"}),
            caller.post("/books", json={"title": "a"}, headers={"idempotency-key": "a"}),
        ):
            caplog.clear()
            answer = await call
            assert_problem(answer, 503)
            assert answer.headers["retry-after"] == "1"
            (record,) = caplog.records
            assert "run alembic upgrade head" in record.getMessage()
            assert record.exc_info is None
    await pools.dispose()


def touch(url: URL) -> None:
    """Makes the file: the service opens none that is not there."""
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).touch()


async def test_full_database_is_named_with_the_connections_wanted(
    caller: httpx.AsyncClient,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = postgres.create_database("crowded")
    postgres.execute("CREATE ROLE one LOGIN PASSWORD 'one' CONNECTION LIMIT 0")
    pools = Pools(url.set(username="one", password="one"), 1)
    use_pools(pools, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert_problem(await caller.get("/books"), 503)
        assert_problem(await caller.get("/readyz"), 503)
    for record in caplog.records:
        wanted = 2 * settings.pool_size + 1
        assert f"refuses more connections. Each process opens up to {wanted}" in record.getMessage()
    assert len(caplog.records) == 2
    await pools.dispose()
    postgres.execute("DROP ROLE one")
