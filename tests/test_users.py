"""The users, over HTTP."""

from typing import Any

import httpx
import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import assert_problem, create
from models import Item, Post, Todo, User

ABSENT = 2**53 - 1


async def test_create_user_stores_it(client: httpx.AsyncClient, session: AsyncSession) -> None:
    response = await client.post(
        "/users", json={"email": "Ada@Example.COM", "name": "Ada", "bio": "First."}
    )
    assert response.status_code == 201
    user = response.json()
    assert user.keys() == {"id", "email", "name", "bio", "created_at"}
    assert user["email"] == "ada@example.com"
    assert user["created_at"].endswith("Z")
    assert response.headers["location"] == f"/users/{user['id']}"
    assert (await client.get(response.headers["location"])).json() == user
    stored = await session.get(User, user["id"])
    assert stored is not None
    assert stored.email == "ada@example.com"
    assert stored.bio == "First."


async def test_create_user_without_bio_stores_null(client: httpx.AsyncClient) -> None:
    user = await create(client, "/users", email="ada@example.com", name="Ada")
    assert user["bio"] is None


@pytest.mark.parametrize("email", ["ada@example.com", "ADA@Example.com"])
async def test_create_user_with_taken_email_conflicts(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession, email: str
) -> None:
    response = await client.post("/users", json={"email": email, "name": "Another"})
    assert_problem(response, 409, ("body", "email"))
    assert [u.name for u in await session.exec(select(User))] == ["Ada"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "ada"),
        ("email", "Ada <ada@example.com>"),
        ("email", "ada@localhost"),
        ("email", f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 63}.com"),
        ("email", "\x00@example.com"),
        ("email", None),
        ("email", 5),
        ("name", ""),
        ("name", "a" * 101),
        ("name", "a\x00b"),
        ("name", None),
        ("name", ["Ada"]),
        ("bio", "a" * 1001),
        ("bio", "\x00"),
        ("nickname", "Ada"),
        ("id", 5),
    ],
)
async def test_create_user_with_bad_field_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, field: str, value: object
) -> None:
    data = {"email": "ada@example.com", "name": "Ada", field: value}
    assert_problem(await client.post("/users", json=data), 422, ("body", field))
    assert (await session.exec(select(User))).all() == []


@pytest.mark.parametrize("name", ["a", "a" * 100, "Ἄδα 🦀", "line\nbreak"])
async def test_create_user_keeps_name_as_given(client: httpx.AsyncClient, name: str) -> None:
    user = await create(client, "/users", email="ada@example.com", name=name)
    assert (await client.get(f"/users/{user['id']}")).json()["name"] == name


async def test_create_user_after_delete_gets_new_id(client: httpx.AsyncClient) -> None:
    first = await create(client, "/users", email="ada@example.com", name="Ada")
    await client.delete(f"/users/{first['id']}")
    second = await create(client, "/users", email="ada@example.com", name="Ada")
    assert second["id"] > first["id"]


async def test_list_users_is_in_id_order(client: httpx.AsyncClient) -> None:
    users = [
        await create(client, "/users", email=f"{name}@example.com", name=name) for name in "cab"
    ]
    response = await client.get("/users")
    assert response.status_code == 200
    assert response.json() == users
    assert "link" not in response.headers
    assert (await client.get("/users?order=desc")).json() == users[::-1]


async def test_list_users_by_email_ignores_case(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    await create(client, "/users", email="bob@example.com", name="Bob")
    assert (await client.get("/users?email=ADA@example.com")).json() == [user]
    assert (await client.get("/users?email=eve@example.com")).json() == []


async def test_read_user_answers_row(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    response = await client.get(f"/users/{user['id']}")
    assert response.status_code == 200
    assert response.json() == user


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_absent_user_is_not_found(client: httpx.AsyncClient, method: str) -> None:
    body = b"{}" if method == "PATCH" else None
    headers = {"content-type": "application/json"}
    path = f"/users/{ABSENT}"
    assert_problem(await client.request(method, path, content=body, headers=headers), 404)


async def test_update_user_changes_only_given_fields(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create(client, "/users", email="ada@example.com", name="Ada", bio="First.")
    response = await client.patch(f"/users/{user['id']}", json={"name": "Ada King"})
    assert response.status_code == 200
    assert response.json() == user | {"name": "Ada King"}
    stored = await session.get(User, user["id"])
    assert stored is not None
    assert (stored.name, stored.email, stored.bio) == ("Ada King", "ada@example.com", "First.")


async def test_update_user_with_nothing_changes_nothing(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    response = await client.patch(f"/users/{user['id']}", json={})
    assert response.status_code == 200
    assert response.json() == user


async def test_update_user_with_null_bio_clears_it(client: httpx.AsyncClient) -> None:
    user = await create(client, "/users", email="ada@example.com", name="Ada", bio="First.")
    response = await client.patch(f"/users/{user['id']}", json={"bio": None})
    assert response.json()["bio"] is None
    assert (await client.get(f"/users/{user['id']}")).json()["bio"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", None), ("email", None), ("name", ""), ("email", "x"), ("id", 0), ("naem", "Ada")],
)
async def test_update_user_with_bad_field_is_refused(
    client: httpx.AsyncClient, user: dict[str, Any], field: str, value: object
) -> None:
    response = await client.patch(f"/users/{user['id']}", json={field: value})
    assert_problem(response, 422, ("body", field))
    assert (await client.get(f"/users/{user['id']}")).json() == user


async def test_update_user_to_taken_email_conflicts(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    bob = await create(client, "/users", email="bob@example.com", name="Bob")
    response = await client.patch(
        f"/users/{bob['id']}", json={"name": "Robert", "email": "ADA@example.com"}
    )
    assert_problem(response, 409, ("body", "email"))
    assert (await client.get(f"/users/{bob['id']}")).json() == bob


async def test_delete_user_takes_posts_and_todos_but_not_items(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    bob = await create(client, "/users", email="bob@example.com", name="Bob")
    for owner in (user["id"], bob["id"]):
        await create(client, f"/users/{owner}/posts", title="Title", body="Body")
        await create(client, "/todos", title="Todo", owner_id=owner)
        await create(client, "/items", name="Item", owner_id=owner)
    response = await client.delete(f"/users/{user['id']}")
    assert response.status_code == 204
    assert response.content == b""
    assert_problem(await client.get(f"/users/{user['id']}"), 404)
    assert [u.id for u in await session.exec(select(User))] == [bob["id"]]
    assert [p.author_id for p in await session.exec(select(Post))] == [bob["id"]]
    assert [t.owner_id for t in await session.exec(select(Todo))] == [bob["id"]]
    owners = [i.owner_id for i in await session.exec(select(Item).order_by("id"))]
    assert owners == [None, bob["id"]]
