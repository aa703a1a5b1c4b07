"""A resource whose ids are UUIDs: its paths, lists, pages and retries are those of any other."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI, Query, Response
from sqlalchemy import URL, create_engine
from sqlmodel import Field, SQLModel

from nutshell.tests.fixtures import Pools, assert_problem, walk
from nutshell.database import SessionDep
from nutshell.fields import LEFT_OUT, REFUSE_UNKNOWN, Text, Update, UuidId, uuid7
from nutshell.paging import UuidFilter
from nutshell.routes import ReplyDep


class Parcel(SQLModel, table=True):
    __tablename__ = "parcels"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    label: Text
    inside_id: UUID | None = Field(default=None, foreign_key="parcels.id", ondelete="CASCADE")


class ParcelCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    label: Text
    inside_id: UuidId | None = None


class ParcelRead(SQLModel):
    id: UUID
    label: str
    inside_id: UUID | None


class ParcelUpdate(Update[ParcelRead]):
    label: Text = LEFT_OUT


class ParcelFilter(UuidFilter):
    sort: Literal["id", "label", "inside_id"] = "id"


@pytest.fixture
async def parcels(url: URL, extra: FastAPI, pools: Pools) -> AsyncIterator[str]:
    engine = create_engine(url)
    table = SQLModel.metadata.tables["parcels"]
    table.create(engine)

    @extra.get("/parcels", response_model=list[ParcelRead])
    async def list_parcels(
        filters: Annotated[ParcelFilter, Query()], session: SessionDep, reply: ReplyDep
    ) -> Sequence[Any]:
        return await reply.page(session, filters.select(Parcel, ParcelRead), filters)

    @extra.get("/parcels/{parcel_id}/parcels", response_model=list[ParcelRead])
    async def list_inside(
        parcel_id: UuidId,
        filters: Annotated[ParcelFilter, Query()],
        session: SessionDep,
        reply: ReplyDep,
    ) -> Sequence[Any]:
        query = filters.select(Parcel, ParcelRead).where(Parcel.inside_id == parcel_id)
        return await reply.page(session, query, filters, (Parcel, parcel_id))

    @extra.post("/parcels", response_model=ParcelRead, status_code=201)
    async def create_parcel(data: ParcelCreate, session: SessionDep, response: Response) -> Parcel:
        parcel = Parcel(**data.model_dump())
        session.add(parcel)
        await session.commit()
        response.headers["Location"] = f"/parcels/{parcel.id}"
        return parcel

    @extra.get("/parcels/{parcel_id}", response_model=ParcelRead)
    async def read_parcel(parcel_id: UuidId, session: SessionDep) -> Parcel:
        return await session.get_one(Parcel, parcel_id)

    @extra.patch("/parcels/{parcel_id}", response_model=ParcelRead)
    async def update_parcel(parcel_id: UuidId, data: ParcelUpdate, session: SessionDep) -> Parcel:
        parcel = await session.get_one(Parcel, parcel_id, with_for_update=True)
        parcel.sqlmodel_update(data.changes(parcel))
        await session.commit()
        return parcel

    yield "/parcels"
    await pools.dispose()
    table.drop(engine)
    engine.dispose()


async def send(client: httpx.AsyncClient, label: str, **data: Any) -> dict[str, Any]:
    response = await client.post("/parcels", json={"label": label, **data})
    assert response.status_code == 201, response.text
    row: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/parcels/{row['id']}"
    return row


NONE = "0190a5f4-7c1e-7000-8000-000000000000"


async def test_row_is_read_and_changed_by_its_uuid(client: httpx.AsyncClient, parcels: str) -> None:
    row = await send(client, "a")
    assert str(UUID(row["id"])) == row["id"]
    path = f"{parcels}/{row['id']}"
    assert (await client.get(path)).json() == row
    assert (await client.get(f"{parcels}/{row['id'].upper()}")).json() == row
    changed = await client.patch(path, json=row | {"label": "b"})
    assert changed.json() == row | {"label": "b"} == (await client.get(path)).json()
    assert_problem(await client.patch(path, json={"id": NONE}), 422, ("body", "id"))
    assert_problem(await client.get(f"{parcels}/{NONE}"), 404)
    for other in (
        "1",
        "0",
        row["id"].replace("-", ""),
        f"{{{row['id']}}}",
        f"urn:uuid:{row['id']}",
    ):
        assert_problem(await client.get(f"{parcels}/{other}"), 422, ("path", "parcel_id"))


async def test_list_is_paged_in_the_order_of_creation(
    client: httpx.AsyncClient, parcels: str
) -> None:
    rows = [await send(client, label) for label in "cabca"]
    ids = [row["id"] for row in rows]
    assert (await client.get(parcels)).json() == rows
    for start in ("", "&after=0"):
        assert await walk(client, f"{parcels}?limit=2{start}") == rows
        assert await walk(client, f"{parcels}?limit=2&order=desc{start}") == rows[::-1]
    assert (await client.get(f"{parcels}?after={ids[2]}")).json() == rows[3:]
    assert (await client.get(f"{parcels}?after={ids[2]}&order=desc")).json() == rows[1::-1]
    found = await client.get(parcels, params={"id": [ids[3], ids[0].upper(), NONE]})
    assert found.json() == [rows[0], rows[3]]
    for query in ("after=1", "after=x", "after=", "id=1", f"sort=label&after={ids[0]}"):
        field = query.split("&")[-1].partition("=")[0]
        location = ("query", "id", 0) if field == "id" else ("query", field)
        assert_problem(await client.get(f"{parcels}?{query}"), 422, location)


async def test_list_is_sorted_with_uuids_as_ties(client: httpx.AsyncClient, parcels: str) -> None:
    first = await send(client, "b")
    inside = [await send(client, label, inside_id=first["id"]) for label in "bab"]
    rows = [first, *inside]
    by_label = sorted(rows, key=lambda row: (row["label"], row["id"]))
    assert await walk(client, f"{parcels}?limit=1&sort=label") == by_label
    assert await walk(client, f"{parcels}?limit=1&sort=label&order=desc") == by_label[::-1]
    assert await walk(client, f"{parcels}?limit=1&sort=inside_id") == [*inside, first]
    assert await walk(client, f"{parcels}?limit=1&sort=inside_id&order=desc") == [
        first,
        *inside[::-1],
    ]
    assert await walk(client, f"{parcels}/{first['id']}/parcels?limit=2") == inside
    assert (await client.get(f"{parcels}/{inside[0]['id']}/parcels")).json() == []
    assert_problem(await client.get(f"{parcels}/{NONE}/parcels"), 404)


@pytest.mark.parametrize("place", ['["label","asc","a",1]', '["label","asc","a",null]'])
async def test_cursor_with_another_id_is_refused(
    client: httpx.AsyncClient, parcels: str, place: str
) -> None:
    cursor = urlsafe_b64encode(place.encode()).decode().rstrip("=")
    response = await client.get(f"{parcels}?sort=label&cursor={cursor}")
    assert_problem(response, 422, ("query", "cursor"))


async def test_reference_is_a_uuid_of_a_row(client: httpx.AsyncClient, parcels: str) -> None:
    for other, status in ((NONE, 409), (1, 422), ("1", 422)):
        response = await client.post(parcels, json={"label": "a", "inside_id": other})
        assert_problem(response, status, ("body", "inside_id"))


async def test_retry_returns_the_first_row(client: httpx.AsyncClient, parcels: str) -> None:
    headers = {"idempotency-key": "parcel"}
    first, second = [
        await client.post(parcels, json={"label": "a"}, headers=headers) for _ in range(2)
    ]
    assert first.status_code == 201
    assert (second.text, second.headers["location"]) == (first.text, first.headers["location"])
    assert (await client.get(parcels)).json() == [first.json()]


async def test_document_has_uuids(client: httpx.AsyncClient, extra: FastAPI, parcels: str) -> None:
    paths = extra.openapi()["paths"]
    (by_path, *_) = paths["/parcels/{parcel_id}"]["get"]["parameters"]
    assert by_path["schema"].items() >= {"type": "string", "format": "uuid"}.items()
    assert "example" not in by_path
    query = {one["name"]: one["schema"] for one in paths["/parcels"]["get"]["parameters"]}
    assert query["id"]["items"] == {"type": "string", "format": "uuid"}
    assert query["after"]["type"] == "string"
    assert "default" not in query["after"]
