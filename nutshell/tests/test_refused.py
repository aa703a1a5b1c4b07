"""A rule of a service's own says no: `Refused`."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests.fixtures import assert_problem
from nutshell.database import SessionDep
from nutshell.errors import Refused
from nutshell.tests.library import Book

KEY = {"idempotency-key": "a"}


@pytest.fixture
def refusals(extra: FastAPI) -> dict[str, Any]:
    """What POST /refusals raises, after it has written a row."""
    given: dict[str, Any] = {}

    @extra.post("/refusals")
    async def refuse(session: SessionDep) -> None:
        session.add(Book(title="a"))
        if given:
            await session.flush()
            raise Refused(**given)
        await session.commit()

    return given


@pytest.mark.parametrize("headers", [{}, KEY], ids=["plain", "with a key"])
async def test_refusal_is_a_problem_and_is_rolled_back(
    client: httpx.AsyncClient,
    session: AsyncSession,
    refusals: dict[str, Any],
    headers: dict[str, str],
) -> None:
    refusals |= {"status": 409, "message": "this invoice was sent already"}
    response = await client.post("/refusals", headers=headers)
    assert_problem(response, 409)
    assert response.json() == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "this invoice was sent already",
    }
    assert (await session.exec(select(Book))).all() == []


async def test_refusal_names_a_place(client: httpx.AsyncClient, refusals: dict[str, Any]) -> None:
    refusals |= {"status": 422, "message": "too early", "loc": ("body", "lines", 1, "ends_on")}
    response = await client.post("/refusals")
    assert_problem(response, 422, ("body", "lines", 1, "ends_on"))
    assert response.json()["detail"] == "too early"
    (error,) = response.json()["errors"]
    assert (error["msg"], error["type"]) == ("too early", "refused")
    refusals["type"] = "too_early"
    response = await client.post("/refusals")
    assert response.json()["errors"][0]["type"] == "too_early"


async def test_refusal_leaves_its_key_free(
    client: httpx.AsyncClient, session: AsyncSession, refusals: dict[str, Any]
) -> None:
    refusals |= {"status": 409, "message": "not yet"}
    assert_problem(await client.post("/refusals", headers=KEY), 409)
    refusals.clear()
    assert (await client.post("/refusals", headers=KEY)).status_code == 200
    assert (await client.post("/refusals", headers=KEY)).status_code == 200
    assert len((await session.exec(select(Book))).all()) == 1
