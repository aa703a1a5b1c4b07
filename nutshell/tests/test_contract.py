"""What every route of a resource does: paging, refusals, problem documents, its part of the document."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.responses import StreamingResponse

from nutshell.tests.fixtures import Wire, assert_problem, create
from nutshell.fields import MAX_INT
from nutshell.middleware import MAX_BODY

LISTS = ["/shelves", "/books"]
JSON = {"content-type": "application/json"}


async def create_row(client: httpx.AsyncClient, path: str, number: int) -> int:
    """Creates a row that the list at `path` shows, and returns its id."""
    data = {"label": f"Shelf {number}"} if path == "/shelves" else {"title": "a"}
    return int((await create(client, path, **data))["id"])


def next_page(response: httpx.Response) -> str | None:
    assert len(response.links) <= 1
    return response.links["next"]["url"] if response.links else None


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("path", LISTS)
async def test_list_pages_to_the_end_while_rows_are_inserted(
    client: httpx.AsyncClient, path: str, order: str
) -> None:
    before = [await create_row(client, path, number) for number in range(10)]
    seen: list[int] = []
    url: str | None = f"{path}?limit=3&order={order}"
    inserted = 100
    while url is not None:
        response = await client.get(url)
        assert response.status_code == 200
        page = [row["id"] for row in response.json()]
        assert 1 <= len(page) <= 3
        seen += page
        url = next_page(response)
        if inserted < 104:
            inserted += 1
            before.append(await create_row(client, path, inserted))
    expected = before if order == "asc" else before[:10][::-1]
    assert seen == expected


async def test_list_link_keeps_filters_and_drops_offset(client: httpx.AsyncClient) -> None:
    books = [await create(client, "/books", title="Q & A") for _ in range(4)]
    await create(client, "/books", title="Q")
    response = await client.get("/books?title=Q%20%26%20A&limit=2&offset=1")
    assert response.json() == [book | {"shelf": None} for book in books[1:3]]
    url = next_page(response)
    assert url is not None
    assert urlsplit(url)[:3] == ("", "", "/books")
    last = response.json()[-1]["id"]
    query = {"title": ["Q & A"], "limit": ["2"], "after": [str(last)]}
    assert parse_qs(urlsplit(url).query) == query
    rest = await client.get(url)
    assert [book["id"] for book in rest.json()] == [books[3]["id"]]
    assert next_page(rest) is None


@pytest.mark.parametrize("path", LISTS)
async def test_list_of_exactly_one_page_has_no_link(client: httpx.AsyncClient, path: str) -> None:
    ids = [await create_row(client, path, number) for number in range(3)]
    response = await client.get(f"{path}?limit=3")
    assert [row["id"] for row in response.json()] == ids
    assert next_page(response) is None
    assert [r["id"] for r in (await client.get(f"{path}?offset=1&limit=1")).json()] == ids[1:2]
    assert (await client.get(f"{path}?offset=3")).json() == []
    assert (await client.get(f"{path}?after={ids[-1]}")).json() == []


@pytest.mark.parametrize("path", LISTS)
async def test_list_with_bad_parameter_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for name, value in [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "x"),
        ("limit", " 1"),
        ("limit", "9" * 30),
        ("offset", "-1"),
        ("offset", "1.0"),
        ("offset", str(2**63)),
        ("after", "-1"),
        ("after", str(2**63)),
        ("sort", "nothing"),
        ("order", "up"),
        ("ordre", "asc"),
    ]:
        assert_problem(await client.get(path, params={name: value}), 422, ("query", name))


async def test_list_at_the_limits_of_its_parameters_answers(client: httpx.AsyncClient) -> None:
    greatest = 2**53 - 1
    response = await client.get(f"/shelves?limit=100&offset={greatest}&after={greatest}")
    assert response.status_code == 200
    assert response.json() == []
    response = await client.get(f"/shelves?offset={greatest + 1}")
    assert_problem(response, 422, ("query", "offset"))
    assert response.json()["errors"][0]["msg"].endswith(f"less than or equal to {greatest}")


async def test_list_after_zero_begins(client: httpx.AsyncClient) -> None:
    ids = [await create_row(client, "/books", number) for number in range(3)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        response = await client.get(f"/books?after=0&order={order}")
        assert [row["id"] for row in response.json()] == expected
        for sort in ("id", "title"):
            response = await client.get(f"/books?cursor=0&sort={sort}&order={order}")
            assert [row["id"] for row in response.json()] == expected


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_list_is_sorted_and_pages_to_the_end(client: httpx.AsyncClient, order: str) -> None:
    shelves = [await create_row(client, "/shelves", number) for number in range(2)]
    wanted: list[tuple[bool, int, int]] = []
    for shelf in (shelves[1], None, shelves[0], shelves[1], None):
        book = await create(client, "/books", title="a", shelf_id=shelf)
        wanted.append((shelf is None, shelf or 0, book["id"]))  # null comes last
    seen: list[int] = []
    url: str | None = f"/books?sort=shelf_id&order={order}&limit=2"
    while url is not None:
        response = await client.get(url)
        seen += [book["id"] for book in response.json()]
        url = next_page(response)
    assert seen == [number for *_, number in sorted(wanted, reverse=order == "desc")]
    for skipped in (1, 4):
        response = await client.get(f"/books?sort=shelf_id&order={order}&offset={skipped}")
        assert [book["id"] for book in response.json()] == seen[skipped:]


async def test_full_page_of_a_sorted_list_needs_no_look_at_the_rest(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    """Rows without a shelf come from a statement of their own, but only when the page has room."""
    shelf = await create_row(client, "/shelves", 1)
    for shelf_id in (shelf, shelf, None):
        await create(client, "/books", title="a", shelf_id=shelf_id)
    await client.get("/books")  # connects
    wire.clear()
    assert len((await client.get("/books?sort=shelf_id&limit=1")).json()) == 1
    assert wire.verbs().count("SELECT") == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("column", ["shelf_id", "title"])
async def test_sorted_pages_are_stable_while_rows_come_and_go(
    client: httpx.AsyncClient, column: str, order: str
) -> None:
    """No row that stays is shown twice or left out, whatever is inserted or deleted meanwhile."""
    shelves: list[int | None] = [await create_row(client, "/shelves", n) for n in range(3)]
    shelves.append(None)

    async def make(number: int) -> int:
        data = {"title": "ab"[number % 2], "shelf_id": shelves[number % 4]}
        return int((await create(client, "/books", **data))["id"])

    stay = {await make(number) for number in range(8)}
    go = [await make(number) for number in range(8)]
    seen: list[int] = []
    url: str | None = f"/books?sort={column}&order={order}&limit=3"
    while url is not None:
        response = await client.get(url)
        assert response.status_code == 200, response.text
        assert "offset" not in url
        seen += [book["id"] for book in response.json()]
        url = next_page(response)
        if url is not None:
            await client.delete(f"/books/{go.pop()}")
            await make(len(seen))
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


def forge(*place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "%00",
        "é",
        forge(),
        forge("title", "asc", "a"),
        forge("title", "desc", "a", 1),
        forge("shelf_id", "asc", 1, 1),
        forge("title", "asc", 1, 1),
        forge("title", "asc", "\0", 1),
        forge("title", "asc", "\ud800", 1),
        forge("title", "asc", "a", 2**63),
        "A" * 5000,
    ],
)
async def test_forged_cursor_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    response = await client.get(f"/books?sort=title&cursor={cursor}")
    assert_problem(response, 422, ("query", "cursor"))
    kind = "string_too_long" if len(cursor) > 1300 else "cursor"
    assert response.json()["errors"][0]["type"] == kind


async def test_cursor_goes_with_its_order_alone(client: httpx.AsyncClient) -> None:
    cursor = forge("title", "asc", "a", 1)
    assert (await client.get(f"/books?sort=title&cursor={cursor}")).status_code == 200
    for query in ("", "sort=title&offset=1&", "sort=title&order=desc&", "sort=shelf_id&"):
        response = await client.get(f"/books?{query}cursor={cursor}")
        assert_problem(response, 422, ("query", "cursor"))


async def test_sort_goes_with_no_after(client: httpx.AsyncClient) -> None:
    response = await client.get("/books?sort=shelf_id&after=1")
    assert_problem(response, 422, ("query", "after"))


async def test_list_of_given_ids(client: httpx.AsyncClient) -> None:
    created = await client.post("/books/batch", json=[{"title": "a"}] * 60)
    ids = [book["id"] for book in created.json()]
    query = "&".join(f"id={number}" for number in ids[1:])
    response = await client.get(f"/books?{query}")
    assert [row["id"] for row in response.json()] == ids[1:]
    assert next_page(response) is None
    url = next_page(await client.get(f"/books?{query}&limit=58"))
    assert url is not None
    assert [row["id"] for row in (await client.get(url)).json()] == ids[-1:]
    assert (await client.get(f"/books?id={ids[-1] + 1}")).json() == []
    response = await client.get("/books?id=x")
    assert_problem(response, 422, ("query", "id", 0))
    many = "&".join(f"id={number}" for number in range(1, 102))
    assert_problem(await client.get(f"/books?{many}"), 422, ("query", "id"))


async def test_list_is_counted_when_asked(client: httpx.AsyncClient, wire: Wire) -> None:
    for number in range(5):
        await create_row(client, "/books", number)
    await create(client, "/books", title="b")
    await client.get("/books")  # opens the connection
    wire.clear()
    plain = await client.get("/books?title=a&limit=2")
    assert len(wire.statements()) == 1
    assert "x-total-count" not in plain.headers
    for prefer in ("count=exact", "respond-async, count=exact", "count=exact; x=1"):
        counted = await client.get("/books?title=a&limit=2&offset=1", headers={"prefer": prefer})
        assert counted.headers["x-total-count"] == "5"
        assert counted.headers["preference-applied"] == "count=exact"
        assert len(counted.json()) == 2
    for prefer in ("count=estimated", "xcount=exact"):
        response = await client.get("/books", headers={"prefer": prefer})
        assert "preference-applied" not in response.headers


async def test_list_with_its_etag_is_not_modified(client: httpx.AsyncClient) -> None:
    await create_row(client, "/books", 1)
    first = await client.get("/books")
    assert first.headers["cache-control"] == "no-cache"
    known = {"if-none-match": first.headers["etag"]}
    assert (await client.get("/books", headers=known)).status_code == 304
    await create_row(client, "/books", 2)
    assert (await client.get("/books", headers=known)).status_code == 200


async def test_list_whose_link_or_total_has_changed_is_modified(client: httpx.AsyncClient) -> None:
    for number in range(2):
        await create_row(client, "/books", number)
    prefer = {"prefer": "count=exact"}
    whole = await client.get("/books?limit=2")
    counted = await client.get("/books?limit=2", headers=prefer)
    assert counted.headers["etag"] != whole.headers["etag"]
    assert "Prefer" in whole.headers["vary"]
    await create_row(client, "/books", 3)
    for before, headers in ((whole, {}), (counted, prefer)):
        known = headers | {"if-none-match": before.headers["etag"]}
        after = await client.get("/books?limit=2", headers=known)
        assert after.json() == before.json()
        assert next_page(after) is not None
    assert after.headers["x-total-count"] == "3"
    known["if-none-match"] = after.headers["etag"]
    await create_row(client, "/books", 4)
    again = await client.get("/books?limit=2", headers=known)
    assert again.headers["x-total-count"] == "4"


async def test_page_and_its_total_are_of_one_moment(client: httpx.AsyncClient) -> None:
    """While rows come and go, every whole list has as many rows as its total says."""
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            created = await client.post("/books/batch", json=[{"title": "a"}] * 5)
            for book in created.json():
                await client.delete(f"/books/{book['id']}")

    async def read() -> list[httpx.Response]:
        headers = {"prefer": "count=exact"}
        return [await client.get("/books?limit=100", headers=headers) for _ in range(30)]

    writing = asyncio.create_task(write())
    answers = [answer for some in await asyncio.gather(read(), read()) for answer in some]
    done.set()
    await writing
    totals = [int(answer.headers["x-total-count"]) for answer in answers]
    assert totals == [len(answer.json()) for answer in answers]
    assert len(set(totals)) > 1, "nothing was written meanwhile"


async def test_parameter_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    for query in ("limit=1&limit=2", "title=a&title=a", "shelf_id=1&limit=1&shelf_id=2"):
        response = await client.get(f"/books?{query}")
        assert_problem(response, 422, ("query", query.partition("=")[0]))
    assert (await client.get("/books?id=1&id=2")).status_code == 200


async def test_unknown_parameter_is_refused_by_every_route(
    client: httpx.AsyncClient, extra: FastAPI
) -> None:
    """Also by those that stream, that have no response model, and whose dependencies have parameters."""
    shelf = await create(client, "/shelves", label="Top")

    def read_depth(depth: int = 1) -> int:
        return depth

    def read_layers(depth: Annotated[int, Depends(read_depth)]) -> list[int]:
        return list(range(depth))

    @extra.get("/stream")
    async def stream(layers: Annotated[list[int], Depends(read_layers)]) -> StreamingResponse:
        return StreamingResponse(iter([str(layers)]))

    @extra.get("/named")
    async def read_named(
        kind: Annotated[str, Query(alias="$kind")],
        size: Annotated[int, Query(validation_alias="$size")] = 1,
    ) -> None: ...

    path = f"/shelves/{shelf['id']}"
    for method, target, known in [
        ("GET", path, "none"),
        ("PATCH", path, "none"),
        ("DELETE", path, "none"),
        ("POST", "/shelves", "none"),
        ("POST", "/books/batch", "none"),
        ("GET", "/stream", "depth"),
        ("GET", "/named", "$kind, $size"),
    ]:
        body = {"label": "Changed"} if method in ("PATCH", "POST") else None
        response = await client.request(method, f"{target}?dry_run=true&if=&$%6b", json=body)
        assert_problem(response, 422, ("query", "dry_run"), ("query", "if"), ("query", "$k"))
        for error in response.json()["errors"]:
            assert error["type"] == "extra_forbidden"
            assert error["msg"] == f"there is no such parameter; this operation has {known}"
    assert (await client.get("/shelves")).json() == [shelf], "a refused request has changed a row"
    assert (await client.get("/stream?depth=2")).text == "[0, 1]"
    assert (await client.get("/named?$kind=a&$size=2")).status_code == 200
    listed = (await client.get("/shelves?with=0&limit=1&limit=2")).json()["errors"]
    assert [error["type"] for error in listed] == ["extra_forbidden", "repeated"]
    assert "limit, offset, " in listed[0]["msg"]


async def test_health_and_documentation_take_any_parameter(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(f"{path}?_=1")).status_code == 200


async def test_long_answer_is_compressed_when_asked(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="a", text="b" * 2000)
    for path in ("/books", f"/books/{book['id']}"):
        plain = await client.get(path, headers={"accept-encoding": "identity"})
        packed = await client.get(path, headers={"accept-encoding": "br, gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content
        assert int(packed.headers["content-length"]) < 500
        assert packed.headers["etag"] != plain.headers["etag"]
        assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding, Prefer"
        for answer, encoding in ((plain, "identity"), (packed, "gzip")):
            known = {"if-none-match": answer.headers["etag"], "accept-encoding": encoding}
            again = await client.get(path, headers=known)
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == answer.headers["etag"]
    match = {"if-match": packed.headers["etag"]}
    response = await client.patch(f"/books/{book['id']}", json={"title": "c"}, headers=match)
    assert response.status_code == 200
    stale = await client.patch(f"/books/{book['id']}", json={"title": "d"}, headers=match)
    assert stale.status_code == 412
    await create(client, "/shelves", label="Top")
    small = await client.get("/shelves", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", "1"),
        ("width", True),
        ("width", 1.5),
        ("width", 2**53),
        ("built_on", 0),
        ("built_on", "0"),
        ("built_on", "2030-01-31T00:00:00Z"),
        ("built_on", "2030-02-30"),
    ],
)
async def test_value_of_another_type_is_refused(
    client: httpx.AsyncClient, field: str, value: object
) -> None:
    response = await client.post("/shelves", json={"label": "Top", field: value})
    assert_problem(response, 422, ("body", field))


async def test_whole_numbers_and_days_come_back_as_they_were_sent(
    client: httpx.AsyncClient,
) -> None:
    for number, width in enumerate((-MAX_INT, 0, 2**31, MAX_INT)):
        data = {"label": f"{number}", "width": width, "built_on": "0001-01-01"}
        shelf = await create(client, "/shelves", **data)
        assert shelf.items() >= data.items()
        assert (await client.get(f"/shelves?width={width}")).json() == [shelf]
    for wrong in ("+1", "1.0", "%C2%A01", "x", str(2**53)):
        response = await client.get(f"/shelves?width={wrong}")
        assert_problem(response, 422, ("query", "width"))


async def test_update_may_repeat_what_cannot_be_changed(client: httpx.AsyncClient) -> None:
    number = await create_row(client, "/books", 1)
    shown = (await client.get(f"/books/{number}")).json()
    response = await client.patch(f"/books/{number}", json=shown | {"title": "b"})
    assert response.json() == shown | {"title": "b"}
    response = await client.patch(f"/books/{number}", json={"id": number + 1, "title": "c"})
    assert_problem(response, 422, ("body", "id"))
    assert (await client.get(f"/books/{number}")).json() == shown | {"title": "b"}


@pytest.mark.parametrize("path", LISTS)
async def test_impossible_id_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        body = b"{}" if method == "PATCH" else None
        for row_id in (
            "0",
            "-1",
            str(2**63),
            "9" * 5000,
            "1.5",
            "x",
            "%00",
            "%ff",
            "+1",
            "1_0",
            "%C2%A01",
        ):
            response = await client.request(method, f"{path}/{row_id}", content=body, headers=JSON)
            assert_problem(response, 422, ("path", "shelf_id" if path == "/shelves" else "book_id"))


@pytest.mark.parametrize("path", ["/shelves", "/books", "/books/batch"])
async def test_senseless_body_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for body in (
        b"",
        b"{",
        b"nonsense",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b"NaN",
        b"\xff\xfe",
        b'{"title": NaN, "label": NaN, "shelf_id": NaN, "text": Infinity}',
        b'{"shelf_id": -Infinity}',
        b'{"title": "\\ud800", "title": "\\ud800", "label": "\\ud800"}',
        b'{"\\ud800": "a lone surrogate for a name"}',
        b'[{"title": "\\ud800"}]',
        b'[{"\\ud800": 1}]',
        b'[{"title": NaN}]',
        b'{"title": "\xed\xa0\x80"}',
    ):
        response = await client.post(path, content=body, headers=JSON)
        assert response.status_code == 422, (body, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"]
        for error in response.json()["errors"]:
            assert error.keys() == {"loc", "msg", "type"}


async def test_body_that_is_not_declared_json_is_refused(client: httpx.AsyncClient) -> None:
    body = b'{"title": "Engine"}'
    response = await client.post("/books", content=body, headers={"content-type": "text/plain"})
    assert_problem(response, 415)
    assert "application/json" in response.json()["detail"]
    for name, value in (
        ("content-type", "application/json-patch+json"),
        ("content-type", "application/vnd.api+json"),
        ("content-encoding", "gzip"),
    ):
        response = await client.post("/books", content=body, headers=JSON | {name: value})
        assert_problem(response, 415)
    merge = {"content-type": "application/merge-patch+json; charset=utf-8"}
    book = (await client.post("/books", content=body, headers=JSON)).json()
    response = await client.patch(f"/books/{book['id']}", content=body, headers=merge)
    assert response.status_code == 200
    response = await client.post("/books", content=b"", headers={"content-type": "text/plain"})
    assert_problem(response, 422, ("body",))


async def test_refusal_does_not_repeat_the_input(client: httpx.AsyncClient) -> None:
    secret = "correct-horse-battery"
    response = await client.post(
        "/books", json={"title": [secret], "text": {"x": secret}, secret: 1}
    )
    assert response.status_code == 422
    assert json.dumps(response.json()["errors"]).count(secret) == 1, "the name of the field alone"


async def test_body_over_the_limit_is_too_large(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/books", json={"title": "a" * MAX_BODY}), 413)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 1024 + 1):
            yield b" " * 1024

    assert_problem(await client.post("/books", content=drip(), headers=JSON), 413)
    just_fits = json.dumps({"title": "Engine"}).encode().ljust(MAX_BODY)
    response = await client.post("/books", content=just_fits, headers=JSON)
    assert response.status_code == 201


@pytest.mark.parametrize("path", ["/nowhere", "/shelves/1/nothing", "/shelves/", "/books/1/"])
async def test_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert_problem(response, 404)
    assert "There is no such path. Paths do not end with a slash" in response.json()["detail"]


async def test_wrong_method_is_not_allowed(client: httpx.AsyncClient) -> None:
    for path, allowed in [
        ("/shelves", "HEAD, GET, POST"),
        ("/shelves/1", "HEAD, GET, PATCH, DELETE"),
        ("/healthz", "HEAD, GET"),
    ]:
        response = await client.put(path, json={})
        assert_problem(response, 405)
        assert response.headers["allow"] == allowed
        assert response.json()["detail"] == f"This path allows only {allowed}."


async def test_root_leads_to_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 307
    assert response.headers["location"] == "/docs"
    page = await client.get("/docs", headers={"host": "evil.example"})
    assert page.status_code == 200
    assert "evil" not in page.text
    assert "persistAuthorization" not in page.text, "the browser would store the token"


async def test_assets_of_docs_are_kept_and_compressed(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assets = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page)
    assert len(assets) == 3
    for asset in assets:
        plain = await client.get(asset, headers={"accept-encoding": "identity"})
        packed = await client.get(asset, headers={"accept-encoding": "br, gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content
        assert int(packed.headers["content-length"]) < 600_000
        assert "immutable" in plain.headers["cache-control"]
    assert_problem(await client.get("/docs/nothing.js"), 404)


OPERATIONS = {
    ("get", "/shelves"): ("list_shelves", {"200", "304"}),
    ("post", "/shelves"): ("create_shelf", {"201", "400", "409", "415"}),
    ("get", "/shelves/{shelf_id}"): ("read_shelf", {"200", "304", "404"}),
    ("patch", "/shelves/{shelf_id}"): ("update_shelf", {"200", "400", "404", "409", "412", "415"}),
    ("delete", "/shelves/{shelf_id}"): ("delete_shelf", {"204", "400", "404", "409", "412"}),
    ("get", "/books"): ("list_books", {"200", "304"}),
    ("post", "/books"): ("create_book", {"201", "400", "409", "415"}),
    ("post", "/books/batch"): ("create_books", {"201", "400", "409", "415"}),
    ("get", "/books/{book_id}"): ("read_book", {"200", "304", "404"}),
    ("patch", "/books/{book_id}"): ("update_book", {"200", "400", "404", "409", "412", "415"}),
    ("delete", "/books/{book_id}"): ("delete_book", {"204", "400", "404", "409", "412"}),
    ("get", "/healthz"): ("read_health", {"200"}),
    ("get", "/readyz"): ("read_readiness", {"200", "503"}),
}
EVERYWHERE = {"401", "403", "413", "422", "500", "503"}


async def test_openapi_documents_every_operation_and_error(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == OPERATIONS.keys()
    for (method, path), operation in operations.items():
        name, statuses = OPERATIONS[method, path]
        common = set() if operation["tags"] == ["health"] else EVERYWHERE
        assert operation["operationId"] == name
        assert operation["responses"].keys() == statuses | common
        for status, response in operation["responses"].items():
            if status >= "400":
                assert response == {"$ref": f"#/components/responses/{status}"}
                content = document["components"]["responses"][status]["content"]
                schema = {"$ref": "#/components/schemas/Problem"}
                assert content["application/problem+json"]["schema"] == schema
    assert "HTTPValidationError" not in document["components"]["schemas"]
    parameters = {p["name"]: p["schema"] for p in operations["get", "/books"]["parameters"]}
    limits = {"limit": (1, 100), "offset": (0, MAX_INT)}
    for name, (least, most) in limits.items():
        assert (parameters[name]["minimum"], parameters[name]["maximum"]) == (least, most)
    assert "'type': 'null'" not in str(parameters), "a query has no null"
    (of_path,) = operations["delete", "/books/{book_id}"]["parameters"][:1]
    assert of_path["schema"].items() >= {"minimum": 1, "maximum": MAX_INT}.items()
    schemas = {name: s["properties"] for name, s in document["components"]["schemas"].items()}
    whole = {"type": "integer", "format": "int64"}.items()
    for integer in (
        of_path["schema"],
        parameters["limit"],
        parameters["id"]["items"],
        schemas["ShelfCreate"]["width"]["anyOf"][0],
        schemas["ShelfRead"]["id"],
        schemas["BookRead"]["shelf_id"]["anyOf"][0],
    ):
        assert integer.items() >= whole
