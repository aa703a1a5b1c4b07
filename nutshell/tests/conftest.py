"""The app that the tests of this folder call."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, create_engine, text
from sqlmodel import SQLModel

from nutshell.tests import library
from nutshell.tests.fixtures import MakeSchema, create
from nutshell.health import HEAD


@pytest.fixture
def app() -> FastAPI:
    return library.app


@pytest.fixture(scope="session")
def make_schema() -> MakeSchema:
    """The models make the schema."""

    def create_tables(url: URL) -> None:
        engine = create_engine(url)
        SQLModel.metadata.create_all(engine, tables=library.TABLES)
        with engine.begin() as connection:  # as Alembic leaves it
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
        engine.dispose()

    return create_tables


@pytest.fixture
async def shelf(client: httpx.AsyncClient) -> dict[str, Any]:
    return await create(client, "/shelves", label="Top")
