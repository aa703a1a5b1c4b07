"""POST with an `Idempotency-Key`: once, however often it is sent."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from pydantic import SecretStr
from sqlalchemy import text
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Pools, assert_problem
from nutshell import idempotency
from nutshell.database import SessionDep
from nutshell.fields import now
from nutshell.idempotency import IdempotencyKey
from nutshell.settings import settings
from nutshell.tests.library import Book

KEY = {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def comparable(response: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    differing = ("x-request-id", "idempotency-replayed")
    headers = {name: value for name, value in response.headers.items() if name not in differing}
    return response.status_code, response.content, headers


async def stored_titles(session: AsyncSession) -> list[str]:
    return list(await session.exec(select(Book.title).order_by(col(Book.id))))


async def test_repeat_returns_the_first_answer(
    client: httpx.AsyncClient, shelf: dict[str, Any], session: AsyncSession
) -> None:
    for number, (path, data) in enumerate(
        [
            ("/shelves", {"label": "Bottom"}),
            ("/books", {"title": "a", "shelf_id": shelf["id"]}),
            ("/books/batch", [{"title": "b"}, {"title": "c"}]),
        ]
    ):
        key = {"idempotency-key": f"key-{number}"}
        first = await client.post(path, json=data, headers=key)
        assert first.status_code == 201
        assert "idempotency-replayed" not in first.headers
        for _ in range(2):
            repeat = await client.post(path, json=data, headers=key)
            assert comparable(repeat) == comparable(first)
            assert repeat.headers["idempotency-replayed"] == "true"
    assert await stored_titles(session) == ["a", "b", "c"]


async def test_repeat_returns_the_first_answer_though_the_row_has_changed(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post("/books", json={"title": "a"}, headers=KEY)
    await client.delete(first.headers["location"])
    repeat = await client.post("/books", json={"title": "a"}, headers=KEY)
    assert comparable(repeat) == comparable(first)
    assert_problem(await client.get(first.headers["location"]), 404)


async def test_key_with_or_without_quotes_is_the_same(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    for key in ('"abc"', "abc"):
        await client.post("/books", json={"title": "a"}, headers={"idempotency-key": key})
    assert await stored_titles(session) == ["a"]


async def test_same_key_for_another_request_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, extra: FastAPI
) -> None:
    @extra.post("/shelves/sort")
    async def sort_shelves(session: SessionDep, times: int = 1) -> None:
        await session.commit()

    async def send(path: str, data: object = None, key: dict[str, str] = KEY) -> httpx.Response:
        return await client.post(path, json=data, headers=key)

    other = {"idempotency-key": "other"}
    await send("/books", {"title": "a"})
    await send("/shelves/sort", key=other)
    for response in (
        await send("/books", {"title": "b"}),
        await send("/books/batch", [{"title": "a"}]),
        await send("/shelves/sort?times=2", key=other),
    ):
        assert_problem(response, 422, ("header", "Idempotency-Key"))
        assert response.json()["errors"][0]["type"] == "key_reused"
    assert await stored_titles(session) == ["a"]


@pytest.mark.parametrize("key", ["", '"', '""', '"a', 'a"', "a b", "a,b c", "x" * 256, "\xe9"])
async def test_malformed_key_is_a_bad_request(
    client: httpx.AsyncClient, session: AsyncSession, key: str
) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    assert_problem(await client.post("/books", json={"title": "a"}, headers=headers), 400)
    assert await stored_titles(session) == []


async def test_two_keys_are_a_bad_request(client: httpx.AsyncClient) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert_problem(await client.post("/books", json={"title": "a"}, headers=headers), 400)


async def test_failed_request_leaves_its_key_free(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    data = {"title": "a", "shelf_id": 999_999}
    for path, body, status in [("/books", {"title": ""}, 422), ("/books", data, 409)]:
        assert_problem_status(await client.post(path, json=body, headers=KEY), status)
    response = await client.post("/books", json={"title": "a"}, headers=KEY)
    assert response.status_code == 201
    assert await stored_titles(session) == ["a"]


def assert_problem_status(response: httpx.Response, status: int) -> None:
    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "application/problem+json",
    )


async def test_many_at_once_with_one_key_make_one_row(
    client: httpx.AsyncClient, session: AsyncSession, pools: Pools
) -> None:
    calls = [client.post("/books", json={"title": "a"}, headers=KEY) for _ in range(20)]
    statuses = {response.status_code for response in await asyncio.gather(*calls)}
    # On SQLite they take turns, so the later ones get the first answer.
    allowed = {201} if pools.writer.engine.dialect.name == "sqlite" else {201, 409}
    assert statuses <= allowed
    assert 201 in statuses
    assert await stored_titles(session) == ["a"]


async def test_key_in_flight_conflicts(client: httpx.AsyncClient, pools: Pools) -> None:
    if pools.writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer: the second request waits for the first")
    async with pools.reader.engine.connect() as other:
        await other.execution_options(isolation_level="READ COMMITTED")
        await other.execute(text("LOCK TABLE books IN EXCLUSIVE MODE"))
        first = asyncio.create_task(client.post("/books", json={"title": "a"}, headers=KEY))
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        blocked = 0
        while not blocked:
            assert not first.done()
            async with pools.writer.engine.connect() as connection:
                blocked = await connection.scalar(waiting) or 0
        second = await client.post("/books", json={"title": "a"}, headers=KEY)
        assert_problem(second, 409)
        assert second.headers["retry-after"] == "1"
        assert not first.done()
        await other.rollback()
    assert (await first).status_code == 201


async def test_spelling_of_the_token_makes_no_second_row(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    for spelling in ("Bearer sesame", "bearer sesame", "BEARER  sesame"):
        headers = KEY | {"authorization": spelling}
        response = await client.post("/books", json={"title": "a"}, headers=headers)
        assert response.status_code == 201
    for wrong in (KEY, KEY | {"authorization": "Bearer guess"}):
        assert_problem(await client.post("/books", json={"title": "a"}, headers=wrong), 401)
    assert await stored_titles(session) == ["a"]


async def test_key_opens_no_door_to_callers_from_elsewhere(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    assert (await client.post("/books", json={"title": "a"}, headers=KEY)).status_code == 201
    passed_on = KEY | {"x-forwarded-for": "203.0.113.9"}
    assert_problem(await client.post("/books", json={"title": "a"}, headers=passed_on), 403)
    assert await stored_titles(session) == ["a"]


@pytest.mark.parametrize("hours", [-24.1, 24.1], ids=["yesterday", "by a clock that was wrong"])
async def test_key_of_another_day_expires(
    client: httpx.AsyncClient, session: AsyncSession, pools: Pools, hours: float
) -> None:
    for number in range(15):
        key = {"idempotency-key": f"key-{number}"}
        await client.post("/books", json={"title": "old"}, headers=key)
    async with pools.writer.engine.begin() as connection:
        await connection.execute(
            update(IdempotencyKey).values(created_at=now() + timedelta(hours=hours))
        )
    again = await client.post("/books", json={"title": "new"}, headers={"idempotency-key": "key-3"})
    assert again.status_code == 201
    assert again.json()["title"] == "new"
    keys = (await session.exec(select(IdempotencyKey))).all()
    assert 5 <= len(keys) <= 6, "a few expired keys go with each new one"


async def test_expired_key_that_is_locked_keeps_nobody_waiting(
    client: httpx.AsyncClient, pools: Pools
) -> None:
    if pools.writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks no single rows")
    await client.post("/books", json={"title": "old"}, headers=KEY)
    old = update(IdempotencyKey).values(created_at=now() - timedelta(hours=25))
    async with pools.writer.engine.begin() as connection:
        await connection.execute(old)
    async with pools.writer.engine.begin() as other:
        await other.execute(select(IdempotencyKey.key).with_for_update())
        async with asyncio.timeout(10):
            new = {"idempotency-key": "new"}
            response = await client.post("/books", json={"title": "new"}, headers=new)
        assert response.status_code == 201


async def test_start_of_a_process_deletes_expired_keys(
    client: httpx.AsyncClient,
    session: AsyncSession,
    pools: Pools,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(25):
        headers = {"idempotency-key": f"key-{number}"}
        await client.post("/books", json={"title": "old"}, headers=headers)
    async with pools.writer.engine.begin() as connection:
        await connection.execute(
            update(IdempotencyKey)
            .where(col(IdempotencyKey.key) != idempotency.digest(b"key-3"))
            .values(created_at=now() - timedelta(hours=24, seconds=1))
        )
    monkeypatch.setattr(idempotency, "MANY", 7)
    await idempotency.purge_old_keys()
    assert len((await session.exec(select(IdempotencyKey))).all()) == 1


async def test_crash_before_the_commit_leaves_neither_row_nor_key(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("between the rows and the key")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "store", crash)
        assert_problem(await client.post("/books", json={"title": "a"}, headers=KEY), 500)
    assert await stored_titles(session) == []
    assert (await client.post("/books", json={"title": "a"}, headers=KEY)).status_code == 201
    assert await stored_titles(session) == ["a"]


async def test_replay_repeats_every_header(client: httpx.AsyncClient, extra: FastAPI) -> None:
    @extra.post("/cookies", status_code=201)
    async def set_cookies(response: Response, session: SessionDep) -> None:
        for name in ("one", "two"):
            response.set_cookie(name, "1")
        session.add(Book(title="a"))
        await session.commit()

    for _ in range(2):
        response = await client.post("/cookies", headers=KEY)
        assert len(response.headers.get_list("set-cookie")) == 2
        client.cookies.clear()
