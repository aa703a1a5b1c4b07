"""The live view's data: what it notes of each request, and puts into words."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests import library
from nutshell.tests.fixtures import Pools, create
from nutshell import database, live
from nutshell.app import create_app
from nutshell.database import SessionDep
from nutshell.settings import settings
from nutshell.tests.library import Book, Shelf

ENDS = ["back", "sent"]


@pytest.fixture
def app(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    monkeypatch.setattr(settings, "trace", True)
    app = create_app("Library", summary="Watched.")
    app.router.routes.extend(library.app.router.routes)
    yield app
    event.remove(Session, "after_begin", live.count_session)
    live.recent.clear()


def newest() -> dict[str, Any]:
    return live.recent[-1]


def kinds() -> list[str]:
    return [step["kind"] for step in newest()["steps"]]


def warnings() -> str:
    return " ".join(newest()["warnings"])


async def test_steps_of_a_session_are_noted_in_order(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="Notes")
    assert kinds() == ["pool", "begin", "sql", "commit", *ENDS]
    insert = newest()["steps"][2]
    assert insert["text"].startswith("INSERT INTO books")
    assert "Notes" in insert["parameters"]
    assert insert["rows"] == 1

    response = await client.get(f"/books/{book['id']}?limit=1")
    assert kinds() == ["pool", "sql", *ENDS]
    assert newest()["path"] == f"/books/{book['id']}?limit=1"
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert timing.keys() == {"pool", "sql", "commit", "app"}

    await client.patch(f"/books/{book['id']}", json={"title": "x"}, headers={"if-match": '"x"'})
    assert kinds() == ["pool", "begin", "sql", "rollback", *ENDS]
    await client.post("/books/batch", json=[{"title": "a" * 100}] * 3)
    assert "commit" in kinds()
    keyed = {"idempotency-key": "one"}
    for _ in range(2):
        await client.post("/books", json={"title": "Card"}, headers=keyed)
        assert warnings() == ""


async def test_refused_statement_is_marked_as_failed(client: httpx.AsyncClient) -> None:
    await create(client, "/shelves", label="Top")
    await client.post("/shelves", json={"label": "Top"})
    assert [step["failed"] for step in newest()["steps"] if step["kind"] == "sql"] == [True]


async def test_mistakes_are_put_into_words(client: httpx.AsyncClient, app: FastAPI) -> None:
    @app.post("/forgetful")
    async def forget_commit(session: SessionDep) -> None:
        session.add(Book(title="forgotten"))
        await session.flush()

    @app.get("/one-by-one")
    async def read_one_by_one(session: SessionDep) -> None:
        for shelf_id in range(1, 6):
            await session.get(Shelf, shelf_id)

    @app.get("/outliving")
    async def outlive(session: Annotated[AsyncSession, Depends(database.get_session)]) -> None:
        await session.get(Shelf, 1)

    @app.get("/two")
    async def use_two(session: SessionDep) -> None:
        await session.get(Shelf, 1)
        async with AsyncSession(database.writer.engine) as other:
            await other.get(Shelf, 1)

    for method, path, words in [
        ("POST", "/forgetful", "nothing was kept"),
        ("GET", "/one-by-one", "ran 5 times (N+1)"),
        ("GET", "/outliving", "outlived its response"),
        ("GET", "/two", "2 sessions"),
    ]:
        assert (await client.request(method, path)).status_code == 200
        assert words in warnings()
    await client.get("/books")
    assert warnings() == ""


async def test_waiting_for_a_connection_is_seen(client: httpx.AsyncClient, pools: Pools) -> None:
    for _ in range(pools.reader.size):
        await pools.reader.free.acquire()
    call = asyncio.create_task(client.get("/books"))
    await asyncio.sleep(0.05)
    assert live.pools()["reads"]["waiting"] == 1
    for _ in range(pools.reader.size):
        pools.reader.free.release()
    assert (await call).status_code == 200
    assert "for a connection" in warnings()
    assert kinds() == ["pool", "sql", *ENDS]
    assert live.pools()["reads"]["waiting"] == 0


@pytest.fixture
def stream() -> Iterator[AsyncIterator[Any]]:
    yield live.stream_events()
    live.stopping = False


async def test_stream_tells_of_recent_and_new_requests_and_ends(
    client: httpx.AsyncClient, stream: AsyncIterator[Any], pools: Pools
) -> None:
    await client.get("/books")
    assert (await anext(stream)).event == "pools"
    assert (await anext(stream)).data["path"] == "/books"
    await client.get("/shelves")
    new = await anext(stream)
    assert (new.event, new.data["path"]) == ("request", "/shelves")
    assert json.dumps(new.data)
    async with pools.reader.engine.connect():
        assert (await anext(stream)).data["reads"]["out"] == 1
    live.stopping = True
    async with asyncio.timeout(2):
        async for _ in stream:
            pass  # the state of the pools has changed once more


async def test_process_that_stops_ends_the_streams(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "stopping", False)
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, _: told.append(number))
    try:
        async with live.lifespan(app):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert live.stopping
    assert told == [signal.SIGTERM]


async def test_view_is_for_this_machine_alone(client: httpx.AsyncClient) -> None:
    assert "<title>" in (await client.get("/trace")).text
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"host": "evil.example"}):
        for path in ("/trace", "/trace/events"):
            assert (await client.get(path, headers=headers)).status_code == 403
