"""The todos, over HTTP."""

from typing import Any

import httpx
import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import assert_problem, create
from models import Todo

ABSENT = 2**53 - 1


async def test_create_todo_stores_it(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    data = {"title": "Cards", "owner_id": user["id"], "due_at": "2030-01-31T12:00:00.25+02:00"}
    response = await client.post("/todos", json=data)
    assert response.status_code == 201
    todo = response.json()
    assert todo.keys() == {"id", "title", "done", "due_at", "owner_id", "created_at"}
    assert todo["done"] is False
    assert todo["due_at"] == "2030-01-31T10:00:00.250000Z"
    assert response.headers["location"] == f"/todos/{todo['id']}"
    assert (await client.get(response.headers["location"])).json() == todo
    stored = await session.get(Todo, todo["id"])
    assert stored is not None
    assert stored.due_at is not None
    assert stored.due_at.isoformat() == "2030-01-31T10:00:00.250000+00:00"


async def test_create_todo_of_absent_owner_conflicts(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    response = await client.post("/todos", json={"title": "Cards", "owner_id": ABSENT})
    assert_problem(response, 409, ("body", "owner_id"))
    assert (await session.exec(select(Todo))).all() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "a" * 201),
        ("title", None),
        ("done", None),
        ("done", "yes"),
        ("done", 1),
        ("due_at", "2030-01-31T12:00:00"),
        ("due_at", "2030-01-31"),
        ("due_at", "soon"),
        ("due_at", "1893456000"),
        ("due_at", 1893456000),
        ("due_at", "0001-01-01T00:00:00+14:00"),
        ("due_at", "9999-12-31T23:59:59-14:00"),
        ("owner_id", None),
        ("owner_id", 0),
        ("owner_id", -1),
        ("owner_id", 2**63),
        ("owner_id", "1"),
        ("owner_id", True),
        ("owner_id", 1.5),
        ("owner", 1),
    ],
)
async def test_create_todo_with_bad_field_is_refused(
    client: httpx.AsyncClient,
    user: dict[str, Any],
    session: AsyncSession,
    field: str,
    value: object,
) -> None:
    data = {"title": "Cards", "owner_id": user["id"], field: value}
    assert_problem(await client.post("/todos", json=data), 422, ("body", field))
    assert (await session.exec(select(Todo))).all() == []


async def test_list_todos_filters(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    bob = await create(client, "/users", email="bob@example.com", name="Bob")
    ada, rob = user["id"], bob["id"]
    rows = [
        await create(client, "/todos", title="Buy CARDS", owner_id=ada),
        await create(client, "/todos", title="buy brass", owner_id=rob, done=True),
        await create(client, "/todos", title="ÉTUDE", owner_id=ada, due_at="2030-01-01T00:00:00Z"),
        await create(client, "/todos", title="100% _", owner_id=ada, due_at="2031-01-01T00:00:00Z"),
    ]

    async def found(**filters: str | int) -> list[int]:
        response = await client.get("/todos", params=filters)
        assert response.status_code == 200, response.text
        return [rows.index(todo) for todo in response.json()]

    assert await found() == [0, 1, 2, 3]
    assert await found(owner_id=ada) == [0, 2, 3]
    assert await found(owner_id=ABSENT) == []
    assert await found(done="false") == [0, 2, 3]
    assert await found(done="true") == [1]
    assert await found(due_before="2030-06-01T00:00:00Z") == [2]
    assert await found(due_after="2030-06-01T00:00:00Z") == [3]
    assert await found(due_before="2030-01-01T00:00:00Z") == []
    assert await found(due_after="2030-01-01T00:00:00Z") == [3]
    assert await found(due_after="2030-01-01T00:00:00+14:00") == [2, 3]
    assert await found(q="buy") == [0, 1]
    assert await found(q="étude") == [2]
    rows.append(await create(client, "/todos", title="ΟΔΟΣΗΜΑ", owner_id=rob))
    assert await found(q="ΟΔΟΣ") == [4]
    assert await found(q="0%") == [3]
    assert await found(q="_") == [3]
    assert await found(q="\\") == []
    assert await found(owner_id=ada, done="false", q="CARDS") == [0]
    assert await found(owner_id=ada, order="desc", limit=1) == [3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("owner_id", "0"),
        ("owner_id", "x"),
        ("owner_id", str(2**63)),
        ("owner_id", "9" * 5000),
        ("done", "perhaps"),
        ("done", "1"),
        ("done", "yes"),
        ("done", "True"),
        ("done", ""),
        ("due_before", "2030-01-31T12:00:00"),
        ("due_before", "0"),
        ("due_after", "0001-01-01T00:00:00+14:00"),
        ("q", ""),
        ("q", "a" * 201),
        ("q", "\x00"),
        ("title", "Cards"),
    ],
)
async def test_list_todos_with_bad_filter_is_refused(
    client: httpx.AsyncClient, name: str, value: str
) -> None:
    assert_problem(await client.get("/todos", params={name: value}), 422, ("query", name))


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_absent_todo_is_not_found(client: httpx.AsyncClient, method: str) -> None:
    body = b"{}" if method == "PATCH" else None
    headers = {"content-type": "application/json"}
    path = f"/todos/{ABSENT}"
    assert_problem(await client.request(method, path, content=body, headers=headers), 404)


