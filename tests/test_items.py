"""The items, over HTTP."""

from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Pools, Wire, assert_problem, create
from models import Item, User

ABSENT = 2**53 - 1


async def test_create_item_stores_it(
    client: httpx.AsyncClient, user: dict[str, Any], session: AsyncSession
) -> None:
    data = {"name": "Engine", "description": "Brass.", "owner_id": user["id"]}
    response = await client.post("/items", json=data)
    assert response.status_code == 201
    item = response.json()
    assert item == data | {"id": item["id"], "created_at": item["created_at"]}
    assert response.headers["location"] == f"/items/{item['id']}"
    assert (await client.get(response.headers["location"])).json() == item
    stored = await session.get(Item, item["id"])
    assert stored is not None
    assert stored.name == "Engine"


async def test_create_item_with_name_alone_stores_nulls(client: httpx.AsyncClient) -> None:
    item = await create(client, "/items", name="Engine")
    assert item["description"] is None
    assert item["owner_id"] is None


async def test_create_item_of_absent_owner_conflicts(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    response = await client.post("/items", json={"name": "Engine", "owner_id": ABSENT})
    assert_problem(response, 409, ("body", "owner_id"))
    assert (await session.exec(select(Item))).all() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a" * 201),
        ("name", None),
        ("description", "a" * 501),
        ("description", 5),
        ("owner_id", 0),
        ("owner_id", 2**64),
        ("color", "red"),
    ],
)
async def test_create_item_with_bad_field_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, field: str, value: object
) -> None:
    response = await client.post("/items", json={"name": "Engine", field: value})
    assert_problem(response, 422, ("body", field))
    assert (await session.exec(select(Item))).all() == []


async def test_create_items_stores_all_in_order_with_one_commit(
    client: httpx.AsyncClient, session: AsyncSession, wire: Wire
) -> None:
    await create(client, "/items", name="warms up the connection")
    wire.clear()
    data = [{"name": f"Item {number}"} for number in range(100)]
    response = await client.post("/items/batch", json=data)
    assert response.status_code == 201
    begin, *inserts, commit = wire.verbs()
    assert (begin, set(inserts), commit) == ("BEGIN", {"INSERT"}, "COMMIT")
    # SQLite promises no order of the rows that it returns, so SQLAlchemy inserts one at a time.
    assert len(inserts) == (1 if wire.log else 100)
    items = response.json()
    assert [item["name"] for item in items] == [item["name"] for item in data]
    ids = [item["id"] for item in items]
    assert ids == sorted(ids)
    stored = {item.id: item.name for item in await session.exec(select(Item))}
    assert all(stored[item["id"]] == item["name"] for item in items)


