"""Entity tags: an answer is not sent twice, and a change overwrites nothing unseen."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from nutshell.tests.fixtures import Wire, assert_problem, create
from nutshell.conditional import IfMatchDep
from nutshell.tests.library import Book, BookRead


@pytest.fixture(params=["/shelves", "/books"])
async def path(
    request: pytest.FixtureRequest, client: httpx.AsyncClient, shelf: dict[str, Any]
) -> str:
    """A row of each resource."""
    if request.param == "/shelves":
        return f"/shelves/{shelf['id']}"
    book = await create(client, "/books", title="a", shelf_id=shelf["id"])
    return f"/books/{book['id']}"


def change(path: str, text: str = "changed") -> dict[str, str]:
    return {"title" if path.startswith("/books") else "place": text}


async def test_read_row_with_its_etag_is_not_modified(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        response = await client.get(path, headers={"if-none-match": known})
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["etag"] == tag
    for other in ('"other"', "", tag.strip('"')):
        response = await client.get(path, headers={"if-none-match": other})
        assert response.status_code == 200
        assert response.json() == first.json()


async def test_create_row_answers_the_etag_of_its_location(
    client: httpx.AsyncClient, shelf: dict[str, Any]
) -> None:
    for path, data in [
        ("/shelves", {"label": "Bottom"}),
        ("/books", {"title": "a", "shelf_id": shelf["id"]}),
    ]:
        created = await client.post(path, json=data)
        read = await client.get(created.headers["location"])
        assert created.headers["etag"] == read.headers["etag"]


async def test_update_row_that_has_moved_on_fails(client: httpx.AsyncClient, path: str) -> None:
    tag = (await client.get(path)).headers["etag"]
    changed = await client.patch(path, json=change(path), headers={"if-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    before = (await client.get(path)).json()
    for stale in (tag, f"W/{tag}", '"other"', f'"a,b", {tag}'):
        headers = {"if-match": stale}
        response = await client.patch(path, json=change(path, "lost"), headers=headers)
        assert_problem(response, 412)
        assert_problem(await client.delete(path, headers=headers), 412)
    assert (await client.get(path)).json() == before
    new = changed.headers["etag"]
    # A proxy that compresses makes tags weak: nginx puts W/ before, Apache -gzip behind.
    for fresh in (new, "*", f"W/{new}", f'{new[:-1]}-gzip"', f'"a,b" ,, W/{new}'):
        response = await client.patch(path, json={}, headers={"if-match": fresh})
        assert response.status_code == 200
    several = [("if-match", tag), ("if-match", new)]
    assert (await client.patch(path, json={}, headers=several)).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_condition_that_is_none_is_refused(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    tag = (await client.get(path)).headers["etag"]
    body: Any = {} if method == "PATCH" else None
    for name in ("If-Match", "If-None-Match"):
        for wrong in (tag.strip('"'), "", ",", tag[:-1], f"{tag}, x", f"w/{tag}", f"*, {tag}"):
            headers = {name: wrong}
            response = await client.request(method, path, json=body, headers=headers)
            assert_problem(response, 400)
            assert name in response.json()["detail"]
    assert (await client.get(path)).headers["etag"] == tag


async def test_update_that_changes_nothing_keeps_the_etag(
    client: httpx.AsyncClient, path: str
) -> None:
    first = await client.get(path)
    for same in ({}, change(path, first.json()[next(iter(change(path)))])):
        response = await client.patch(path, json=same)
        assert response.headers["etag"] == first.headers["etag"]
        assert response.json() == first.json()


async def test_update_between_null_and_a_value_changes_the_etag(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="a")
    tags = [
        (await client.patch(f"/books/{book['id']}", json=data)).headers["etag"]
        for data in (
            {"text": None},
            {"text": "b"},
            {"text": "b", "title": "a"},
            {"text": None, "title": "a"},
            {"text": None, "shelf_id": None},
        )
    ]
    assert tags[1] == tags[2] != tags[0]
    assert tags[0] == tags[3] == tags[4], "the same answer has the same tag"


async def test_update_of_no_row_with_an_etag_is_not_found(
    client: httpx.AsyncClient, path: str
) -> None:
    await client.delete(path)
    for headers in ({}, {"if-match": '"1"'}, {"if-match": "*"}):
        for data in ({}, change(path)):
            assert_problem(await client.patch(path, json=data, headers=headers), 404)


async def test_delete_row_with_its_etag_succeeds(client: httpx.AsyncClient, path: str) -> None:
    tag = (await client.get(path)).headers["etag"]
    assert (await client.delete(path, headers={"if-match": tag})).status_code == 204
    assert_problem(await client.delete(path, headers={"if-match": tag}), 404)


async def test_etag_of_book_changes_when_its_shelf_is_deleted(
    client: httpx.AsyncClient, shelf: dict[str, Any]
) -> None:
    book = await create(client, "/books", title="a", shelf_id=shelf["id"])
    tag = (await client.get(f"/books/{book['id']}")).headers["etag"]
    await client.delete(f"/shelves/{shelf['id']}")
    response = await client.get(f"/books/{book['id']}", headers={"if-none-match": tag})
    assert response.status_code == 200
    assert response.json()["shelf_id"] is None
    assert response.headers["etag"] != tag
    stale = await client.patch(
        f"/books/{book['id']}", json={"title": "b"}, headers={"if-match": tag}
    )
    assert_problem(stale, 412)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_change_of_what_the_caller_wants_absent_fails(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    """RFC 9110, 13.1.2: with another method than GET the answer is 412 and not 304."""
    body: Any = {} if method == "PATCH" else None
    for known in ((await client.get(path)).headers["etag"], "*"):
        response = await client.request(method, path, json=body, headers={"if-none-match": known})
        assert_problem(response, 412)
    other = {"if-none-match": '"other"'}
    assert (await client.request(method, path, json=body, headers=other)).status_code < 300


async def test_of_many_updates_with_one_etag_one_succeeds(
    client: httpx.AsyncClient, path: str
) -> None:
    headers = {"if-match": (await client.get(path)).headers["etag"]}
    calls = [client.patch(path, json=change(path, f"{n}"), headers=headers) for n in range(10)]
    statuses = sorted(response.status_code for response in await asyncio.gather(*calls))
    assert statuses == [200] + [412] * 9


async def test_updates_of_different_fields_at_once_all_hold(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="a", text="b")
    path = f"/books/{book['id']}"
    for turn in range(5):
        calls = [
            client.patch(path, json={"title": f"title {turn}"}),
            client.patch(path, json={"text": f"text {turn}"}),
        ]
        assert [r.status_code for r in await asyncio.gather(*calls)] == [200, 200]
        row = (await client.get(path)).json()
        assert (row["title"], row["text"]) == (f"title {turn}", f"text {turn}")


@pytest.mark.parametrize(("method", "verb"), [("PATCH", "UPDATE"), ("DELETE", "DELETE")])
async def test_change_locks_the_row_before_it_compares(
    client: httpx.AsyncClient, path: str, wire: Wire, method: str, verb: str
) -> None:
    body = change(path) if method == "PATCH" else None
    wire.clear()
    await client.request(method, path, json=body, headers={"if-match": "*"})
    verbs = wire.verbs()  # SQLite reports what a cascade does too
    assert [*verbs[:3], verbs[-1]] == ["BEGIN", "SELECT", verb, "COMMIT"]
    if wire.log is None:
        assert wire.statements()[0] == "BEGIN IMMEDIATE"
    else:
        assert "FOR UPDATE\n" in wire.log.read_bytes()[wire.offset :].decode()


async def test_route_keeps_its_own_headers_and_tasks(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    done: list[int] = []

    @extra.get("/own", response_model=BookRead)
    async def answer_privately(response: Response, tasks: BackgroundTasks) -> dict[str, Any]:
        response.headers["Cache-Control"] = "no-store"
        response.headers["Vary"] = "Cookie"
        tasks.add_task(done.append, 1)
        return {"id": 1, "title": "a", "text": None, "shelf_id": None}

    first = await client.get("/own")
    again = await client.get("/own", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    for answer in (first, again):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Cookie, Accept-Encoding, Prefer"
    assert done == [1, 1]


async def test_condition_is_for_what_would_succeed(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    """RFC 9110, 13.2.1."""

    @extra.get("/gone", response_model=BookRead)
    async def answer_gone() -> Response:
        return JSONResponse({"gone": True}, 404)

    response = await client.get("/gone", headers={"if-none-match": "*"})
    assert response.status_code == 404
    assert "etag" not in response.headers


async def test_tag_of_a_schema_with_aliases_matches(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    class Camel(BaseModel):
        model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

        shelf_id: int | None

    @extra.get("/camel", response_model=Camel)
    async def read_camel() -> dict[str, Any]:
        return {"shelf_id": 1}

    @extra.patch("/camel", response_model=Camel)
    async def change_camel(if_match: IfMatchDep) -> dict[str, Any]:
        if_match.check(Camel, Book(title="a", shelf_id=1))
        return {"shelf_id": 1}

    tag = (await client.get("/camel")).headers["etag"]
    assert (await client.patch("/camel", headers={"if-match": tag})).status_code == 200
