"""A GET of several statements sees one moment, or is named."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Pools, Wire, assert_problem, create
from nutshell.database import SessionDep, SnapshotDep
from nutshell.fields import Id
from nutshell.paging import Filter
from nutshell.routes import ReplyDep
from nutshell.tests.library import Book, BookFilter, BookRead, Shelf

ENOUGH = 500  # answers


class BookOnShelf(SQLModel):
    title: str


class WholeShelf(SQLModel):
    place: str | None
    books: list[BookOnShelf]


async def load(session: AsyncSession, shelf_id: int) -> dict[str, Any]:
    """A shelf, and in another statement its books."""
    shelf = await session.get_one(Shelf, shelf_id)
    books = (await session.exec(select(Book).where(Book.shelf_id == shelf_id))).all()
    return {"place": shelf.place, "books": books}


@pytest.fixture
def routes(extra: FastAPI) -> FastAPI:
    @extra.get("/shelves/{shelf_id}/whole", response_model=WholeShelf)
    async def read_whole(shelf_id: Id, session: SnapshotDep) -> dict[str, Any]:
        return await load(session, shelf_id)

    @extra.get("/shelves/{shelf_id}/torn", response_model=WholeShelf)
    async def read_torn(shelf_id: Id, session: SessionDep) -> dict[str, Any]:
        return await load(session, shelf_id)

    @extra.post("/shelves/{shelf_id}/rename")
    async def rename(shelf_id: Id, name: str, session: SessionDep) -> None:
        shelf = await session.get_one(Shelf, shelf_id, with_for_update=True)
        shelf.place = name
        for book in (await session.exec(select(Book).where(Book.shelf_id == shelf_id))).all():
            book.title = name
        await session.commit()

    return extra


async def count_torn(client: httpx.AsyncClient, path: str, rename: str, answers: int) -> int:
    """How many of so many answers were put together from two moments, beside a writer."""
    reading = True
    seen: list[dict[str, Any]] = []

    async def write() -> None:
        number = 0
        while reading:
            number += 1
            assert (await client.post(f"{rename}?name={number}")).status_code == 200

    async def read() -> None:
        while len(seen) < answers:
            seen.append((await client.get(path)).json())

    writing = asyncio.create_task(write())
    await asyncio.gather(read(), read(), read())
    reading = False
    await writing
    assert len({answer["place"] for answer in seen}) > 10, "hardly anything was written meanwhile"
    return sum({book["title"] for book in answer["books"]} != {answer["place"]} for answer in seen)


@pytest.mark.slow
@pytest.mark.torn
async def test_parent_and_children_are_of_one_moment(
    client: httpx.AsyncClient, routes: FastAPI, shelf: dict[str, Any]
) -> None:
    path = f"/shelves/{shelf['id']}"
    for _ in range(3):
        await create(client, "/books", title="0", shelf_id=shelf["id"])
    assert (await client.post(f"{path}/rename?name=0")).status_code == 200
    assert await count_torn(client, f"{path}/whole", f"{path}/rename", ENOUGH) == 0
    assert await count_torn(client, f"{path}/torn", f"{path}/rename", ENOUGH) > 0


@pytest.mark.torn
async def test_several_statements_without_snapshot_are_named(
    client: httpx.AsyncClient,
    routes: FastAPI,
    shelf: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = f"/shelves/{shelf['id']}"
    assert (await client.get(f"{path}/whole")).status_code == 200
    assert (await client.get(f"{path}/absent")).status_code == 404
    assert "SnapshotDep" not in caplog.text
    assert (await client.get(f"{path}/torn")).status_code == 200
    assert "GET /shelves/{shelf_id}/torn sent 2 statements" in caplog.text


async def test_snapshot_is_one_transaction_and_leaves_the_connection_as_it_was(
    client: httpx.AsyncClient, routes: FastAPI, shelf: dict[str, Any], wire: Wire, pools: Pools
) -> None:
    path = f"/shelves/{shelf['id']}"
    await asyncio.gather(*(client.get(f"{path}/whole") for _ in range(8)))
    wire.clear()
    await client.get(f"{path}/whole")
    verbs = [verb for verb in wire.verbs() if verb != "PRAGMA"]
    assert verbs == ["BEGIN", "SELECT", "SELECT", "ROLLBACK"]
    if wire.log is not None:
        assert wire.statements()[0] == "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    assert pools.checked_out() == 0
    for _ in range(8):
        wire.clear()
        await client.get(path)
        assert wire.verbs() == ["SELECT"]


async def test_snapshot_that_fails_gives_its_connection_back(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools, wire: Wire
) -> None:
    @extra.get("/fail")
    async def fail(session: SnapshotDep) -> None:
        await session.get_one(Shelf, 1)

    for _ in range(2 * pools.reader.size):
        assert_problem(await client.get("/fail"), 404)
    assert pools.checked_out() == 0
    wire.clear()
    await client.get("/shelves")
    assert wire.verbs() == ["SELECT"]


async def test_page_after_another_statement_takes_its_snapshot_all_the_same(
    client: httpx.AsyncClient, extra: FastAPI, shelf: dict[str, Any], pools: Pools, wire: Wire
) -> None:
    @extra.get("/looked-up", response_model=list[BookRead])
    async def look_up_and_list(
        filters: Annotated[BookFilter, Query()], session: SessionDep, reply: ReplyDep
    ) -> Sequence[Any]:
        await session.get_one(Shelf, shelf["id"])
        return await reply.page(session, filters.select(Book, BookRead), filters)

    for number in range(1, 2 * pools.reader.size):
        await create(client, "/books", title="Notes")
        for query, headers in (("sort=shelf_id", {}), ("limit=100", {"prefer": "count=exact"})):
            response = await client.get(f"/looked-up?{query}", headers=headers)
            assert len(response.json()) == number
            assert len((await client.get("/books")).json()) == number
    wire.clear()
    await client.get("/looked-up?sort=shelf_id")
    verbs = [verb for verb in wire.verbs() if verb != "PRAGMA"]
    assert verbs == ["SELECT", "BEGIN", "SELECT", "SELECT", "ROLLBACK"]
    assert pools.checked_out() == 0


async def test_snapshot_of_an_unsafe_method_is_refused(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    @extra.post("/snapshot")
    async def take(session: SnapshotDep) -> None:
        await session.get(Shelf, 1)

    assert_problem(await client.post("/snapshot"), 500)


async def test_list_below_a_parent_is_one_statement_unless_it_is_empty(
    client: httpx.AsyncClient, extra: FastAPI, shelf: dict[str, Any], wire: Wire
) -> None:
    @extra.get("/shelves/{shelf_id}/books", response_model=list[BookRead])
    async def list_books_of_shelf(
        shelf_id: Id, session: SessionDep, reply: ReplyDep
    ) -> Sequence[Any]:
        filters = Filter()
        query = filters.select(Book, BookRead).where(Book.shelf_id == shelf_id)
        return await reply.page(session, query, filters, parent=(Shelf, shelf_id))

    path = f"/shelves/{shelf['id']}/books"
    assert (await client.get(path)).json() == []
    assert_problem(await client.get(f"/shelves/{shelf['id'] + 1}/books"), 404)
    await create(client, "/books", title="Notes", shelf_id=shelf["id"])
    wire.clear()
    assert len((await client.get(path)).json()) == 1
    assert wire.verbs() == ["SELECT"]
    counted = await client.get(path, headers={"prefer": "count=exact"})
    assert counted.headers["x-total-count"] == "1"
