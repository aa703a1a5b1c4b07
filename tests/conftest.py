"""What the tests share: both databases, the app on one of them, and what reached it."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from postgres import Postgres
from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

import database
import main
from settings import settings

COUNT = count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A database with nothing in it, not even tables."""
    if request.param == "sqlite":
        return make_url(f"sqlite:///{tmp_path}/test.db")
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database(f"test_{next(COUNT)}")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> URL:
    """The database of most tests: made by the migrations, emptied after each test."""
    if request.param == "sqlite":
        url = make_url(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/test.db")
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.create_database("test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "database_url", url)
        command.upgrade(main.MIGRATIONS, "head")
    return url


@dataclass
class Engines:
    reader: AsyncEngine
    writer: AsyncEngine


@pytest.fixture
async def engines(url: URL, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engines]:
    """The service's own two engines, pointed at the test's database."""
    reader, writer = database.make_engines(url, settings.pool_size)
    monkeypatch.setattr(database, "reader", reader)
    monkeypatch.setattr(database, "writer", writer)
    yield Engines(reader, writer)
    async with writer.begin() as connection:
        for table in reversed(SQLModel.metadata.sorted_tables):
            await connection.execute(table.delete())
    await reader.dispose()
    await writer.dispose()


@pytest.fixture
async def session(url: URL, engines: Engines) -> AsyncIterator[AsyncSession]:
    """A session on a connection of the test's own: what it sees is committed."""
    reader, _ = database.make_engines(url, 1)
    async with AsyncSession(reader) as session:
        yield session
    await reader.dispose()


@pytest.fixture
async def client(wire: "Wire") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(main.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def user(client: httpx.AsyncClient) -> dict[str, Any]:
    return await create(client, "/users", email="ada@example.com", name="Ada")


async def create(client: httpx.AsyncClient, path: str, **data: Any) -> dict[str, Any]:
    response = await client.post(path, json=data)
    assert response.status_code == 201, response.text
    row: dict[str, Any] = response.json()
    return row


def assert_problem(response: httpx.Response, status: int, *locations: tuple[str, ...]) -> None:
    """The response is a problem document; for each location, an error is reported there."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()
    assert sorted(tuple(error["loc"]) for error in problem.get("errors", [])) == sorted(locations)
    for error in problem.get("errors", []):
        assert error.keys() == {"loc", "msg", "type"}


class Wire:
    """The statements that reached the database, as the database itself reports them."""

    def __init__(self, engines: Engines, postgres: Postgres | None) -> None:
        self.log = postgres.log if postgres else None
        self.seen: list[str] = []
        if self.log is None:
            for engine in (engines.reader, engines.writer):
                event.listen(engine.sync_engine, "connect", self.trace_sqlite)

    def trace_sqlite(self, connection: Any, _: object) -> None:
        connection.run_async(lambda driver: driver.set_trace_callback(self.seen.append))

    def clear(self) -> None:
        self.seen.clear()
        self.offset = self.log.stat().st_size if self.log else 0

    def statements(self) -> list[str]:
        """Everything since `clear`, in order, without what a cascade adds on SQLite."""
        if self.log:
            with self.log.open() as log:
                log.seek(self.offset)
                self.seen = re.findall(r"LOG:  (?:statement|execute [^:]*): (.*)", log.read())
        return [statement for statement in self.seen if not statement.startswith("--")]

    def verbs(self) -> list[str]:
        return [statement.split()[0].rstrip(";") for statement in self.statements()]


@pytest.fixture
def wire(engines: Engines, url: URL, request: pytest.FixtureRequest) -> Wire:
    sqlite = url.get_backend_name() == "sqlite"
    return Wire(engines, None if sqlite else request.getfixturevalue("postgres"))
