"""The posts, over HTTP."""

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, create_engine, text
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Wire, assert_problem, create
from models import Post

ABSENT = 2**53 - 1
POST = {"title": "Notes", "body": "On the engine."}


async def test_create_post_stores_it_under_user(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    response = await client.post(f"/users/{user['id']}/posts", json=POST)
    assert response.status_code == 201
    post = response.json()
    assert post.keys() == {"id", "title", "body", "author_id", "created_at", "author"}
    assert (post["author_id"], post["author"]) == (user["id"], user)
    assert response.headers["location"] == f"/posts/{post['id']}"
    assert (await client.get(response.headers["location"])).json() == post
    stored = await session.get(Post, post["id"])
    assert stored is not None
    assert stored.body == "On the engine."


async def test_create_post_under_absent_user_is_not_found(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    assert_problem(await client.post(f"/users/{ABSENT}/posts", json=POST), 404)
    assert (await session.exec(select(Post))).all() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "a" * 201),
        ("title", None),
        ("title", "\x00"),
        ("body", ""),
        ("body", "a" * 10_001),
        ("body", None),
        ("author_id", 1),
        ("tilte", "x"),
    ],
)
async def test_create_post_with_bad_field_is_refused(
    client: httpx.AsyncClient,
    user: dict[str, Any],
    session: AsyncSession,
    field: str,
    value: object,
) -> None:
    response = await client.post(f"/users/{user['id']}/posts", json=POST | {field: value})
    assert_problem(response, 422, ("body", field))
    assert (await session.exec(select(Post))).all() == []


async def test_create_post_of_greatest_size_is_kept(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    post = await create(client, f"/users/{user['id']}/posts", title="t" * 200, body="🦀" * 10_000)
    assert (await client.get(f"/posts/{post['id']}")).json()["body"] == "🦀" * 10_000


async def test_list_user_posts_answers_only_theirs(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    bob = await create(client, "/users", email="bob@example.com", name="Bob")
    first = await create(client, f"/users/{user['id']}/posts", **POST)
    await create(client, f"/users/{bob['id']}/posts", **POST)
    second = await create(client, f"/users/{user['id']}/posts", **POST)
    for post in (first, second):
        del post["author"]  # the list is of one author, and does not repeat it
    assert (await client.get(f"/users/{user['id']}/posts")).json() == [first, second]


async def test_list_user_posts_takes_one_statement(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    await create(client, f"/users/{user['id']}/posts", **POST)
    await client.get("/posts")  # opens the connection
    wire.clear()
    await client.get(f"/users/{user['id']}/posts")
    assert wire.verbs() == ["SELECT"]


async def test_list_user_posts_without_any_is_empty(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    response = await client.get(f"/users/{user['id']}/posts")
    assert response.status_code == 200
    assert response.json() == []


async def test_list_posts_of_absent_user_is_not_found(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get(f"/users/{ABSENT}/posts"), 404)


async def test_list_posts_carries_authors(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    bob = await create(client, "/users", email="bob@example.com", name="Bob", bio="Builds.")
    first = await create(client, f"/users/{user['id']}/posts", **POST)
    second = await create(client, f"/users/{bob['id']}/posts", **POST)
    assert (first["author"], second["author"]) == (user, bob)
    assert (await client.get("/posts")).json() == [first, second]
    assert (await client.get(f"/posts?author_id={bob['id']}")).json() == [second]
    assert (await client.get(f"/posts?author_id={ABSENT}")).json() == []


async def test_list_posts_takes_one_statement_however_many(
    client: httpx.AsyncClient, user: dict[str, Any], wire: Wire
) -> None:
    await create(client, f"/users/{user['id']}/posts", **POST)
    await client.get("/posts")
    wire.clear()
    assert len((await client.get("/posts")).json()) == 1
    assert wire.verbs() == ["SELECT"]
    for number in range(19):
        author = user
        if number % 3 == 0:
            author = await create(client, "/users", email=f"{number}@example.com", name="Bob")
        await create(client, f"/users/{author['id']}/posts", **POST)
    wire.clear()
    assert len((await client.get("/posts")).json()) == 20
    assert wire.verbs() == ["SELECT"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_absent_post_is_not_found(client: httpx.AsyncClient, method: str) -> None:
    body = b"{}" if method == "PATCH" else None
    headers = {"content-type": "application/json"}
    path = f"/posts/{ABSENT}"
    assert_problem(await client.request(method, path, content=body, headers=headers), 404)


async def test_update_post_changes_only_given_fields(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    post = await create(client, f"/users/{user['id']}/posts", **POST)
    response = await client.patch(f"/posts/{post['id']}", json={"title": "Sketches"})
    assert response.status_code == 200
    assert response.json() == post | {"title": "Sketches"}
    stored = await session.get(Post, post["id"])
    assert stored is not None
    assert (stored.title, stored.body) == ("Sketches", "On the engine.")


@pytest.mark.parametrize(
    ("field", "value"), [("title", None), ("body", None), ("author_id", 0), ("id", 0)]
)
async def test_update_post_with_bad_field_is_refused(
    client: httpx.AsyncClient, user: dict[str, Any], field: str, value: object
) -> None:
    post = await create(client, f"/users/{user['id']}/posts", **POST)
    assert_problem(
        await client.patch(f"/posts/{post['id']}", json={field: value}), 422, ("body", field)
    )
    assert (await client.get(f"/posts/{post['id']}")).json() == post


async def test_delete_post_leaves_author(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    post = await create(client, f"/users/{user['id']}/posts", **POST)
    assert (await client.delete(f"/posts/{post['id']}")).status_code == 204
    assert_problem(await client.get(f"/posts/{post['id']}"), 404)
    assert (await client.get(f"/users/{user['id']}")).json() == user


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_change_of_post_locks_it_and_not_its_author(
    client: httpx.AsyncClient, user: dict[str, Any], url: URL, wire: Wire, method: str
) -> None:
    """It does not wait for a change of the author that is under way."""
    post = await create(client, f"/users/{user['id']}/posts", **POST)
    data = {"title": "More"} if method == "PATCH" else None
    engine = create_engine(url)
    with engine.begin() as other:
        other.execute(text("UPDATE users SET name = 'Ada King'"))
        wire.clear()
        response = await client.request(method, f"/posts/{post['id']}", json=data)
    engine.dispose()
    assert response.is_success, response.text
    assert wire.log is not None
    log = wire.log.read_bytes()[wire.offset :].decode()
    assert re.findall(r"FOR UPDATE\b.*", log) == ["FOR UPDATE OF posts"]
    assert (await client.get(f"/users/{user['id']}")).json()["name"] == "Ada King"


async def test_update_post_takes_its_author_as_it_was_shown(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    post = await create(client, f"/users/{user['id']}/posts", **POST)
    shown = (await client.get(f"/posts/{post['id']}")).json()
    response = await client.patch(f"/posts/{post['id']}", json=shown | {"title": "More"})
    assert response.json() == post | {"title": "More"}
    for author in ({"name": "Bob"}, {**user, "name": "Bob"}, {**user, "x": 1}, None, user["id"]):
        response = await client.patch(f"/posts/{post['id']}", json={"author": author})
        assert_problem(response, 422, ("body", "author"))
