"""An app with a check of its own: who calls, what they are shown, and whose an `Idempotency-Key` is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import assert_problem
from nutshell.access import get_caller
from nutshell.app import create_app
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep, background_session
from nutshell.fields import Id
from nutshell.paging import Filter
from nutshell.routes import ReplyDep
from nutshell.settings import settings
from nutshell.tests.library import Book, BookCreate, BookRead

NAMES = {"Key ada": "ada", "Key ada-renewed": "ada", "Key grace": "grace"}
ADA, GRACE = ({"x-key": f"Key {name}"} for name in ("ada", "grace"))
KEY = {"idempotency-key": "a"}
SCHEMES = {"Key": {"type": "apiKey", "in": "header", "name": "X-Key"}}


@dataclass
class Claims:
    id: str
    scope: str = "all"


CallerDep = Annotated[Claims, Depends(get_caller)]


def check(request: Request) -> Claims:
    if (given := request.headers.get("x-key")) is None:
        raise HTTPException(401, "Send your key.", {"WWW-Authenticate": "Key"})
    if given not in NAMES:
        raise HTTPException(403, "This key is not known.")
    return Claims(NAMES[given], scope=given)


async def check_later(request: Request) -> Claims:
    async with background_session(safe=True) as session:
        await session.exec(select(1))
    return check(request)


async def write_down(data: BookCreate, caller: CallerDep, session: SessionDep) -> Book:
    """Creates a book of the caller."""
    book = Book.model_validate(data, update={"text": caller.id})
    session.add(book)
    await session.commit()
    return book


async def list_own(
    filters: Annotated[Filter, Query()], caller: CallerDep, session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists the caller's books."""
    query = filters.select(Book, BookRead).where(col(Book.text) == caller.id)
    return await reply.page(session, query, filters)


async def rename(book_id: Id, caller: CallerDep, session: SessionDep, if_match: IfMatchDep) -> Book:
    """Renames a book of the caller."""
    query = select(Book).where(Book.id == book_id, Book.text == caller.id)
    book = (await session.exec(query.with_for_update())).one()
    if_match.check(BookRead, book)
    book.title = caller.scope
    await session.commit()
    return book


async def stream_nothing() -> Response:
    """Answers without a response model."""
    return Response("")


def make_app(check: Callable[[Request], Any]) -> FastAPI:
    app = create_app("Own", summary="For a test.", check=check, security_schemes=SCHEMES)
    app.get("/books", response_model=list[BookRead])(list_own)
    app.post("/books", response_model=BookRead, status_code=201)(write_down)
    app.post("/books/{book_id}/rename", response_model=BookRead)(rename)
    app.get("/nothing")(stream_nothing)
    return app


@pytest.fixture(params=[check, check_later], ids=["sync", "async"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(settings, "open_local", False)
    return make_app(request.param)


async def titles(session: AsyncSession) -> list[str]:
    return list(await session.exec(select(Book.title).order_by(col(Book.id))))


async def test_own_check_decides_before_the_body_is_read(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for headers, status in (({}, 401), ({"x-key": "Key eve"}, 403)):
        for method, path in (("GET", "/books"), ("POST", "/books"), ("POST", "/books/1/rename")):
            content = unread() if method == "POST" else None
            response = await client.request(method, path, headers=headers | KEY, content=content)
            assert_problem(response, status)
            assert "API_TOKEN" not in response.text
    assert (await client.get("/books")).headers["www-authenticate"] == "Key"
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200
    assert await titles(session) == []


async def test_routes_get_the_caller(client: httpx.AsyncClient, session: AsyncSession) -> None:
    for headers, title in ((ADA, "a"), (GRACE, "b")):
        response = await client.post("/books", json={"title": title}, headers=headers)
        assert response.status_code == 201
        shown = (await client.get("/books", headers=headers)).json()
        assert [book["title"] for book in shown] == [title]
    assert_problem(await client.post(f"/books/{shown[0]['id']}/rename", headers=ADA), 404)
    assert await titles(session) == ["a", "b"]


async def test_same_key_of_another_caller_is_another_key(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    answers = [
        await client.post("/books", json={"title": "a"}, headers=headers | KEY)
        for headers in (ADA, GRACE, ADA, GRACE)
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert answers[0].json() == answers[2].json()
    assert answers[1].json() == answers[3].json()
    assert [answer.json()["text"] for answer in answers[:2]] == ["ada", "grace"]
    # A caller whose credentials were renewed is the same.
    renewed = await client.post(
        "/books", json={"title": "a"}, headers={"x-key": "Key ada-renewed"} | KEY
    )
    assert renewed.json() == answers[0].json()
    assert await titles(session) == ["a", "a"]


async def test_callers_with_one_key_at_once_do_not_meet(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    calls = [
        client.post("/books", json={"title": "a"}, headers=headers | KEY)
        for headers in (ADA, GRACE)
    ]
    assert [answer.status_code for answer in await asyncio.gather(*calls)] == [201, 201]
    assert len(await titles(session)) == 2


async def test_tag_of_another_callers_answer_is_no_other_than_what_it_says(
    client: httpx.AsyncClient,
) -> None:
    """Caches must ask each time, and the tag is a digest of the caller's own answer."""
    await client.post("/books", json={"title": "a"}, headers=ADA)
    first = await client.get("/books", headers=ADA)
    known = {"if-none-match": first.headers["etag"]}
    assert (await client.get("/books", headers=ADA | known)).status_code == 304
    other = await client.get("/books", headers=GRACE | known)
    assert (other.status_code, other.json()) == (200, [])
    for path in ("/books", "/nothing"):
        answer = await client.get(path, headers=ADA)
        assert answer.headers["cache-control"] == "no-cache"
    assert_problem(await client.get("/books", headers=known), 401)


def test_document_has_the_schemes_of_the_check(app: FastAPI) -> None:
    document = app.openapi()
    assert document["components"]["securitySchemes"] == SCHEMES
    for path, methods in document["paths"].items():
        for operation in methods.values():
            guarded: list[Any] = [] if operation["tags"] == ["health"] else [{"Key": []}]
            assert operation["security"] == guarded, path


@pytest.mark.parametrize("caller", [7, {"sub": "ada"}, object()])
async def test_check_that_returns_no_identity_is_a_defect(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, caller: object, app: FastAPI
) -> None:
    app.state.check = lambda _: caller
    assert_problem(await client.get("/nothing"), 500)
    assert "A check must return" in caplog.text


@pytest.mark.parametrize(("first", "second", "same"), [(None, None, True), ("a", "b", False)])
async def test_callers_are_told_apart_by_what_the_check_returns(
    client: httpx.AsyncClient, app: FastAPI, first: str | None, second: str | None, same: bool
) -> None:
    @app.post("/notes", response_model=BookRead, status_code=201)
    async def write_note(data: BookCreate, session: SessionDep) -> Book:
        book = Book.model_validate(data)
        session.add(book)
        await session.commit()
        return book

    answers = []
    for caller in (first, second):
        app.state.check = lambda _, caller=caller: caller
        answers.append(await client.post("/notes", json={"title": "a"}, headers=KEY))
    assert (answers[0].json() == answers[1].json()) is same
