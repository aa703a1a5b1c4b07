"""A service of the tests' own: shelves, books on them, and loans of books.

It stands in for `main.py` and `models.py`, in the tests' own process and in the services that they start.
So the machinery is tested whatever stands upstairs.
"""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

from annotated_types import MaxLen, MinLen
from fastapi import Query, Response
from pydantic import Field as BodyField
from sqlalchemy import Index
from sqlalchemy.orm import Mapped, joinedload
from sqlmodel import Field, Relationship, SQLModel, col

from nutshell.app import create_app
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep
from nutshell.fields import (
    BIGINT,
    LEFT_OUT,
    NEVER_REUSE_IDS,
    REFUSE_UNKNOWN,
    Day,
    Id,
    Read,
    Reference,
    Text,
    Update,
    Whole,
    WholeQuery,
    example,
)
from nutshell.idempotency import KEYS
from nutshell.paging import Filter
from nutshell.routes import ReplyDep

Label = Annotated[Text, MinLen(1), MaxLen(100)]
LongText = Annotated[Text | None, MaxLen(10_000)]


class ShelfCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    label: Label = Field(schema_extra={"examples": ["Top"]})
    place: Label | None = Field(default=None, schema_extra={"examples": ["Hall"]})
    width: Whole | None = Field(default=None, schema_extra={"examples": [120]})
    built_on: Day | None = Field(default=None, schema_extra={"examples": ["1843-09-01"]})


class Shelf(SQLModel, table=True):
    __tablename__ = "shelves"
    __table_args__ = NEVER_REUSE_IDS

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    label: str = Field(unique=True, max_length=100)
    place: str | None = Field(default=None, max_length=100)
    width: int | None = Field(default=None, sa_type=BIGINT)
    built_on: date | None = None


class ShelfRead(Read):
    id: int
    label: str
    place: str | None
    width: int | None
    built_on: date | None


class ShelfUpdate(Update[ShelfRead]):
    model_config = example(place="Attic")

    label: Label = LEFT_OUT
    place: Label | None = None


class ShelfFilter(Filter):
    width: WholeQuery = LEFT_OUT


class BookCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    title: Label = Field(schema_extra={"examples": ["Notes"]})
    text: LongText = Field(default=None, schema_extra={"examples": ["On the engine."]})
    shelf_id: Reference | None = None


class Book(SQLModel, table=True):
    __tablename__ = "books"
    __table_args__ = (Index(None, "shelf_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    title: str = Field(max_length=100)
    text: str | None = Field(default=None, max_length=10_000)
    shelf_id: int | None = Field(
        default=None, foreign_key="shelves.id", ondelete="SET NULL", sa_type=BIGINT
    )
    shelf: Mapped[Shelf | None] = Relationship()


class BookRead(Read):
    id: int
    title: str
    text: str | None
    shelf_id: int | None


class BookReadWithShelf(BookRead):
    shelf: ShelfRead | None


class BookUpdate(Update[BookRead]):
    model_config = example(title="More notes")

    title: Label = LEFT_OUT
    text: LongText = None
    shelf_id: Reference | None = None


class BookFilter(Filter):
    sort: Literal["id", "shelf_id", "title"] = "id"
    shelf_id: Id = LEFT_OUT
    title: Label = LEFT_OUT


class Loan(SQLModel, table=True):
    """What the API does not show: it keeps a book, or a shelf, from being deleted."""

    __tablename__ = "loans"

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    book_id: int | None = Field(default=None, foreign_key="books.id", sa_type=BIGINT)
    shelf_id: int | None = Field(
        default=None, foreign_key="shelves.id", ondelete="RESTRICT", sa_type=BIGINT
    )


TABLES = [*(SQLModel.metadata.tables[name] for name in ("shelves", "books", "loans")), KEYS]
WITH_SHELF = joinedload(Book.shelf)

app = create_app("Library", summary="For the tests.")


@app.get("/shelves", response_model=list[ShelfRead])
async def list_shelves(
    filters: Annotated[ShelfFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    query = filters.select(Shelf, ShelfRead)
    if filters.width is not None:
        query = query.where(col(Shelf.width) == filters.width)
    return await reply.page(session, query, filters)


@app.post("/shelves", response_model=ShelfRead, status_code=201)
async def create_shelf(data: ShelfCreate, session: SessionDep, answer: Response) -> Shelf:
    shelf = Shelf.model_validate(data)
    session.add(shelf)
    await session.commit()
    answer.headers["Location"] = f"/shelves/{shelf.id}"
    return shelf


@app.get("/shelves/{shelf_id}", response_model=ShelfRead)
async def read_shelf(shelf_id: Id, session: SessionDep) -> Shelf:
    return await session.get_one(Shelf, shelf_id)


@app.patch("/shelves/{shelf_id}", response_model=ShelfRead)
async def update_shelf(
    shelf_id: Id, data: ShelfUpdate, session: SessionDep, if_match: IfMatchDep
) -> Shelf:
    shelf = await session.get_one(Shelf, shelf_id, with_for_update=True)
    if_match.check(ShelfRead, shelf)
    shelf.sqlmodel_update(data.changes(shelf))
    await session.commit()
    return shelf


@app.delete("/shelves/{shelf_id}", status_code=204)
async def delete_shelf(shelf_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    shelf = await session.get_one(Shelf, shelf_id, with_for_update=True)
    if_match.check(ShelfRead, shelf)
    await session.delete(shelf)
    await session.commit()


@app.get("/books", response_model=list[BookReadWithShelf])
async def list_books(
    filters: Annotated[BookFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Book]:
    query = filters.select(Book, BookReadWithShelf).options(WITH_SHELF)
    if filters.title is not None:
        query = query.where(col(Book.title) == filters.title)
    if filters.shelf_id is not None:
        query = query.where(col(Book.shelf_id) == filters.shelf_id)
    return await reply.page(session, query, filters)


@app.post("/books", response_model=BookRead, status_code=201)
async def create_book(data: BookCreate, session: SessionDep, answer: Response) -> Book:
    book = Book.model_validate(data)
    session.add(book)
    await session.commit()
    answer.headers["Location"] = f"/books/{book.id}"
    return book


@app.post("/books/batch", response_model=list[BookRead], status_code=201)
async def create_books(
    data: Annotated[list[BookCreate], BodyField(min_length=1, max_length=100)],
    session: SessionDep,
) -> Sequence[Book]:
    books = [Book.model_validate(book) for book in data]
    session.add_all(books)
    await session.commit()
    return books


@app.get("/books/{book_id}", response_model=BookRead)
async def read_book(book_id: Id, session: SessionDep) -> Book:
    return await session.get_one(Book, book_id)


@app.patch("/books/{book_id}", response_model=BookRead)
async def update_book(
    book_id: Id, data: BookUpdate, session: SessionDep, if_match: IfMatchDep
) -> Book:
    book = await session.get_one(Book, book_id, with_for_update=True)
    if_match.check(BookRead, book)
    book.sqlmodel_update(data.changes(book))
    await session.commit()
    return book


@app.delete("/books/{book_id}", status_code=204)
async def delete_book(book_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    book = await session.get_one(Book, book_id, with_for_update=True)
    if_match.check(BookRead, book)
    await session.delete(book)
    await session.commit()