async def test_update_todo_changes_only_given_fields(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    due = "2030-01-31T12:00:00Z"
    todo = await create(client, "/todos", title="Cards", owner_id=user["id"], due_at=due)
    response = await client.patch(f"/todos/{todo['id']}", json={"done": True})
    assert response.status_code == 200
    assert response.json() == todo | {"done": True}
    stored = await session.get(Todo, todo["id"])
    assert stored is not None
    assert stored.done is True
    assert stored.due_at is not None


async def test_update_todo_with_null_due_at_clears_it(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    due = "2030-01-31T12:00:00Z"
    todo = await create(client, "/todos", title="Cards", owner_id=user["id"], due_at=due)
    await client.patch(f"/todos/{todo['id']}", json={"due_at": None})
    assert (await client.get(f"/todos/{todo['id']}")).json() == todo | {"due_at": None}


@pytest.mark.parametrize(
    ("field", "value"), [("title", None), ("done", None), ("owner_id", None), ("id", 0), ("x", 1)]
)
async def test_update_todo_with_bad_field_is_refused(
    client: httpx.AsyncClient, user: dict[str, Any], field: str, value: object
) -> None:
    todo = await create(client, "/todos", title="Cards", owner_id=user["id"])
    response = await client.patch(f"/todos/{todo['id']}", json={field: value})
    assert_problem(response, 422, ("body", field))
    assert (await client.get(f"/todos/{todo['id']}")).json() == todo


async def test_update_todo_to_absent_owner_conflicts(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    todo = await create(client, "/todos", title="Cards", owner_id=user["id"])
    response = await client.patch(f"/todos/{todo['id']}", json={"done": True, "owner_id": ABSENT})
    assert_problem(response, 409, ("body", "owner_id"))
    assert (await client.get(f"/todos/{todo['id']}")).json() == todo


async def test_delete_todo_removes_it(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    todo = await create(client, "/todos", title="Cards", owner_id=user["id"])
    assert (await client.delete(f"/todos/{todo['id']}")).status_code == 204
    assert_problem(await client.get(f"/todos/{todo['id']}"), 404)
    assert_problem(await client.delete(f"/todos/{todo['id']}"), 404)


async def test_list_todos_without_owner_is_refused(client: httpx.AsyncClient) -> None:
    """There are none: null is refused, and not taken for any owner."""
    assert_problem(await client.get("/todos?owner_id=null"), 422, ("query", "owner_id"))
