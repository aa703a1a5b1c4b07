"""Every failure is one problem document, and none tells more than it should."""

import json
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.orm import joinedload, load_only
from sqlmodel import select

from nutshell.tests.fixtures import Pools, assert_problem, create
from nutshell.database import SessionDep
from nutshell.fields import Instant
from nutshell.paging import Filter
from nutshell.tests.library import Book, BookReadWithShelf, Loan, Shelf

ABSENT = 2**53 - 1


async def test_wrong_response_model_is_a_defect(client: httpx.AsyncClient, extra: FastAPI) -> None:
    class Reader(BaseModel):
        id: int
        name: str

    await create(client, "/shelves", label="Top")

    @extra.get("/readers", response_model=list[Reader])
    async def list_readers(session: SessionDep) -> Sequence[Any]:
        return (await session.exec(select(Shelf))).all()

    assert_problem(await client.get("/readers"), 500)


async def test_partly_loaded_relation_is_a_defect_and_the_log_repeats_no_row(
    client: httpx.AsyncClient, extra: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = await create(client, "/shelves", label="Secret")
    await create(client, "/books", title="Hidden", shelf_id=shelf["id"])

    @extra.get("/partly", response_model=list[BookReadWithShelf])
    async def list_partly(session: SessionDep) -> Sequence[Any]:
        shown = joinedload(Book.shelf).options(load_only(Shelf.id))  # type: ignore[arg-type]
        books = (await session.exec(select(Book).options(shown))).all()
        session.expunge_all()  # else aiosqlite would be asked for the rest, and leave a mess
        return books

    with caplog.at_level(logging.ERROR):
        assert_problem(await client.get("/partly"), 500)
    assert "'label'" in caplog.text
    assert "Secret" not in caplog.text
    assert "Hidden" not in caplog.text


async def test_unique_constraint_names_the_field(client: httpx.AsyncClient) -> None:
    await create(client, "/shelves", label="Top")
    response = await client.post("/shelves", json={"label": "Top"})
    assert_problem(response, 409, ("body", "label"))
    assert response.json()["errors"][0]["type"] == "unique"


async def test_foreign_key_names_the_field(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="Notes")
    data = {"title": "a", "shelf_id": ABSENT}
    for response in (
        await client.post("/books", json=data),
        await client.patch(f"/books/{book['id']}", json=data),
    ):
        assert_problem(response, 409, ("body", "shelf_id"))
        assert response.json()["errors"][0]["type"] == "foreign_key"


async def test_refused_reference_in_a_batch_names_its_index(client: httpx.AsyncClient) -> None:
    data = [{"title": "a"}, {"title": "b"}, {"title": "c", "shelf_id": ABSENT}, {"title": "d"}]
    response = await client.post("/books/batch", json=data)
    assert_problem(response, 409, ("body", 2, "shelf_id"))


@pytest.mark.parametrize("body", [None, [1, 2], {"title": "a"}])
async def test_refused_row_that_is_not_in_the_body_conflicts(
    client: httpx.AsyncClient, extra: FastAPI, body: object
) -> None:
    await create(client, "/shelves", label="Top")

    @extra.post("/top")
    async def create_top(session: SessionDep) -> None:
        session.add(Shelf(label="Top"))
        await session.commit()

    response = await client.post("/top", json=body) if body else await client.post("/top")
    assert_problem(response, 409)
    assert "another row already has this value" in response.json()["detail"]


async def test_row_that_others_refer_to_cannot_be_deleted(
    client: httpx.AsyncClient, pools: Pools
) -> None:
    book = await create(client, "/books", title="Notes")
    async with pools.writer.engine.begin() as connection:
        await connection.execute(Loan.__table__.insert(), {"book_id": book["id"]})  # type: ignore[attr-defined]
    assert_problem(await client.delete(f"/books/{book['id']}"), 409)
    assert (await client.get(f"/books/{book['id']}")).status_code == 200


async def test_row_whose_deletion_a_reference_restricts_cannot_be_deleted(
    client: httpx.AsyncClient, pools: Pools
) -> None:
    shelf = await create(client, "/shelves", label="Top")
    async with pools.writer.engine.begin() as connection:
        await connection.execute(Loan.__table__.insert(), {"shelf_id": shelf["id"]})  # type: ignore[attr-defined]
    assert_problem(await client.delete(f"/shelves/{shelf['id']}"), 409)
    assert (await client.get(f"/shelves/{shelf['id']}")).status_code == 200


async def test_constraint_of_another_application_conflicts_too(
    client: httpx.AsyncClient, pools: Pools
) -> None:
    book = await create(client, "/books", title="Notes")
    async with pools.writer.engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE other_app (book_id BIGINT NOT NULL REFERENCES books (id))")
        )
        await connection.execute(text("INSERT INTO other_app VALUES (:id)"), book)
    try:
        assert_problem(await client.delete(f"/books/{book['id']}"), 409)
    finally:
        async with pools.writer.engine.begin() as connection:
            await connection.execute(text("DROP TABLE other_app"))


LOSE = """
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'could not commit transaction for shard 102012 on at least one active node'
        USING ERRCODE = 'internal_error';
END $$
"""
LOSE_AT = """
CREATE CONSTRAINT TRIGGER lost AFTER INSERT ON lost DEFERRABLE INITIALLY {}
    FOR EACH ROW EXECUTE FUNCTION lose()
"""


