"""The service that the tests of this folder call, and a user in it."""

from typing import Any

import httpx
import pytest
from alembic import command
from fastapi import FastAPI
from sqlalchemy import URL

from nutshell.tests.fixtures import MakeSchema, create
from main import app as service
from nutshell.migrate import MIGRATIONS
from nutshell.settings import settings
from tests.rows import HEADERS


@pytest.fixture
def app() -> FastAPI:
    return service


@pytest.fixture
def access_headers() -> dict[str, str]:
    return HEADERS


@pytest.fixture(scope="session")
def make_schema() -> MakeSchema:
    """The migrations make the schema."""

    def migrate(url: URL) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "database_url", url)
            command.upgrade(MIGRATIONS, "head")

    return migrate


@pytest.fixture
async def user(client: httpx.AsyncClient) -> dict[str, Any]:
    return await create(client, "/users", email="ada@example.com", name="Ada")
