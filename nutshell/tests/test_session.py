"""The session-per-request pattern, seen from outside and from the database."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select, update
from sqlmodel import delete as delete_from
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.types import Message, Receive, Scope, Send

from nutshell.tests.fixtures import Pools, Wire, assert_problem, create
from nutshell import database
from nutshell.database import SessionDep
from nutshell.fields import Id
from nutshell.tests.library import Book, Shelf, ShelfRead

ABSENT = 2**53 - 1


async def test_each_request_gets_its_own_session(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[AsyncSession] = []

    class Counted(AsyncSession):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(database, "AsyncSession", Counted)
    await asyncio.gather(*(client.get("/books") for _ in range(10)))
    await create(client, "/books", title="Notes")
    assert len({id(session) for session in made}) == len(made) == 11


async def test_session_is_closed_before_response_leaves(
    app: FastAPI, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    out: list[tuple[str, int]] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            out.append((message["type"], pools.checked_out()))
            await send(message)

        await app(scope, receive, watch)

    inside: list[int] = []
    commit = AsyncSession.commit

    async def observe(session: AsyncSession) -> None:
        await commit(session)
        await session.connection()
        inside.append(pools.checked_out())

    monkeypatch.setattr(AsyncSession, "commit", observe)
    transport = httpx.ASGITransport(watched)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post("/books", json={"title": "Notes"})).status_code == 201
        refused = await client.post("/books", json={"title": "a", "shelf_id": ABSENT})
        assert refused.status_code == 409
    assert inside == [1], "the session held a connection while the route ran"
    assert out == [("http.response.start", 0), ("http.response.body", 0)] * 2


async def test_route_that_raises_after_flush_leaves_nothing(
    client: httpx.AsyncClient, session: AsyncSession, extra: FastAPI, pools: Pools
) -> None:
    @extra.post("/raise")
    async def add_then_raise(session: SessionDep) -> None:
        session.add(Book(title="Lost"))
        await session.flush()
        raise RuntimeError("after the flush")

    response = await client.post("/raise")
    assert_problem(response, 500)
    assert "after the flush" not in response.text
    assert (await session.exec(select(Book))).all() == []
    assert pools.checked_out() == 0


async def add(session: AsyncSession) -> None:
    session.add(Book(title="Lost"))


async def flush(session: AsyncSession) -> None:
    session.add(Book(title="Lost"))
    await session.flush()


async def change(session: AsyncSession) -> None:
    (await session.exec(select(Book))).one().title = "Lost"


async def delete(session: AsyncSession) -> None:
    await session.delete((await session.exec(select(Book))).one())


async def execute(session: AsyncSession) -> None:
    await session.exec(update(Book).values(title="Lost"))


async def execute_behind_a_query(session: AsyncSession) -> None:
    some = select(Book.id).cte()
    await session.exec(
        update(Book).values(title="Lost").where(col(Book.id).in_(select(some.c.id))).add_cte(some)
    )


async def execute_text(session: AsyncSession) -> None:
    await session.exec(text("  DELETE FROM books"))  # type: ignore[call-overload]


async def execute_past_the_session(session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.execute(text("INSERT INTO books (title) VALUES ('Lost')"))


async def commit_too_early(session: AsyncSession) -> None:
    await session.commit()
    await flush(session)


async def commit_a_savepoint_only(session: AsyncSession) -> None:
    async with session.begin_nested():
        session.add(Book(title="Lost"))


FORGETFUL = [
    add,
    flush,
    change,
    delete,
    execute,
    execute_behind_a_query,
    execute_text,
    execute_past_the_session,
    commit_too_early,
    commit_a_savepoint_only,
]


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "one"}], ids=["plain", "keyed"])
@pytest.mark.parametrize("forget", FORGETFUL)
async def test_route_that_forgets_commit_fails_and_is_named(
    client: httpx.AsyncClient,
    session: AsyncSession,
    extra: FastAPI,
    caplog: pytest.LogCaptureFixture,
    pools: Pools,
    forget: Callable[[AsyncSession], Awaitable[None]],
    headers: dict[str, str],
) -> None:
    book = await create(client, "/books", title="Notes")

    @extra.post("/forget/{number}")
    async def forget_commit(number: int, session: SessionDep) -> int:
        await forget(session)
        return number

    for _ in range(2):  # a repetition is not answered from its key
        assert_problem(await client.post("/forget/1", headers=headers), 500)
    assert [row.model_dump() for row in await session.exec(select(Book))] == [book]
    assert "POST /forget/{number} changed something and did not commit it" in caplog.text
    assert pools.checked_out() == 0


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "one"}], ids=["plain", "keyed"])
async def test_route_that_only_reads_or_rolls_back_needs_no_commit(
    client: httpx.AsyncClient, extra: FastAPI, headers: dict[str, str]
) -> None:
    notes = await create(client, "/books", title="Notes")

    @extra.post("/read")
    async def read_only(session: SessionDep) -> str:
        book = await session.get_one(Book, notes["id"], with_for_update=True)
        book.title = "Notes"  # which it is already
        return book.title

    @extra.post("/roll-back")
    async def roll_back(session: SessionDep) -> None:
        session.add(Book(title="Lost"))
        await session.flush()
        await session.rollback()

    @extra.post("/commit-and-read")
    async def commit_and_read(session: SessionDep) -> int:
        session.add(Book(title="Sketches"))
        await session.commit()
        return len((await session.exec(select(Book))).all())

    @extra.post("/get-or-create")
    async def get_or_create(session: SessionDep) -> str:
        try:
            async with session.begin_nested():
                session.add(Shelf(label="Top"))
        except IntegrityError:
            return (await session.exec(select(Shelf))).one().label
        await session.commit()
        return "created"

    await create(client, "/shelves", label="Top")
    for path in ("/read", "/roll-back", "/commit-and-read", "/get-or-create"):
        key = dict.fromkeys(headers, path)
        assert (await client.post(path, headers=key)).status_code == 200
    assert len((await client.get("/books")).json()) == 2


async def test_failure_after_a_commit_is_named(
    client: httpx.AsyncClient, extra: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @extra.post("/unfit", response_model=ShelfRead)
    async def answer_unfit(session: SessionDep) -> dict[str, str]:
        session.add(Shelf(label="Top"))
        await session.commit()
        return {"label": "Top"}

    assert_problem(await client.post("/unfit"), 500)
    assert "POST /unfit failed after its commit: its changes are stored." in caplog.text
    assert len((await client.get("/shelves")).json()) == 1
    caplog.clear()
    assert_problem(await client.post("/unfit", headers={"idempotency-key": "1"}), 409)
    assert "stored" not in caplog.text


@pytest.mark.parametrize(
    "statement", [update(Book).values(title="Lost"), delete_from(Book), text("DELETE FROM books")]
)
async def test_read_route_that_executes_a_change_fails_and_keeps_nothing(
    client: httpx.AsyncClient, extra: FastAPI, statement: Any
) -> None:
    book = await create(client, "/books", title="Notes")

    @extra.get("/change")
    async def change_rows(session: SessionDep) -> None:
        await session.exec(statement)

    assert_problem(await client.get("/change"), 500)
    assert (await client.get(f"/books/{book['id']}")).json() == book


async def test_read_route_that_flushes_fails_and_stores_nothing(
    client: httpx.AsyncClient, session: AsyncSession, extra: FastAPI
) -> None:
    book = await create(client, "/books", title="Notes")

    @extra.get("/flush")
    async def change_and_flush(session: SessionDep) -> None:
        book = (await session.exec(select(Book))).one()
        book.title = "Changed"
        await session.flush()

    assert_problem(await client.get("/flush"), 500)
    assert (await client.head("/flush")).status_code == 500
    assert (await client.get(f"/books/{book['id']}")).json() == book


async def test_relation_that_was_not_loaded_is_an_error(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools
) -> None:
    if pools.reader.engine.dialect.name == "sqlite":
        pytest.skip("here aiosqlite leaves a coroutine behind that later tests stumble over")
    shelf = await create(client, "/shelves", label="Top")
    await create(client, "/books", title="Notes", shelf_id=shelf["id"])

    @extra.get("/lazy", response_model=list[dict[str, str]])
    async def read_lazily(session: SessionDep) -> list[dict[str, str]]:
        books = (await session.exec(select(Book))).all()
        return [{"label": book.shelf.label} for book in books if book.shelf]

    assert_problem(await client.get("/lazy"), 500)


async def test_read_is_one_statement_without_transaction(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    book = await create(client, "/books", title="Notes")
    await client.get(f"/books/{book['id']}")
    for method in ("GET", "HEAD"):
        wire.clear()
        assert (await client.request(method, f"/books/{book['id']}")).status_code == 200
        assert wire.verbs() == ["SELECT"]


async def test_create_is_one_transaction_with_one_statement(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    await create(client, "/shelves", label="Top")
    wire.clear()
    await create(client, "/shelves", label="Bottom")
    assert wire.verbs() == ["BEGIN", "INSERT", "COMMIT"]


async def test_refused_create_is_rolled_back(client: httpx.AsyncClient, wire: Wire) -> None:
    await create(client, "/shelves", label="Top")
    wire.clear()
    assert (await client.post("/shelves", json={"label": "Top"})).status_code == 409
    assert wire.verbs() == ["BEGIN", "INSERT", "ROLLBACK"]


async def test_write_begins_immediately_on_sqlite(client: httpx.AsyncClient, wire: Wire) -> None:
    if wire.log:
        pytest.skip("PostgreSQL has no BEGIN IMMEDIATE")
    book = await create(client, "/books", title="Notes")
    wire.clear()
    await client.patch(f"/books/{book['id']}", json={"title": "Sketches"})
    assert wire.statements()[0] == "BEGIN IMMEDIATE"
    assert wire.verbs() == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]


async def test_update_and_delete_lock_the_row_first(client: httpx.AsyncClient, wire: Wire) -> None:
    if wire.log is None:
        pytest.skip("SQLite locks the whole database")
    book = await create(client, "/books", title="Notes")
    for method, body in (("PATCH", {"title": "Sketches"}), ("DELETE", None)):
        wire.clear()
        response = await client.request(method, f"/books/{book['id']}", json=body)
        assert response.status_code in (200, 204)
        change = {"PATCH": "UPDATE", "DELETE": "DELETE"}[method]
        assert wire.verbs() == ["BEGIN", "SELECT", change, "COMMIT"]
        log = wire.log.read_bytes()[wire.offset :].decode()
        assert re.search(rf"FOR UPDATE\b.*: {change} ", log, re.DOTALL)


async def test_sqlite_connections_are_prepared(pools: Pools) -> None:
    if pools.reader.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has no pragmas")
    for pool in pools.both:
        async with pool.engine.connect() as connection:
            values = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar()
                for name in ("synchronous", "foreign_keys", "busy_timeout")
            ]
            assert values == [1, 1, 4000]


async def test_connections_return_to_the_pool(
    client: httpx.AsyncClient, pools: Pools, extra: FastAPI
) -> None:
    @extra.post("/raise")
    async def add_then_raise(session: SessionDep) -> None:
        session.add(Book(title="Lost"))
        await session.flush()
        raise RuntimeError

    shelf = await create(client, "/shelves", label="Top")
    book = await create(client, "/books", title="Notes", shelf_id=shelf["id"])

    def requests(number: int) -> Iterator[Awaitable[httpx.Response]]:
        yield client.get("/books")
        yield client.get(f"/books/{ABSENT}")
        yield client.post("/books", json={"title": f"Book {number}"})
        yield client.post("/books", json={"title": ""})
        yield client.post("/shelves", json={"label": "Top"})
        yield client.post("/books", json={"title": "a", "shelf_id": ABSENT})
        yield client.patch(f"/books/{book['id']}", json={"title": f"Notes {number}"})
        yield client.delete(f"/books/{ABSENT}")
        yield client.post("/raise")
        yield client.post("/books", json={}, headers={"idempotency-key": f"{number}"})

    responses = [r for n in range(8) for r in await asyncio.gather(*requests(n))]
    assert len(responses) == 80
    statuses = {response.status_code for response in responses}
    assert statuses == {200, 201, 404, 409, 422, 500}
    assert pools.checked_out() == 0
    assert [pool.free._value for pool in pools.both] == [pool.size for pool in pools.both]
    assert len((await client.get("/books")).json()) == 9


async def test_row_deleted_by_another_request_meanwhile_conflicts(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools
) -> None:
    book = await create(client, "/books", title="Notes")

    @extra.patch("/unlocked/{book_id}")
    async def change_without_lock(book_id: Id, session: SessionDep) -> None:
        book = await session.get_one(Book, book_id)
        await session.exec(text("DELETE FROM books"))  # type: ignore[call-overload]
        book.title = "Changed"
        await session.commit()

    assert_problem(await client.patch(f"/unlocked/{book['id']}"), 409)


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "two"}])
async def test_route_with_two_commits_keeps_what_was_committed(
    client: httpx.AsyncClient, extra: FastAPI, session: AsyncSession, headers: dict[str, str]
) -> None:
    @extra.post("/two-commits")
    async def commit_twice(session: SessionDep) -> None:
        session.add(Shelf(label="kept"))
        await session.commit()
        session.add(Shelf(label="forgotten"))
        await session.flush()
        await session.rollback()
        session.add(Shelf(label="kept too"))
        await session.commit()

    assert (await client.post("/two-commits", headers=headers)).status_code == 200
    labels = [shelf.label for shelf in await session.exec(select(Shelf).order_by("id"))]
    assert labels == ["kept", "kept too"]
