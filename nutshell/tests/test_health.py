"""Alive, and ready."""

from types import SimpleNamespace

import httpx
import pytest
from sqlalchemy import make_url, text

from nutshell.tests.fixtures import Pools, assert_problem
from nutshell import app as service
from nutshell.app import HEAD, Prober


async def test_healthz_is_alive(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {"status": "ok"}


async def test_readyz_is_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {"status": "ok"}


async def test_readyz_with_another_schema_is_unavailable(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FRESH", 0)

    async def set_revision(revision: str) -> None:
        async with pools.writer.engine.begin() as connection:
            update = text("UPDATE alembic_version SET version_num = :revision")
            await connection.execute(update, {"revision": revision})

    await set_revision("0001")
    try:
        assert_problem(await client.get("/readyz"), 503)
        assert (await client.get("/healthz")).status_code == 200
    finally:
        await set_revision(str(HEAD))
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "away", ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://a:b@127.0.0.1:1/c"]
)
async def test_readyz_without_database_is_unavailable(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    monkeypatch.setattr(service, "prober", Prober(make_url(away)))
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

    async def count() -> str | None:
        asked.append(None)
        return await ask()

    monkeypatch.setattr(pools.prober, "ask", count)
    clock = [1000.0]
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for later, expected in ((0.0, 1), (0.9, 1), (0.2, 2), (0.9, 2)):
        clock[0] += later
        for _ in range(3):
            assert (await client.get("/readyz")).status_code == 200
        assert len(asked) == expected