async def test_create_items_with_bad_row_in_the_middle_stores_none(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    data = [{"name": "a"}, {"name": ""}, {"name": "c"}]
    response = await client.post("/items/batch", json=data)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", 1, "name"]]
    assert (await session.exec(select(Item))).all() == []


async def test_create_items_with_absent_owner_in_the_middle_stores_none(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    data = [{"name": "a"}, {"name": "b", "owner_id": ABSENT}, {"name": "c"}]
    response = await client.post("/items/batch", json=data)
    assert_problem(response, 409, ("body", 1, "owner_id"))
    assert (await session.exec(select(Item))).all() == []


@pytest.mark.parametrize("number", [0, 101])
async def test_create_items_of_bad_number_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, number: int
) -> None:
    response = await client.post("/items/batch", json=[{"name": "a"}] * number)
    assert_problem(response, 422, ("body",))
    assert (await session.exec(select(Item))).all() == []


async def test_create_items_of_greatest_size_is_kept(client: httpx.AsyncClient) -> None:
    data = [{"name": "🦀" * 200, "description": "🦀" * 500}] * 100
    response = await client.post("/items/batch", json=data)
    assert response.status_code == 201
    assert [item["description"] for item in response.json()] == ["🦀" * 500] * 100


async def test_list_items_filters(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    engine = await create(client, "/items", name="Engine", owner_id=user["id"])
    card = await create(client, "/items", name="Card", owner_id=user["id"])
    spare = await create(client, "/items", name="Engine")
    assert (await client.get("/items")).json() == [engine, card, spare]
    assert (await client.get("/items?name=Engine")).json() == [engine, spare]
    assert (await client.get("/items?name=Eng")).json() == []
    assert (await client.get(f"/items?owner_id={user['id']}")).json() == [engine, card]
    both = {"owner_id": user["id"], "name": "Engine"}
    assert (await client.get("/items", params=both)).json() == [engine]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_absent_item_is_not_found(client: httpx.AsyncClient, method: str) -> None:
    body = b"{}" if method == "PATCH" else None
    headers = {"content-type": "application/json"}
    path = f"/items/{ABSENT}"
    assert_problem(await client.request(method, path, content=body, headers=headers), 404)


async def test_update_item_changes_only_given_fields(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    item = await create(client, "/items", name="Engine", description="Brass.", owner_id=user["id"])
    response = await client.patch(f"/items/{item['id']}", json={"name": "Difference engine"})
    assert response.status_code == 200
    assert response.json() == item | {"name": "Difference engine"}
    assert (await client.get(f"/items/{item['id']}")).json() == response.json()


@pytest.mark.parametrize("field", ["description", "owner_id"])
async def test_update_item_with_null_clears_field(
    client: httpx.AsyncClient, user: dict[str, Any], field: str
) -> None:
    item = await create(client, "/items", name="Engine", description="Brass.", owner_id=user["id"])
    assert (await client.patch(f"/items/{item['id']}", json={field: None})).status_code == 200
    assert (await client.get(f"/items/{item['id']}")).json() == item | {field: None}


@pytest.mark.parametrize(("field", "value"), [("name", None), ("name", ""), ("id", 0), ("x", 1)])
async def test_update_item_with_bad_field_is_refused(
    client: httpx.AsyncClient, field: str, value: object
) -> None:
    item = await create(client, "/items", name="Engine")
    response = await client.patch(f"/items/{item['id']}", json={field: value})
    assert_problem(response, 422, ("body", field))
    assert (await client.get(f"/items/{item['id']}")).json() == item


async def test_update_item_to_absent_owner_conflicts(client: httpx.AsyncClient) -> None:
    item = await create(client, "/items", name="Engine")
    response = await client.patch(f"/items/{item['id']}", json={"owner_id": ABSENT})
    assert_problem(response, 409, ("body", "owner_id"))
    assert (await client.get(f"/items/{item['id']}")).json() == item


async def test_delete_item_leaves_owner(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    item = await create(client, "/items", name="Engine", owner_id=user["id"])
    assert (await client.delete(f"/items/{item['id']}")).status_code == 204
    assert_problem(await client.get(f"/items/{item['id']}"), 404)
    assert (await client.get(f"/users/{user['id']}")).status_code == 200


async def test_list_items_without_owner(client: httpx.AsyncClient, user: dict[str, Any]) -> None:
    owned = await create(client, "/items", name="Owned", owner_id=user["id"])
    free = await create(client, "/items", name="Free")
    assert (await client.get("/items?owner_id_is_null=true")).json() == [free]
    assert (await client.get("/items?owner_id_is_null=false")).json() == [owned]
    assert (await client.get("/items?owner_id_is_null=true&sort=owner_id")).json() == [free]
    none = f"/items?owner_id_is_null=true&owner_id={user['id']}"
    assert (await client.get(none)).json() == []


@pytest.mark.parametrize(
    "value", ["", "1", "0", "yes", "on", "t", "True", "FALSE", "null", " true"]
)
async def test_list_items_with_bad_owner_id_is_null_is_refused(
    client: httpx.AsyncClient, value: str
) -> None:
    response = await client.get("/items", params={"owner_id_is_null": value})
    assert_problem(response, 422, ("query", "owner_id_is_null"))


@pytest.mark.parametrize("value", ["", "null", "None", "0"])
async def test_list_items_of_bad_owner_is_refused(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get("/items", params={"owner_id": value})
    assert_problem(response, 422, ("query", "owner_id"))


async def test_list_items_without_owner_uses_an_index(
    client: httpx.AsyncClient, session: AsyncSession, pools: Pools
) -> None:
    """A small table is read whole: here 2,197 items have an owner, and one has none."""
    session.add_all(User(email=f"user{number}@example.com", name="Ada") for number in range(13))
    await session.flush()
    connection = await session.connection()
    await connection.exec_driver_sql(
        "INSERT INTO items (name, owner_id, created_at) SELECT 'Owned', a.id, a.created_at"
        " FROM users a CROSS JOIN users b CROSS JOIN users c"
    )
    await session.commit()
    free = await create(client, "/items", name="Free")
    connection = await session.connection()
    await connection.exec_driver_sql("ANALYZE items")
    asked: list[tuple[str, Any]] = []

    def remember(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    engine = pools.reader.engine.sync_engine
    event.listen(engine, "before_cursor_execute", remember)
    assert (await client.get("/items?owner_id_is_null=true")).json() == [free]
    ((statement, parameters),) = asked
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
    plan = "\n".join(str(row) for row in rows)
    assert "ix_items_owner_id_id" in plan, plan
