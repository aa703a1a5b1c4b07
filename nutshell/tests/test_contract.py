"""What every route of a resource does: paging, refusals, problem documents, its part of the document."""

import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from nutshell.tests.fixtures import assert_problem, create
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
        ("after", "0"),
        ("after", str(2**63)),
        ("order", "up"),
        ("ordre", "asc"),
    ]:
        assert_problem(await client.get(path, params={name: value}), 422, ("query", name))


async def test_list_at_the_limits_of_its_parameters_answers(client: httpx.AsyncClient) -> None:
    greatest = 2**53 - 1
    response = await client.get(f"/shelves?limit=100&offset={greatest}&after={greatest}")
    assert response.status_code == 200
    assert response.json() == []


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


@pytest.mark.parametrize("path", ["/nowhere", "/shelves/1/nothing", "/books/1/"])
async def test_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert_problem(await client.get(path), 404)


async def test_wrong_method_is_not_allowed(client: httpx.AsyncClient) -> None:
    for path, allowed in [
        ("/shelves", "HEAD, GET, POST"),
        ("/shelves/1", "HEAD, GET, PATCH, DELETE"),
        ("/healthz", "HEAD, GET"),
    ]:
        response = await client.put(path, json={})
        assert_problem(response, 405)
        assert response.headers["allow"] == allowed


async def test_root_leads_to_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 307
    assert response.headers["location"] == "/docs"
    assert (await client.get("/docs")).status_code == 200


OPERATIONS = {
    ("get", "/shelves"): ("list_shelves", {"200"}),
    ("post", "/shelves"): ("create_shelf", {"201", "400", "409"}),
    ("get", "/shelves/{shelf_id}"): ("read_shelf", {"200", "304", "404"}),
    ("patch", "/shelves/{shelf_id}"): ("update_shelf", {"200", "400", "404", "409", "412"}),
    ("delete", "/shelves/{shelf_id}"): ("delete_shelf", {"204", "404", "409", "412"}),
    ("get", "/books"): ("list_books", {"200"}),
    ("post", "/books"): ("create_book", {"201", "400", "409"}),
    ("post", "/books/batch"): ("create_books", {"201", "400", "409"}),
    ("get", "/books/{book_id}"): ("read_book", {"200", "304", "404"}),
    ("patch", "/books/{book_id}"): ("update_book", {"200", "400", "404", "409", "412"}),
    ("delete", "/books/{book_id}"): ("delete_book", {"204", "404", "409", "412"}),
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
                assert response["$ref"] == f"#/components/responses/{status}"
                content = document["components"]["responses"][status]["content"]
                schema = {"$ref": "#/components/schemas/Problem"}
                assert content == {"application/problem+json": {"schema": schema}}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    parameters = {p["name"]: p["schema"] for p in operations["get", "/books"]["parameters"]}
    limits = {"limit": (1, 100), "offset": (0, MAX_INT)}
    for name, (least, most) in limits.items():
        assert (parameters[name]["minimum"], parameters[name]["maximum"]) == (least, most)
    (of_path,) = operations["delete", "/books/{book_id}"]["parameters"][:1]
    assert of_path["schema"].items() >= {"minimum": 1, "maximum": MAX_INT}.items()
