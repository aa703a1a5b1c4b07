"""How to make a valid row of each resource: test_contract.py tries every resource with it.

`number` differs from call to call, for what must be unique. Add a function for each new resource.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from nutshell.tests.fixtures import create

Row = dict[str, Any]


async def make_user(client: httpx.AsyncClient, number: int) -> Row:
    return await create(client, "/users", email=f"user{number}@example.com", name="Ada")


async def make_post(client: httpx.AsyncClient, number: int) -> Row:
    user = await make_user(client, number)
    return await create(client, f"/users/{user['id']}/posts", title="Notes", body="It weaves.")


async def make_todo(client: httpx.AsyncClient, number: int) -> Row:
    user = await make_user(client, number)
    return await create(client, "/todos", title="Buy cards", owner_id=user["id"])


async def make_item(client: httpx.AsyncClient, number: int) -> Row:
    return await create(client, "/items", name="Card")


ROWS: dict[str, Callable[[httpx.AsyncClient, int], Awaitable[Row]]] = {
    "/users": make_user,
    "/posts": make_post,
    "/todos": make_todo,
    "/items": make_item,
}
