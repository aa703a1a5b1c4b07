"""Routes beside the five verbs: an action on a row, PUT, a body-less POST, and their documentation."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Query, Response
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import assert_problem, create
from nutshell.conditional import IfMatch, IfMatchDep
from nutshell.database import SessionDep
from nutshell.errors import Refused
from nutshell.fields import Day, Id, Reference, Uuid
from nutshell.paging import Filter
from nutshell.routes import ReplyDep
from nutshell.tests.library import Book, BookRead, ShelfRead

EVERYWHERE = {"401", "403", "413", "422", "500", "503"}


async def indirect(if_match: IfMatchDep) -> IfMatch:
    return if_match


@pytest.fixture
def document(extra: FastAPI) -> Any:
    """The document of the library with further routes, one of which works."""

    class Move(SQLModel):
        shelf_id: int

    @extra.post("/books/{book_id}/lend", response_model=BookRead)
    async def lend_book(book_id: Id, session: SessionDep, if_match: IfMatchDep) -> Book:
        book = await session.get_one(Book, book_id, with_for_update=True)
        if_match.check(BookRead, book)
        if book.text == "lent":
            raise Refused(409, "this book is lent already")
        book.text = "lent"
        await session.commit()
        return book

    @extra.post("/books/{book_id}/move", response_model=BookRead)
    async def move_book(
        book_id: Id, data: Move, if_match: Annotated[IfMatch, Depends(indirect)]
    ) -> None: ...

    @extra.post("/books/{book_id}/copies", response_model=BookRead, status_code=201)
    async def copy_book(book_id: Id) -> None: ...

    @extra.put("/books/{book_id}", response_model=BookRead)
    async def put_book(book_id: Id, data: Move, answer: Response) -> None: ...

    @extra.put("/books/by-title/{title}")
    async def put_book_by_title(title: str) -> None: ...

    @extra.patch("/books")
    async def update_books(data: list[Move]) -> None: ...

    @extra.get("/shelves/{shelf_id}/width")
    async def read_width(shelf_id: Id) -> int:
        return 1

    @extra.get("/shelves/{shelf_id}/labels", response_model=list[ShelfRead])
    async def list_labels(
        shelf_id: Id, filters: Annotated[Filter, Query()], reply: ReplyDep
    ) -> None: ...

    @extra.get("/shelves/{shelf_id}/books", response_model=list[BookRead])
    async def list_shelf_books(shelf_id: Id) -> None: ...

    @extra.delete("/shelves/{shelf_id}/books/{book_id}", status_code=204)
    async def remove_book(shelf_id: Id, book_id: Id) -> None: ...

    @extra.get("/long-lists", response_model=list[BookRead])
    async def read_long_lists() -> None: ...

    @extra.post("/recount", tags=["upkeep"])
    async def recount() -> None: ...

    return extra.openapi()


@pytest.mark.parametrize(
    ("method", "path", "tag"),
    [
        ("post", "/books/{book_id}/lend", "books"),
        ("post", "/books/{book_id}/copies", "books"),
        ("post", "/books/batch", "books"),
        ("put", "/books/by-title/{title}", "books"),
        ("patch", "/books", "books"),
        ("get", "/shelves/{shelf_id}/width", "shelves"),
        ("get", "/shelves/{shelf_id}/labels", "labels"),
        ("get", "/shelves/{shelf_id}/books", "books"),
        ("delete", "/shelves/{shelf_id}/books/{book_id}", "books"),
        ("get", "/long-lists", "long-lists"),
        ("post", "/recount", "upkeep"),
        ("get", "/healthz", "health"),
    ],
)
def test_operation_is_tagged_with_its_resource(
    document: Any, method: str, path: str, tag: str
) -> None:
    assert document["paths"][path][method]["tags"] == [tag]
    assert {"name": tag} in document["tags"]


@pytest.mark.parametrize(
    ("method", "path", "statuses", "headers"),
    [
        ("post", "lend", {"200", "400", "404", "409", "412"}, {"If-Match", "Idempotency-Key"}),
        (
            "post",
            "move",
            {"200", "400", "404", "409", "412", "415"},
            {"If-Match", "Idempotency-Key"},
        ),
        ("post", "copies", {"201", "400", "404", "409"}, {"Idempotency-Key"}),
        ("put", "", {"200", "400", "404", "409", "415"}, set()),
    ],
)
def test_document_has_what_an_action_takes_and_answers(
    document: Any, method: str, path: str, statuses: set[str], headers: set[str]
) -> None:
    operation = document["paths"][f"/books/{{book_id}}/{path}".rstrip("/")][method]
    assert operation["responses"].keys() == statuses | EVERYWHERE
    taken = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
    assert taken == headers
    success = operation["responses"][min(statuses)]
    answered = {"ETag"}
    if "201" in statuses:
        answered.add("Location")
    if "Idempotency-Key" in headers:
        answered.add("Idempotency-Replayed")
    assert success["headers"].keys() == answered
    assert "requestBody" in operation or "415" not in statuses


async def test_action_takes_conditions_and_a_key(
    client: httpx.AsyncClient, document: Any, session: AsyncSession
) -> None:
    book = await create(client, "/books", title="a")
    url = f"/books/{book['id']}"
    tag = (await client.get(url)).headers["etag"]
    assert_problem(await client.post(f"{url}/lend", headers={"if-match": '"stale"'}), 412)
    headers = {"if-match": tag, "idempotency-key": "a"}
    lent = await client.post(f"{url}/lend", headers=headers)
    assert lent.json() == book | {"text": "lent"}
    assert (await client.get(url)).headers["etag"] == lent.headers["etag"]
    assert "location" not in lent.headers
    again = await client.post(f"{url}/lend", headers=headers)
    assert (again.status_code, again.content) == (200, lent.content)
    assert_problem(await client.post(f"{url}/lend"), 409)
    assert_problem(await client.post("/books/999999/lend"), 404)


def test_example_of_a_nested_body_has_all_that_is_required(extra: FastAPI) -> None:
    class Part(SQLModel):
        book_id: Reference
        owner_id: Uuid
        made_on: Day
        name: str = Field(schema_extra={"examples": ["Cover"]})
        parts: list["Part"] = []
        comment: str | None = None

    class Whole(SQLModel):
        parts: list[Part]
        only: Part | None = None
        fast: bool

    class PartRead(SQLModel):
        id: int
        name: str

    class WholeRead(SQLModel):
        id: int
        parts: list[PartRead]

    @extra.post("/wholes", response_model=WholeRead, status_code=201)
    async def create_whole(data: Whole) -> None: ...

    operation = extra.openapi()["paths"]["/wholes"]["post"]
    answer = operation["responses"]["201"]["content"]["application/json"]["example"]
    assert answer == {"id": 1, "parts": [{"id": 1, "name": "Cover"}]}
    example = operation["requestBody"]["content"]["application/json"]["example"]
    Whole.model_validate(example)
    assert example.keys() == {"parts", "fast"}
    assert [part["name"] for part in example["parts"]] == ["Cover"]


async def test_wrong_method_of_a_path_with_put_is_not_allowed(
    client: httpx.AsyncClient, document: Any
) -> None:
    response = await client.post("/books/1")
    assert response.headers["allow"] == "HEAD, GET, PUT, PATCH, DELETE"
