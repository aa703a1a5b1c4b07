"""How to make a valid row of each resource: test_contract.py tries every resource with it."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from nutshell.tests.fixtures import create

Row = dict[str, Any]

# Sent with each call: see tests/conftest.py.
HEADERS = {"x-key": "adas-key"}

VARIABLES: dict[str, str] = {}

KEPT: set[str] = set()

OWN_RULES = {"name", "title"}


async def make_customer(client: httpx.AsyncClient, number: int) -> Row:
    return await create(client, "/customers", email=f"ada{number}@example.com", name="Ada")


async def make_tag(client: httpx.AsyncClient, number: int) -> Row:
    return await create(client, "/tags", name=f"tag {number}")


async def make_product(client: httpx.AsyncClient, number: int) -> Row:
    price = f"{[9, 100, 20][number % 3]}.00"
    response = await client.put(f"/products/P{number}", json={"price": price})
    assert response.status_code == 201, response.text
    row: Row = response.json()
    return row


async def make_invoice(client: httpx.AsyncClient, number: int) -> Row:
    customer = await make_customer(client, number)
    product = await make_product(client, number)
    return await create(
        client,
        "/invoices",
        customer_id=customer["id"],
        number=number + 1,
        issued_on="2030-01-01",
        due_on=f"2030-01-{10 + number}",
        lines=[{"product_id": product["id"], "quantity": 2}],
    )


async def make_project(client: httpx.AsyncClient, number: int) -> Row:
    parent = await create(client, "/projects", title="Parent")
    return await create(client, "/projects", title="Child", parent_id=parent["id"])


ROWS: dict[str, Callable[[httpx.AsyncClient, int], Awaitable[Row]]] = {
    "/customers": make_customer,
    "/tags": make_tag,
    "/products": make_product,
    "/invoices": make_invoice,
    "/projects": make_project,
}
