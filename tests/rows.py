"""What the tests must know of the resources: above all, how to make a valid row of each.

test_contract.py tries every list, and every row that a PATCH can change, with a row made here. Add a function
for each new resource. `number` differs from call to call, for what must be unique.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from nutshell.tests.fixtures import create

Row = dict[str, Any]

# Each call of the tests sends these. If main.py has a check of its own, they must satisfy it.
HEADERS: dict[str, str] = {}

# The environment of the service, where a test starts it as a process.
VARIABLES: dict[str, str] = {}

# Fields that a PATCH may change without naming them, such as a total. Columns with `onupdate` are known.
KEPT: set[str] = set()

# Fields of which a validator of your own refuses more than the OpenAPI document can say, such as a wrong
# checksum.
OWN_RULES: set[str] = set()


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