@pytest.mark.parametrize("moment", ["IMMEDIATE", "DEFERRED"])  # the statement, or COMMIT
async def test_internal_error_of_the_server_is_unavailable(
    client: httpx.AsyncClient, extra: FastAPI, pools: Pools, moment: str
) -> None:
    """As Citus reports it when it loses a worker."""
    if pools.writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no such triggers")

    @extra.post("/lost")
    async def insert(session: SessionDep) -> None:
        await session.scalar(text("INSERT INTO lost VALUES (1) RETURNING id"))
        await session.commit()

    async with pools.writer.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE lost (id INTEGER)"))
        await connection.execute(text(LOSE))
        await connection.execute(text(LOSE_AT.format(moment)))
    try:
        assert_problem(await client.post("/lost"), 503)
    finally:
        async with pools.writer.engine.begin() as connection:
            await connection.execute(text("DROP TABLE lost"))
            await connection.execute(text("DROP FUNCTION lose"))


async def test_citus_names_the_constraint_of_a_shard_in_the_message_alone() -> None:
    from nutshell.constraints import find_violation

    class Diagnostics:
        constraint_name = None
        message_primary = 'duplicate key value violates unique constraint "uq_shelves_label_102008"'
        message_detail = "Key (label)=(Top) already exists."

    class Refused(Exception):  # noqa: N818
        sqlstate = "23505"
        diag = Diagnostics

    class Wrapped:
        orig = Refused()

    found = find_violation(Wrapped())  # type: ignore[arg-type]
    assert found is not None
    ((column,),) = found.keys
    assert (found.kind, column.name, found.values) == ("unique", "label", ["Top"])


async def test_constraint_that_the_schemas_should_keep_is_a_defect(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    @extra.post("/untitled")
    async def add_without_title(session: SessionDep) -> None:
        session.add(Book(title=None))  # type: ignore[arg-type]
        await session.commit()

    response = await client.post("/untitled")
    assert_problem(response, 500)
    assert "title" not in response.json()["detail"]


@pytest.mark.parametrize("name", ["column", "table"])
async def test_schema_that_differs_from_the_models_is_a_defect(
    client: httpx.AsyncClient, extra: FastAPI, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    statement = {"column": "SELECT missing FROM books", "table": "SELECT 1 FROM missing"}[name]

    @extra.get("/missing")
    async def read_missing(session: SessionDep) -> None:
        await session.scalar(text(statement))

    with caplog.at_level(logging.ERROR):
        assert_problem(await client.get("/missing"), 500)
    assert "schema differs from the models" in caplog.text


async def test_wrong_statement_is_a_defect(client: httpx.AsyncClient, extra: FastAPI) -> None:
    @extra.get("/wrong")
    async def divide(session: SessionDep) -> None:
        await session.scalar(text("SELECT abs(-9223372036854775807 - 1) / 0"))

    assert_problem(await client.get("/wrong"), 500)


async def test_errors_of_one_answer_have_a_bound(client: httpx.AsyncClient) -> None:
    data = {f"field{number}": 1 for number in range(4_000)}
    response = await client.post("/books", json=data)
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 100
    assert "4001" in response.json()["detail"]
    assert len(response.content) < 20_000


@pytest.mark.parametrize(
    ("status", "detail"), [(409, {"code": "taken"}), (400, "odd"), (499, "gone")]
)
async def test_whatever_a_route_raises_is_a_problem(
    client: httpx.AsyncClient, extra: FastAPI, status: int, detail: Any
) -> None:
    @extra.get("/refuse")
    async def refuse() -> None:
        raise HTTPException(status, detail) from ValueError("odd")

    response = await client.get("/refuse")
    assert_problem(response, status)
    found = response.json()["detail"]
    assert (found if isinstance(detail, str) else json.loads(found)) == detail


@pytest.mark.parametrize(("status", "title"), [(413, "Content Too Large"), (404, "Not Found")])
async def test_title_is_the_name_of_the_status(
    client: httpx.AsyncClient, extra: FastAPI, status: int, title: str
) -> None:
    @extra.get("/refuse")
    async def refuse() -> None:
        raise HTTPException(status)

    assert (await client.get("/refuse")).json()["title"] == title


async def test_messages_say_what_to_do(client: httpx.AsyncClient, extra: FastAPI) -> None:
    @extra.get("/since")
    async def read_since(at: Instant) -> None: ...

    @extra.get("/sorted")
    async def read_sorted(filters: Annotated[Filter, Query()]) -> None: ...

    async def refuse(path: str, **options: Any) -> list[str]:
        method = "POST" if "json" in options else "GET"
        response = await client.request(method, path, **options)
        assert response.status_code == 422
        assert response.json()["title"] == "Unprocessable Content"
        return [error["msg"] for error in response.json()["errors"]]

    assert await refuse("/books?limit=x") == ["give a whole number, in digits"]
    assert await refuse("/books", json={"title": "\0"}) == ["the text contains a NUL character"]
    assert await refuse("/sorted?sort=title") == ["this list can only be sorted by id"]
    (message,) = await refuse("/since?at=2030-01-31T12:00:00+02:00")
    assert "write + as %2B" in message


@pytest.mark.parametrize(
    "body",
    ['{"title": "\xe9"}'.encode("latin-1"), b"[" * 100_000, b'{"title": 1' + b"0" * 10_000 + b"}"],
    ids=["encoding", "depth", "digits"],
)
async def test_body_that_cannot_be_decoded_gets_the_possible_reasons(
    client: httpx.AsyncClient, body: bytes
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/books", content=body, headers=headers)
    assert_problem(response, 400)
    for reason in ("UTF-8", "nested", "digits"):
        assert reason in response.json()["detail"]


async def test_deletion_declares_no_content(client: httpx.AsyncClient) -> None:
    shelf = await create(client, "/shelves", label="Top")
    response = await client.delete(f"/shelves/{shelf['id']}")
    assert response.status_code == 204
    assert "content-type" not in response.headers
