"""Work after the answer: background tasks and streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Pools, assert_problem, create
from nutshell import engines
from nutshell.database import SessionDep, background_session
from nutshell.guards import ForgottenCommitError
from nutshell.tests.library import Book


async def test_session_of_the_request_is_closed_for_a_background_task(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools
) -> None:
    failures: list[Exception] = []

    async def use_closed(session: AsyncSession) -> None:
        try:
            await session.exec(select(Book))
        except InvalidRequestError as error:
            failures.append(error)

    @extra.post("/later")
    async def run_later(session: SessionDep, tasks: BackgroundTasks) -> None:
        session.add(Book(title="Notes"))
        await session.commit()
        tasks.add_task(use_closed, session)

    @extra.get("/later")
    async def read_later(session: SessionDep, tasks: BackgroundTasks) -> None:
        await session.exec(select(Book))
        tasks.add_task(use_closed, session)

    for _ in range(5):  # one more than the pool has
        assert (await client.post("/later")).status_code == 200
        assert (await client.get("/later")).status_code == 200
    assert len(failures) == 10
    assert pools.checked_out() == 0
    await create(client, "/books", title="Sketches")
    assert len((await client.get("/books")).json()) == 6


async def test_background_task_has_a_session_of_its_own(
    client: httpx.AsyncClient, extra: FastAPI, session: AsyncSession, pools: Pools
) -> None:
    async def add_another(title: str) -> None:
        async with background_session() as own:
            own.add(Book(title=title))
            await own.commit()

    @extra.post("/with-a-copy")
    async def create_with_a_copy(session: SessionDep, tasks: BackgroundTasks) -> None:
        session.add(Book(title="Notes"))
        await session.commit()
        tasks.add_task(add_another, "Copy")

    calls = (client.post("/with-a-copy") for _ in range(3 * pools.writer.size))
    assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
    titles = [book.title for book in await session.exec(select(Book))]
    assert titles.count("Copy") == titles.count("Notes") == 3 * pools.writer.size
    assert pools.checked_out() == 0


async def test_background_task_that_fails_keeps_nothing(
    client: httpx.AsyncClient, extra: FastAPI, session: AsyncSession, pools: Pools
) -> None:
    async def fail() -> None:
        async with background_session() as own:
            own.add(Book(title="Lost"))
            await own.flush()
            raise ValueError("after the flush")

    @extra.post("/failing")
    async def run_failing(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    # The answer was sent before the task: the server logs what went wrong.
    assert (await client.post("/failing")).status_code == 200
    assert (await session.exec(select(Book))).all() == []
    assert pools.checked_out() == 0


async def test_background_session_must_commit_and_a_safe_one_cannot_write(
    session: AsyncSession, pools: Pools
) -> None:
    async def add(*, safe: bool) -> None:
        async with background_session(safe=safe) as own:
            own.add(Book(title="Lost"))
            await own.flush()

    with pytest.raises(ForgottenCommitError, match="A background session"):
        await add(safe=False)
    with pytest.raises(RuntimeError, match="must not write"):
        await add(safe=True)
    assert (await session.exec(select(Book))).all() == []
    assert pools.checked_out() == 0


async def test_background_session_waits_for_a_slot_as_requests_do(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "WAIT", 0.1)
    held = [background_session() for _ in range(pools.writer.size)]
    for one in held:
        await one.__aenter__()
    with pytest.raises(PoolTimeout):
        async with background_session():
            pass
    for one in held:
        await one.__aexit__(None, None, None)
    async with background_session():
        pass


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_background_session_may_keep_its_connection_for_longer(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HOLD", 0.1)
    async with background_session(safe=True, hold=60) as session:
        await session.exec(select(Book))
        await asyncio.sleep(0.3)
        await session.exec(select(Book))


async def test_stream_holds_a_connection_as_long_as_it_streams(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools
) -> None:
    out: list[int] = []

    @extra.get("/export")
    async def export() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with background_session(safe=True, hold=60) as session:
                query = select(Book).order_by(col(Book.id)).execution_options(yield_per=10)
                async for book in await session.stream_scalars(query):
                    out.append(pools.checked_out())
                    yield json.dumps(book.model_dump()) + "\n"
            out.append(pools.checked_out())

        return StreamingResponse(lines(), media_type="application/jsonl")

    books: list[dict[str, Any]] = []
    for _ in range(3):
        rows = [{"title": "Notes"}] * 50
        books += (await client.post("/books/batch", json=rows)).json()
    response = await client.get("/export")
    assert [json.loads(line) for line in response.text.splitlines()] == books
    assert "etag" not in response.headers
    assert out == [1] * 150 + [0]


async def test_stream_of_the_closed_session_fails_at_once(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools
) -> None:
    @extra.get("/export")
    async def export(session: SessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for book in (await session.exec(select(Book))).all():
                yield book.title

        return StreamingResponse(lines())

    for _ in range(pools.reader.size + 1):
        await client.get("/export")
    assert pools.checked_out() == 0
    assert (await client.get("/books")).status_code == 200


async def test_stream_takes_no_idempotency_key(
    client: httpx.AsyncClient, extra: FastAPI, session: AsyncSession
) -> None:
    @extra.post("/stream")
    async def stream(session: SessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "a line"

        session.add(Book(title="Notes"))
        await session.commit()
        return StreamingResponse(lines())

    assert_problem(await client.post("/stream", headers={"idempotency-key": "1"}), 400)
    assert (await session.exec(select(Book))).all() == []
    response = await client.post("/stream")
    assert (response.status_code, response.text) == (200, "a line")
