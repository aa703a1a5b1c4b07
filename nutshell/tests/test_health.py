"""Alive, and ready."""

import httpx
import pytest
from sqlalchemy import make_url, text

from nutshell.tests.fixtures import Pools, assert_problem
from nutshell import health
from nutshell.health import HEAD, Prober


async def test_healthz_is_alive(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_readyz_is_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "schema": "current"}


async def test_readyz_with_another_schema_is_unavailable(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FRESH", 0)

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
    monkeypatch.setattr(health, "prober", Prober(make_url(away)))
    assert_problem(await client.get("/readyz"), 503)
    assert (await client.get("/healthz")).status_code == 200
