"""What holds for every resource: paging, refusals, problem documents, the OpenAPI document."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from nutshell.tests.fixtures import assert_problem, create
from nutshell.middleware import MAX_BODY

LISTS = ["/users", "/posts", "/todos", "/items"]
JSON = {"content-type": "application/json"}


async def create_row(client: httpx.AsyncClient, path: str, number: int) -> int:
    """Creates a row that the list at `path` shows, and returns its id."""
    email = f"{path[1:]}{number}@example.com"
    user = await create(client, "/users", email=email, name="Ada")
    owner = user["id"]
    if path == "/posts":
        row = await create(client, f"/users/{owner}/posts", title="a", body="b")
    elif path == "/todos":
        row = await create(client, "/todos", title="a", owner_id=owner)
    elif path == "/items":
        row = await create(client, "/items", name="a")
    else:
        row = user
    return int(row["id"])


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


async def test_list_link_keeps_filters_and_drops_offset(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    for number in range(4):
        await create(client, "/todos", title=f"Buy {number} & more", owner_id=user["id"])
    response = await client.get("/todos?q=%26%20MORE&done=false&limit=2&offset=1")
    url = next_page(response)
    assert url is not None
    assert urlsplit(url)[:3] == ("", "", "/todos")
    last = response.json()[-1]["id"]
    assert parse_qs(urlsplit(url).query) == {
        "q": ["& MORE"],
        "done": ["false"],
        "limit": ["2"],
        "after": [str(last)],
    }
    rest = await client.get(url)
    assert [todo["title"] for todo in rest.json()] == ["Buy 3 & more"]
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


@pytest.mark.parametrize("path", [*LISTS, "/users/1/posts"])
async def test_list_with_bad_parameter_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for name, value in [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "x"),
        ("limit", "9" * 30),
        ("offset", "-1"),
        ("offset", str(2**63)),
        ("after", "0"),
        ("after", str(2**63)),
        ("order", "up"),
        ("ordre", "asc"),
    ]:
        assert_problem(await client.get(path, params={name: value}), 422, ("query", name))


async def test_list_at_the_limits_of_its_parameters_answers(client: httpx.AsyncClient) -> None:
    greatest = 2**53 - 1
    response = await client.get(f"/users?limit=100&offset={greatest}&after={greatest}")
    assert response.status_code == 200
    assert response.json() == []


@pytest.mark.parametrize("path", LISTS)
async def test_impossible_id_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        body = b"{}" if method == "PATCH" else None
        for row_id in ("0", "-1", str(2**63), "9" * 5000, "1.5", "x", "%00", "%ff"):
            response = await client.request(method, f"{path}/{row_id}", content=body, headers=JSON)
            assert_problem(response, 422, ("path", f"{path[1:-1]}_id"))


@pytest.mark.parametrize("path", ["/users", "/todos", "/items", "/items/batch", "/users/1/posts"])
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
        b'{"name": NaN, "title": NaN, "email": NaN, "owner_id": NaN, "body": Infinity}',
        b'{"owner_id": -Infinity}',
        b'{"name": "\\ud800", "title": "\\ud800", "email": "\\ud800@example.com"}',
        b'{"\\ud800": "a lone surrogate for a name"}',
        b'[{"name": "\\ud800"}]',
        b'[{"\\ud800": 1}]',
        b'[{"name": NaN}]',
        b'{"name": "\xed\xa0\x80"}',
    ):
        response = await client.post(path, content=body, headers=JSON)
        assert response.status_code == 422, (body, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"]
        for error in response.json()["errors"]:
            assert error.keys() == {"loc", "msg", "type"}


async def test_body_that_is_not_declared_json_is_refused(client: httpx.AsyncClient) -> None:
    body = b'{"name": "Engine"}'
    response = await client.post("/items", content=body, headers={"content-type": "text/plain"})
    assert_problem(response, 422, ("body",))


async def test_refusal_does_not_repeat_the_input(client: httpx.AsyncClient) -> None:
    secret = "correct-horse-battery"
    data = {"email": secret, "name": [secret], "bio": {"x": secret}}
    response = await client.post("/users", json=data)
    assert response.status_code == 422
    assert secret not in response.text


async def test_body_over_the_limit_is_too_large(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/items", json={"name": "a" * MAX_BODY}), 413)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 1024 + 1):
            yield b" " * 1024

    assert_problem(await client.post("/items", content=drip(), headers=JSON), 413)
    just_fits = json.dumps({"name": "Engine"}).encode().ljust(MAX_BODY)
    response = await client.post("/items", content=just_fits, headers=JSON)
    assert response.status_code == 201


@pytest.mark.parametrize("path", ["/nowhere", "/users/1/nothing", "/users/1/posts/1"])
async def test_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert_problem(await client.get(path), 404)


async def test_wrong_method_is_not_allowed(client: httpx.AsyncClient) -> None:
    for path, allowed in [
        ("/users", "HEAD, GET, POST"),
        ("/users/1", "HEAD, GET, PATCH, DELETE"),
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
    ("get", "/users"): ("list_users", {"200"}),
    ("post", "/users"): ("create_user", {"201", "400", "409"}),
    ("get", "/users/{user_id}"): ("read_user", {"200", "304", "404"}),
    ("patch", "/users/{user_id}"): ("update_user", {"200", "400", "404", "409", "412"}),
    ("delete", "/users/{user_id}"): ("delete_user", {"204", "404", "409", "412"}),
    ("get", "/users/{user_id}/posts"): ("list_user_posts", {"200", "404"}),
    ("post", "/users/{user_id}/posts"): ("create_post", {"201", "400", "404", "409"}),
    ("get", "/posts"): ("list_posts", {"200"}),
    ("get", "/posts/{post_id}"): ("read_post", {"200", "304", "404"}),
    ("patch", "/posts/{post_id}"): ("update_post", {"200", "400", "404", "409", "412"}),
    ("delete", "/posts/{post_id}"): ("delete_post", {"204", "404", "409", "412"}),
    ("get", "/todos"): ("list_todos", {"200"}),
    ("post", "/todos"): ("create_todo", {"201", "400", "409"}),
    ("get", "/todos/{todo_id}"): ("read_todo", {"200", "304", "404"}),
    ("patch", "/todos/{todo_id}"): ("update_todo", {"200", "400", "404", "409", "412"}),
    ("delete", "/todos/{todo_id}"): ("delete_todo", {"204", "404", "409", "412"}),
    ("get", "/items"): ("list_items", {"200"}),
    ("post", "/items"): ("create_item", {"201", "400", "409"}),
    ("post", "/items/batch"): ("create_items", {"201", "400", "409"}),
    ("get", "/items/{item_id}"): ("read_item", {"200", "304", "404"}),
    ("patch", "/items/{item_id}"): ("update_item", {"200", "400", "404", "409", "412"}),
    ("delete", "/items/{item_id}"): ("delete_item", {"204", "404", "409", "412"}),
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
    schemas = document["components"]["schemas"]
    assert not schemas.keys() & {"User", "Post", "Todo", "Item", "HTTPValidationError"}
    for name in ("UserCreate", "PostCreate", "TodoCreate", "ItemCreate"):
        assert any("examples" in field for field in schemas[name]["properties"].values())
