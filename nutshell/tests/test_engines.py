"""The pools: who gets a connection, for how long, and in what state."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from psycopg import AsyncConnection
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from nutshell.tests.fixtures import Pools, Wire, assert_problem, create
from nutshell import engines
from nutshell.engines import Pool, make_engine


async def queue_up(pool: Pool, *names: str, give_up: int | None = None) -> list[str]:
    """Who gets a pool's only connection, in order. A newcomer asks when it has just come back."""
    served: list[str] = []

    async def borrow(name: str) -> None:
        async with asyncio.timeout(20), pool.slot(), pool.engine.connect():
            served.append(name)
            await asyncio.sleep(0)

    waiting = []
    async with pool.slot(), pool.engine.connect():
        for name in names:
            waiting.append(asyncio.create_task(borrow(name)))
            await asyncio.sleep(0.01)
    # The first has its turn now, but has not woken up to it yet.
    if give_up is not None:
        waiting[give_up].cancel()
    await borrow("newcomer")
    await asyncio.gather(*waiting, return_exceptions=True)
    return served


@pytest.fixture
def single(pools: Pools) -> Pool:
    return Pool(pools.reader.engine, 1)


async def test_connections_are_lent_in_the_order_of_asking(single: Pool) -> None:
    assert await queue_up(single, "first", "second") == ["first", "second", "newcomer"]


@pytest.mark.parametrize(("give_up", "left"), [(0, "second"), (1, "first")])
async def test_place_of_a_request_that_gives_up_is_not_lost(
    single: Pool, give_up: int, left: str
) -> None:
    assert await queue_up(single, "first", "second", give_up=give_up) == [left, "newcomer"]


async def test_request_that_waits_too_long_for_a_connection_is_unavailable(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "WAIT", 0.5)

    async def fill(pool: Pool, number: int) -> float:
        async with pool.slot():
            if number > 1:
                return await fill(pool, number - 1)
            began = time.monotonic()
            calls = [client.get("/books") for _ in range(3)]
            for response in await asyncio.gather(*calls):
                assert_problem(response, 503)
                assert response.headers["retry-after"] == "1"
            return time.monotonic() - began

    assert 0.4 < await fill(pools.reader, pools.reader.size) < 4
    assert (await client.get("/books")).status_code == 200


async def test_second_session_of_a_request_waits_no_longer(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns count requests. The pool itself gives up in time when one wants two connections."""
    monkeypatch.setattr(engines, "WAIT", 0.3)
    engine = make_engine(url, 1)
    async with engine.connect():
        with pytest.raises(PoolTimeout):
            async with asyncio.timeout(10):
                await engine.connect()
    await engine.dispose()


async def test_statements_are_not_prepared_and_not_shown(pools: Pools) -> None:
    for pool in pools.both:
        async with pool.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if isinstance(driver, AsyncConnection):
                assert driver.prepare_threshold is None
            with pytest.raises(DBAPIError) as error:
                await connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "sesame"})
            assert "nowhere" in str(error.value)
            assert "sesame" not in str(error.value)


async def test_reader_neither_begins_nor_rolls_back(
    client: httpx.AsyncClient, wire: Wire, pools: Pools
) -> None:
    assert pools.reader.engine.dialect.skip_autocommit_rollback
    async with pools.reader.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    wire.clear()
    async with pools.reader.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    assert wire.verbs() == ["SELECT"]


async def test_statement_is_cancelled_when_a_connection_is_held_too_long(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pools.reader.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server that could freeze")
    monkeypatch.setattr(engines, "HOLD", 0.5)
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    pid = text("SELECT pg_backend_pid()")
    async with pools.reader.engine.connect() as connection:
        before = await connection.scalar(pid)
        # On a busy machine it may have hung up before it hears of the cancellation.
        with pytest.raises(DBAPIError, match=r"QueryCanceled|consuming input failed"):
            await connection.execute(text("SELECT pg_sleep(20)"))
    async with asyncio.timeout(10):
        left = 1
        while left:
            async with pools.writer.engine.connect() as connection:
                left = await connection.scalar(waiting)
    async with pools.reader.engine.connect() as connection:
        # A late cancellation must not hit the next request.
        assert await connection.scalar(pid) != before
    assert (await client.get("/books")).status_code == 200


async def test_connections_that_the_server_has_closed_are_not_used(
    client: httpx.AsyncClient, pools: Pools
) -> None:
    if pools.reader.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server")
    for _ in range(2):
        calls = [client.get("/books") for _ in range(4)]
        calls += [client.post("/books", json={"title": "Notes"}) for _ in range(4)]
        statuses = [response.status_code for response in await asyncio.gather(*calls)]
        assert statuses == [200] * 4 + [201] * 4
        killer = make_engine(pools.reader.engine.url, 1, autocommit=True)
        async with killer.connect() as connection:
            end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"  # and waits
            here = "datname = current_database() AND pid <> pg_backend_pid()"
            assert len((await connection.execute(text(f"{end} WHERE {here}"))).all()) >= 2
        await killer.dispose()


async def test_write_to_a_deleted_file_fails(client: httpx.AsyncClient, pools: Pools) -> None:
    if pools.writer.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL keeps its files itself")
    file = Path(str(pools.writer.engine.url.database).removeprefix("file:"))
    aside = file.with_suffix(".aside")
    await create(client, "/books", title="Notes")
    file.rename(aside)
    try:
        assert_problem(await client.post("/books", json={"title": "Lost"}), 503)
        assert_problem(await client.get("/books"), 503)
        assert not file.exists()
    finally:
        aside.rename(file)
    assert [book["title"] for book in (await client.get("/books")).json()] == ["Notes"]
    assert (await client.post("/books", json={"title": "Kept"})).status_code == 201


async def test_read_only_server_is_left(client: httpx.AsyncClient, pools: Pools) -> None:
    engine = pools.writer.engine
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server")
    async with engine.connect() as connection:
        before = await connection.scalar(text("SELECT pg_backend_pid()"))
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        await connection.commit()
    assert_problem(await client.post("/books", json={"title": "Notes"}), 503)
    assert (await client.post("/books", json={"title": "Notes"})).status_code == 201
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != before


@pytest.mark.parametrize("url", ["sqlite:////tmp/a.db", "postgresql+psycopg://a@127.0.0.1:1/b"])
async def test_pools_are_no_larger_than_asked(url: str) -> None:
    """But for the spare connections to a file, which long statements take."""
    reader, writer = engines.make_pools(make_url(url), 7)
    sizes = [pool.engine.pool.size() for pool in (reader, writer)]  # type: ignore[attr-defined]
    assert sizes == [reader.size + reader.spare, writer.size]
    assert [reader.size, writer.size] == [7, 1 if url.startswith("sqlite") else 7]
    assert make_engine(make_url(url), 1).pool._max_overflow == 0  # type: ignore[attr-defined]
