"""A 409 names what the caller sent, wherever it was sent, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import date
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import (
    URL,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    create_engine,
    func,
    text,
)
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import Pools, assert_problem
from nutshell import engines
from nutshell.database import SessionDep
from nutshell.fields import BIGINT, Day, Id, Reference, Uuid, uuid7

ABSENT = 2**53 - 1
UUID_ABSENT = "0190A5F4-7C1E-7000-8000-0123456789AB"


class Bottle(SQLModel, table=True):
    __tablename__ = "bottles"
    __table_args__ = (
        UniqueConstraint("maker", "year"),
        Index("uq_bottles_folded", func.lower(text("nickname")), unique=True),
        CheckConstraint("emptied_on >= opened_on", "emptied_after_opened"),
    )

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    maker: str = ""
    year: int = 0
    slug: str | None = Field(default=None, unique=True)
    nickname: str | None = None
    opened_on: date | None = None
    emptied_on: date | None = None


CheckConstraint(col(Bottle.year) >= 0, name="no_bottle_before_christ")


class Case(SQLModel, table=True):
    __tablename__ = "cases"

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    label: str = Field(default="", unique=True)


class Slot(SQLModel, table=True):
    """A bottle's place in a case."""

    __tablename__ = "slots"
    __table_args__ = (UniqueConstraint("case_id", "position"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    case_id: int | None = Field(foreign_key="cases.id", sa_type=BIGINT)
    position: int
    bottle_id: UUID = Field(foreign_key="bottles.id")
    spare_id: UUID | None = Field(default=None, foreign_key="bottles.id")


class Tasting(SQLModel, table=True):
    """A link between a case and a bottle, with a composite primary key."""

    __tablename__ = "tastings"

    case_id: int | None = Field(primary_key=True, foreign_key="cases.id", sa_type=BIGINT)
    bottle_id: UUID = Field(primary_key=True, foreign_key="bottles.id")


class Note(SQLModel, table=True):
    __tablename__ = "notes"
    __table_args__ = (
        ForeignKeyConstraint(
            ["case_id", "bottle_id"],
            ["tastings.case_id", "tastings.bottle_id"],
            "fk_notes_tastings",
        ),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    case_id: int = Field(sa_type=BIGINT)
    bottle_id: UUID


TABLES = [SQLModel.metadata.tables[n] for n in ("bottles", "cases", "slots", "tastings", "notes")]


class SlotIn(SQLModel):
    position: int
    bottle_id: Uuid
    spare_id: Uuid | None = None


class CaseIn(SQLModel):
    label: str
    slots: list[SlotIn] = []
    bottle_ids: list[Uuid] = []


class BottleIn(SQLModel):
    maker: str = ""
    year: int = 0
    nickname: str | None = None
    opened_on: Day | None = None
    emptied_on: Day | None = None


class Pair(SQLModel):
    case_id: Reference
    bottle_id: Uuid


@pytest.fixture
async def bottle(
    url: URL, extra: FastAPI, pools: Pools, client: httpx.AsyncClient
) -> AsyncIterator[str]:
    """The id of a bottle, in a service of cases."""
    engine = create_engine(url)
    SQLModel.metadata.create_all(engine, TABLES)

    @extra.post("/bottles")
    async def create_bottle(data: BottleIn, session: SessionDep) -> UUID:
        bottle = Bottle(**data.model_dump())
        session.add(bottle)
        await session.commit()
        return bottle.id

    @extra.post("/bottles/batch")
    async def create_bottles(data: list[BottleIn], session: SessionDep) -> None:
        session.add_all([Bottle(**one.model_dump()) for one in data])
        await session.commit()

    @extra.post("/bottles/{bottle_id}/slug")
    async def derive_slug(bottle_id: Uuid, session: SessionDep) -> None:
        bottle = await session.get_one(Bottle, bottle_id)
        bottle.slug = "the-same"
        await session.commit()

    @extra.patch("/bottles/{bottle_id}")
    async def update_bottle(bottle_id: Uuid, data: BottleIn, session: SessionDep) -> None:
        bottle = await session.get_one(Bottle, bottle_id)
        bottle.sqlmodel_update(data.model_dump(exclude_unset=True))
        await session.commit()

    @extra.put("/bottles/of/{maker}/{year}")
    async def put_bottle(maker: str, year: int, session: SessionDep) -> None:
        session.add(Bottle(maker=maker, year=year))
        await session.commit()

    @extra.post("/cases")
    async def create_case(data: CaseIn, session: SessionDep) -> int | None:
        case = Case(label=data.label)
        session.add(case)
        await session.flush()
        session.add_all([Slot(case_id=case.id, **slot.model_dump()) for slot in data.slots])
        session.add_all([Tasting(case_id=case.id, bottle_id=one) for one in data.bottle_ids])
        await session.commit()
        return case.id

    @extra.post("/cases/{case_id}/slots")
    async def add_slot(case_id: Id, data: SlotIn, session: SessionDep) -> None:
        session.add(Slot(case_id=case_id, **data.model_dump()))
        await session.commit()

    @extra.put("/cases/{case_id}/bottles")
    async def set_bottles(case_id: Id, data: list[Uuid], session: SessionDep) -> None:
        session.add_all([Tasting(case_id=case_id, bottle_id=one) for one in data])
        await session.commit()

    @extra.put("/cases/{case_id}/bottles/{bottle_id}")
    async def add_bottle(case_id: Id, bottle_id: Uuid, session: SessionDep) -> None:
        session.add(Tasting(case_id=case_id, bottle_id=bottle_id))
        await session.commit()

    @extra.post("/notes")
    async def create_note(data: Pair, session: SessionDep) -> None:
        session.add(Note(**data.model_dump()))
        await session.commit()

    @extra.post("/bottles/{bottle_id}/break")
    async def break_bottle(bottle_id: Uuid, session: SessionDep) -> None:
        await session.delete(await session.get_one(Bottle, bottle_id))
        await session.commit()

    yield (await client.post("/bottles", json={"maker": "First"})).json()
    await pools.dispose()
    SQLModel.metadata.drop_all(engine, TABLES)
    engine.dispose()


@pytest.fixture
async def case(client: httpx.AsyncClient, bottle: str) -> int:
    """The id of a case, with the bottle in its first slot."""
    slots = [{"position": 1, "bottle_id": bottle}]
    return int((await client.post("/cases", json={"label": "Red", "slots": slots})).json())


async def count(session: AsyncSession, table: Any) -> int | None:
    return await session.scalar(select(func.count()).select_from(table))


async def test_reference_in_a_nested_object_is_named(
    client: httpx.AsyncClient, bottle: str, session: AsyncSession
) -> None:
    slots = [
        {"position": 1, "bottle_id": bottle},
        {"position": 2, "bottle_id": UUID_ABSENT, "spare_id": bottle},
    ]
    response = await client.post("/cases", json={"label": "Red", "slots": slots})
    assert_problem(response, 409, ("body", "slots", 1, "bottle_id"))
    assert response.json()["errors"][0]["type"] == "foreign_key"
    slots = [
        {"position": 1, "bottle_id": bottle, "spare_id": UUID_ABSENT},
        {"position": 2, "bottle_id": bottle},
    ]
    response = await client.post("/cases", json={"label": "Red", "slots": slots})
    assert_problem(response, 409, ("body", "slots", 0, "spare_id"))
    assert await count(session, Case) == 0


async def test_reference_in_a_list_of_ids_is_named(
    client: httpx.AsyncClient, bottle: str, case: int
) -> None:
    ids = [bottle, UUID_ABSENT]
    response = await client.post("/cases", json={"label": "White", "bottle_ids": ids})
    assert_problem(response, 409, ("body", "bottle_ids", 1))
    response = await client.put(f"/cases/{case}/bottles", json=ids)
    assert_problem(response, 409, ("body", 1))
    response = await client.put(f"/cases/{ABSENT}/bottles", json=[bottle])
    assert_problem(response, 409, ("path", "case_id"))


async def test_values_of_the_path_are_named(
    client: httpx.AsyncClient, bottle: str, case: int
) -> None:
    assert (await client.put(f"/cases/{case}/bottles/{bottle}")).status_code == 200
    response = await client.put(f"/cases/{case}/bottles/{bottle}")
    assert_problem(response, 409, ("path", "case_id"), ("path", "bottle_id"))
    response = await client.put(f"/cases/{case}/bottles/{UUID_ABSENT}")
    assert_problem(response, 409, ("path", "bottle_id"))
    response = await client.put("/bottles/of/First/0")
    assert_problem(response, 409, ("path", "maker"), ("path", "year"))


async def test_composite_unique_names_each_column_sent(
    client: httpx.AsyncClient, bottle: str, case: int
) -> None:
    response = await client.post("/bottles", json={"maker": "First", "year": 0})
    assert_problem(response, 409, ("body", "maker"), ("body", "year"))
    response = await client.post("/bottles", json={"maker": "First"})
    assert_problem(response, 409, ("body", "maker"))
    slot = {"position": 1, "bottle_id": bottle}
    response = await client.post(f"/cases/{case}/slots", json=slot)
    assert_problem(response, 409, ("path", "case_id"), ("body", "position"))
    slots = [{"position": n, "bottle_id": bottle} for n in (7, 8, 7)]
    response = await client.post("/cases", json={"label": "White", "slots": slots})
    assert_problem(
        response, 409, ("body", "slots", 0, "position"), ("body", "slots", 2, "position")
    )


async def test_unique_in_a_batch_names_the_row_where_the_database_tells(
    client: httpx.AsyncClient, bottle: str, pools: Pools
) -> None:
    data = [{"maker": "A", "year": 1}, {"maker": "First", "year": 0}, {"maker": "B", "year": 2}]
    response = await client.post("/bottles/batch", json=data)
    if pools.writer.engine.dialect.name == "postgresql":
        assert_problem(response, 409, ("body", 1, "maker"), ("body", 1, "year"))
    else:
        assert_problem(response, 409, ("body",))
        assert response.json()["errors"][0]["msg"].startswith("maker, year: ")


async def test_value_that_the_service_derives_has_no_place(
    client: httpx.AsyncClient, bottle: str
) -> None:
    other = (await client.post("/bottles", json={"maker": "Second"})).json()
    assert (await client.post(f"/bottles/{bottle}/slug")).status_code == 200
    response = await client.post(f"/bottles/{other}/slug")
    assert_problem(response, 409)
    assert "another row already has this value" in response.json()["detail"]
    assert "slug" not in response.text


async def test_unique_index_of_an_expression_names_its_column(
    client: httpx.AsyncClient, bottle: str
) -> None:
    for nickname, status in (("Old", 200), ("OLD", 409)):
        response = await client.post("/bottles", json={"maker": nickname, "nickname": nickname})
        assert response.status_code == status
    assert_problem(response, 409, ("body", "nickname"))


async def test_check_constraint_names_its_rule_and_the_fields_sent(
    client: httpx.AsyncClient, bottle: str
) -> None:
    data = {"maker": "A", "opened_on": "2030-01-31", "emptied_on": "2030-01-01"}
    response = await client.post("/bottles", json=data)
    assert_problem(response, 409, ("body", "opened_on"), ("body", "emptied_on"))
    (error, _) = response.json()["errors"]
    assert error["msg"] == "this breaks the rule emptied_after_opened"
    assert error["type"] == "check"
    url = f"/bottles/{bottle}"
    assert (await client.patch(url, json={"opened_on": "2030-01-31"})).status_code == 200
    response = await client.patch(url, json={"emptied_on": "2030-01-01"})
    assert_problem(response, 409, ("body", "emptied_on"))
    response = await client.post("/bottles", json={"maker": "B", "year": -1})
    assert_problem(response, 409, ("body", "year"))
    assert "no_bottle_before_christ" in response.text
    response = await client.put("/bottles/of/C/-1")
    assert_problem(response, 409, ("path", "year"))


async def test_row_that_others_refer_to_is_named_so_whatever_the_method(
    client: httpx.AsyncClient, bottle: str, case: int
) -> None:
    response = await client.post(f"/bottles/{bottle}/break")
    assert_problem(response, 409)
    assert response.json()["detail"] == "Other rows refer to this one."


async def test_composite_reference_is_a_conflict(
    client: httpx.AsyncClient, bottle: str, case: int, pools: Pools
) -> None:
    response = await client.post("/notes", json={"case_id": case, "bottle_id": bottle})
    told = pools.writer.engine.dialect.name == "postgresql"
    assert_problem(response, 409, *([("body", "case_id"), ("body", "bottle_id")] if told else []))


async def test_exclusion_constraint_is_a_conflict(
    client: httpx.AsyncClient, bottle: str, pools: Pools
) -> None:
    if pools.writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no exclusion constraints")
    async with pools.writer.engine.begin() as connection:
        await connection.execute(
            text("ALTER TABLE bottles ADD CONSTRAINT ex_bottles EXCLUDE USING btree (maker WITH =)")
        )
    response = await client.post("/bottles", json={"maker": "First", "year": 5})
    assert_problem(response, 409)
    assert "overlaps another row" in response.json()["detail"]


@pytest.mark.usefixtures("bottle")
async def test_conflict_while_every_reader_is_busy_is_still_a_conflict(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, the absent row is looked up on a connection for reads."""
    monkeypatch.setattr(engines, "WAIT", 0.1)
    async with AsyncExitStack() as stack:
        for _ in range(pools.reader.size):
            await stack.enter_async_context(pools.reader.slot())
        slots = [{"position": 1, "bottle_id": UUID_ABSENT}]
        response = await client.post("/cases", json={"label": "Red", "slots": slots})
    told = pools.writer.engine.dialect.name == "postgresql"
    assert_problem(response, 409, *([("body", "slots", 0, "bottle_id")] if told else []))
